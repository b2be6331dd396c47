"""The camera that moves: keyframes outward from a pair, checked against depth reversal, then all frames."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from worldline.geometry import se3
from worldline.solve import resection, triangulation
from worldline.solve.focal import Focal
from worldline.solve.starting_pairs import Start, starting_pairs
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_cameras import Cameras, adjusted, anchored, static_points, with_frame
from worldline.solve.track_samples import TrackSamples, log_misfit


def moving_camera(
    samples: TrackSamples, keys: Int[Tensor, "k"], focal: Focal, s: StructureSettings, *, median_depth: float
) -> Cameras | None:
    """Keyframes outward from the best pair, all other frames, and an adjustment; None where no pair has depth.

    World = first camera; the scale is that of a median depth of the static points of `median_depth`.
    """
    few = samples.frames(keys)
    thin = few.tracks(torch.arange(0, few.uv.shape[1], s.thinning))
    grown = [_grow(thin, start, focal, s) for start in starting_pairs(few, focal, s)]
    if not grown:
        return None
    best = min(grown, key=lambda x: _implausibility(thin, x, s))
    state = _finish(samples, keys, _unreversed(thin, best, focal, s), focal, s)
    return anchored(samples, state, median_depth, s)


def _grow(few: TrackSamples, start: Start, focal: Focal, s: StructureSettings) -> Cameras:
    """Keyframes outward from a pair: the one that sees most of the structure is next; adjusted as it grows."""
    world_from_cam = torch.eye(4, dtype=torch.float64).repeat(len(few.uv), 1, 1)
    world_from_cam[start.pair[1]] = se3.inverse(torch.from_numpy(start.motion.b_from_a))
    solved = torch.zeros(len(few.uv), dtype=torch.bool)
    solved[list(start.pair)] = True
    state = adjusted(few, Cameras(world_from_cam, solved, start.intrinsics, 0.0), focal, s)
    failed, adjusted_at = torch.zeros_like(solved), 2
    while not bool((state.solved | failed).all()):
        points, good = static_points(few, state, s)
        seen = ((few.weight > 0) & good).sum(1)
        t = int(torch.where(state.solved | failed, torch.full_like(seen, -1), seen).argmax())
        wider = with_frame(few, t, points, good, state, s)
        failed[t] = wider is None
        if wider is None:
            continue
        state = wider
        if int(state.solved.sum()) > 1.25 * adjusted_at:
            adjusted_at = int(state.solved.sum())
            state = adjusted(few, state, focal, s)
            failed &= False
    return adjusted(few, state, focal, s)


def _unreversed(few: TrackSamples, state: Cameras, focal: Focal, s: StructureSettings) -> Cameras:
    """The solution or its depth reversal, whichever explains the tracks better.

    Under little perspective, near and far can be exchanged with almost no change of the image (Necker reversal), and
    the first pair may start on the wrong side. Where both explain the tracks alike, the lower part of the image is
    taken to be nearer.
    """
    points, good = static_points(few, state, s)
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
    reversed_ = adjusted(few, state._replace(world_from_cam=cameras), focal, s, steps=20)
    return min((state, reversed_), key=lambda x: _implausibility(few, x, s))


def _implausibility(few: TrackSamples, state: Cameras, s: StructureSettings) -> float:
    """Misfit of the tracks, less or more where the lower part of the image is nearer or farther than the upper."""
    weight = few.weight * state.solved[:, None]
    found = triangulation.triangulate(few.uv, weight, state.world_from_cam, state.intrinsics)
    depth_z, residual = triangulation.reprojection(found.points_world, few.uv, state.world_from_cam, state.intrinsics)
    fit = (weight > 0) & (residual < s.outlier_px) & (depth_z > 0)
    if int(fit.sum()) < 16:
        return np.inf
    inverse = 1 / depth_z[fit]
    nearer = torch.corrcoef(torch.stack([few.uv[..., 1][fit], inverse.clamp_max(2 * inverse.median())]))[0, 1]
    return log_misfit(residual, weight) - s.ground_worth * float(nearer.nan_to_num())


def _finish(samples: TrackSamples, keys: Tensor, grown: Cameras, focal: Focal, s: StructureSettings) -> Cameras:
    """From keyframes to all frames."""
    count = len(samples.uv)
    cameras = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    solved = torch.zeros(count, dtype=torch.bool)
    cameras[keys], solved[keys] = grown.world_from_cam, grown.solved
    state = Cameras(resection.interpolate_missing(cameras, solved), solved, grown.intrinsics, 0.0)
    points, good = static_points(samples, state, s)
    for t in torch.nonzero(~solved)[:, 0].tolist():
        wider = with_frame(samples, t, points, good, state, s)
        state = state if wider is None else wider
    state = adjusted(samples, state, focal, s, steps=15)
    return state._replace(world_from_cam=resection.interpolate_missing(state.world_from_cam, state.solved))
