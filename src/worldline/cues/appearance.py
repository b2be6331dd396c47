"""Colours of what moves and of what does not, learnt within the clip: log odds of every pixel by its colour.

A colour that both have says nothing, so where object and surroundings look alike this is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import gaussian_filter, gaussian_filter1d


@dataclass(frozen=True)
class AppearanceSettings:
    """Settings of the colour models."""

    bins: tuple[int, int, int] = (16, 24, 24)
    """Of lightness and the two colour axes of Lab."""
    window_s: float = 1.5
    """Standard deviation in time of what a frame's colours are learnt from."""
    weight: float = 0.5
    """Share of the colour's log odds that is believed: neighbouring pixels have the same colour, so they repeat it."""
    most: float = 3.0
    """Greatest log odds, before the weight."""


def colour_odds(
    images: UInt8[np.ndarray, "t h w 3"],
    learnt: Sequence[int],
    probability: Float[np.ndarray, "s h w"],
    step_s: float,
    settings: AppearanceSettings,
) -> Float[np.ndarray, "t h w"]:
    """Log odds of being part of an object, by colour alone.

    Args:
        images: frames on the grid. learnt: the frames that the colours come from, with their `probability`.
        step_s: seconds from frame to frame.
    """
    of_object, of_rest = (_spread(images, learnt, p, step_s, settings) for p in (probability, 1 - probability))
    shares = [(x + 1e-9) / (x.sum(1, keepdims=True) + 1e-9 * x.shape[1]) for x in (of_object, of_rest)]
    floor = 0.2 / shares[0].shape[1]
    table = np.log((shares[0] + floor) / (shares[1] + floor)).clip(-settings.most, settings.most) * settings.weight
    nearest = np.abs(np.arange(len(images))[:, None] - np.array(learnt)).argmin(1)
    enough = of_object.sum(1) > 1
    odds = np.zeros(images.shape[:3], dtype=np.float32)
    for t, k in enumerate(nearest):
        if enough[k]:
            odds[t] = table[k][colour_index(images[t], settings.bins)]
    return odds


def colour_index(image: UInt8[np.ndarray, "h w 3"], bins: tuple[int, int, int]) -> Int[np.ndarray, "h w"]:
    """The cell of Lab that every pixel's colour is in; colours far from grey share the outermost cells."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.int32)
    light = lab[..., 0] * bins[0] // 256
    a, b = (np.clip((lab[..., k] - 64) * bins[k] // 128, 0, bins[k] - 1) for k in (1, 2))
    return (light * bins[1] + a) * bins[2] + b


def _spread(
    images: np.ndarray, learnt: Sequence[int], weight: np.ndarray, step_s: float, settings: AppearanceSettings
) -> Float[np.ndarray, "s n"]:
    """Weighted histograms, smoothed over colour and time."""
    cells = int(np.prod(settings.bins))
    counts = [
        np.bincount(colour_index(images[t], settings.bins).reshape(-1), w.reshape(-1), cells)
        for t, w in zip(learnt, weight, strict=True)
    ]
    smooth = gaussian_filter(np.array(counts).reshape(-1, *settings.bins), (0, 1, 1, 1)).reshape(len(counts), -1)
    apart = step_s * max(float(np.diff(learnt).mean()) if len(learnt) > 1 else 1.0, 1e-3)
    return gaussian_filter1d(smooth, settings.window_s / apart, axis=0, mode="nearest")
