"""TAPVid-3D: average Jaccard, share of points within thresholds (APD) and accuracy of occlusion, in camera axes.

Source: Koppula et al., "TAPVid-3D: A Benchmark for Tracking Any Point in 3D", NeurIPS 2024, section 4, with what the
published scorer does where the paper is silent: every frame counts, the query frame too; the focal length is
sqrt(fx fy) of an image whose smaller side is 256 pixels; hits are strictly inside of their threshold.

Positions that an estimate does not give (NaN) count as not visible and as outside of every threshold, and take no part
in scales. What is not defined (shares of nothing) is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from worldline.errors import InputError

THRESHOLDS_PX = (1.0, 2.0, 4.0, 8.0, 16.0)
THRESHOLDS_M = (0.01, 0.04, 0.16, 0.64, 2.56)
"""What the scorer takes for the five instead, under `use_fixed_metric_threshold`."""
SCALINGS = (
    "median", "mean", "none", "per_trajectory", "local_neighborhood", "median_on_queries", "reproduce_2d",
)  # fmt: skip
_SMALLEST = 1e-12

Points = Float[np.ndarray, "t n 3"]
Seen = Bool[np.ndarray, "t n"]


@dataclass(frozen=True)
class Tapvid3dScores:
    """Shares in [0, 1], NaN where nothing was to be judged.

    Attributes:
        jaccard: per threshold, true positives / (truly visible + false positives); average_jaccard: their mean.
        within: per threshold, share of truly visible samples within it; apd: their mean.
        occlusion_accuracy: share of all samples whose visibility is right.
    """

    average_jaccard: float
    apd: float
    occlusion_accuracy: float
    jaccard: tuple[float, ...]
    within: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Clip:
    points: np.ndarray
    said: np.ndarray
    truth: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True, eq=False)
class _Limits:
    """Thresholds (K, 1) in units of unit_m (T, N)."""

    thresholds: np.ndarray
    unit_m: np.ndarray

    def __len__(self) -> int:
        return len(self.thresholds)

    def levels(self, error: np.ndarray, frame: int, which: np.ndarray | slice = np.s_[:]) -> np.ndarray:
        """Index of the first threshold that a squared error is within; K if none. An unknown error is within none."""
        return (~(error < np.square(self.thresholds * self.unit_m[frame, which]))).sum(0)


def tapvid3d_scores(
    points_cam: Points,
    visible: Seen,
    truth_cam: Points,
    truth_visible: Seen,
    *,
    focal_px: float | Float[np.ndarray, "t"] | None,
    thresholds: Sequence[float] | None = None,
    scaling: str = "median",
    query_frame: Int[np.ndarray, "n"] | None = None,
    neighbourhood_m: float = 0.05,
) -> Tapvid3dScores:
    """Score tracks in the axes of each frame's camera (metres).

    Args:
        focal_px: sqrt(fx fy) of the image whose pixels thresholds are in, each the length of so many pixels at the
            depth of a point; None: thresholds are metres.
        thresholds: rising; None: the published ones.
        scaling: what the estimate is multiplied with. median, mean: one number, the ratio of the medians (means) of
            distances from the camera over samples that both call visible; median_on_queries: over those in the query
            frames; per_trajectory: one per track, so that its depth in the query frame is right; local_neighborhood:
            each track is judged, with that number, on all points that are truly within `neighbourhood_m` of it in the
            same frame, and weighs as many as it has visible samples; reproduce_2d: one per sample, its depth is right.
        query_frame: needed by the three that name queries.

    Raises:
        InputError: an unknown scaling, no query frames where they are needed, thresholds that do not rise.
    """
    chosen = thresholds or (THRESHOLDS_M if focal_px is None else THRESHOLDS_PX)
    _check(points_cam, truth_cam, chosen, scaling, query_frame)
    answered = np.isfinite(points_cam).all(-1)
    clip = _Clip(points_cam.astype(np.float64), visible & answered, truth_cam.astype(np.float64), truth_visible)
    unit_m = (
        np.ones_like(clip.truth[..., 2]) if focal_px is None else clip.truth[..., 2] / np.reshape(focal_px, (-1, 1))
    )
    limits = _Limits(np.asarray(chosen, dtype=np.float64)[:, None], unit_m)
    scale = _scale(clip, scaling, query_frame)
    if scaling == "local_neighborhood":
        return _scores(*_local_counts(clip, scale, limits, neighbourhood_m))
    return _scores(_counts(clip, scale, limits), np.ones(1))


def _check(
    points: np.ndarray, truth: np.ndarray, thresholds: Sequence[float], scaling: str, query_frame: np.ndarray | None
) -> None:
    if points.shape != truth.shape:
        raise InputError(f"tracks {points.shape} and true tracks {truth.shape} must agree; match them first.")
    if scaling not in SCALINGS:
        raise InputError(f"TAPVid-3D has no scaling {scaling!r}; choose one of {', '.join(SCALINGS)}.")
    if query_frame is None and scaling in ("per_trajectory", "local_neighborhood", "median_on_queries"):
        raise InputError(f"the scaling {scaling} needs the query frame of every track; give query_frame.")
    if not all(a < b for a, b in pairwise((0.0, *thresholds))):
        raise InputError("thresholds must be positive and rise from the first to the last; sort them.")


def _scale(clip: _Clip, scaling: str, query_frame: np.ndarray | None) -> np.ndarray:
    """What positions are multiplied with: () for the clip, (N,) per track, or (T, N)."""
    if scaling == "none":
        return np.ones(())
    if scaling == "reproduce_2d":
        with np.errstate(divide="ignore", invalid="ignore"):
            return clip.truth[..., 2] / clip.points[..., 2]
    track = np.arange(clip.truth.shape[1])
    if scaling in ("per_trajectory", "local_neighborhood"):
        at_query = (np.maximum(side[query_frame, track, 2], _SMALLEST) for side in (clip.truth, clip.points))
        return np.divide(*at_query)
    both = clip.said & clip.seen
    where = (query_frame, track) if scaling == "median_on_queries" else np.s_[:]
    mean = np.mean if scaling == "mean" else np.median
    lengths = [np.linalg.norm(side[where][both[where]], axis=-1) for side in (clip.truth, clip.points)]
    if not lengths[0].size:
        return np.full((), np.nan)
    return np.asarray(np.divide(*(mean(np.maximum(length, np.sqrt(_SMALLEST))) for length in lengths)))


def _kind(seen: np.ndarray, said: np.ndarray) -> np.ndarray:
    """0 hidden, 1 said to be visible only, 2 truly visible only, 3 both."""
    return 2 * seen + said


def _counts(clip: _Clip, scale: np.ndarray, limits: _Limits) -> np.ndarray:
    """Samples by kind and level, (1, 4, K + 1); frame by frame, so that memory does not grow with the clip."""
    width = len(limits) + 1
    total = np.zeros(4 * width, dtype=np.int64)
    for t, (points, truth) in enumerate(zip(clip.points, clip.truth, strict=True)):
        own = scale[t] if scale.ndim == 2 else scale
        error = np.square(points * own[..., None] - truth).sum(-1)
        code = _kind(clip.seen[t], clip.said[t]) * width + limits.levels(error, t)
        total += np.bincount(code, minlength=4 * width)
    return total.reshape(1, 4, width)


def _local_counts(clip: _Clip, scale: np.ndarray, limits: _Limits, radius_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Samples of each track's neighbourhood by kind and level, (N, 4, K + 1), and the weight of each track."""
    count, width = len(scale), len(limits) + 1
    total = np.zeros(count * 4 * width, dtype=np.int64)
    for t, (points, truth) in enumerate(zip(clip.points, clip.truth, strict=True)):
        kind = _kind(clip.seen[t], clip.said[t])
        for track, neighbour in _neighbours(truth, radius_m):
            error = np.square(points[neighbour] * scale[track, None] - truth[neighbour]).sum(-1)
            level = limits.levels(error, t, neighbour)
            total += np.bincount((track * 4 + kind[neighbour]) * width + level, minlength=len(total))
    table = total.reshape(count, 4, width)
    return table, clip.seen.sum(0) / np.maximum(table[:, 2:].sum((1, 2)), 1)


def _neighbours(points: np.ndarray, radius: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (i, j) of points strictly within the radius: every point with itself, and every two in both orders."""
    known = np.flatnonzero(np.isfinite(points).all(-1))
    yield known, known
    a, b = known[cKDTree(points[known]).query_pairs(radius, output_type="ndarray")].T
    inside = np.square(points[a] - points[b]).sum(-1) < radius * radius
    yield a[inside], b[inside]
    yield b[inside], a[inside]


def _scores(table: np.ndarray, weight: np.ndarray) -> Tapvid3dScores:
    """From samples by kind and level of each row, and the weight of a row's samples."""
    hidden, false, missed, both = np.einsum("r,rkl->kl", weight, table)
    within = np.cumsum(missed + both)[:-1]
    hits = np.cumsum(both)[:-1]
    visible, said, every = (missed + both).sum(), (false + both).sum(), np.einsum("r,rkl->", weight, table)
    jaccard = [_ratio(hit, visible + said - hit) for hit in hits]
    shares = [_ratio(near, visible) for near in within]
    right = _ratio(hidden.sum() + both.sum(), every)
    return Tapvid3dScores(float(np.mean(jaccard)), float(np.mean(shares)), right, tuple(jaccard), tuple(shares))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
