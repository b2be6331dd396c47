"""A camera that returns: places seen again are recognised, so that the path closes instead of drifting.

Pixel tracks end when their points leave the image; the same points seen later are new tracks. Once the path is known
roughly, pairs of keyframes that look at the same place without sharing tracks are matched by their appearance, the
matches are checked against the epipolar geometry of the pair, and linked over frames they become landmarks: sparse
tracks that span the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from worldline.geometry import se3
from worldline.solve import bundle, resection, triangulation
from worldline.solve.focal import Focal
from worldline.solve.problem import Stop
from worldline.solve.robust import Cauchy
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.terms import PixelSamples
from worldline.solve.track_cameras import Cameras, adjusted, static_points
from worldline.solve.track_samples import TrackSamples, log_misfit
from worldline.solve.two_view import relative_motion

SHARED = 0.1
"""Share of common tracks below which two keyframes do not know of each other."""
OVERLAP = 0.35
"""Share of the points of one keyframe that the other would see if the path were right."""
MOST_PAIRS = 16
INLIERS = 24
"""Least matches of a pair that agree with one rigid motion."""
MORE_MISFIT = 0.3
"""Rise of the log misfit of the ordinary tracks up to which a closed path is believed."""


class Features(Protocol):
    """Points of single frames that can be recognised."""

    def uv(self, frame: int) -> Float[np.ndarray, "n 2"]:
        """Where they are, pixels of the real camera."""
        ...

    def matches(self, a: int, b: int) -> Int[np.ndarray, "m 2"]:
        """Numbers of the points of frame a and of frame b that look alike."""
        ...


def closed(
    samples: TrackSamples,
    keys: Int[Tensor, "k"],
    state: Cameras,
    features: Features,
    focal: Focal,
    s: StructureSettings,
) -> Cameras:
    """The cameras with their loops closed; as they were where nothing is seen again or the tracks speak against it.

    `samples` are those of the pinhole with the intrinsics of `state`, through whose lens the features are seen.
    """
    few = samples.frames(keys)
    here = state._replace(world_from_cam=state.world_from_cam[keys], solved=state.solved[keys])
    pairs = seen_again(few, here, s)
    landmarks = _landmarks(features, keys, pairs, state, s) if pairs else None
    if landmarks is None:
        return state
    after = _adjusted(few, landmarks, here, s)
    if _misfit(few, after) > _misfit(few, here) + MORE_MISFIT or _misfit(landmarks, after) > _misfit(landmarks, here):
        return state
    uv, weight = (x.new_zeros(len(samples.uv), *x.shape[1:]) for x in landmarks)
    uv[keys], weight[keys] = landmarks
    both = TrackSamples(torch.cat([samples.uv, uv], 1), torch.cat([samples.weight, weight], 1))
    return adjusted(both, _carried(state, keys, after), focal._replace(sigma=0.0), s)


def seen_again(few: TrackSamples, state: Cameras, s: StructureSettings) -> list[tuple[int, int]]:
    """Pairs of keyframes that look at the same place without knowing of each other, best overlap first."""
    seen = (few.weight > 0).double()
    count, shared = seen.sum(1), seen @ seen.T
    points, good = static_points(few, state, s)
    cam_from_world = se3.inverse(state.world_from_cam)
    x = se3.apply(cam_from_world, points.expand(len(seen), -1, -1))
    uv = x[..., :2] / x[..., 2:].clamp_min(1e-6) * state.intrinsics[:2] + state.intrinsics[2:]
    inside = (x[..., 2] > 0) & (uv > 0).all(-1) & (uv < 2 * state.intrinsics[2:]).all(-1)
    known = seen * good
    overlap = (known @ inside.double().T) / known.sum(1)[:, None].clamp_min(1)
    overlap = torch.minimum(overlap, overlap.T)
    forward = state.world_from_cam[:, :3, 2]
    strange = shared < SHARED * torch.minimum(count[:, None], count)
    able = strange & (overlap > OVERLAP) & (forward @ forward.T > 0.7) & state.solved & state.solved[:, None]
    first, second = torch.nonzero(torch.triu(able, 2), as_tuple=True)
    chosen: list[tuple[int, int]] = []
    for k in torch.argsort(overlap[first, second], descending=True, stable=True).tolist():
        i, j = int(first[k]), int(second[k])
        if len(chosen) < MOST_PAIRS and all(max(abs(i - a), abs(j - b)) > 1 for a, b in chosen):
            chosen.append((i, j))
    return chosen


def _landmarks(
    features: Features, keys: Int[Tensor, "k"], pairs: Sequence[tuple[int, int]], state: Cameras, s: StructureSettings
) -> TrackSamples | None:
    """Verified matches of the pairs and of the frames beside them, linked over frames: (K, M); None without a loop."""
    frames = keys.tolist()
    loops = [link for pair in pairs if (link := _verified(features, frames, pair, state, s)) is not None]
    if not loops:
        return None
    used = sorted({k for link in loops for k in link[:2]})
    beside = sorted({(k, k + 1) for k in used if k + 1 < len(frames)} | {(k - 1, k) for k in used if k > 0})
    near = [link for pair in beside if (link := _verified(features, frames, pair, state, s)) is not None]
    counts = [
        len(features.uv(t)) if any(k in link[:2] for link in (*loops, *near)) else 0 for k, t in enumerate(frames)
    ]
    start = np.concatenate([[0], np.cumsum(counts)])
    a, b = (np.concatenate([start[link[side]] + link[2][:, side] for link in (*loops, *near)]) for side in (0, 1))
    label = connected_components(coo_matrix((np.ones(len(a)), (a, b)), shape=(start[-1],) * 2), directed=False)[1]
    frame = np.repeat(np.arange(len(frames)), counts)
    number, size = np.arange(start[-1]) - start[frame], np.bincount(label)
    distinct = np.bincount(np.unique(label * len(frames) + frame) // len(frames), minlength=len(size))
    kept = np.flatnonzero((size >= 3) & (size == distinct))
    place = np.full(len(size), -1)
    place[kept] = np.arange(len(kept))
    uv, weight = (
        torch.zeros(len(frames), len(kept), 2, dtype=torch.float64),
        torch.zeros(len(frames), len(kept), dtype=torch.float64),
    )
    for k in np.flatnonzero(counts):
        own = np.flatnonzero((frame == k) & (place[label] >= 0))
        column = torch.from_numpy(place[label[own]])
        uv[k, column] = torch.from_numpy(features.uv(frames[k])[number[own]].astype(np.float64))
        weight[k, column] = 1 / s.noise_px**2
    return TrackSamples(uv, weight).ideal(state.intrinsics, state.distortion)


def _verified(
    features: Features, frames: Sequence[int], pair: tuple[int, int], state: Cameras, s: StructureSettings
) -> tuple[int, int, Int[np.ndarray, "m 2"]] | None:
    """Matches of a pair of keyframes that agree with one rigid motion, which the path may be somewhat off."""
    found = features.matches(frames[pair[0]], frames[pair[1]])
    if len(found) < INLIERS:
        return None
    sides = [torch.from_numpy(features.uv(frames[k])[found[:, side]].astype(np.float64)) for side, k in enumerate(pair)]
    ideal = TrackSamples(torch.stack(sides), torch.ones(2, len(found))).ideal(state.intrinsics, state.distortion)
    xy = ((ideal.uv - state.intrinsics[2:]) / state.intrinsics[:2]).numpy()
    motion = relative_motion(xy[0], xy[1], s.noise_px / float(state.intrinsics[0]))
    if motion is None or motion.inlier.sum() < max(INLIERS, 0.4 * len(found)):
        return None
    return (*pair, found[motion.inlier])


def _adjusted(few: TrackSamples, landmarks: TrackSamples, state: Cameras, s: StructureSettings) -> Cameras:
    """Keyframes adjusted to the tracks and the landmarks, however far off the landmarks are at first."""
    good = static_points(few, state, s)[1]
    both = TrackSamples(
        torch.cat([few.uv[:, good], landmarks.uv], 1), torch.cat([few.weight[:, good], landmarks.weight], 1)
    )
    frames = torch.nonzero(state.solved)[:, 0]
    for scale in (30.0, 6.0, 3.0):
        points = static_points(both, state, s)[0]
        frame, point = torch.nonzero(both.weight[frames] > 0, as_tuple=True)
        sighting = (frames[frame], point)
        found = bundle.adjust(
            PixelSamples(frame, point, both.uv[sighting], both.weight[sighting].rsqrt()),
            state.world_from_cam[frames], state.intrinsics, points, loss=Cauchy(scale), stop=Stop(10, 1e-4),
        )  # fmt: skip
        cameras = state.world_from_cam.clone()
        cameras[frames] = found.world_from_cam
        state = state._replace(world_from_cam=cameras)
    return state


def _carried(state: Cameras, keys: Int[Tensor, "k"], after: Cameras) -> Cameras:
    """All frames moved along with the keyframes around them."""
    moved = torch.eye(4, dtype=torch.float64).repeat(len(state.world_from_cam), 1, 1)
    known = torch.zeros(len(moved), dtype=torch.bool)
    moved[keys] = after.world_from_cam @ se3.inverse(state.world_from_cam[keys])
    known[keys] = after.solved
    return state._replace(world_from_cam=resection.interpolate_missing(moved, known) @ state.world_from_cam)


def _misfit(samples: TrackSamples, state: Cameras) -> float:
    weight = samples.weight * state.solved[:, None]
    found = triangulation.triangulate(samples.uv, weight, state.world_from_cam, state.intrinsics)
    return log_misfit(found.residual_px, weight)
