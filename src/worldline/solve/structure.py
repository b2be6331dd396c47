"""Structure from pixel tracks alone: cameras and points of the rigid majority, with movers among the tracks.

1. A camera that only turns is fitted first (`rotation.turning`). If it explains the tracks as well as tracks can be
   explained, the clip has no parallax: rotations are given, no translation and no depth are claimed.
2. Otherwise keyframes are solved outward from the best pair (`two_view`, `resection`, `triangulation`, with bundle
   adjustments in between), the other frames are resected, and everything is adjusted together.
3. The model with translation is kept only where it explains the tracks clearly better than turning does.

An unknown focal length is voted for by many pairs over a range of fields of view, then refined with all cameras.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.errors import SolveFailed
from worldline.geometry import se3
from worldline.scene.observations import PixelTracks
from worldline.solve import bundle, resection, rotation, triangulation
from worldline.solve.problem import Stop
from worldline.solve.robust import Cauchy
from worldline.solve.terms import PixelSamples
from worldline.solve.two_view import TRUNCATE, TwoView, relative_motion

Motion = Literal["static", "turning", "general"]
MEDIAN_DEPTH = 4.0
"""Scale of the answer: the median depth of the static points, in units of the world (unknown, not metres)."""


@dataclass(frozen=True)
class StructureSettings:
    """How much is used, and what counts as an outlier."""

    tracks: int = 2500
    """Most tracks used in the solve; all are judged at the end."""
    thinning: int = 2
    """Every so many of them grow the candidates among which one is chosen."""
    frames_per_key: int = 5
    """Frames between keyframes, about."""
    noise_px: float = 0.5
    """Least standard deviation of a sighting."""
    outlier_px: float = 2.0
    """Residual beyond which a sighting does not count as support."""
    fov_deg: float = 60.0
    """View along the longer side of an unknown camera."""
    focal_sigma: float = 0.3
    """Relative standard deviation of that guess."""
    focal_starts: tuple[float, ...] = (0.75, 1.0, 1.4, 2.0)
    """Multiples of the guess that are tried beside the one that pairs vote for."""
    focal_weight: float = 0.05
    """Cost of a focal length one sigma from the guess, in mean squared residuals."""
    effective: int = 500
    """Independent sightings that a solve is worth: errors along a track and of the lens go together."""
    min_parallax_rad: float = 0.012
    """Half of it is the least median angle between the rays of a pair to start from; five times it is wide."""
    parallax_share: float = 0.15
    """Share of the tracks that must need translation."""
    ground_worth: float = 0.3
    """What it is worth, in log squared residuals, that the bottom of the image is nearer (times the correlation)."""
    focal_worth: float = 50.0
    """Independent tracks that speak about the focal length."""
    least_focal_sigma: float = 0.02
    """The focal length is never better known than this: the lens is not modelled."""
    still_px: float = 0.75
    """A camera stands still if most tracks move less in five frames."""


@dataclass(frozen=True, eq=False)
class RigidStructure:
    """What the rigid majority of the tracks says. World = first camera, scale by `MEDIAN_DEPTH`.

    Attributes:
        world_from_cam: (T, 4, 4), finite in every frame; solved: (T,) false where a pose is only interpolated.
        intrinsics: (4,) fx fy cx cy; focal_sigma: its relative standard deviation (0: was given).
        motion: whether the camera stood still, only turned, or moved with parallax.
        points_world: (N, 3) of the static hypothesis of every track; spread_rad: (N,) angle between its rays.
        residual_px: (T, N) reprojection error under it; NaN where the track is not visible.
        track_rms_px: (N,) robust size of the residuals over the track's life; NaN without samples.
        support: (T,) number of samples that agree.
    """

    world_from_cam: Float[np.ndarray, "t 4 4"]
    solved: Bool[np.ndarray, "t"]
    intrinsics: Float[np.ndarray, "4"]
    focal_sigma: float
    motion: Motion
    points_world: Float[np.ndarray, "n 3"]
    spread_rad: Float[np.ndarray, "n"]
    residual_px: Float[np.ndarray, "t n"]
    track_rms_px: Float[np.ndarray, "n"]
    support: Int[np.ndarray, "t"]

    @property
    def parallax(self) -> bool:
        """Whether translation and depth are claimed."""
        return self.motion == "general"


class _Samples(NamedTuple):
    """Dense samples of the tracks in use: uv (T, N, 2) and weight (T, N), 1 / variance, 0 where not visible."""

    uv: Tensor
    weight: Tensor

    def frames(self, index: Tensor) -> _Samples:
        return _Samples(self.uv[index], self.weight[index])

    def tracks(self, index: Tensor) -> _Samples:
        return _Samples(self.uv[:, index], self.weight[:, index])


class _Focal(NamedTuple):
    """What is known of the focal length: (4,) start, relative sigma (0: fixed), and the other values worth trying."""

    intrinsics: Tensor
    sigma: float
    candidates: tuple[float, ...]

    def at(self, focal_px: float) -> Tensor:
        return torch.cat([torch.full((2,), focal_px, dtype=self.intrinsics.dtype), self.intrinsics[2:]])


class _Solution(NamedTuple):
    """Cameras of all frames, and which of them were really seen."""

    world_from_cam: Tensor
    solved: Tensor
    intrinsics: Tensor
    focal_sigma: float


def rigid_structure(
    tracks: PixelTracks,
    width: int,
    height: int,
    *,
    focal_px: float | None = None,
    focal_sigma: float = 0.0,
    settings: StructureSettings | None = None,
) -> RigidStructure:
    """Camera motion and static structure from pixel tracks.

    Args:
        width, height: of the image the tracks live in; the principal point is its centre.
        focal_px: the focal length if known, with its relative `focal_sigma` (0 keeps it fixed); None: estimated.

    Raises:
        SolveFailed: hardly any track spans several frames.
    """
    s = settings or StructureSettings()
    everything = _samples(tracks, s)
    used = _choose(everything, tracks.query_frame, width, height, s.tracks)
    if len(used) < 16:
        raise SolveFailed("fewer than 16 tracks span several frames; use a longer or sharper clip.")
    samples, focal = everything.tracks(used), _focal(focal_px, focal_sigma, width, height, s)
    if _still_share(samples, s) > 0.5:
        return _judged(everything, _standing(len(tracks.uv), focal), "static", s)
    keys = _keyframes(samples, s)
    turning = _turning(samples, keys, focal, s)
    general = _general(samples, keys, focal, s)
    if general is not None and _explains(samples, turning, general, s):
        return _judged(everything, general, "general", s)
    return _judged(everything, turning, "turning", s)


def structure_at(
    tracks: PixelTracks,
    world_from_cam: Float[np.ndarray, "t 4 4"],
    intrinsics: Float[np.ndarray, "4"],
    *,
    settings: StructureSettings | None = None,
) -> RigidStructure:
    """The static hypothesis of every track under known cameras, whose scale is kept."""
    s = settings or StructureSettings()
    cameras = torch.from_numpy(np.asarray(world_from_cam, dtype=np.float64))
    state = _Solution(cameras, torch.ones(len(cameras), dtype=torch.bool), torch.from_numpy(intrinsics.copy()), 0.0)
    moves = float((cameras[:, :3, 3] - cameras[0, :3, 3]).norm(dim=-1).max()) > 0
    return _judged(_samples(tracks, s), state, "general" if moves else "turning", s)


def _samples(tracks: PixelTracks, s: StructureSettings) -> _Samples:
    uv = torch.from_numpy(tracks.uv.astype(np.float64))
    sigma = torch.from_numpy(np.hypot(tracks.sigma_px.astype(np.float64), s.noise_px))
    visible = torch.from_numpy(tracks.visible) & uv.isfinite().all(-1) & sigma.isfinite()
    weight = torch.where(visible, 1 / sigma.square(), torch.zeros_like(sigma))
    return _Samples(torch.where(visible[..., None], uv, torch.zeros_like(uv)), weight)


def _choose(samples: _Samples, query_frame: np.ndarray, width: int, height: int, count: int) -> Tensor:
    """Tracks in use: the longest of every region and start frame, regions taking turns."""
    seen = samples.weight > 0
    length = seen.sum(0)
    first = samples.uv[seen.to(torch.uint8).argmax(0), torch.arange(len(length))]
    column, row = (first[:, 0] / width * 12).long().clamp(0, 11), (first[:, 1] / height * 8).long().clamp(0, 7)
    group = torch.from_numpy(query_frame.astype(np.int64)) * 96 + row * 12 + column
    order = torch.argsort(length, descending=True, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    start = torch.cat([torch.ones(1, dtype=torch.bool), group[order][1:] != group[order][:-1]])
    place = torch.arange(len(order))
    rank = place - torch.where(start, place, torch.zeros_like(place)).cummax(0).values
    turn = order[torch.argsort(rank, stable=True)]
    return turn[length[turn] >= min(4, len(seen))][:count].sort().values


def _focal(focal_px: float | None, sigma: float, width: int, height: int, s: StructureSettings) -> _Focal:
    start = max(width, height) / 2 / np.tan(np.radians(s.fov_deg) / 2) if focal_px is None else focal_px
    intrinsics = torch.tensor([start, start, width / 2, height / 2], dtype=torch.float64)
    if focal_px is not None and sigma < 0.1:
        return _Focal(intrinsics, sigma, (start,))
    spread = s.focal_sigma if focal_px is None else sigma
    return _Focal(intrinsics, spread, tuple(start * np.exp(spread * np.linspace(-1.8, 1.8, 9))))


def _still_share(samples: _Samples, s: StructureSettings) -> float:
    """Share of the tracks that stay where they are over a few frames, in the median frame."""
    gap = min(5, len(samples.uv) - 1)
    both = (samples.weight[gap:] > 0) & (samples.weight[:-gap] > 0)
    still = (samples.uv[gap:] - samples.uv[:-gap]).norm(dim=-1) < s.still_px
    return float(((still & both).sum(1) / both.sum(1).clamp_min(1)).median())


def _keyframes(samples: _Samples, s: StructureSettings) -> Tensor:
    """Frames at equal shares of the image motion (and of time, a little)."""
    count = len(samples.uv)
    wanted = min(count, max(8, -(-count // s.frames_per_key)))
    both = (samples.weight[1:] > 0) & (samples.weight[:-1] > 0)
    step = (samples.uv[1:] - samples.uv[:-1]).norm(dim=-1)
    motion = torch.stack(
        [step[t, both[t]].median() if both[t].any() else step.new_tensor(0.0) for t in range(count - 1)]
    )
    motion = motion.clamp_max(4 * motion.median() + 1e-9) + 0.5 * motion.mean() + 1e-6
    progress = torch.cat([motion.new_zeros(1), motion.cumsum(0)])
    goals = torch.linspace(0, float(progress[-1]), wanted, dtype=progress.dtype)
    return torch.unique((progress[None] - goals[:, None]).abs().argmin(1))


def _standing(count: int, focal: _Focal) -> _Solution:
    eye = torch.eye(4, dtype=torch.float64).expand(count, 4, 4).clone()
    return _Solution(eye, torch.ones(count, dtype=torch.bool), focal.intrinsics, focal.sigma)


def _turning(samples: _Samples, keys: Tensor, focal: _Focal, s: StructureSettings) -> _Solution:
    """The camera that only turns; its focal length is that of the lowest cost over the keyframes."""
    few = samples.frames(keys)
    fits = [rotation.turning(few.uv, few.weight, focal.at(f)) for f in focal.candidates]
    costs = [
        _cost(fit.residual_px, few.weight, s) + _focal_cost(f, focal, s)
        for f, fit in zip(focal.candidates, fits, strict=True)
    ]
    intrinsics = focal.at(_lowest(focal.candidates, costs))
    found = rotation.turning(samples.uv, samples.weight, intrinsics)
    world_from_cam = se3.from_rotation_translation(found.rotation, torch.zeros_like(found.rotation[:, 0]))
    solved = (samples.weight > 0).sum(1) >= 8
    return _Solution(world_from_cam, solved, intrinsics, min(focal.sigma, 0.15))


def _explains(samples: _Samples, turning: _Solution, general: _Solution, s: StructureSettings) -> bool:
    """Whether enough of the tracks that fit the moving camera do not fit the turning one (and few the other way).

    What is gained in the middle of the image alone is taken for an object that the camera turns after, as long as
    turning explains more tracks than are gained: the parallax of a scene reaches its borders.
    """
    moving = triangulation.triangulate(samples.uv, samples.weight, general.world_from_cam, general.intrinsics)
    fits_moving = _fitting(moving.residual_px, samples.weight, s)
    fits_turning = _fitting(_at_unit_depth(samples, turning)[1], samples.weight, s)
    gained, lost = fits_moving & ~fits_turning, fits_turning & ~fits_moving
    if gained.sum() < fits_turning.sum():
        outer = [_outer_share(samples.tracks(torch.nonzero(k)[:, 0]), general) for k in (gained, fits_turning)]
        if outer[0] < 0.5 * outer[1]:
            return False
    return float(gained.sum() - lost.sum()) > s.parallax_share * float(fits_moving.sum())


def _outer_share(samples: _Samples, state: _Solution) -> float:
    """Share of the sightings in the outer 15 per cent of the image on any side."""
    size = 2 * state.intrinsics[2:]
    outer = ((samples.uv / size - 0.5).abs() > 0.35).any(-1)
    seen = samples.weight > 0
    return float((outer & seen).sum() / seen.sum().clamp_min(1))


def _fitting(residual_px: Tensor, weight: Tensor, s: StructureSettings) -> Tensor:
    """Tracks whose mean squared residual is within three sigma of their noise and drift."""
    square = torch.where(weight > 0, residual_px.clamp_max(1e3).square() * weight, torch.zeros_like(weight))
    return square.sum(0) < 9 * (weight > 0).sum(0)


def _focal_cost(focal_px: float, focal: _Focal, s: StructureSettings) -> float:
    if focal.sigma == 0:
        return 0.0
    return s.focal_weight * float(np.log(focal_px / float(focal.intrinsics[0])) / focal.sigma) ** 2


def _lowest(values: tuple[float, ...], costs: list[float]) -> float:
    """The value of least cost: the grid's best, moved to the vertex of the parabola through its neighbours (log)."""
    best = int(np.argmin(costs))
    if best in (0, len(values) - 1):
        return values[best]
    left, middle, right = costs[best - 1 : best + 2]
    bend = left - 2 * middle + right
    share = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(values[best] * (values[best + 1] / values[best]) ** np.clip(share, -0.5, 0.5))


