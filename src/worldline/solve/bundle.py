"""Bundle adjustment of cameras, one shared focal length, static points and per-frame depth scales.

Source: Uni4D (arXiv 2503.21761) stage 2, with the focal really estimated, robust losses and a scale per depth map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import camera, se3
from worldline.solve import terms
from worldline.solve.problem import Solution, State, Stop, Term, minimise
from worldline.solve.robust import GemanMcClure, Loss
from worldline.solve.schur import Schur
from worldline.solve.terms import PixelSamples

FREE_SCALE = 3.0
"""Standard deviation of a log scale about which nothing is known."""


@dataclass(frozen=True, eq=False)
class DepthSamples:
    """The depth cue at every sighting: log depth, its sigma, and the mean and spread of the log scale of a frame.

    `scale_free`: the frames share one scale, but nothing is known about it (something else fixes the size).
    """

    log_depth: Float[Tensor, "m"]
    sigma: Float[Tensor, "m"]
    scale_sigma: float
    scale_mean: float = 0.0
    scale_free: bool = False


@dataclass(frozen=True, eq=False)
class BundleResult:
    """Cameras, focal, points and scales after a bundle adjustment, and how it ended.

    `square` is the squared, whitened reprojection error of every sighting (2 expected for perfect noise).
    """

    world_from_cam: Float[Tensor, "t 4 4"]
    intrinsics: Float[Tensor, "4"]
    points: Float[Tensor, "n 3"]
    log_depth_scale: Float[Tensor, "t 1"]
    square: Float[Tensor, "m"]
    solution: Solution


def adjust(
    samples: PixelSamples,
    world_from_cam: Float[Tensor, "t 4 4"],
    intrinsics: Float[Tensor, "4"],
    points: Float[Tensor, "n 3"],
    *,
    focal_sigma: float = 0.0,
    focal_prior: float | None = None,
    depth: DepthSamples | None = None,
    log_depth_scale: Float[Tensor, "t 1"] | None = None,
    loss: Loss | None = None,
    free: Iterable[str] | None = None,
    extra: Iterable[Term] = (),
    held: Iterable[Term] | None = None,
    stop: Stop | None = None,
) -> BundleResult:
    """Fit cameras and structure to sightings; frame 0 stays where it is unless `held` says what stays.

    Args:
        samples: sightings; their rows index world_from_cam and points.
        intrinsics: fx, fy, cx, cy; the focal is scaled as a whole (one unknown).
        focal_sigma: prior spread of the log focal around `focal_prior` (pixels, default the given one); 0 keeps it.
        depth: the depth cue at the sightings; without it the overall scale is held by a weak prior on the baseline.
        free: names of the variables to move, default all that the inputs determine.
        extra: further terms on the same variables.
        held: terms that fix where the world is, such as known poses, in place of frame 0 and the weak prior.

    Raises:
        SolveFailed: the start is not finite.
    """
    count, like = len(world_from_cam), points
    state: State = {
        "world_from_cam": world_from_cam,
        "points": points,
        "log_focal": like.new_zeros(1, 1),
        "log_depth_scale": like.new_zeros(count, 1) if log_depth_scale is None else log_depth_scale,
    }
    held = _gauge(world_from_cam, depth) if held is None else held
    parts = [terms.reprojection(samples, intrinsics, loss or GemanMcClure(4.0)), *extra, *held]
    wanted = {"world_from_cam", "points"}
    if focal_sigma > 0:
        wanted.add("log_focal")
        start = float(intrinsics[:2].mean())
        mean = like.new_full((1, 1), 0.0) if focal_prior is None else like.new_full((1, 1), focal_prior / start).log()
        parts.append(terms.prior("log_focal", mean, focal_sigma))
    if depth is not None:
        parts.append(terms.log_depth(samples, depth.log_depth, depth.sigma, GemanMcClure(4.0)))
        parts.extend(_of_scales(state["log_depth_scale"], depth))
        wanted.add("log_depth_scale")
    solution = minimise(state, parts, wanted if free is None else free, Schur("points"), stop)
    out = solution.state
    intrinsics = torch.cat([intrinsics[:2] * out["log_focal"][0].exp(), intrinsics[2:]])
    square = parts[0].squares(out)
    return BundleResult(out["world_from_cam"], intrinsics, out["points"], out["log_depth_scale"], square, solution)


def _of_scales(log_depth_scale: Float[Tensor, "t 1"], depth: DepthSamples) -> list[Term]:
    """The scales of the frames near the mean that they have, or near each other."""
    mean = torch.full_like(log_depth_scale, depth.scale_mean)
    if not depth.scale_free:
        return [terms.prior("log_depth_scale", mean, depth.scale_sigma)]
    return [terms.prior("log_depth_scale", mean, FREE_SCALE), terms.alike("log_depth_scale", mean, depth.scale_sigma)]


def _gauge(world_from_cam: Tensor, depth: DepthSamples | None) -> list[Term]:
    """Six (seven without depth) numbers that no sighting determines, held where they start."""
    first = torch.zeros(1, dtype=torch.long, device=world_from_cam.device)
    held = [terms.motion_prior(world_from_cam, first, 1e-6, 1e-6)]
    return held if depth is not None else [*held, *held_size(world_from_cam)]


def held_size(world_from_cam: Float[Tensor, "t 4 4"]) -> list[Term]:
    """Holds the overall scale, by the distance of the camera farthest from the first; nothing if none is."""
    reach = (world_from_cam[:, :3, 3] - world_from_cam[0, :3, 3]).norm(dim=-1)
    return [baseline_prior(world_from_cam, reach.argmax()[None])] if float(reach.max()) > 0 else []


def baseline_prior(world_from_cam: Tensor, far: Tensor) -> Term:
    """Holds the distance between the first camera and camera `far` (1,), which no sighting determines."""
    first = torch.zeros_like(far)
    length = (world_from_cam[far, :3, 3] - world_from_cam[first, :3, 3]).norm(dim=-1, keepdim=True)

    def residual(a: Tensor, b: Tensor) -> Tensor:
        return ((a[:, :3, 3] - b[:, :3, 3]).norm(dim=-1, keepdim=True) / length - 1) / 1e-4

    def jacobian(a: Tensor, b: Tensor) -> tuple[Tensor, list[Tensor]]:
        away = a[:, :3, 3] - b[:, :3, 3]
        slope = (away / away.norm(dim=-1, keepdim=True).clamp_min(1e-12) / length / 1e-4)[:, None]
        still = torch.zeros_like(slope)
        return residual(a, b), [
            torch.cat([slope @ a[:, :3, :3], still], -1),
            torch.cat([-slope @ b[:, :3, :3], still], -1),
        ]

    uses = (("world_from_cam", first), ("world_from_cam", far))
    return Term("baseline", uses, residual, jacobian)


def refine_points(
    samples: PixelSamples,
    world_from_cam: Float[Tensor, "t 4 4"],
    intrinsics: Float[Tensor, "4"],
    points: Float[Tensor, "n 3"],
    *,
    depth: DepthSamples | None = None,
    log_depth_scale: Float[Tensor, "t 1"] | None = None,
    loss: Loss | None = None,
    stop: Stop | None = None,
) -> BundleResult:
    """The points alone, cameras fixed: every point is its own 3x3 problem, solved all at once."""
    loss = loss or GemanMcClure(4.0)
    if log_depth_scale is None:
        log_depth_scale = points.new_zeros(len(world_from_cam), 1)
    parts = [terms.reprojection_of_points(samples, world_from_cam, intrinsics, loss)]
    if depth is not None:
        shifted = depth.log_depth + log_depth_scale[samples.frame, 0]
        parts.append(terms.log_depth_of_points(samples, world_from_cam, shifted, depth.sigma, GemanMcClure(4.0)))
    solution = minimise({"points": points}, parts, {"points"}, Schur("points"), stop or Stop(8, 1e-4))
    found = solution.state
    return BundleResult(world_from_cam, intrinsics, found["points"], log_depth_scale, parts[0].squares(found), solution)


def cast(
    uv: Float[Tensor, "m 2"], depth_z: Float[Tensor, "m"], world_from_cam: Float[Tensor, "m 4 4"], intrinsics: Tensor
) -> Float[Tensor, "m 3"]:
    """World points of pixels at a depth, each in its own camera."""
    points_cam = camera.unproject(uv, depth_z, intrinsics)
    return se3.apply(world_from_cam, points_cam[:, None])[:, 0]
