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
    motion = world_from_cam.permute(1, 2, 0)
    away = points.T - motion[:3, 3]
    return (motion[:3, :3] * away[:, None]).sum(0).T


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
        x = in_camera(world_from_cam, points).T
        rotation = world_from_cam.permute(1, 2, 0)[:3, :3]
        inverse_z = 1 / x[2].clamp_min(NEAREST)
        right, down = x[0] * inverse_z, x[1] * inverse_z
        fx, fy = (focal * log_focal.exp()).flatten()[:, None] * weight[:, 0]
        # derivative of the pixel by the point in the camera: (a, 0, -a right), (0, b, -b down)
        a, b, zero = fx * inverse_z, fy * inverse_z, torch.zeros_like(fx)
        u_turn = torch.stack([right * x[1], -(x[2] + right * x[0]), x[1]]) * a
        v_turn = torch.stack([x[2] + down * x[1], -down * x[0], -x[0]]) * b
        u = torch.cat([torch.stack([-a, zero, a * right]), u_turn])
        v = torch.cat([torch.stack([zero, -b, b * down]), v_turn])
        u_point = a * (rotation[:, 0] - right * rotation[:, 2])
        v_point = b * (rotation[:, 1] - down * rotation[:, 2])
        offset = torch.stack([right * fx, down * fy])
        residual = offset.T + (centre - samples.uv) * weight
        blocks = [torch.stack([u, v]), torch.stack([u_point, v_point]), offset[:, None]]
        return residual, [block.permute(2, 0, 1) for block in blocks]

    uses = (("world_from_cam", samples.frame), ("points", samples.point), ("log_focal", None))
    return Term(name, uses, residual, jacobian, loss or Square())


def reprojection_of_points(
    samples: PixelSamples, world_from_cam: Float[Tensor, "t 4 4"], intrinsics: Float[Tensor, "4"], loss: Loss
) -> Term:
    """`reprojection` where only the points are unknown: the cameras are looked up once, not at every step."""
    motion = _motions(samples, world_from_cam)
    rotation, centre = motion[:3, :3], motion[:3, 3]
    weight = 1 / samples.sigma_px
    scale, offset = intrinsics[:2, None] * weight, (intrinsics[2:] - samples.uv).T * weight

    def parts(points: Tensor) -> tuple[Tensor, Tensor]:
        x = (rotation * (points.T - centre)[:, None]).sum(0)
        return x[:2] / x[2].clamp_min(NEAREST), x[2].clamp_min(NEAREST)

    def residual(points: Tensor) -> Tensor:
        return torch.addcmul(offset, parts(points)[0], scale).T

    def jacobian(points: Tensor) -> tuple[Tensor, list[Tensor]]:
        xy, z = parts(points)
        along = scale / z
        block = torch.stack([along[i] * (rotation[:, i] - xy[i] * rotation[:, 2]) for i in range(2)])
        return torch.addcmul(offset, xy, scale).T, [block.permute(2, 0, 1)]

    return Term("reprojection of points", (("points", samples.point),), residual, jacobian, loss)


def log_depth_of_points(
    samples: PixelSamples, world_from_cam: Float[Tensor, "t 4 4"], log_depth: Tensor, sigma: Tensor, loss: Loss
) -> Term:
    """`log_depth` where only the points are unknown; `log_depth` (M,) already holds the frame's scale."""
    motion = _motions(samples, world_from_cam)
    forward, weight = motion[:3, 2], 1 / sigma
    offset = (forward * motion[:3, 3]).sum(0)

    def residual(points: Tensor) -> Tensor:
        z = ((forward * points.T).sum(0) - offset).clamp_min(NEAREST)
        return ((z.log() - log_depth) * weight)[:, None]

    def jacobian(points: Tensor) -> tuple[Tensor, list[Tensor]]:
        z = ((forward * points.T).sum(0) - offset).clamp_min(NEAREST)
        block = (forward * (weight / z)).T[:, None]
        return ((z.log() - log_depth) * weight)[:, None], [block]

    return Term("log depth of points", (("points", samples.point),), residual, jacobian, loss)


def _motions(samples: PixelSamples, world_from_cam: Tensor) -> Float[Tensor, "4 4 m"]:
    """The camera of every sighting, components first (see `problem`)."""
    return world_from_cam.flatten(1).T.contiguous().index_select(1, samples.frame).unflatten(0, (4, 4))


def log_depth(
    samples: PixelSamples, log_depth: Float[Tensor, "m"], sigma: Float[Tensor, "m"], loss: Loss | None = None
) -> Term:
    """Log ratio between a point's depth and the depth cue at its pixel, up to the frame's scale."""
    weight = 1 / sigma[:, None]

    def residual(world_from_cam: Tensor, points: Tensor, log_depth_scale: Tensor) -> Tensor:
        z = in_camera(world_from_cam, points)[:, 2:].clamp_min(NEAREST)
        return (z.log() - log_depth[:, None] - log_depth_scale) * weight

    def jacobian(world_from_cam: Tensor, points: Tensor, log_depth_scale: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = in_camera(world_from_cam, points).T
        z = x[2].clamp_min(NEAREST)
        slope = weight[:, 0] / z
        zero = torch.zeros_like(slope)
        camera = torch.stack([zero, zero, -slope, -x[1] * slope, x[0] * slope, zero])
        point = world_from_cam.permute(1, 2, 0)[:3, 2] * slope
        value = (z[:, None].log() - log_depth[:, None] - log_depth_scale) * weight
        return value, [camera.T[:, None], point.T[:, None], -weight[:, None]]

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


def alike(variable: str, like: Float[Tensor, "t 1"], sigma: float) -> Term:
    """Keeps the rows of a plain variable of one number near that of the first, wherever that is."""
    others = torch.arange(1, len(like), device=like.device)
    slope = torch.full_like(like[1:], 1 / sigma)[..., None]

    def residual(first: Tensor, x: Tensor) -> Tensor:
        return (x - first) / sigma

    def jacobian(first: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return residual(first, x), [-slope, slope]

    uses = ((variable, torch.zeros_like(others)), (variable, others))
    return Term(f"alike {variable}", uses, residual, jacobian)


def motion_prior(
    reference: Float[Tensor, "t 4 4"],
    rows: Int[Tensor, "m"],
    sigma_m: float,
    sigma_rad: float,
    loss: Loss | None = None,
) -> Term:
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

    return Term("motion prior", (("world_from_cam", rows),), residual, jacobian, loss or Square())


def steady_motion(count: int, sigma: Float[Tensor, "6"]) -> Term:
    """Prefers a camera that keeps its velocity: log of the change between consecutive relative motions."""
    t = torch.arange(count - 2, device=sigma.device)

    def residual(before: Tensor, here: Tensor, after: Tensor) -> Tensor:
        return (se3.log(se3.inverse(here) @ after) - se3.log(se3.inverse(before) @ here)) / sigma

    uses = tuple(("world_from_cam", t + i) for i in range(3))
    return Term("steady motion", uses, residual)
