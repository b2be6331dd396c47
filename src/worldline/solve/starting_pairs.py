"""Pairs of keyframes from which the cameras of a clip can start, and the focal length that they vote for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from worldline.solve.focal import Focal
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_samples import TrackSamples
from worldline.solve.two_view import TRUNCATE, TwoView, relative_motion


class Start(NamedTuple):
    """Two frames, the motion of the camera between them, and the intrinsics under which it was found."""

    pair: tuple[int, int]
    motion: TwoView
    intrinsics: Float[Tensor, "4"]


def starting_pairs(few: TrackSamples, focal: Focal, s: StructureSettings) -> list[Start]:
    """Pairs of the frames to start from: several, since little perspective leaves several minima."""
    pairs = _pairs(few)
    usual = float(focal.intrinsics[0])
    focals = (usual,) if focal.known else (_vote(few, pairs, focal, s), *(k * usual for k in s.focal_starts))
    best = [_best_pairs(few, pairs, focal.at(f), s)[: 3 if focal.known else 1] for f in focals]
    return [Start(pair, m, focal.at(f)) for f, found in zip(focals, best, strict=True) for pair, m in found]


def _pairs(few: TrackSamples) -> list[tuple[int, int]]:
    """Pairs of keyframes that share enough tracks, spread over gaps and time."""
    seen = (few.weight > 0).double()
    shared = seen @ seen.T
    return [
        (i, i + gap)
        for gap in (1, 2, 3, 4, 6, 8)
        for i in range(0, len(seen) - gap, max(1, gap, len(seen) // 6))
        if shared[i, i + gap] >= max(60.0, 0.25 * float(shared[i, i]))
    ]


def _vote(few: TrackSamples, pairs: list[tuple[int, int]], focal: Focal, s: StructureSettings) -> float:
    """The focal length under which essential matrices explain the pairs best."""
    if focal.known or not pairs:
        return float(focal.intrinsics[0])
    chosen = pairs[:: max(1, len(pairs) // 8)]
    costs = []
    for f in focal.candidates:
        found = [_relative(few, pair, focal.at(f), s) for pair in chosen]
        each = [TRUNCATE**2 if m is None else m.cost for m in found]
        costs.append(float(np.mean(each)))
    return focal.best(costs)


def _best_pairs(
    few: TrackSamples, pairs: list[tuple[int, int]], intrinsics: Tensor, s: StructureSettings
) -> list[tuple[tuple[int, int], TwoView]]:
    """Pairs with relative motion, those with most inliers, wide rays and a low cost first."""
    found = [(pair, m) for pair in pairs if (m := _relative(few, pair, intrinsics, s)) is not None]
    found = [(pair, m) for pair, m in found if m.parallax_rad > s.min_parallax_rad / 2]
    wide = 5 * s.min_parallax_rad
    return sorted(found, key=lambda f: -f[1].inlier.sum() * min(f[1].parallax_rad, wide) / (0.5 + f[1].cost))


def _relative(few: TrackSamples, pair: tuple[int, int], intrinsics: Tensor, s: StructureSettings) -> TwoView | None:
    both = (few.weight[pair[0]] > 0) & (few.weight[pair[1]] > 0)
    a, b = (((few.uv[k, both] - intrinsics[2:]) / intrinsics[:2]).numpy() for k in pair)
    return relative_motion(a, b, s.noise_px / float(intrinsics[0]))
