"""Cameras that only turn: rotations of all frames from pixel tracks, with the directions of the tracks.

Chained from frame to frame by a robust rotation between bearings, then refined over the whole clip by turns:
each track's direction is the robust mean of its rays, each rotation the robust fit of its rays to the directions
(Wahba's problem, solved by `se3.nearest_rotation`). `calibrated` then finds the focal length with the rotations, one
for the clip or one per frame (a camera that turns calibrates itself: Hartley and Zisserman, section 19.6), by
Gauss-Newton steps in which the directions are eliminated.
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


class Calibrated(NamedTuple):
    """A turning camera with its focal length.

    `turning` under that lens; `log_focal` (T,) over the focal length given; `variance` (T,) of it, for independent
    residuals of unit weight.
    """

    turning: Turning
    log_focal: Float[Tensor, "t"]
    variance: Float[Tensor, "t"]


def calibrated(
    uv: Float[Tensor, "t n 2"],
    weight: Float[Tensor, "t n"],
    start: Turning,
    intrinsics: Float[Tensor, "4"],
    *,
    focal_sigma: float,
    step_sigma: Float[Tensor, "p"] | None = None,
    kernel: float = 3.0,
    steps: int = 30,
) -> Calibrated:
    """Rotations, directions and focal length of a camera that only turns.

    Args:
        focal_sigma: how far the log focal length may be from that of the intrinsics; 0 keeps it.
        step_sigma: (T - 1,) by how much it may change from each frame to the next; None: not at all.
        kernel: Cauchy scale in standard deviations.
    """
    unseen = start.direction.norm(dim=-1, keepdim=True) < 0.5
    direction = torch.where(unseen, start.direction.new_tensor([0.0, 0.0, 1.0]), start.direction)
    fit = _Fit(start.rotation, direction, uv.new_zeros(len(uv)))
    problem = _Problem(uv, weight, intrinsics, _precision(len(uv), focal_sigma, step_sigma).to(uv), kernel)
    damping, cost = 1e-4, problem.cost(fit)
    for _ in range(steps):
        trial = problem.step(fit, damping)[0]
        value = problem.cost(trial)
        if not value < cost:
            damping *= 10
            continue
        done = float(1 - value / cost) < 1e-5
        fit, cost, damping = trial, value, max(damping / 5, 1e-7)
        if done:
            break
    first = fit.rotation[0].T
    found = Turning(first @ fit.rotation, fit.direction @ fit.rotation[0], problem.residual_px(fit))
    return Calibrated(found, fit.log_focal, problem.step(fit, 0.0)[1])


def _precision(count: int, sigma: float, step_sigma: Tensor | None) -> Float[Tensor, "t t"]:
    """Information about the log focal lengths before any residual: near zero, and steady."""
    eye = torch.eye(count, dtype=torch.float64)
    difference = eye[1:] - eye[:-1]
    steady = torch.full((count - 1,), 1e-6, dtype=torch.float64) if step_sigma is None else step_sigma.double()
    return difference.T @ (difference / steady[:, None] ** 2) + eye / max(sigma, 1e-6) ** 2 / count


class _Fit(NamedTuple):
    rotation: Float[Tensor, "t 3 3"]
    direction: Float[Tensor, "n 3"]
    log_focal: Float[Tensor, "t"]


class _Linear(NamedTuple):
    """Pixel errors (T, N, 2), their derivative by rotation and log focal (T, N, 2, 4) and by two directions across
    each track's own (T, N, 2, 2), and those (N, 3, 2)."""

    error: Tensor
    by_camera: Tensor
    by_direction: Tensor
    across: Tensor


