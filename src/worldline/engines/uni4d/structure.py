"""Stage 2: bundle adjustment on a well-spread subset of the static tracks, then structure from all of them.

Source: Uni4D (arXiv 2503.21761) stage 2. Unlike the release: the focal is estimated, the loss is bounded, every depth
map has a scale, the noise of the tracks is measured, bad tracks are dropped, and the structure found is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.solve import bundle, terms
from worldline.solve.anchored_bundle import share_of
from worldline.solve.bundle import BundleResult, DepthSamples
from worldline.solve.known_poses import KnownPoses, pose_prior, world_from_structure
from worldline.solve.problem import Stop, Term
from worldline.solve.robust import GemanMcClure
from worldline.solve.surface_alignment import SurfacePairs
from worldline.solve.terms import PixelSamples

STANDING = 1e-4
"""Camera centres closer together than this are one centre."""

SHARED_ERROR = 2.0
"""How much less the depth cue of one track says than its sigma claims, because neighbouring tracks share its error."""

DRIFTING = 0.5
"""Claimed noise of sightings as a share of that with which they drift together, which counts against surfaces."""

SLACK = 0.1
"""By how much more (relative) held-out tracks may be off where surfaces have held the cameras as well."""


@dataclass(frozen=True)
class Bundling:
    """Settings of the bundle adjustment.

    Attributes:
        tracks: most tracks in the fine solve; coarse_tracks: in the first, forgiving one.
        cell: tracks are spread over cells of this share of the image width.
        drop: tracks whose mean robust cost exceeds this multiple of the median are dropped before the last solve.
        sightings: most sightings per track when structure is triangulated; camera_sightings: when cameras are solved.
        knee, last_knee: where the bounded loss turns, in measured standard deviations, fine and last solve.
        held_out: tracks kept apart to judge whether a result is better than its start.
        effective: independent sightings that a solve is worth against a focal length that is known.
        least_sigma_px, least_scale_sigma: what is claimed exact (a track where it starts, an oracle) counts as this.
    """

    least_sigma_px: float = 0.3
    least_scale_sigma: float = 1e-3
    tracks: int = 2500
    coarse_tracks: int = 400
    cell: float = 0.09
    drop: float = 1.6
    sightings: int = 64
    camera_sightings: int = 200
    held_out: int = 100
    effective: int = 50
    coarse_steps: int = 12
    steps: int = 4
    last_steps: int = 8
    knee: float = 4.0
    last_knee: float = 6.0


@dataclass(frozen=True, eq=False)
class Tracks:
    """Static tracks as the solver sees them: (T, N) fields on one device, log depth NaN where unknown."""

    uv: Float[Tensor, "t n 2"]
    seen: Bool[Tensor, "t n"]
    sigma_px: Float[Tensor, "t n"]
    log_depth: Float[Tensor, "t n"] | None
    depth_sigma: Float[Tensor, "t n"] | None
    scale_sigma: float

    def samples(self, chosen: Int[Tensor, "k"]) -> tuple[PixelSamples, DepthSamples | None]:
        """Sightings of the chosen tracks, points numbered in their order, and the depth cue there."""
        seen = self.seen[:, chosen]
        frame, point = seen.nonzero(as_tuple=True)
        track = chosen[point]
        samples = PixelSamples(frame, point, self.uv[frame, track], self.sigma_px[frame, track])
        if self.log_depth is None or self.depth_sigma is None:
            return samples, None
        log_depth, sigma = self.log_depth[frame, track], self.depth_sigma[frame, track]
        # a cue's errors are shared along a track, so its samples count as one observation, not as many; and shared
        # with the tracks around it, hence the further factor
        sigma = SHARED_ERROR * sigma * torch.bincount(point, minlength=len(chosen)).to(sigma)[point].sqrt()
        known = log_depth.isfinite() & sigma.isfinite()
        log_depth = torch.where(known, log_depth, torch.zeros_like(log_depth))
        sigma = torch.where(known, sigma, torch.full_like(sigma, 1e6))
        return samples, DepthSamples(log_depth, sigma, self.scale_sigma)

    def points_of(self, chosen: np.ndarray) -> Int[Tensor, "m"]:
        """The number, among the chosen tracks, behind each of their sightings in the order of `samples`."""
        return self.seen[:, _places(chosen, self.seen)].nonzero(as_tuple=True)[1]


def spread(tracks: Tracks, query_frame: np.ndarray, cell_px: float, count: int) -> Int[np.ndarray, "k"]:
    """Track numbers, longest first within every cell of (query frame, image cell), cells taking turns."""
    length = tracks.seen.sum(0).cpu().numpy()
    first = tracks.seen.int().argmax(0).cpu()
    where = (tracks.uv[first, torch.arange(len(first))] / cell_px).floor().long().cpu().numpy()
    cell = (query_frame.astype(np.int64) * 4096 + where[:, 1]) * 4096 + where[:, 0]
    order = np.lexsort((-length, cell))
    starts = np.flatnonzero(np.r_[True, np.diff(cell[order]) != 0])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    turns = order[np.lexsort((-length[order], rank))]
    return turns[length[turns] >= 2][:count]


@dataclass(frozen=True, eq=False)
class Cameras:
    """Poses, intrinsics (fx, fy, cx, cy) and the log scale of every depth map."""

    world_from_cam: Float[Tensor, "t 4 4"]
    intrinsics: Float[Tensor, "4"]
    log_depth_scale: Float[Tensor, "t 1"]


@dataclass(frozen=True, eq=False)
class Bundled:
    """The cameras, the measured noise (multiple of the claimed one), and how it went."""

    cameras: Cameras
    noise: float
    outcome: dict[str, float | str | int]


def bundle_cameras(
    tracks: Tracks,
    query_frame: np.ndarray,
    start: Cameras,
    settings: Bundling,
    *,
    focal_sigma: float,
    focal_known: bool = False,
    poses: KnownPoses | None = None,
    sized_by_poses: bool = False,
    surfaces: Callable[[Cameras], SurfacePairs | None] | None = None,
) -> Bundled:
    """Coarse solve, structure for the subset, fine solve, drop the misfits, last solve; kept only if better.

    Known poses hold the world, each with its own sigma, in place of the first camera. If they also give its size, the
    scale that the depth maps share is free. A focal length that is known well, and what `surfaces` say of
    pairs of cameras, stand against as many sightings as are independent, not against all.

    Cameras that start at one and the same centre (they only turn, or stand) keep it: translations fitted where
    there is no parallax would follow the noise of the tracks.
    """
    extra = [hold_centres(start.world_from_cam)] if one_centre(start.world_from_cam) else []
    width = float(start.intrinsics[2]) * 2
    chosen = spread(tracks, query_frame, settings.cell * width, settings.tracks + settings.held_out)
    few = len(chosen) < 4 * settings.held_out
    held, chosen = (chosen[:0], chosen) if few else (chosen[:: len(chosen) // settings.held_out], chosen)
    chosen = np.setdiff1d(chosen, held, assume_unique=True)
    thinned = replace(tracks, seen=_thin(tracks.seen, chosen, settings.camera_sightings))
    generator = np.random.default_rng(0)
    coarse = generator.choice(chosen, min(settings.coarse_tracks, len(chosen)), replace=False)
    focal_start, scale_mean = float(start.intrinsics[:2].mean()), float(start.log_depth_scale.median())

    def solve(
        index: np.ndarray, cameras: Cameras, points: Tensor, loss: float, stop: Stop, noise: float
    ) -> BundleResult:
        samples, depth = thinned.samples(_places(index, tracks.uv))
        samples = replace(samples, sigma_px=samples.sigma_px * noise)
        scale_sigma = tracks.scale_sigma * (1.0 if surfaces is None else share_of(len(samples), len(tracks.uv)))
        depth = depth and replace(depth, scale_sigma=scale_sigma, scale_mean=scale_mean, scale_free=sized_by_poses)
        doubt = focal_sigma * (among(len(samples), settings) if focal_known else 1.0)
        return bundle.adjust(
            samples, cameras.world_from_cam, cameras.intrinsics, points, focal_sigma=doubt,
            focal_prior=focal_start, depth=depth, log_depth_scale=cameras.log_depth_scale,
            loss=GemanMcClure(loss), stop=stop, extra=[*extra, *faces(cameras, samples)],
            held=held_by(len(samples)),
        )  # fmt: skip

    def faces(cameras: Cameras, samples: PixelSamples) -> list[Term]:
        pairs = None if surfaces is None or extra else surfaces(cameras)
        share = DRIFTING * share_of(len(samples), len(tracks.uv))
        return [] if pairs is None else [pairs.term(share, tracks.uv)]

    def held_by(sightings: int) -> list[Term] | None:
        return None if poses is None else [pose_prior(poses, share_of(sightings, len(tracks.uv)))]

    def in_world(result: BundleResult) -> BundleResult:
        return _brought_to(poses, result) if poses is not None and sized_by_poses else result

    forgiving = 20.0 if surfaces is None else settings.last_knee
    first = in_world(
        solve(coarse, start, cast(tracks, coarse, start), forgiving, Stop(settings.coarse_steps, 1e-3), 1.0)
    )
    cameras = _cameras(first)
    points, square = structure(tracks, chosen, cameras, settings, knee=forgiving)
    noise = _noise(square)
    fine = in_world(solve(chosen, cameras, points, settings.knee, Stop(settings.steps, 3e-4), noise))
    keep = _fits(thinned, chosen, fine, settings.drop)
    kept = _places(keep, fine.points)
    noise *= _noise(fine.square[kept[thinned.points_of(chosen)]])
    stop = Stop(settings.last_steps, 1e-4)
    last = in_world(solve(chosen[keep], _cameras(fine), fine.points[kept], settings.last_knee, stop, noise))
    cameras = _cameras(last)
    before, after = (held_out_error(tracks, held, c, settings) for c in (start, cameras))
    outcome: dict[str, float | str | int] = {
        "tracks": int(keep.sum()), "dropped": int((~keep).sum()), "reason": last.solution.reason,
        "steps": first.solution.steps + fine.solution.steps + last.solution.steps,
        "centres": "held" if extra else "free", "noise": round(noise, 3),
        "held_out_px_before": round(before, 3), "held_out_px_after": round(after, 3),
    }  # fmt: skip
    if len(held) and not after <= before * (1.0 if surfaces is None else 1 + SLACK):
        outcome["kept"] = "start"
        return Bundled(start, noise, outcome)
    outcome["kept"] = "result"
    return Bundled(cameras, noise, outcome)


def among(sightings: int, settings: Bundling) -> float:
    """By how much a known focal length must claim to be better, for so many sightings whose errors go together."""
    return min(1.0, (settings.effective / max(sightings, 1)) ** 0.5)


def _brought_to(poses: KnownPoses, result: BundleResult) -> BundleResult:
    """The same result with the scale and in the world of the known poses, which few steps need not reach."""
    every = torch.ones_like(poses.known)
    found = world_from_structure(poses, result.world_from_cam, every, with_scale=True)
    if found is None:
        return result
    return replace(
        result,
        world_from_cam=found.apply_to_cameras(result.world_from_cam), points=found.apply(result.points),
        log_depth_scale=result.log_depth_scale + found.scale.log(),
    )  # fmt: skip


def one_centre(world_from_cam: Float[Tensor, "t 4 4"]) -> bool:
    """Whether all cameras are in one place (distances in units of the scene, whose depth is of order one)."""
    centres = world_from_cam[:, :3, 3]
    return bool((centres - centres[0]).norm(dim=-1).max() < STANDING)


def hold_centres(world_from_cam: Float[Tensor, "t 4 4"]) -> Term:
    """Keeps every camera where it is, free to turn."""
    every = torch.arange(len(world_from_cam), device=world_from_cam.device)
    return terms.motion_prior(world_from_cam, every, 0.1 * STANDING, 10.0)


def structure(
    tracks: Tracks, chosen: np.ndarray, cameras: Cameras, settings: Bundling, *, knee: float = 4.0, noise: float = 1.0
) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "m"]]:
    """Points of the chosen tracks with the cameras fixed, and the squared whitened error of every sighting used."""
    thinned = replace(tracks, seen=_thin(tracks.seen, chosen, settings.sightings))
    index = _places(chosen, tracks.uv)
    samples, depth = thinned.samples(index)
    samples = replace(samples, sigma_px=samples.sigma_px * noise)
    found = bundle.refine_points(
        samples, cameras.world_from_cam, cameras.intrinsics, cast(thinned, chosen, cameras), depth=depth,
        log_depth_scale=cameras.log_depth_scale, loss=GemanMcClure(knee), stop=Stop(steps=4, tolerance=1e-3),
    )  # fmt: skip
    return found.points, found.square


def cast(tracks: Tracks, chosen: np.ndarray, cameras: Cameras) -> Float[Tensor, "k 3"]:
    """Where the depth cue puts the chosen tracks: the mean over their sightings."""
    index = _places(chosen, tracks.uv)
    frame, point = tracks.seen[:, index].nonzero(as_tuple=True)
    track = index[point]
    assert tracks.log_depth is not None
    log_depth = tracks.log_depth[frame, track] + cameras.log_depth_scale[frame, 0]
    known = log_depth.isfinite()
    frame, point, track, log_depth = frame[known], point[known], track[known], log_depth[known]
    where = bundle.cast(tracks.uv[frame, track], log_depth.exp(), cameras.world_from_cam[frame], cameras.intrinsics)
    total = where.new_zeros(len(index), 3).index_add_(0, point, where)
    count = torch.bincount(point, minlength=len(index)).to(total)
    return total / count.clamp_min(1)[:, None]


def held_out_error(tracks: Tracks, held: np.ndarray, cameras: Cameras, settings: Bundling) -> float:
    """Median reprojection error (pixels) of tracks that took no part, triangulated with these cameras."""
    if len(held) == 0:
        return float("nan")
    # depth plays no part here: cameras are judged by what the images say
    blind = replace(tracks, depth_sigma=None)
    points, square = structure(blind, held, cameras, settings, knee=6.0)
    return float(square.median().sqrt())


def _thin(seen: Tensor, chosen: np.ndarray, most: int) -> Tensor:
    """At most `most` sightings of every chosen track, evenly spread over its life."""
    index = _places(chosen, seen)
    part = seen[:, index]
    number = part.cumsum(0) - 1
    every = (part.sum(0).float() / most).clamp_min(1.0)
    first_of_bin = (number / every).floor() != ((number - 1) / every).floor()
    out = torch.zeros_like(seen)
    out[:, index] = part & first_of_bin
    return out


def _noise(square: Float[Tensor, "m"]) -> float:
    """Multiple of the claimed sigma that explains the squared, whitened errors, by their lower quartile.

    Two equal normal components have a quartile of -2 ln(3/4); outliers hardly move it, even when they are many.
    """
    if len(square) == 0:
        return 1.0
    quartile = square.sort().values[len(square) // 4]
    return float((quartile / (-2 * np.log(0.75))).sqrt().clamp(0.2, 5.0))


def _places(chosen: np.ndarray, like: Tensor) -> Tensor:
    """Numbers or a mask on the host as an index on the device of `like`."""
    return torch.as_tensor(chosen, device=like.device)


def _cameras(result: BundleResult) -> Cameras:
    return Cameras(result.world_from_cam, result.intrinsics, result.log_depth_scale)


def _fits(tracks: Tracks, chosen: np.ndarray, result: BundleResult, drop: float) -> np.ndarray:
    """Which tracks have a mean robust cost below `drop` times the median."""
    point = tracks.points_of(chosen)
    cost = GemanMcClure(4.0).cost(result.square)
    mean = cost.new_zeros(len(chosen)).index_add_(0, point, cost) / torch.bincount(
        point, minlength=len(chosen)
    ).clamp_min(1)
    return (mean <= drop * mean.median()).cpu().numpy()


@dataclass(frozen=True, eq=False)
class Fit:
    """Per track: median whitened reprojection error (1 is expected), and standard deviation of its log depth."""

    misfit: Float[Tensor, "k"]
    sigma: Float[Tensor, "k"]


def fit_of_tracks(
    tracks: Tracks, chosen: np.ndarray, cameras: Cameras, points: Tensor, settings: Bundling, noise: float
) -> Fit:
    """How well points fit their (thinned) sightings, and how well parallax determines their depth."""
    samples, _ = replace(tracks, seen=_thin(tracks.seen, chosen, settings.sightings), depth_sigma=None).samples(
        _places(chosen, tracks.uv)
    )
    frame, point = samples.frame, samples.point
    x = terms.in_camera(cameras.world_from_cam[frame], points[point])
    z = x[:, 2].clamp_min(terms.NEAREST)
    uv = x[:, :2] / z[:, None] * cameras.intrinsics[:2] + cameras.intrinsics[2:]
    sigma_px = samples.sigma_px * noise
    square = ((uv - samples.uv) / sigma_px[:, None]).square().sum(-1)
    count = torch.bincount(point, minlength=len(chosen)).to(square).clamp_min(1)
    robust = torch.zeros_like(count).index_add_(0, point, GemanMcClure(4.0).cost(square)) / count
    # parallax: how far the point moves in the image per unit of log depth, beyond what its mean direction explains
    centre = cameras.world_from_cam[frame, :3, 3]
    mean = torch.zeros_like(points).index_add_(0, point, centre) / count[:, None]
    reach = (centre - mean[point]) / z[:, None]
    baseline = torch.zeros_like(count).index_add_(0, point, reach.square().sum(-1)).sqrt()
    angle_px = cameras.intrinsics[0] * baseline / sigma_px.median()
    return Fit((robust / 2).sqrt(), 1 / angle_px.clamp_min(1e-3))