def _cost(residual_px: Tensor, weight: Tensor, s: StructureSettings) -> float:
    """Mean over tracks of their mean squared normalised residual, truncated at `outlier_px` times the noise."""
    limit = (s.outlier_px / s.noise_px) ** 2
    each = (residual_px.square() * weight).clamp_max(limit).nan_to_num(limit)
    seen = (weight > 0).sum(0)
    return float((torch.where(weight > 0, each, torch.zeros_like(each)).sum(0) / seen.clamp_min(1))[seen > 1].mean())


def _misfit(residual_px: Tensor, weight: Tensor) -> float:
    """Mean over tracks of the log of their mean squared residual: the likelihood of noise of unknown size.

    Movers misfit every solution alike and so do not decide between them.
    """
    seen = (weight > 0).sum(0)
    square = torch.where(weight > 0, residual_px.clamp_max(10).square(), torch.zeros_like(weight)).sum(0)
    return float((square / seen.clamp_min(1) + 0.05**2).log()[seen > 1].mean())


# ---- the camera that moves -------------------------------------------------------------------------------------


def _general(samples: _Samples, keys: Tensor, focal: _Focal, s: StructureSettings) -> _Solution | None:
    """Keyframes outward from the best pair, all other frames, and a last adjustment; None where no pair has depth."""
    few = samples.frames(keys)
    thin = few.tracks(torch.arange(0, few.uv.shape[1], s.thinning))
    grown = [_grow(thin, *start, focal, s) for start in _starts(few, _pairs(few), focal, s)]
    if not grown:
        return None
    best = min(grown, key=lambda x: _implausibility(thin, x, s))
    return _finish(samples, keys, _unreversed(thin, best, focal, s), focal, s)


