"""PointCloud2 messages of any layout to named columns, and which column is what.

Source: sensor_msgs/PointCloud2 and PointField.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

Columns = dict[str, Float[np.ndarray, "n"]]

_DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}

SPEED = (
    "doppler",
    "velocity",
    "dopplervelocity",
    "vdopplermps",
    "vdoppler",
    "radialspeed",
    "radialvelocity",
    "rangerate",
    "relativevelocity",
    "relativeradialvelocity",
    "vrel",
    "vrad",
    "vr",
    "vel",
    "speed",
    "dopplermps",
    "v",
)
STRENGTH = ("snrdb", "snr", "intensity", "rcs", "power", "amplitude", "strength", "magnitude")
RANGE = ("range", "distance", "radius", "r")
AZIMUTH = ("azimuth", "azimuthangle", "bearing", "horizontalangle")
ELEVATION = ("elevation", "elevationangle", "verticalangle")
"""Names of fields without case and signs, as drivers of radars have them (TI, Continental, Delphi, Oculii...)."""


def field_names(message: Any) -> tuple[str, ...]:
    """The names of a cloud's fields."""
    return tuple(f.name for f in message.fields)


def named(fields: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The field that is called one of these names, the first of them first; None where there is none."""
    by_plain = {re.sub(r"[^a-z0-9]", "", field.lower()): field for field in reversed(fields)}
    return next((by_plain[name] for name in wanted if name in by_plain), None)


def columns(message: Any) -> Columns:
    """Every field with one value per point, as (N,) float64; empty columns where the data are shorter than they say."""
    single = [f for f in message.fields if int(f.count) <= 1 and int(f.datatype) in _DATATYPES]
    order = ">" if message.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": [f.name for f in single],
            "formats": [order + _DATATYPES[int(f.datatype)] for f in single],
            "offsets": [int(f.offset) for f in single],
            "itemsize": int(message.point_step),
        }
    )
    points = _points(message, layout)
    return {name: points[name].astype(np.float64) for name in layout.names or ()}


def _points(message: Any, layout: np.dtype[Any]) -> np.ndarray:
    height, width = int(message.height), int(message.width)
    used = width * layout.itemsize
    step = int(message.row_step) if height > 1 and int(message.row_step) >= used else used
    data = np.asarray(message.data, dtype=np.uint8)
    if not used or len(data) < step * (height - 1) + used:
        return np.empty(0, layout)
    if step == used:
        return np.frombuffer(data.tobytes(), layout, height * width)
    rows = np.lib.stride_tricks.as_strided(data, (height, used), (step, 1))
    return np.frombuffer(rows.tobytes(), layout, height * width)
