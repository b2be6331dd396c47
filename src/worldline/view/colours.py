"""Colours shared by the page, the stills and the live view, so that a thing looks the same everywhere."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

BACKGROUND = (17, 19, 23)
INK = (232, 234, 237)
FAINT_INK = (140, 146, 156)
GRID = (58, 63, 72)
CAMERA = (150, 160, 176)
CURRENT = (255, 176, 64)

OBJECTS: UInt8[np.ndarray, "k 3"] = np.array(
    [[255, 92, 92], [64, 196, 255], [255, 206, 84], [160, 120, 255], [92, 220, 140], [255, 140, 220]], dtype=np.uint8
)
"""One colour for each moving object, repeated when there are more."""

_SPEED_STOPS = np.array([[70, 110, 255], [40, 200, 220], [250, 220, 90], [255, 80, 60]], dtype=np.float64)


def speed_colour(share: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
    """Colour of a speed given as a share of the fast end, slow blue to fast red."""
    at = np.nan_to_num(np.asarray(share, dtype=np.float64)).clip(0, 1) * (len(_SPEED_STOPS) - 1)
    low = np.floor(at).astype(int).clip(0, len(_SPEED_STOPS) - 2)
    mix = (at - low)[..., None]
    return ((1 - mix) * _SPEED_STOPS[low] + mix * _SPEED_STOPS[low + 1]).round().astype(np.uint8)
