"""Tracks: errors of points followed through a video, in the image and in the world, and of dense scene flow.

All tracks are (T, N, .). In the image `uv` is in pixels; in the world positions that an estimate does not give are
NaN: they count as wrong in shares of points (PCK, APD), are left out of mean errors, and `coverage` tells how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.errors import InputError
from worldline.evaluate.alignment import IDENTITY, Alignment, Kind, align_points, align_points_trimmed

TAP_THRESHOLDS_PX = (1.0, 2.0, 4.0, 8.0, 16.0)
APD_THRESHOLDS_M = (0.1, 0.3, 0.5, 1.0)
TRACK_ALIGNMENTS = ("none", "median-scale", "se3", "sim3", "trimmed-se3", "trimmed-sim3")

UV = Float[np.ndarray, "t n 2"]
Points = Float[np.ndarray, "t n 3"]
Where = Bool[np.ndarray, "t n"]


@dataclass(frozen=True)
class TapScores:
    """Doersch et al., "TAP-Vid", NeurIPS 2022, section 3.1; shares in [0, 1], NaN where nothing was to be judged.

    Attributes:
        average_jaccard: mean over thresholds of true positives / (true visible + false positives).
        delta_avg: mean over thresholds of the share of truly visible points within it.
        occlusion_accuracy: share of samples whose visibility is right.
    """

    average_jaccard: float
    delta_avg: float
    occlusion_accuracy: float


@dataclass(frozen=True)
class TrackScores:
    """3D errors over chosen samples (metres).

    Attributes:
        epe_m, epe_median_m: mean and median distance, over samples that have an estimate.
        apd: mean over thresholds of the share of samples within it; samples without an estimate count as outside.
        flow_epe_m: mean error of the motion between consecutive frames, where both ends have an estimate.
        coverage: share of the samples that have an estimate. samples: how many were asked for.
    """

    epe_m: float
    epe_median_m: float
    apd: float
    flow_epe_m: float
    coverage: float
    samples: int


@dataclass(frozen=True)
class FlowScores:
    """Scene flow over chosen pixels: end-point error (metres), share below 10 % and share above 15 % of the motion."""

    epe_m: float
    epe_median_m: float
    inlier: float
    outlier: float


def pck(uv: UV, truth_uv: UV, visible: Where, tolerance_px: float | Float[np.ndarray, "t"]) -> float:
    """Share of truly visible points whose estimate is at most `tolerance_px` (one, or one per frame) away."""
    _same_tracks(uv, truth_uv, visible)
    near = np.linalg.norm(uv - truth_uv, axis=-1) <= np.reshape(tolerance_px, (-1, 1))
    return _share(near, visible)


def badja_tolerance_px(mask: np.ndarray, *, share: float = 0.2) -> Float[np.ndarray, "t"]:
    """PCK radius of each frame: `share` of the square root of the animal's area in pixels.

    Source: Biggs et al., "Creatures great and SMAL", ACCV 2018, section 5 (BADJA, 0.2).
    """
    return share * np.sqrt((np.asarray(mask) != 0).sum((1, 2)))


def tap_scores(
    uv: UV,
    visible: Where,
    truth_uv: UV,
    truth_visible: Where,
    query_frame: Int[np.ndarray, "n"],
    *,
    first: bool = True,
    thresholds_px: Sequence[float] = TAP_THRESHOLDS_PX,
) -> TapScores:
    """TAP-Vid's measures. Its thresholds belong to 256 x 256 images: scale uv before, or choose thresholds.

    Args:
        first: judge the frames behind the query only (queried "first"), else all but the query frame ("strided").
    """
    _same_tracks(uv, truth_uv, truth_visible)
    frame = np.arange(len(uv))[:, None]
    judged = frame > query_frame if first else frame != query_frame
    distance = np.linalg.norm(uv - truth_uv, axis=-1)
    delta, jaccard = [], []
    for threshold in thresholds_px:
        near = distance < threshold
        hits = (near & visible & truth_visible & judged).sum()
        false = (visible & ~(near & truth_visible) & judged).sum()
        delta.append(_share(near, truth_visible & judged))
        jaccard.append(_ratio(hits, (truth_visible & judged).sum() + false))
    return TapScores(float(np.mean(jaccard)), float(np.mean(delta)), _share(visible == truth_visible, judged))


def align_tracks(points: Points, truth: Points, where: Where, *, name: str = "trimmed-sim3") -> Alignment:
    """The named alignment of the samples `where` both are known.

    none, se3, sim3 and their trimmed forms are those of `evaluate.alignment`; "median-scale" is one scale about
    the origin, the median of |truth| / |estimate| (TAPVid-3D, for points in the camera's frame).
    """
    if name not in TRACK_ALIGNMENTS:
        raise InputError(f"there is no track alignment {name!r}; choose one of {', '.join(TRACK_ALIGNMENTS)}.")
    use = where & np.isfinite(points).all(-1) & np.isfinite(truth).all(-1)
    if name == "none":
        return IDENTITY
    if not use.any():
        raise InputError("no track sample has both a position and a true one; check the visibility of both.")
    a, b = points[use].astype(np.float64), truth[use].astype(np.float64)
    if name == "median-scale":
        scale = np.median(np.linalg.norm(b, axis=-1) / np.maximum(np.linalg.norm(a, axis=-1), 1e-12))
        return Alignment(name, float(scale), np.eye(3), np.zeros(3))
    kind: Kind = "se3" if name.endswith("se3") else "sim3"
    fit = align_points_trimmed if name.startswith("trimmed") else align_points
    return fit(a, b, kind=kind)


def track_scores(
    points: Points, truth: Points, where: Where, *, thresholds_m: Sequence[float] = APD_THRESHOLDS_M
) -> TrackScores:
    """Errors of aligned tracks on the samples `where` (truly visible ones, say)."""
    _same_tracks(points, truth, where)
    error = np.linalg.norm(points.astype(np.float64) - truth, axis=-1)
    has = where & np.isfinite(error)
    near = [_share(error <= threshold, where) for threshold in thresholds_m]
    flow = np.linalg.norm(np.diff(points.astype(np.float64) - truth, axis=0), axis=-1)[has[1:] & has[:-1]]
    mean, median = _mean_median(error[has])
    return TrackScores(mean, median, float(np.mean(near)), _mean_median(flow)[0], _share(has, where), int(where.sum()))


def scene_flow_scores(
    flow: Float[np.ndarray, "*n 3"], truth: Float[np.ndarray, "*n 3"], where: Bool[np.ndarray, "*n"]
) -> FlowScores:
    """Errors of displacement vectors in one frame of reference; an exactly still point is an outlier if it moves."""
    error = np.linalg.norm(flow.astype(np.float64) - truth, axis=-1)[where]
    motion = np.linalg.norm(truth.astype(np.float64), axis=-1)[where]
    every = np.ones_like(error, dtype=bool)
    mean, median = _mean_median(error)
    return FlowScores(mean, median, _share(error <= 0.10 * motion, every), _share(error > 0.15 * motion, every))


def _same_tracks(points: np.ndarray, truth: np.ndarray, where: np.ndarray) -> None:
    if points.shape != truth.shape or where.shape != truth.shape[:2]:
        raise InputError(f"tracks {points.shape} and true tracks {truth.shape} must agree; match them first.")


def _mean_median(values: np.ndarray) -> tuple[float, float]:
    return (float(values.mean()), float(np.median(values))) if values.size else (float("nan"), float("nan"))


def _share(holds: np.ndarray, among: np.ndarray) -> float:
    return _ratio((holds & among).sum(), among.sum())


def _ratio(part: np.integer | int, whole: np.integer | int) -> float:
    return float(part / whole) if whole else float("nan")