class _Problem(NamedTuple):
    """A turning camera under tracks: costs, and Gauss-Newton steps in which the directions are eliminated."""

    uv: Float[Tensor, "t n 2"]
    weight: Float[Tensor, "t n"]
    intrinsics: Float[Tensor, "4"]
    precision: Float[Tensor, "t t"]
    kernel: float

    def cost(self, fit: _Fit) -> Tensor:
        square = self.residual_px(fit).square() * self.weight / self.kernel**2
        return self.kernel**2 * torch.log1p(square).sum() + fit.log_focal @ self.precision @ fit.log_focal

    def residual_px(self, fit: _Fit) -> Float[Tensor, "t n"]:
        ray = fit.direction @ fit.rotation
        error = (self._xy(ray) * self._focal(fit) + self.intrinsics[2:] - self.uv).norm(dim=-1)
        return torch.where((ray[..., 2] > 1e-3) | (self.weight == 0), error, torch.full_like(error, 1e4))

    def step(self, fit: _Fit, damping: float) -> tuple[_Fit, Float[Tensor, "t"]]:
        """The fit after a damped step, and the variance of the log focal lengths where nothing was damped."""
        size, linear = 4 * len(self.uv), self._linear(fit)
        w = self.weight / (1 + linear.error.square().sum(-1) * self.weight / self.kernel**2)
        heavy = linear.by_camera * w[..., None, None]
        cross = torch.einsum("tnia,tnil->tanl", heavy, linear.by_direction).reshape(size, -1, 2)
        inner = torch.einsum("tnil,tnim,tn->nlm", linear.by_direction, linear.by_direction, w)
        scale = (damping + 1e-9) * inner.diagonal(dim1=-2, dim2=-1).mean() + 1e-12
        inner = inner + scale * torch.eye(2, dtype=inner.dtype)
        slope_across = torch.einsum("tnil,tni,tn->nl", linear.by_direction, linear.error, w)
        solved = torch.einsum("anl,nlm->anm", cross, torch.linalg.inv(inner))
        normal = torch.block_diag(*torch.einsum("tnia,tnib->tab", heavy, linear.by_camera))
        normal -= solved.reshape(size, -1) @ cross.reshape(size, -1).T
        slope = torch.einsum("tnia,tni->ta", heavy, linear.error).reshape(-1)
        slope -= torch.einsum("anm,nm->a", solved, slope_across)
        # damped before the prior comes in: a stiff one would hold back what all frames have in common
        normal += torch.diag((damping + 1e-12) * normal.diagonal() + 1e-9)
        at = torch.arange(3, size, 4)
        normal[at[:, None], at] += self.precision
        slope[at] += self.precision @ fit.log_focal
        normal[:3, :3] += 1e12 * torch.eye(3, dtype=normal.dtype)
        step = torch.linalg.solve(normal, -slope)
        aside = torch.linalg.solve(inner, (slope_across + torch.einsum("anm,a->nm", cross, step))[..., None])
        variance = torch.linalg.inv(normal).diagonal()[3::4] if damping == 0 else torch.zeros_like(fit.log_focal)
        return _moved(fit, step.reshape(-1, 4), -(linear.across @ aside)[..., 0]), variance

    def _linear(self, fit: _Fit) -> _Linear:
        ray, focal = fit.direction @ fit.rotation, self._focal(fit)
        xy = self._xy(ray)
        eye = torch.eye(2, dtype=xy.dtype).expand(*xy.shape, 2)
        along = torch.cat([eye, -xy[..., None]], -1) * focal[..., None] / ray[..., 2, None, None].clamp_min(1e-3)
        along = torch.where(ray[..., 2, None, None] > 1e-3, along, torch.zeros_like(along))
        across = _across(fit.direction)
        by_camera = torch.cat([along @ se3.hat(ray), (xy * focal)[..., None]], -1)
        by_direction = torch.einsum("tnij,tkj,nkl->tnil", along, fit.rotation, across)
        return _Linear(xy * focal + self.intrinsics[2:] - self.uv, by_camera, by_direction, across)

    def _xy(self, ray: Tensor) -> Tensor:
        return ray[..., :2] / ray[..., 2:].clamp_min(1e-3)

    def _focal(self, fit: _Fit) -> Tensor:
        return self.intrinsics[:2] * fit.log_focal.exp()[:, None, None]


def _moved(fit: _Fit, step: Float[Tensor, "t 4"], aside: Float[Tensor, "n 3"]) -> _Fit:
    direction = fit.direction + aside
    return _Fit(
        fit.rotation @ se3.so3_exp(step[:, :3]),
        direction / direction.norm(dim=-1, keepdim=True),
        fit.log_focal + step[:, 3],
    )


def _across(direction: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 2"]:
    """Two directions across each of the given ones."""
    axis = torch.eye(3, dtype=direction.dtype)[direction.abs().argmin(-1)]
    first = torch.linalg.cross(direction, axis)
    first = first / first.norm(dim=-1, keepdim=True)
    return torch.stack([first, torch.linalg.cross(direction, first)], -1)
