"""Cameras from known points: a robust guess per frame, and robust refinement of all frames at once."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.geometry import pixels, se3
from worldline.geometry.camera import calibration

MIN_INLIERS = 12


def resect(
    points_world: Float[np.ndarray, "n 3"],
    uv: Float[np.ndarray, "n 2"],
    intrinsics: Float[np.ndarray, "4"],
    *,
    threshold_px: float = 3.0,
) -> Float[np.ndarray, "4 4"] | None:
    """World-from-camera of one frame by RANSAC (OpenCV, SQPnP); None where too few points agree."""
    if len(points_world) < MIN_INLIERS:
        return None
    k = calibration(np.concatenate([intrinsics[:2], pixels.to_integer_centres(intrinsics[2:])]))
    try:
        found, rotation, translation, inliers = cv2.solvePnPRansac(
            points_world, pixels.to_integer_centres(uv), k, None,
            iterationsCount=300, reprojectionError=threshold_px, confidence=0.9999, flags=cv2.SOLVEPNP_SQPNP,
        )  # fmt: skip
    except cv2.error:  # SQPnP asserts that the points are not degenerate
        return None
    if not found or inliers is None or len(inliers) < max(MIN_INLIERS, 0.15 * len(uv)):
        return None
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = cv2.Rodrigues(rotation)[0]
    cam_from_world[:3, 3] = translation[:, 0]
    return np.linalg.inv(cam_from_world)


def refine_cameras(
    world_from_cam: Float[Tensor, "t 4 4"],
    points_world: Float[Tensor, "n 3"],
    uv: Float[Tensor, "t n 2"],
    weight: Float[Tensor, "t n"],
    intrinsics: Float[Tensor, "4"],
    *,
    kernel_px: float = 2.0,
    steps: int = 8,
) -> Float[Tensor, "t 4 4"]:
    """Every frame's pose by Gauss-Newton on Cauchy-weighted reprojection errors; points stay as they are."""
    cam_from_world = se3.inverse(world_from_cam)
    eye = torch.eye(6, dtype=uv.dtype, device=uv.device)
    for _ in range(steps):
        points_cam = se3.apply(cam_from_world, points_world.expand(len(uv), -1, -1))
        depth_z = points_cam[..., 2]
        w = torch.where(depth_z > 1e-3, weight, torch.zeros_like(weight))
        z = depth_z.clamp_min(1e-3)
        xy = points_cam[..., :2] / z[..., None]
        error = (xy * intrinsics[:2] + intrinsics[2:] - uv).nan_to_num(0.0, 0.0, 0.0)
        w = w / (1 + (error * error).sum(-1) / kernel_px**2)
        jacobian = _pose_jacobian(xy, z, intrinsics)
        weighted = jacobian * w[..., None, None]
        normal = torch.einsum("tnki,tnkj->tij", weighted, jacobian)
        gradient = torch.einsum("tnki,tnk->ti", weighted, error)
        damping = 1e-6 * torch.diagonal(normal, dim1=-2, dim2=-1).mean(-1).clamp_min(1e-9)
        step = torch.linalg.solve(normal + damping[:, None, None] * eye, -gradient[..., None])[..., 0]
        cam_from_world = se3.exp(step.clamp(-1, 1)) @ cam_from_world
    return se3.inverse(cam_from_world)


def interpolate_missing(world_from_cam: Float[Tensor, "t 4 4"], known: Bool[Tensor, "t"]) -> Float[Tensor, "t 4 4"]:
    """Poses of unknown frames from the known ones around them; held constant beyond the first and the last."""
    at = torch.nonzero(known)[:, 0]
    frames = torch.arange(len(known), device=known.device)
    after = torch.searchsorted(at, frames).clamp(max=len(at) - 1)
    before = (torch.searchsorted(at, frames, right=True) - 1).clamp(min=0)
    first, last = at[before], at[after]
    share = (frames - first) / (last - first).clamp_min(1)
    share = share.to(world_from_cam.dtype).clamp(0, 1)
    return se3.interpolate(world_from_cam[first], world_from_cam[last], share)


def _pose_jacobian(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    """d uv / d (rho, phi) for a left update of cam_from_world, shape (T, N, 2, 6)."""
    x, y = xy.unbind(-1)
    o, i = torch.zeros_like(x), 1 / z
    du = torch.stack([i, o, -x * i, -x * y, 1 + x * x, -y], -1) * intrinsics[0]
    dv = torch.stack([o, i, -y * i, -1 - y * y, x * y, x], -1) * intrinsics[1]
    return torch.stack([du, dv], -2)
