"""Point clouds: accuracy (estimate to truth), completeness (truth to estimate) and their summaries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from worldline.errors import InputError


@dataclass(frozen=True)
class CloudScores:
    """Distances in metres.

    Attributes:
        accuracy_m, accuracy_median_m: from each estimated point to the nearest true one.
        completeness_m, completeness_median_m: from each true point to the nearest estimated one.
        chamfer_m: mean of accuracy_m and completeness_m.
        precision, recall, f_score: shares within the threshold, and their harmonic mean.
    """

    accuracy_m: float
    accuracy_median_m: float
    completeness_m: float
    completeness_median_m: float
    chamfer_m: float
    precision: float
    recall: float
    f_score: float


def cloud_scores(
    points: Float[np.ndarray, "n 3"], truth: Float[np.ndarray, "m 3"], *, threshold_m: float = 0.05
) -> CloudScores:
    """Compare two clouds in one frame. Raises InputError when one is empty or not finite."""
    to_truth, to_estimate = nearest_distances(points, truth), nearest_distances(truth, points)
    precision, recall = float((to_truth <= threshold_m).mean()), float((to_estimate <= threshold_m).mean())
    accuracy, completeness = float(to_truth.mean()), float(to_estimate.mean())
    return CloudScores(
        accuracy_m=accuracy,
        accuracy_median_m=float(np.median(to_truth)),
        completeness_m=completeness,
        completeness_median_m=float(np.median(to_estimate)),
        chamfer_m=(accuracy + completeness) / 2,
        precision=precision,
        recall=recall,
        f_score=2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0,
    )


def nearest_distances(
    points: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "m 3"], *, chunk: int = 1_000_000
) -> Float[np.ndarray, "n"]:
    """Distance from each point to the nearest of `others`; `chunk` bounds the memory of the search."""
    for what, cloud in (("the first cloud", points), ("the second cloud", others)):
        if len(cloud) == 0 or not np.isfinite(cloud).all():
            raise InputError(f"{what} is empty or not finite; give at least one point and leave out unknown ones.")
    tree = cKDTree(others)
    return np.concatenate([tree.query(points[i : i + chunk])[0] for i in range(0, len(points), chunk)])
