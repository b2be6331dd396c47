"""The terms of bundle adjustment, each a residual in standard deviations with its analytic Jacobian.

Variables: `world_from_cam` (T, 4, 4), `log_focal` (1, 1, relative to the intrinsics given), `points` (N, 3),
`log_depth_scale` (T, 1). Source: the released Uni4D has the reprojection term alone; depth and scale terms are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.geometry import se3
from worldline.solve.problem import Term
from worldline.solve.robust import Loss, Square

NEAREST = 1e-3
"""Depth below which a point counts as being at that depth: keeps the projection finite behind the camera."""


@dataclass(frozen=True, eq=False)
class PixelSamples:
    """Who saw what where: M sightings of points, `uv` in pixels (centres at +0.5)."""

    frame: Int[Tensor, "m"]
    point: Int[Tensor, "m"]
    uv: Float[Tensor, "m 2"]
    sigma_px: Float[Tensor, "m"]

    def __len__(self) -> int:
        return len(self.frame)

    def chosen(self, keep: Tensor) -> PixelSamples:
        """The sightings in a mask or index."""
        return PixelSamples(self.frame[keep], self.point[keep], self.uv[keep], self.sigma_px[keep])


def in_camera(world_from_cam: Float[Tensor, "m 4 4"], points: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
    """Each point in its own camera's frame."""
    return torch.einsum("mji,mj->mi", world_from_cam[:, :3, :3], points - world_from_cam[:, :3, 3])


def reprojection(
    samples: PixelSamples, intrinsics: Float[Tensor, "4"], loss: Loss | None = None, name: str = "reprojection"
) -> Term:
    """Distance in the image between where a point was seen and where it projects."""
    focal, centre = intrinsics[:2], intrinsics[2:]
    weight = 1 / samples.sigma_px[:, None]

    def residual(world_from_cam: Tensor, points: Tensor, log_focal: Tensor) -> Tensor:
        x = in_camera(world_from_cam, points)
        return (x[:, :2] / x[:, 2:].clamp_min(NEAREST) * (focal * log_focal.exp()) + centre - samples.uv) * weight

    def jacobian(world_from_cam: Tensor, points: Tensor, log_focal: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = in_camera(world_from_cam, points)
        inverse_z = 1 / x[:, 2:].clamp_min(NEAREST)
        xy, scaled = x[:, :2] * inverse_z, focal * log_focal.exp() * weight
        along = torch.zeros(len(x), 2, 3, dtype=x.dtype, device=x.device)
        along[:, 0, 0], along[:, 1, 1] = (scaled * inverse_z).unbind(-1)
        along[:, :, 2] = -scaled * inverse_z * xy
        offset = xy * scaled
        camera = torch.cat([-along, along @ se3.hat(x)], -1)
        point = along @ world_from_cam[:, :3, :3].transpose(-1, -2)
        return offset + (centre - samples.uv) * weight, [camera, point, offset[..., None]]

    uses = (("world_from_cam", samples.frame), ("points", samples.point), ("log_focal", None))
    return Term(name, uses, residual, jacobian, loss or Square())


def log_depth(
    samples: PixelSamples, log_depth: Float[Tensor, "m"], sigma: Float[Tensor, "m"], loss: Loss | None = None
) -> Term:
    """Log ratio between a point's depth and the depth cue at its pixel, up to the frame's scale."""
    weight = 1 / sigma[:, None]

    def residual(world_from_cam: Tensor, points: Tensor, log_depth_scale: Tensor) -> Tensor:
        z = in_camera(world_from_cam, points)[:, 2:].clamp_min(NEAREST)
        return (z.log() - log_depth[:, None] - log_depth_scale) * weight

    def jacobian(world_from_cam: Tensor, points: Tensor, log_depth_scale: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = in_camera(world_from_cam, points)
        z = x[:, 2:].clamp_min(NEAREST)
        slope = weight / z
        zero = torch.zeros_like(slope)
        turn = torch.cat([-x[:, 1:2] * slope, x[:, :1] * slope, zero], -1)
        camera = torch.cat([zero, zero, -slope, turn], -1)[:, None]
        point = (slope * world_from_cam[:, :3, 2])[:, None]
        value = (z.log() - log_depth[:, None] - log_depth_scale) * weight
        return value, [camera, point, -weight[:, None]]

    uses = (("world_from_cam", samples.frame), ("points", samples.point), ("log_depth_scale", samples.frame))
    return Term("log_depth", uses, residual, jacobian, loss or Square())


def prior(variable: str, mean: Tensor, sigma: Tensor | float, loss: Loss | None = None) -> Term:
    """Keeps every row of a plain variable near `mean`."""
    rows = torch.arange(len(mean), device=mean.device)

    def residual(x: Tensor) -> Tensor:
        return ((x - mean) / sigma).flatten(1)

    def jacobian(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        value = residual(x)
        inverse = (torch.ones_like(mean) / sigma).flatten(1)
        return value, [torch.diag_embed(inverse)]

    return Term(f"prior {variable}", ((variable, rows),), residual, jacobian, loss or Square())


def motion_prior(reference: Float[Tensor, "t 4 4"], rows: Int[Tensor, "m"], sigma_m: float, sigma_rad: float) -> Term:
    """Keeps cameras near known poses (a sensor, or the gauge).

    The rotation residual is the axis times the sine of the angle, which equals the rotation vector for small ones
    and has a simple derivative: for A = R_ref^T R, d vee((A - A^T) / 2) / d phi = (tr(A) I - A^T) / 2.
    """
    known, centre = reference[rows, :3, :3].transpose(-1, -2), reference[rows, :3, 3]
    scale = torch.tensor([sigma_m] * 3 + [sigma_rad] * 3, dtype=reference.dtype, device=reference.device)

    def residual(world_from_cam: Tensor) -> Tensor:
        a = known @ world_from_cam[:, :3, :3]
        away = (known @ (world_from_cam[:, :3, 3] - centre)[..., None])[..., 0]
        turn = torch.stack([a[:, 2, 1] - a[:, 1, 2], a[:, 0, 2] - a[:, 2, 0], a[:, 1, 0] - a[:, 0, 1]], -1) / 2
        return torch.cat([away, turn], -1) / scale

    def jacobian(world_from_cam: Tensor) -> tuple[Tensor, list[Tensor]]:
        a = known @ world_from_cam[:, :3, :3]
        trace = a.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        out = a.new_zeros(len(a), 6, 6)
        out[:, :3, :3] = a
        out[:, 3:, 3:] = (trace * torch.eye(3, dtype=a.dtype, device=a.device) - a.transpose(-1, -2)) / 2
        return residual(world_from_cam), [out / scale[:, None]]

    return Term("motion prior", (("world_from_cam", rows),), residual, jacobian)


def steady_motion(count: int, sigma: Float[Tensor, "6"]) -> Term:
    """Prefers a camera that keeps its velocity: log of the change between consecutive relative motions."""
    t = torch.arange(count - 2, device=sigma.device)

    def residual(before: Tensor, here: Tensor, after: Tensor) -> Tensor:
        return (se3.log(se3.inverse(here) @ after) - se3.log(se3.inverse(before) @ here)) / sigma

    uses = tuple(("world_from_cam", t + i) for i in range(3))
    return Term("steady motion", uses, residual)
