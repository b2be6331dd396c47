"""Depth: along the optical axis (`depth_z`) and along the ray (`depth_ray`) are different things, converted here."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import camera, pixels, se3


def depth_z_from_ray(depth_ray: Float[Tensor, "h w"], intrinsics: Float[Tensor, "4"]) -> Float[Tensor, "h w"]:
    """Distance from the camera centre (metres) to depth along the optical axis."""
    return depth_ray / _ray_length(depth_ray, intrinsics)


def depth_ray_from_z(depth_z: Float[Tensor, "h w"], intrinsics: Float[Tensor, "4"]) -> Float[Tensor, "h w"]:
    """Depth along the optical axis to distance from the camera centre (metres)."""
    return depth_z * _ray_length(depth_z, intrinsics)


def points_cam(
    depth_z: Float[Tensor, "h w"], intrinsics: Float[Tensor, "4"], distortion: tuple[float, ...] = ()
) -> Float[Tensor, "h w 3"]:
    """Camera-frame point of every pixel of the real image, whose lens may distort."""
    uv = pixels.centres(*depth_z.shape, dtype=depth_z.dtype, device=depth_z.device)
    return camera.unproject(uv, depth_z, intrinsics, distortion)


def points_world(
    depth_z: Float[Tensor, "h w"],
    intrinsics: Float[Tensor, "4"],
    world_from_cam: Float[Tensor, "4 4"],
    distortion: tuple[float, ...] = (),
) -> Float[Tensor, "h w 3"]:
    """World-frame point of every pixel."""
    points = points_cam(depth_z, intrinsics, distortion)
    return se3.apply(world_from_cam, points.reshape(-1, 3)).reshape(points.shape)


def _ray_length(like: Tensor, intrinsics: Tensor) -> Tensor:
    uv = pixels.centres(*like.shape, dtype=like.dtype, device=like.device)
    return torch.linalg.vector_norm(camera.rays_z1(uv, intrinsics), dim=-1)
