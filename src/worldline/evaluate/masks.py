"""Moving masks: region similarity J and contour accuracy F as defined by the DAVIS benchmark.

Source: Perazzi et al., "A benchmark dataset and evaluation methodology for video object segmentation", CVPR 2016,
section 5. Masks are anything that is 0 where static; all other values count as moving.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped
from scipy import ndimage

from worldline.errors import InputError


def region_similarity(mask: Shaped[np.ndarray, "t h w"], truth: Shaped[np.ndarray, "t h w"]) -> Float[np.ndarray, "t"]:
    """J of every frame: intersection over union, 1 where both masks are empty."""
    a, b = _binary_pair(mask, truth)
    union = (a | b).sum((1, 2))
    return np.where(union > 0, (a & b).sum((1, 2)) / np.maximum(union, 1), 1.0)


def contour_accuracy(
    mask: Shaped[np.ndarray, "t h w"], truth: Shaped[np.ndarray, "t h w"], *, tolerance: float = 0.008
) -> Float[np.ndarray, "t"]:
    """F of every frame: harmonic mean of the shares of contour pixels that have the other contour near.

    "Near" is within `tolerance` times the image diagonal, rounded up to whole pixels. Two frames without any
    contour give 1, one without against one with gives 0.
    """
    a, b = _binary_pair(mask, truth)
    radius_px = np.ceil(tolerance * np.hypot(*a.shape[1:]))
    return np.array([_contour_f(_contour(x), _contour(y), radius_px) for x, y in zip(a, b, strict=True)])


def mean_over_frames(values: Float[np.ndarray, "t"], *, skip_ends: bool = False) -> float:
    """Mean of J or F; DAVIS leaves out the first and the last frame (`skip_ends`). NaN where no frame is left."""
    kept = values[1:-1] if skip_ends else values
    return float(kept.mean()) if kept.size else float("nan")


def _binary_pair(mask: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if mask.shape != truth.shape or mask.ndim != 3:
        raise InputError(f"masks {mask.shape} and true masks {truth.shape} must both be (T, H, W); resize them first.")
    return np.asarray(mask) != 0, np.asarray(truth) != 0


def _contour(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower right neighbour."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _contour_f(a: np.ndarray, b: np.ndarray, radius_px: float) -> float:
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    precision = (ndimage.distance_transform_edt(~b)[a] <= radius_px).mean()
    recall = (ndimage.distance_transform_edt(~a)[b] <= radius_px).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0