def _starts(
    few: _Samples, pairs: list[tuple[int, int]], focal: _Focal, s: StructureSettings
) -> list[tuple[tuple[int, int], TwoView, Tensor]]:
    """Pairs to start from, each with intrinsics: several, since little perspective leaves several minima."""
    usual = float(focal.intrinsics[0])
    known = len(focal.candidates) == 1
    focals = (usual,) if known else (_vote(few, pairs, focal, s), *(k * usual for k in s.focal_starts))
    best = [_best_pairs(few, pairs, focal.at(f), s)[: 3 if known else 1] for f in focals]
    return [(pair, m, focal.at(f)) for f, found in zip(focals, best, strict=True) for pair, m in found]


def _pairs(few: _Samples) -> list[tuple[int, int]]:
    """Pairs of keyframes that share enough tracks, spread over gaps and time."""
    seen = (few.weight > 0).double()
    shared = seen @ seen.T
    return [
        (i, i + gap)
        for gap in (1, 2, 3, 4, 6, 8)
        for i in range(0, len(seen) - gap, max(1, gap, len(seen) // 6))
        if shared[i, i + gap] >= max(60.0, 0.25 * float(shared[i, i]))
    ]


def _relative(few: _Samples, pair: tuple[int, int], intrinsics: Tensor, s: StructureSettings) -> TwoView | None:
    both = (few.weight[pair[0]] > 0) & (few.weight[pair[1]] > 0)
    a, b = (((few.uv[k, both] - intrinsics[2:]) / intrinsics[:2]).numpy() for k in pair)
    return relative_motion(a, b, s.noise_px / float(intrinsics[0]))


def _vote(few: _Samples, pairs: list[tuple[int, int]], focal: _Focal, s: StructureSettings) -> float:
    """The focal length under which essential matrices explain the pairs best."""
    if len(focal.candidates) == 1 or not pairs:
        return float(focal.intrinsics[0])
    chosen = pairs[:: max(1, len(pairs) // 8)]
    costs = []
    for f in focal.candidates:
        found = [_relative(few, pair, focal.at(f), s) for pair in chosen]
        each = [TRUNCATE**2 if m is None else m.cost for m in found]
        costs.append(float(np.mean(each)) + _focal_cost(f, focal, s))
    return _lowest(focal.candidates, costs)


def _best_pairs(
    few: _Samples, pairs: list[tuple[int, int]], intrinsics: Tensor, s: StructureSettings
) -> list[tuple[tuple[int, int], TwoView]]:
    """Pairs with relative motion, those with most inliers, wide rays and a low cost first."""
    found = [(pair, m) for pair in pairs if (m := _relative(few, pair, intrinsics, s)) is not None]
    found = [(pair, m) for pair, m in found if m.parallax_rad > s.min_parallax_rad / 2]
    wide = 5 * s.min_parallax_rad
    return sorted(found, key=lambda f: -f[1].inlier.sum() * min(f[1].parallax_rad, wide) / (0.5 + f[1].cost))


def _grow(
    few: _Samples, pair: tuple[int, int], motion: TwoView, intrinsics: Tensor, focal: _Focal, s: StructureSettings
) -> _Solution:
    """Keyframes outward from a pair: the one that sees most of the structure is next; adjusted as it grows."""
    world_from_cam = torch.eye(4, dtype=torch.float64).repeat(len(few.uv), 1, 1)
    world_from_cam[pair[1]] = se3.inverse(torch.from_numpy(motion.b_from_a))
    solved = torch.zeros(len(few.uv), dtype=torch.bool)
    solved[list(pair)] = True
    state = _adjusted(few, _Solution(world_from_cam, solved, intrinsics, 0.0), focal, s)
    failed, adjusted_at = torch.zeros_like(solved), 2
    while not bool((state.solved | failed).all()):
        points, good = _structure(few, state, s)
        seen = ((few.weight > 0) & good).sum(1)
        t = int(torch.where(state.solved | failed, torch.full_like(seen, -1), seen).argmax())
        placed = _placed(few, t, points, good, state, s)
        failed[t] = placed is None
        if placed is None:
            continue
        state = _with_frame(state, t, placed)
        if int(state.solved.sum()) > 1.25 * adjusted_at:
            adjusted_at = int(state.solved.sum())
            state = _adjusted(few, state, focal, s)
            failed &= False
    return _adjusted(few, state, focal, s)


def _unreversed(few: _Samples, state: _Solution, focal: _Focal, s: StructureSettings) -> _Solution:
    """The solution or its depth reversal, whichever explains the tracks better.

    Under little perspective, near and far can be exchanged with almost no change of the image (Necker reversal), and
    the first pair may start on the wrong side. Where both explain the tracks alike, the lower part of the image is
    taken to be nearer.
    """
    points, good = _structure(few, state, s)
    reference = state.world_from_cam[int(torch.nonzero(state.solved)[:, 0].median())]
    points_cam = se3.apply(se3.inverse(reference), points)
    near = good & (points_cam[:, 2] > 0)
    inverse = 1 / points_cam[:, 2:].clamp_min(1e-3)
    middle = inverse[near].median()
    mirrored = points_cam * inverse / (2 * middle - inverse).clamp(0.3 * middle, 3 * middle)
    points = se3.apply(reference, mirrored)
    weight = few.weight * near * state.solved[:, None]
    cameras = resection.refine_cameras(
        state.world_from_cam, points, few.uv, weight, state.intrinsics, kernel_px=10.0, steps=15
    )
    cameras = torch.where(cameras.isfinite().all(-1).all(-1)[:, None, None], cameras, state.world_from_cam)
    reversed_ = _adjusted(few, state._replace(world_from_cam=cameras), focal, s, steps=20)
    return min((state, reversed_), key=lambda x: _implausibility(few, x, s))


def _implausibility(few: _Samples, state: _Solution, s: StructureSettings) -> float:
    """Misfit of the tracks, less or more where the lower part of the image is nearer or farther than the upper."""
    weight = few.weight * state.solved[:, None]
    found = triangulation.triangulate(few.uv, weight, state.world_from_cam, state.intrinsics)
    depth_z, residual = triangulation.reprojection(found.points_world, few.uv, state.world_from_cam, state.intrinsics)
    fit = (weight > 0) & (residual < s.outlier_px) & (depth_z > 0)
    if int(fit.sum()) < 16:
        return np.inf
    inverse = 1 / depth_z[fit]
    nearer = torch.corrcoef(torch.stack([few.uv[..., 1][fit], inverse.clamp_max(2 * inverse.median())]))[0, 1]
    return _misfit(residual, weight) - s.ground_worth * float(nearer.nan_to_num())


def _placed(
    few: _Samples, t: int, points: Tensor, good: Tensor, state: _Solution, s: StructureSettings
) -> Tensor | None:
    use = (few.weight[t] > 0) & good
    found = resection.resect(
        points[use].numpy(), few.uv[t, use].numpy(), state.intrinsics.numpy(), threshold_px=2 * s.outlier_px
    )
    if found is None:
        return None
    start = torch.from_numpy(found)[None]
    weight = few.weight[t : t + 1] * good
    return resection.refine_cameras(start, points, few.uv[t : t + 1], weight, state.intrinsics)[0]


def _with_frame(state: _Solution, t: int, world_from_cam: Tensor) -> _Solution:
    cameras, solved = state.world_from_cam.clone(), state.solved.clone()
    cameras[t], solved[t] = world_from_cam, True
    return state._replace(world_from_cam=cameras, solved=solved)


def _structure(samples: _Samples, state: _Solution, s: StructureSettings) -> tuple[Tensor, Tensor]:
    """Points from the solved frames, and which of them most of their samples agree with."""
    weight = samples.weight * state.solved[:, None]
    found = triangulation.triangulate(samples.uv, weight, state.world_from_cam, state.intrinsics)
    agree = ((found.residual_px < 2 * s.outlier_px) & (weight > 0)).sum(0)
    good = (agree >= 2) & (agree >= 0.6 * (weight > 0).sum(0))
    return found.points_world, good


def _adjusted(samples: _Samples, state: _Solution, focal: _Focal, s: StructureSettings, steps: int = 12) -> _Solution:
    """Bundle adjustment of the solved frames with their points; the focal length joins from five frames on."""
    points, good = _structure(samples, state, s)
    frames = torch.nonzero(state.solved)[:, 0]
    track = torch.nonzero(good)[:, 0]
    if len(track) < 16:
        return state
    frame, point = torch.nonzero(samples.weight[frames][:, track] > 0, as_tuple=True)
    sighting = (frames[frame], track[point])
    sigma_px = samples.weight[sighting].rsqrt()
    doubt = focal.sigma * min(1.0, (s.effective / len(frame)) ** 0.5) if len(frames) >= 5 else 0.0
    result = bundle.adjust(
        PixelSamples(frame, point, samples.uv[sighting], sigma_px),
        state.world_from_cam[frames], state.intrinsics, points[track],
        focal_sigma=doubt, focal_prior=float(focal.intrinsics[0]),
        loss=Cauchy(3.0), stop=Stop(steps=steps, tolerance=1e-4),
    )  # fmt: skip
    cameras = state.world_from_cam.clone()
    cameras[frames] = result.world_from_cam
    return state._replace(world_from_cam=cameras, intrinsics=result.intrinsics)


def _finish(samples: _Samples, keys: Tensor, grown: _Solution, focal: _Focal, s: StructureSettings) -> _Solution:
    """From keyframes to all frames."""
    count = len(samples.uv)
    cameras = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    solved = torch.zeros(count, dtype=torch.bool)
    cameras[keys], solved[keys] = grown.world_from_cam, grown.solved
    state = _Solution(resection.interpolate_missing(cameras, solved), solved, grown.intrinsics, 0.0)
    points, good = _structure(samples, state, s)
    for t in torch.nonzero(~solved)[:, 0].tolist():
        placed = _placed(samples, t, points, good, state, s)
        if placed is not None:
            state = _with_frame(state, t, placed)
    state = _adjusted(samples, state, focal, s, steps=15)
    samples = _reweighted(samples, state, s)
    state = _adjusted(samples, state, focal, s, steps=10)
    state = state._replace(focal_sigma=_focal_doubt(samples.frames(keys), keys, state, focal, s))
    cameras = resection.interpolate_missing(state.world_from_cam, state.solved)
    return _anchored(samples, state._replace(world_from_cam=cameras), s)


def _reweighted(samples: _Samples, state: _Solution, s: StructureSettings) -> _Samples:
    """The same samples with the noise that their residuals show instead of the one assumed."""
    points, good = _structure(samples, state, s)
    residual = triangulation.reprojection(points, samples.uv, state.world_from_cam, state.intrinsics)[1]
    noise = float(residual[(samples.weight > 0) & good].median()) / 1.18  # median of a Rayleigh distribution
    floor = min(max(noise, 0.2 * s.noise_px), 2 * s.noise_px)
    own = samples.weight.clamp_min(1e-9).reciprocal() - s.noise_px**2
    weight = 1 / (own.clamp_min(0) + floor**2)
    return samples._replace(weight=torch.where(samples.weight > 0, weight, samples.weight))


def _focal_doubt(few: _Samples, keys: Tensor, state: _Solution, focal: _Focal, s: StructureSettings) -> float:
    """Relative sigma of the focal length: what a focal length ten per cent off costs, and the prior."""
    if focal.sigma == 0:
        return 0.0
    here = state._replace(world_from_cam=state.world_from_cam[keys], solved=state.solved[keys])
    fixed = _Focal(focal.intrinsics, 0.0, focal.candidates)
    off = _adjusted(
        few, here._replace(intrinsics=state.intrinsics * state.intrinsics.new_tensor([1.1, 1.1, 1, 1])), fixed, s
    )
    costs = []
    for x in (here, off):
        weight = few.weight * x.solved[:, None]
        found = triangulation.triangulate(few.uv, weight, x.world_from_cam, x.intrinsics)
        costs.append(_misfit(found.residual_px, weight))
    precision = max(costs[1] - costs[0], 0.0) * s.focal_worth / 0.1**2
    return max(s.least_focal_sigma, (precision + focal.sigma**-2) ** -0.5)


def _anchored(samples: _Samples, state: _Solution, s: StructureSettings) -> _Solution:
    """World = first camera, median depth of the structure = MEDIAN_DEPTH."""
    cameras = se3.inverse(state.world_from_cam[:1]) @ state.world_from_cam
    points, good = _structure(samples, state._replace(world_from_cam=cameras), s)
    depth_z = triangulation.reprojection(points, samples.uv, cameras, state.intrinsics)[0]
    scale = MEDIAN_DEPTH / depth_z[(samples.weight > 0) & good & (depth_z > 0)].median()
    cameras[:, :3, 3] *= scale
    return state._replace(world_from_cam=cameras)


def _judged(samples: _Samples, state: _Solution, motion: Motion, s: StructureSettings) -> RigidStructure:
    """Every track under the cameras found: its static point, its residuals, and how many agree per frame."""
    seen = samples.weight > 0
    if motion == "general":
        found = triangulation.triangulate(samples.uv, samples.weight, state.world_from_cam, state.intrinsics)
        points, spread, residual = found
    else:
        points, residual = _at_unit_depth(samples, state)
        spread = torch.zeros_like(points[:, 0])
    agree = (residual < s.outlier_px) & seen
    rms = (torch.where(seen, residual.clamp_max(1e3).square(), torch.zeros_like(residual)).sum(0) / seen.sum(0)).sqrt()
    return RigidStructure(
        state.world_from_cam.numpy(), state.solved.numpy(), state.intrinsics.numpy(), state.focal_sigma, motion,
        points.numpy(), spread.numpy(), torch.where(seen, residual, torch.nan).float().numpy(),
        rms.float().numpy(), agree.sum(1).numpy(),
    )  # fmt: skip


def _at_unit_depth(samples: _Samples, state: _Solution) -> tuple[Tensor, Tensor]:
    """Directions of the tracks of a camera that only turns, at MEDIAN_DEPTH, and their residuals."""
    fit = rotation.at_rotations(samples.uv, samples.weight, state.intrinsics, state.world_from_cam[:, :3, :3])
    return fit.direction * MEDIAN_DEPTH, fit.residual_px
