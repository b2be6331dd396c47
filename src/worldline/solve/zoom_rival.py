"""A lens that zooms as the rival of one that does not, before a camera that moves.

Going straight along the line of sight, a point at inverse depth w appears, after a way d, scaled by s / (1 - d w),
where s is the zoom. The same image has w + b for every w, with the way s d and the zoom s / (1 + b d). So each
explanation stands for a family of others, which only turning, going aside, points that would be behind the camera, and
what is believed of lenses tell apart. `rival` looks for the best of it: from the cameras under a fixed lens themselves,
and from members of their family, some of which have near and far exchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.geometry import se3
from worldline.solve import resection, triangulation
from worldline.solve.focal import Focal
from worldline.solve.lens import LensPrior, fit_lens
from worldline.solve.problem import Stop
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.terms import PixelSamples
from worldline.solve.track_cameras import Cameras, static_points, with_frame
from worldline.solve.track_samples import TrackSamples, log_misfit
from worldline.solve.zoom import WORTH, Lensed, adjusted, between_keys, covariance, improbability, measured, noticeable

AMOUNTS = (-0.7, -0.35, 0.35, 0.7)
"""Changes of the log focal length from which the search starts."""

JUMPS = (0.0, -0.12, 0.12, -0.3, 0.3)
"""Changes of the log focal length from the nearest frame that are tried where a frame does not fit."""

SHARP = 0.01
"""Standard deviation of the zoom below which an explanation has no family."""

FINALISTS = 3
"""Explanations that are adjusted to the end."""

GROUND_WORTH = 0.1
"""What it is worth between zooms, in log squared residuals, that the bottom of the image is nearer."""

RARE = 2.0
"""Log of the odds against a lens that zooms, before anything is seen."""

UNKNOWNS = 3
"""What a zoom adds to a fixed lens: how far, from when and until when."""

PRICE = 2 * RARE + UNKNOWNS * float(np.log(WORTH))
"""By how much minus twice the log likelihood must fall for a zoom to be believed."""


def rival(
    few: TrackSamples, frames: Int[Tensor, "k"], fixed: Cameras, focal: Focal, s: StructureSettings, *,
    guess: Lensed | None = None,
) -> Lensed | None:  # fmt: skip
    """The best explanation of the samples by a lens that zooms, found from the cameras under a fixed lens.

    None where too little is seen. `few` are the samples in the `frames` of a clip, `guess` is one more start.
    """
    start = Lensed(fixed, torch.zeros(len(frames), dtype=torch.float64))
    first = _settled(few, frames, start, focal, s, steps=15, rounds=3)
    doubt = sigmas(few, frames, first, focal, s).zoom
    if not np.isfinite(doubt):
        return None
    if guess is None and doubt < SHARP and bool(first.cameras.solved.all()):
        return adjusted(few, frames, first, focal, s, rounds=3) if noticeable(first.log_zoom) else first
    parts = [_part(few, frames, start, half, focal, s) for half in torch.arange(len(frames)).chunk(2)]
    family = [as_if_zoomed(few, frames, start, amount, focal, s) for amount in AMOUNTS]
    best = _best(few, frames, [first], [*family, *parts, guess], focal, s)
    if not noticeable(best.log_zoom):
        return best
    amount = _mirroring(few, best, s)
    other = None if amount is None else as_if_zoomed(few, frames, best, amount, focal, s)
    return _best(few, frames, [best], [other], focal, s)


def believed(
    few: TrackSamples, frames: Int[Tensor, "k"], fixed: Cameras, zooming: Lensed, focal: Focal, s: StructureSettings
) -> bool:
    """Whether the samples speak for a zoom by more than its unknowns and its rarity cost.

    The fixed lens may distort: what is not modelled looks like a zoom as well as like a distortion. And each half of
    the tracks must show the same zoom.
    """
    solved = zooming.cameras.solved
    if int(solved.sum()) < int(fixed.solved.sum()):
        return False  # it explains less of the clip, so it may well fit that better
    if not _shared(few, frames, zooming, focal, s):
        return False
    still = Lensed(fixed, torch.zeros_like(zooming.log_zoom))
    polished = adjusted(few, frames, still, focal, s, zooms=False, rounds=3)
    costs = [
        _misfit(few, found._replace(cameras=found.cameras._replace(solved=solved))) + _unusual(found.cameras, focal)
        for found in (still, polished)
    ]
    costs.append(_distorted(few, polished, focal, s) + _unusual(polished.cameras, focal) + 2 * float(np.log(WORTH)))
    unusual = improbability(zooming.log_focal(focal)[solved], frames[solved], focal)
    return min(costs) - _misfit(few, zooming) - unusual > PRICE


def _shared(few: TrackSamples, frames: Tensor, zooming: Lensed, focal: Focal, s: StructureSettings) -> bool:
    """Whether the tracks that start in every other cell of the image see the same zoom as the rest."""
    first = (few.weight > 0).to(torch.uint8).argmax(0)
    place = few.uv[first, torch.arange(len(first))] / (2 * zooming.cameras.intrinsics[2:])
    white = ((place * place.new_tensor([4.0, 3.0])).long().sum(1) % 2).bool()
    one, other = (
        adjusted(few.tracks(torch.nonzero(half)[:, 0]), frames, zooming, focal, s, rounds=2).log_zoom
        for half in (white, ~white)
    )
    return noticeable((one + other) / 2, float((one - other).abs().max()))


def _unusual(fixed: Cameras, focal: Focal) -> float:
    return float(((fixed.intrinsics[0] / focal.intrinsics[0]).log() / focal.sigma).square())


def _distorted(few: TrackSamples, still: Lensed, focal: Focal, s: StructureSettings) -> float:
    """The misfit of a lens that distorts and does not zoom; infinite where hardly anything fits."""
    state, good = still.cameras, static_points(few, still.cameras, s)[1]
    solved, track = torch.nonzero(state.solved)[:, 0], torch.nonzero(good)[:, 0]
    here = measured(few, still, s).tracks(track).frames(solved)
    if len(track) < 16:
        return float("inf")
    frame, point = torch.nonzero(here.weight > 0, as_tuple=True)
    fit = fit_lens(
        PixelSamples(frame, point, here.uv[frame, point], here.weight[frame, point].rsqrt()),
        state.world_from_cam[solved], static_points(few.tracks(track), state, s)[0], state.intrinsics,
        LensPrior(focal.sigma, s.distortion_sigma, s.centre_sigma, -float(still.log_focal(focal)[0])),
        torch.zeros(1, len(track), dtype=torch.long), stop=Stop(25, 1e-5),
    )  # fmt: skip
    intrinsics = torch.cat([state.intrinsics[:2] * fit.lens[0].exp(), state.intrinsics[2:]])
    ideal = few.frames(solved).ideal(intrinsics, tuple(fit.lens[1:].tolist()))
    found = triangulation.triangulate(ideal.uv, ideal.weight, fit.world_from_cam, intrinsics)
    return WORTH * log_misfit(found.residual_px, ideal.weight)


class Sigmas(NamedTuple):
    """Standard deviations of the log of the first focal length, and of the last over the first."""

    focal: float
    zoom: float


def sigmas(few: TrackSamples, frames: Int[Tensor, "k"], found: Lensed, focal: Focal, s: StructureSettings) -> Sigmas:
    """How well the focal length and its change are seen, all else being free; infinite where too little is seen."""
    doubt = covariance(few, frames, found, focal, s)
    if doubt is None:
        return Sigmas(float("inf"), float("inf"))
    change = doubt[0, 0] + doubt[-1, -1] - 2 * doubt[0, -1]
    return Sigmas(float(doubt[0, 0].sqrt()), float(change.clamp_min(0).sqrt()))


def as_if_zoomed(
    few: TrackSamples, frames: Int[Tensor, "k"], start: Lensed, amount: float, focal: Focal, s: StructureSettings
) -> Lensed | None:
    """The member of the family of an explanation in which the lens zooms by this log factor more, along with the way.

    None where half of the points would be behind the camera.
    """
    ideal, state = start.ideal(few), start.cameras
    solved = torch.nonzero(state.solved)[:, 0]
    cameras = se3.inverse(state.world_from_cam[solved[0]]) @ state.world_from_cam
    points, good = static_points(ideal, state._replace(world_from_cam=cameras), s)
    ways, good = cameras[solved, 2, 3], good & (points[:, 2] > 0)
    if float(ways[-1]) == 0 or not bool(good.any()):
        return None
    more = (np.exp(-amount) - 1) / float(ways[-1])
    inverse, shrunk = 1 / points[:, 2].clamp_min(1e-6) + more, 1 + more * ways
    ahead = float((inverse[good] > 0).double().mean())
    if min(ahead, 1 - ahead) > 0.15 or bool((shrunk <= 0).any()):
        return None
    inverse = inverse if ahead > 0.5 else -inverse
    inverse = inverse.clamp_min(float(inverse[good & (inverse > 0)].quantile(0.1)))
    log_zoom = start.log_zoom - between_keys(shrunk.log(), solved, len(frames))
    intrinsics = focal.at(float(focal.intrinsics[0] * (-log_zoom[-1] / 2).exp()))
    xy = points[:, :2] / points[:, 2:].clamp_min(1e-6) * (state.intrinsics[0] / intrinsics[0])
    warped = torch.cat([xy, torch.ones_like(xy[:, :1])], 1) / inverse[:, None]
    guess = Lensed(state._replace(intrinsics=intrinsics), log_zoom)
    return _among(guess.ideal(few), warped, good, guess, s)


def _mirroring(few: TrackSamples, start: Lensed, s: StructureSettings) -> float | None:
    """The change of the log focal length under which near and far are exchanged; None where there is none."""
    solved = torch.nonzero(start.cameras.solved)[:, 0]
    points, good = static_points(start.ideal(few), start.cameras, s)
    first, last = (start.cameras.world_from_cam[solved[k]] for k in (0, -1))
    depth_z = se3.apply(se3.inverse(first), points)[:, 2][good]
    way = (first[:3, :3].T @ (last - first)[:3, 3])[2]
    shrunk = 1 - 2 * float(way / depth_z[depth_z > 0].median())
    return -float(np.log(shrunk)) if shrunk > 0 else None


def _best(
    few: TrackSamples, frames: Tensor, found: list[Lensed], starts: list[Lensed | None], focal: Focal,
    s: StructureSettings,
) -> Lensed:  # fmt: skip
    """The most probable of what was found and of what the starts lead to: all for a few steps, the best to the end."""

    def rank(x: Lensed) -> tuple[int, float]:
        return -int(x.cameras.solved.sum()), _improbability(few, frames, x, focal, s)

    tried = [*found, *(_settled(few, frames, x, focal, s, steps=8, rounds=2) for x in starts if x is not None)]
    last = [_settled(few, frames, x, focal, s, steps=25, rounds=2) for x in sorted(tried, key=rank)[:FINALISTS]]
    return min(last, key=rank)


def _among(
    ideal: TrackSamples, points: Float[Tensor, "n 3"], good: Tensor, guess: Lensed, s: StructureSettings
) -> Lensed | None:
    """The guess with its cameras placed among points, as many as can be; None where it is fewer than three."""
    state, eye = guess.cameras, torch.eye(4, dtype=torch.float64)
    weight = ideal.weight * good
    found = [
        resection.resect(
            points[seen].numpy(), uv[seen].numpy(), state.intrinsics.numpy(), threshold_px=4 * s.outlier_px
        )
        for uv, seen in zip(ideal.uv, weight > 0, strict=True)
    ]
    start = torch.stack([eye if x is None else torch.from_numpy(x) for x in found])
    cameras = resection.refine_cameras(start, points, ideal.uv, weight, state.intrinsics, kernel_px=2 * s.outlier_px)
    placed = torch.tensor([x is not None for x in found]) & cameras.isfinite().all(-1).all(-1)
    if int(placed.sum()) < 3:
        return None
    cameras = torch.where(placed[:, None, None], cameras, eye)
    return guess._replace(cameras=state._replace(world_from_cam=cameras, solved=placed))


def _part(
    few: TrackSamples, frames: Tensor, start: Lensed, part: Tensor, focal: Focal, s: StructureSettings
) -> Lensed | None:
    """The cameras of a part of the clip alone, in which a zoom does less harm."""
    solved = torch.zeros_like(start.cameras.solved)
    solved[part] = start.cameras.solved[part]
    if int(solved.sum()) < 3:
        return None
    alone = start._replace(cameras=start.cameras._replace(solved=solved))
    return adjusted(few, frames, alone, focal, s, zooms=False, rounds=2, tolerance=1e-3)


def _settled(
    few: TrackSamples, frames: Tensor, start: Lensed, focal: Focal, s: StructureSettings, *, steps: int, rounds: int
) -> Lensed:
    """Adjusted, with the frames that did not fit tried again after each round."""
    found = start
    for _ in range(rounds):
        found = adjusted(few, frames, found, focal, s, steps=steps, tolerance=1e-3)
        found = _widened(few, found, s)
    return adjusted(few, frames, found, focal, s, steps=steps, tolerance=1e-3)


def _widened(few: TrackSamples, found: Lensed, s: StructureSettings) -> Lensed:
    """With the frames that were not solved, where they fit under some zoom."""
    for t in torch.nonzero(~found.cameras.solved)[:, 0].tolist():
        solved = torch.nonzero(found.cameras.solved)[:, 0]
        near = found.log_zoom[solved[(solved - t).abs().argmin()]]
        points, good = static_points(found.ideal(few), found.cameras, s)
        tried = []
        for jump in JUMPS:
            log_zoom = found.log_zoom.clone()
            log_zoom[t] = near + jump
            ideal = found._replace(log_zoom=log_zoom).ideal(few)
            wider = with_frame(ideal, t, points, good, found.cameras, s)
            if wider is not None:
                tried.append((_agreeing(ideal, t, points, good, wider, s), Lensed(wider, log_zoom)))
        found = max(tried, key=lambda x: x[0])[1] if tried else found
    return found


def _agreeing(ideal: TrackSamples, t: int, points: Tensor, good: Tensor, state: Cameras, s: StructureSettings) -> int:
    """Sightings of a frame that agree with its camera."""
    here, camera = ideal.frames(torch.tensor([t])), state.world_from_cam[t : t + 1]
    residual = triangulation.reprojection(points, here.uv, camera, state.intrinsics)[1]
    return int(((residual < s.outlier_px) & (here.weight > 0) & good).sum())


def _misfit(few: TrackSamples, found: Lensed) -> float:
    """Minus twice the log likelihood of the samples, but for a constant."""
    return WORTH * log_misfit(found.residual_px(few), few.weight * found.cameras.solved[:, None])


def _improbability(
    few: TrackSamples, frames: Tensor, found: Lensed, focal: Focal, s: StructureSettings
) -> float:  # fmt: skip
    """Minus twice the log probability of an explanation; one in which the upper part of the image is nearer pays."""
    solved = found.cameras.solved
    lens = improbability(found.log_focal(focal)[solved], frames[solved], focal)
    return _misfit(few, found) + lens - WORTH * GROUND_WORTH * _nearer_below(few, found, s)


def _nearer_below(few: TrackSamples, found: Lensed, s: StructureSettings) -> float:
    """Correlation of the height in the image with inverse depth."""
    ideal, state = found.ideal(few), found.cameras
    points, good = static_points(ideal, state, s)
    depth_z = triangulation.reprojection(points, ideal.uv, state.world_from_cam, state.intrinsics)[0]
    seen = (few.weight > 0) & state.solved[:, None] & good & (depth_z > 0)
    if int(seen.sum()) < 16:
        return -1.0
    inverse = 1 / depth_z[seen]
    both = torch.stack([few.uv[..., 1][seen], inverse.clamp_max(2 * inverse.median())])
    return float(torch.corrcoef(both)[0, 1].nan_to_num())
