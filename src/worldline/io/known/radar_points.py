"""Returns of a radar from text, one per row, columns found by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from worldline.errors import FormatError, InputError
from worldline.io.known.named_columns import NamedColumns, read_columns, seconds_of
from worldline.scene.observations import Source
from worldline.scene.sensor_readings import RadarReturns

_TIME = "time|timestamp|stamp|t|sec|seconds|epoch"
_AZIMUTH = "azimuth|az|theta"
_ELEVATION = "elevation|el|elev|phi"
_RANGE = "range|distance|r|dist"
_SPEED = "speed|doppler|velocity|rangerate|rate|vel|v|vr"
_STRENGTH = "snr|intensity|rcs|power|strength|amplitude"
_MOST_RADIANS = 3.2
_SAME_SCAN_S = 1e-4


def read_radar_points(path: Path) -> RadarReturns:
    """Returns with columns time, azimuth, elevation, range and speed, in any order; a scan is what has one time.

    Axes are those of ROS: azimuth from straight ahead, positive to the left; elevation positive up. Speeds are positive
    for what moves away. In place of the angles and the range, x, y, z (forward, left, up) will do. Units stand in the
    names (`azimuth_deg`, `range [m]`, `speed_mps`, `time_ns`); angles without one are degrees where they are too large
    for radians, which is noted. Without elevation all is level.

    Raises:
        InputError: no radial speeds (Doppler), or times that fall. FormatError: columns are missing.
    """
    table = read_columns(path)
    time, speed = table.find(_TIME), table.find(_SPEED)
    if table.names is None or time is None:
        raise FormatError(
            f"{path} has no named column of times; begin it with a line such as "
            "time,azimuth_deg,elevation_deg,range_m,speed_mps."
        )
    if speed is None or not np.isfinite(table.values[:, speed]).any():
        raise InputError(
            f"{path} has no radial speeds (a column named speed or doppler), which is what a radar is read for; export "
            "them, or give its points as LiDAR points."
        )
    times_s, notes = _times(table, time)
    azimuth, elevation, distance, of_place = _place(table)
    good = np.isfinite(np.stack([times_s, azimuth, elevation, distance])).all(0) & (distance > 0)
    if not good.any():
        raise InputError(f"{path} holds no whole return of a radar; check that it is the right file.")
    if (np.diff(times_s[good]) < 0).any():
        raise InputError(f"the times in {path} fall; sort its lines by time.")
    left = () if good.all() else (f"{int((~good).sum())} returns are not whole and were left out",)
    strength = table.find(_STRENGTH)
    return RadarReturns(
        times_s=times_s[good],
        scan=_scans(times_s[good]),
        azimuth_rad=azimuth[good],
        elevation_rad=elevation[good],
        range_m=distance[good],
        speed_mps=table.values[good, speed] * (table.names[speed].factor("m/s") or 1.0),
        strength=np.full(int(good.sum()), np.nan) if strength is None else table.values[good, strength],
        source=_source(path, (*notes, *of_place, *left)),
    )


def _source(path: Path, said: tuple[str, ...]) -> Source:
    return Source(path.name, notes=(f"{path.name}: {'; '.join(said)}.",) if said else ())


def _times(table: NamedColumns, column: int) -> tuple[Float[np.ndarray, "n"], tuple[str, ...]]:
    """Seconds; the rows of a scan share their time, so the steps between scans tell the unit."""
    assert table.names is not None
    times = table.values[:, column]
    name = table.names[column]
    if name.factor("s") is not None:
        return seconds_of(times, name)
    steps = np.diff(np.unique(times))
    usual = float(np.median(steps)) if len(steps) else 0.0
    for limit, factor, word in ((5.0, 1.0, ""), (5e3, 1e-3, "milliseconds"), (5e6, 1e-6, "microseconds")):
        if usual < limit:
            return times * factor, (f"its times were taken to be {word}",) if word else ()
    return times * 1e-9, ("its times were taken to be nanoseconds",)


def _place(
    table: NamedColumns,
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"], tuple[str, ...]]:
    """Azimuth, elevation (radians), range (metres), and what was assumed."""
    assert table.names is not None
    azimuth, distance = table.find(_AZIMUTH), table.find(_RANGE, but=_SPEED)
    if azimuth is not None and distance is not None:
        elevation = table.find(_ELEVATION)
        az, note = _angle(table, azimuth, "azimuths")
        el, second = (
            (np.zeros(len(az)), ()) if elevation is None else _angle(table, elevation, "elevations", like=azimuth)
        )
        level = ("it has no elevations, so all returns were taken to be level",) if elevation is None else ()
        return az, el, table.values[:, distance] * (table.names[distance].factor("m") or 1.0), (*note, *second, *level)
    axes = [table.find("|".join(("pos", "position", "point", "p", "")), axis) for axis in "xyz"]
    if None in axes:
        raise FormatError(
            f"{table.path} has neither azimuth and range nor x, y, z; name its columns like "
            "time,azimuth_deg,elevation_deg,range_m,speed_mps."
        )
    x, y, z = (table.values[:, int(a or 0)] for a in axes)
    return np.arctan2(y, x), np.arctan2(z, np.hypot(x, y)), np.sqrt(x * x + y * y + z * z), ()


def _angle(
    table: NamedColumns, column: int, what: str, like: int | None = None
) -> tuple[Float[np.ndarray, "n"], tuple[str, ...]]:
    assert table.names is not None
    values, factor = table.values[:, column], table.names[column].factor("rad")
    if factor is not None:
        return values * factor, ()
    deciding = values if like is None else table.values[:, [like, column]]
    if np.nanmax(np.abs(deciding)) > _MOST_RADIANS:
        return np.radians(values), (f"its {what} were taken to be degrees",)
    return values, (f"its {what} were taken to be radians",)


def _scans(times_s: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The number of each return's scan: a new one begins with a new time."""
    return np.cumsum(np.diff(times_s, prepend=times_s[0]) > _SAME_SCAN_S)
