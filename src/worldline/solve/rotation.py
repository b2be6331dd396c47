"""Cameras that only turn: rotations of all frames from pixel tracks, with the directions of the tracks.

Chained from frame to frame by a robust rotation between bearings, then refined over the whole clip by turns:
each track's direction is the robust mean of its rays, each rotation the robust fit of its rays to the directions
(Wahba's problem, solved by `se3.nearest_rotation`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import camera, se3

HYPOTHESES = 200


class Turning(NamedTuple):
    """`world_from_cam` rotations (T, 3, 3), track directions (N, 3), and pixel residuals (T, N) of every sample."""

    rotation: Float[Tensor, "t 3 3"]
    direction: Float[Tensor, "n 3"]
    residual_px: Float[Tensor, "t n"]


def turning(
    uv: Float[Tensor, "t n 2"],
    weight: Float[Tensor, "t n"],
    intrinsics: Float[Tensor, "4"],
    *,
    kernel_px: float = 1.5,
    rounds: int = 10,
    seed: int = 0,
) -> Turning:
    """The best rotation of every frame if the camera did not move, explaining the majority of the tracks."""
    rays = bearings(uv, intrinsics)
    focal = float(intrinsics[:2].mean())
    rotation = _chain(rays, weight, kernel_px / focal, seed)
    direction = torch.zeros_like(rays[0])
    for k in range(rounds):
        kernel = kernel_px / focal * max(1.0, 4.0 - k)
        direction = _directions(rays, rotation, weight, kernel, direction if k else None)
        angle = (direction - rays @ rotation.transpose(-1, -2)).norm(dim=-1)
        w = weight / (1 + (angle / kernel) ** 2)
        rotation = _fit(direction.expand_as(rays), rays, w)
    first = rotation[0].T
    rotation, direction = first @ rotation, direction @ rotation[0]
    return Turning(rotation, direction, focal * (direction - rays @ rotation.transpose(-1, -2)).norm(dim=-1))


def at_rotations(
    uv: Float[Tensor, "t n 2"],
    weight: Float[Tensor, "t n"],
    intrinsics: Float[Tensor, "4"],
    rotation: Float[Tensor, "t 3 3"],
    *,
    kernel_px: float = 1.5,
    rounds: int = 4,
) -> Turning:
    """Directions and residuals of the tracks under known rotations."""
    rays, focal = bearings(uv, intrinsics), float(intrinsics[:2].mean())
    direction = _directions(rays, rotation, weight, kernel_px / focal, None)
    for _ in range(rounds):
        direction = _directions(rays, rotation, weight, kernel_px / focal, direction)
    return Turning(rotation, direction, focal * (direction - rays @ rotation.transpose(-1, -2)).norm(dim=-1))


def bearings(uv: Float[Tensor, "*n 2"], intrinsics: Float[Tensor, "4"]) -> Float[Tensor, "*n 3"]:
    """Unit rays through uv, camera frame."""
    ray = camera.rays_z1(uv, intrinsics)
    return ray / ray.norm(dim=-1, keepdim=True)


def rotation_between(
    rays_a: Float[Tensor, "n 3"], rays_b: Float[Tensor, "n 3"], kernel_rad: float, generator: torch.Generator
) -> Float[Tensor, "3 3"]:
    """The rotation a_from_b that most rays agree on: two-ray hypotheses, scored by a truncated loss, then refined."""
    pick = torch.randint(len(rays_a), (HYPOTHESES, 2), generator=generator)
    hypotheses = _fit(rays_a[pick], rays_b[pick], torch.ones(pick.shape, dtype=rays_a.dtype))
    error = (rays_a - rays_b @ hypotheses.transpose(-1, -2)).norm(dim=-1)
    best = hypotheses[(error / kernel_rad).clamp_max(2).square().sum(-1).argmin()]
    for _ in range(5):
        error = (rays_a - rays_b @ best.T).norm(dim=-1)
        best = _fit(rays_a, rays_b, 1 / (1 + (error / kernel_rad) ** 2))
    return best


def _chain(rays: Tensor, weight: Tensor, kernel_rad: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    chain = [torch.eye(3, dtype=rays.dtype)]
    for t in range(1, len(rays)):
        both = (weight[t - 1] > 0) & (weight[t] > 0)
        step = torch.eye(3, dtype=rays.dtype)
        if int(both.sum()) >= 8:
            step = rotation_between(rays[t - 1, both], rays[t, both], kernel_rad, generator)
        chain.append(chain[-1] @ step)
    return torch.stack(chain)


def _directions(rays: Tensor, rotation: Tensor, weight: Tensor, kernel: float, start: Tensor | None) -> Tensor:
    world = rays @ rotation.transpose(-1, -2)
    w = weight
    if start is not None:
        w = weight / (1 + ((world - start).norm(dim=-1) / kernel) ** 2)
    mean = (w[..., None] * world).sum(0)
    return mean / mean.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _fit(rays_a: Tensor, rays_b: Tensor, weight: Tensor) -> Tensor:
    """Weighted rotation a_from_b of each batch of rays."""
    return se3.nearest_rotation((rays_a * weight[..., None]).transpose(-1, -2) @ rays_b)
