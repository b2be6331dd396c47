"""Points after motion in the axes of the first camera: where what was seen first is at every time.

The measures are those of Any4D (Karhade et al., 2025: end-point error, inliers, outliers, error of the metric scale)
and of WorldTrack (Feng et al., St4RTrack, ICCV 2025: shares within 0.1, 0.3, 0.5 and 1 m, of all points and of those
that move). Points are (T, N, 3); positions that an estimate does not give are NaN: outside of every threshold, and not
in mean errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from worldline.errors import InputError
from worldline.evaluate import motion
from worldline.evaluate.alignment import align_points, align_points_ransac
from worldline.geometry import se3

INLIER, OUTLIER = 0.10, 0.15
ALIGNMENTS = ("none", "median", "per_trajectory", "sim3", "sim3_ransac")

Points = Float[np.ndarray, "t n 3"]
Where = Bool[np.ndarray, "t n"]


@dataclass(frozen=True)
class AllocentricScores:
    """Errors of points after motion.

    Attributes:
        epe_m: mean distance over samples that have an estimate.
        inlier, outlier: shares of samples whose error is below 10 % (above 15 %) of the true distance from the first
            camera; samples without an estimate are outliers.
        coverage: share of samples that have an estimate. samples: how many were asked for.
    """

    epe_m: float
    inlier: float
    outlier: float
    coverage: float
    samples: int


def points_after_motion(
    points_first: Float[np.ndarray, "*n 3"], flow: Float[np.ndarray, "t *n 3"]
) -> Float[np.ndarray, "t *n 3"]:
    """Points of the first view moved by the flow to every time, both in the axes of the first camera."""
    return points_first[None] + flow


def in_first_camera(points_world: Points, world_from_first: Float[np.ndarray, "4 4"]) -> Points:
    """World points in the axes of the first camera, float64."""
    first_from_world = se3.inverse(torch.from_numpy(np.array(world_from_first, dtype=np.float64)))
    points = torch.from_numpy(points_world.astype(np.float64))
    return se3.apply(first_from_world.expand(len(points), 4, 4), points).numpy()


def allocentric_scores(
    points: Points, truth: Points, where: Where, *, inlier: float = INLIER, outlier: float = OUTLIER
) -> AllocentricScores:
    """Score points in the axes of the first camera on the samples `where`."""
    tracked = motion.track_scores(points, truth, where)
    error = np.linalg.norm(points.astype(np.float64) - truth, axis=-1)[where]
    distance = np.linalg.norm(truth.astype(np.float64), axis=-1)[where]
    far = ~(error <= outlier * distance)
    near = error < inlier * distance
    inside, outside = (float(part.mean()) if part.size else float("nan") for part in (near, far))
    return AllocentricScores(tracked.epe_m, inside, outside, tracked.coverage, tracked.samples)


def scale_error(scale: float, truth: float) -> float:
    """|scale - truth| / truth of a metric scale (or of any length). Raises InputError unless the truth is positive."""
    if not truth > 0:
        raise InputError(f"a true scale must be positive, not {truth}; check the truth.")
    return abs(scale - truth) / truth


def median_distance(points: Points, where: Where) -> float:
    """Median distance from the origin of the known samples `where`; NaN without any."""
    use = where & np.isfinite(points).all(-1)
    return float(np.median(np.linalg.norm(points[use].astype(np.float64), axis=-1))) if use.any() else float("nan")


def aligned(points: Points, truth: Points, where: Where, *, name: str, seed: int = 0) -> tuple[Points, str]:
    """The estimate after the named alignment to the truth on the samples `where` both are known, and what was done.

    none; median: one scale, the ratio of the median distances from the first camera; per_trajectory: that ratio for
    each track by itself; sim3: the similarity with least squared error; sim3_ransac: see `align_points_ransac`.

    Raises:
        InputError: there is no such alignment.
    """
    if name not in ALIGNMENTS:
        raise InputError(f"points have no alignment {name!r}; choose one of {', '.join(ALIGNMENTS)}.")
    use = where & np.isfinite(points).all(-1) & np.isfinite(truth).all(-1)
    if name == "none":
        return points, "none"
    if not use.any():
        return points, "none (there is nothing to align)"
    if name == "median":
        scale = median_distance(truth, use) / max(median_distance(points, use), 1e-12)
        return points * scale, f"scale {scale:.6g}"
    if name == "per_trajectory":
        scales = _median_per_track(truth, use) / np.maximum(_median_per_track(points, use), 1e-12)
        return points * scales[:, None], "one scale per trajectory"
    a, b = points[use], truth[use]
    found = align_points(a, b, kind="sim3") if name == "sim3" else align_points_ransac(a, b, seed=seed)
    return found.apply(points), f"{found.name}, scale {found.scale:.6g}"


def _median_per_track(points: Points, use: Where) -> Float[np.ndarray, "n"]:
    """Median distance from the origin of each track's samples in `use`; NaN for tracks without any."""
    length = np.where(use, np.linalg.norm(points.astype(np.float64), axis=-1), np.inf)
    ordered, count = np.sort(length, axis=0), use.sum(0)
    track, last = np.arange(length.shape[1]), np.maximum(count - 1, 0)
    middle = (ordered[last // 2, track] + ordered[np.minimum(count // 2, last), track]) / 2
    return np.where(count > 0, middle, np.nan)
