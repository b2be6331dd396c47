"""Colours of another camera on another day: one draw for all views of a sample, which one camera has filmed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class ColourConfig:
    """How far colours may go, and how often; the numbers are MapAnything's.

    Attributes:
        brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x; hue: from -x to x of a full turn.
        changed, grey, blurred: shares of samples. blur_px: least and largest standard deviation.
    """

    brightness: float = 0.3
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    changed: float = 0.75
    grey: float = 0.05
    blurred: float = 0.05
    blur_px: tuple[float, float] = (0.1, 1.0)

    @classmethod
    def none(cls) -> ColourConfig:
        """Images as they are."""
        return cls(changed=0, grey=0, blurred=0)


def recoloured(
    images: UInt8[np.ndarray, "v h w 3"], config: ColourConfig, random: np.random.Generator
) -> UInt8[np.ndarray, "v h w 3"]:
    """The images with brightness, contrast, saturation, hue and sharpness changed."""
    spread = np.array([config.brightness, config.contrast, config.saturation])
    factors, turn = 1 + spread * random.uniform(-1, 1, 3), config.hue * random.uniform(-1, 1)
    sigma_px = random.uniform(*config.blur_px)
    changed, grey, blurred = random.random(3) < [config.changed, config.grey, config.blurred]
    if not (changed or grey or blurred):
        return images
    x = images.astype(np.float32) / 255
    x = _shifted(x, factors, turn) if changed else x
    x = np.repeat((x @ _LUMA)[..., None], 3, -1) if grey else x
    x = ndimage.gaussian_filter(x, (0, sigma_px, sigma_px, 0), truncate=2 / sigma_px) if blurred else x
    return (255 * x.clip(0, 1)).round().astype(np.uint8)


def _shifted(x: np.ndarray, factors: Float[np.ndarray, "3"], turn: float) -> Float[np.ndarray, "v h w 3"]:
    x = (x * factors[0]).clip(0, 1)
    x = ((x - (x @ _LUMA).mean()) * factors[1] + (x @ _LUMA).mean()).clip(0, 1)
    grey = (x @ _LUMA)[..., None]
    return (((x - grey) * factors[2]) @ _turned(2 * np.pi * turn).T + grey).clip(0, 1)


def _turned(angle_rad: float) -> Float[np.ndarray, "3 3"]:
    """Rotation of colours about the axis of greys."""
    axis = np.ones(3) / np.sqrt(3)
    cross = np.cross(np.eye(3), -axis)
    return np.eye(3) + np.sin(angle_rad) * cross + (1 - np.cos(angle_rad)) * cross @ cross
