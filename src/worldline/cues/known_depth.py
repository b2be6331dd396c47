"""Depth that is known in some pixels (a sensor with holes, a few points of a LiDAR) as evidence for all of them."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float

from worldline.scene.observations import DepthMaps

LEAST_SIGMA = 0.003
"""Log depth is not known better than this: a cell of the grid holds more than one surface point."""

ENOUGH = 100
"""Pixels with both depths from which the scale between them is told."""


class InverseDepth(NamedTuple):
    """Inverse depth of the pixels of a frame and its standard deviation, infinite where nothing is known."""

    value: Float[np.ndarray, "h w"]
    sigma: Float[np.ndarray, "h w"]


def known_pixels(depth: DepthMaps, frame: int) -> Bool[np.ndarray, "h w"]:
    """Where a frame's depth and its sigma mean something."""
    z, sigma = np.asarray(depth.depth_z[frame]), np.asarray(depth.sigma[frame])
    return np.isfinite(z) & (z > 0) & np.isfinite(sigma)


def known_evidence(depth: DepthMaps, frame: int, height: int, width: int) -> InverseDepth:
    """Known depth on a grid: means over the known pixels of a cell, with their spread."""
    known = known_pixels(depth, frame)
    z = np.where(known, depth.depth_z[frame], 1).astype(np.float32)
    log_sigma = np.where(known, depth.sigma[frame], 0).astype(np.float32)
    how = cv2.INTER_AREA if known.shape[0] >= height else cv2.INTER_NEAREST
    maps = (known, known / z, known / z**2, known * log_sigma**2)
    share, first, second, variance = (
        cv2.resize(m.astype(np.float32), (width, height), interpolation=how) for m in maps
    )
    least = np.maximum(share, 1e-9)
    value = first / least
    spread = np.maximum(second / least - value**2, 0)
    sigma = np.sqrt(spread + (variance / least + LEAST_SIGMA**2) * value**2)
    return InverseDepth(value, np.where(share > 0, sigma, np.inf).astype(np.float32))


def scale_between(seen: InverseDepth, known: InverseDepth) -> float:
    """What `seen` is to be multiplied with to have the scale of `known`; 1 where too few pixels have both."""
    both = np.isfinite(known.sigma) & (seen.sigma < 0.1 * seen.value) & (seen.value > 0)
    return float(np.median(known.value[both] / seen.value[both])) if both.sum() >= ENOUGH else 1.0


def merged(
    seen: InverseDepth, trust: Float[np.ndarray, "h w"], known: InverseDepth
) -> tuple[InverseDepth, Float[np.ndarray, "h w"]]:
    """What was seen, as far as it is trusted, and what is known, by their variances; and the trust in the result."""
    parts = trust / np.maximum(seen.sigma, 1e-9) ** 2, 1 / np.maximum(known.sigma, 1e-9) ** 2
    total = parts[0] + parts[1]
    value = (parts[0] * seen.value + parts[1] * known.value) / np.maximum(total, 1e-12)
    sure = np.isfinite(known.sigma)
    sigma = np.where(sure, 1 / np.sqrt(np.maximum(total, 1e-12)), seen.sigma)
    return InverseDepth(np.where(sure, value, seen.value), sigma), np.where(sure, 1.0, trust).astype(np.float32)


def respecting(
    depth_z: Float[np.ndarray, "h w"], sigma: Float[np.ndarray, "h w"], depth: DepthMaps, frame: int
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Completed maps at the size of the known ones, with every known pixel as it was."""
    known = known_pixels(depth, frame)
    size = known.shape[::-1]
    inverse, log_sigma = (cv2.resize(m, size, interpolation=cv2.INTER_LINEAR) for m in (1 / depth_z, sigma))
    z = np.where(known, depth.depth_z[frame], 1 / inverse)
    return z.astype(np.float32), np.where(known, depth.sigma[frame], log_sigma).astype(np.float32)
