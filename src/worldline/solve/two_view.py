"""Two views of a rigid scene: relative motion by a robust essential matrix, and how well the matches agree with it.

Source: Barath et al., "MAGSAC++, a fast, reliable and accurate robust estimator", CVPR 2020, as in OpenCV.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float

TRUNCATE = 3.0
"""Standard deviations beyond which a match counts as wrong."""


class TwoView(NamedTuple):
    """Relative motion with unit translation, its inliers, the angle between their rays, and a truncated cost.

    `cost` is the mean of min(Sampson error / sigma, 3)^2 over all matches.
    """

    b_from_a: Float[np.ndarray, "4 4"]
    inlier: Bool[np.ndarray, "n"]
    parallax_rad: float
    cost: float


def relative_motion(xy_a: Float[np.ndarray, "n 2"], xy_b: Float[np.ndarray, "n 2"], sigma: float) -> TwoView | None:
    """The rigid motion between two views that most matches agree on; None where there is none.

    Args:
        xy_a, xy_b: normalised image coordinates (x/z, y/z). sigma: their standard deviation (pixels / focal).
    """
    if len(xy_a) < 16:
        return None
    essential, _ = cv2.findEssentialMat(
        xy_a, xy_b, np.eye(3), method=cv2.USAC_MAGSAC, prob=0.9999, threshold=2.5 * sigma, maxIters=2000
    )
    if essential is None or essential.shape != (3, 3):
        return None
    error = sampson(essential, xy_a, xy_b) / sigma
    candidate = (error < TRUNCATE).astype(np.uint8)
    if candidate.sum() < 12:
        return None
    _, rotation, translation, kept, _ = cv2.recoverPose(
        essential, xy_a, xy_b, np.eye(3), distanceThresh=1e4, mask=candidate.copy()
    )
    b_from_a = np.eye(4)
    b_from_a[:3, :3], b_from_a[:3, 3] = rotation, translation[:, 0]
    inlier = kept[:, 0] > 0
    cost = float((np.minimum(error, TRUNCATE) ** 2).mean())
    return TwoView(b_from_a, inlier, _parallax_rad(rotation, xy_a[inlier], xy_b[inlier]), cost)


def sampson(
    essential: Float[np.ndarray, "3 3"], xy_a: Float[np.ndarray, "n 2"], xy_b: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n"]:
    """First-order distance of matches to the epipolar constraint (Hartley and Zisserman, section 11.4.3)."""
    a, b = (np.concatenate([xy, np.ones_like(xy[:, :1])], 1) for xy in (xy_a, xy_b))
    line_b, line_a = a @ essential.T, b @ essential
    slope = (line_b[:, :2] ** 2).sum(1) + (line_a[:, :2] ** 2).sum(1)
    return np.abs((b * line_b).sum(1)) / np.sqrt(np.maximum(slope, 1e-18))


def _parallax_rad(b_from_a_rotation: np.ndarray, xy_a: np.ndarray, xy_b: np.ndarray) -> float:
    if len(xy_a) == 0:
        return 0.0
    a, b = (np.concatenate([xy, np.ones_like(xy[:, :1])], 1) for xy in (xy_a, xy_b))
    a = a @ b_from_a_rotation.T
    sine = np.linalg.norm(np.cross(a, b), axis=1)
    return float(np.median(np.arctan2(sine, (a * b).sum(1))))
