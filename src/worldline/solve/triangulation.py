"""Points from known cameras: robust triangulation of many tracks at once, and what their pixels say against them.

The linear step is `geometry.rays.nearest_points`; reweighting it by depth and by a Cauchy kernel makes it minimise
robust pixel errors (iteratively reweighted least squares).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import camera, rays, se3

FAR = 100.0
"""Points without parallax are put this many times as far as the median point, so that they still steer rotations."""


class Triangulated(NamedTuple):
    """Points in the world, the angle between their rays, and the pixel residual of every sample.

    `residual_px` (T, N) is the length of the reprojection error, infinite behind a camera; any value where the
    weight was 0. `spread_rad` is the root mean square angle between a point's rays and their common direction.
    """

    points_world: Float[Tensor, "n 3"]
    spread_rad: Float[Tensor, "n"]
    residual_px: Float[Tensor, "t n"]


def triangulate(
    uv: Float[Tensor, "t n 2"],
    weight: Float[Tensor, "t n"],
    world_from_cam: Float[Tensor, "t 4 4"],
    intrinsics: Float[Tensor, "4"],
    *,
    kernel_px: float = 2.0,
    rounds: int = 4,
) -> Triangulated:
    """Triangulate tracks seen by cameras with known poses; `weight` 0 leaves a sample out."""
    directions = _world_rays(uv, world_from_cam, intrinsics)
    centres = world_from_cam[:, :3, 3]
    points, spread = rays.nearest_points(centres, directions, weight)
    for _ in range(rounds):
        points = _pull_in(points, centres, directions, weight)
        depth_z, residual = reprojection(points, uv, world_from_cam, intrinsics)
        robust = weight / (1 + (residual.clamp_max(1e6) / kernel_px) ** 2) / depth_z.clamp_min(1e-3) ** 2
        points, spread = rays.nearest_points(centres, directions, robust * depth_z.median().clamp_min(1e-3) ** 2)
    points = _pull_in(points, centres, directions, weight)
    return Triangulated(points, spread.clamp_min(0).sqrt(), reprojection(points, uv, world_from_cam, intrinsics)[1])


def reprojection(
    points_world: Float[Tensor, "n 3"],
    uv: Float[Tensor, "t n 2"],
    world_from_cam: Float[Tensor, "t 4 4"],
    intrinsics: Float[Tensor, "4"],
) -> tuple[Float[Tensor, "t n"], Float[Tensor, "t n"]]:
    """Depth along the axis, and the length of the pixel error (infinite behind the camera), in every frame."""
    points_cam = se3.apply(se3.inverse(world_from_cam), points_world.expand(len(uv), -1, -1))
    depth_z = points_cam[..., 2]
    in_front = depth_z > 1e-6
    safe = torch.where(in_front[..., None], points_cam, torch.ones_like(points_cam))
    error = (camera.project(safe, intrinsics) - uv).norm(dim=-1)
    return depth_z, torch.where(in_front, error, torch.full_like(error, torch.inf))


def _world_rays(uv: Tensor, world_from_cam: Tensor, intrinsics: Tensor) -> Tensor:
    rays_cam = camera.rays_z1(uv, intrinsics)
    rays_cam = rays_cam / rays_cam.norm(dim=-1, keepdim=True)
    return rays_cam @ world_from_cam[:, :3, :3].transpose(-1, -2)


def _pull_in(points: Tensor, centres: Tensor, directions: Tensor, weight: Tensor) -> Tensor:
    """Points that are behind their cameras or too far to tell move to a far distance along their mean ray."""
    total = weight.sum(0)[:, None].clamp_min(1e-12)
    mean_centre = (weight.T @ centres) / total
    mean_ray = (weight[..., None] * directions).sum(0) / total
    along = ((points - mean_centre) * mean_ray).sum(-1)
    seen = (along > 0) & (weight.sum(0) > 0)
    far = FAR * along[seen].median() if bool(seen.any()) else torch.ones_like(along[0])
    outside = (along <= 0) | (along > far) | ~torch.isfinite(along)
    return torch.where(outside[:, None], mean_centre + far * mean_ray, points)
