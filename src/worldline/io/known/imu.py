"""Readings of an IMU from text: EuRoC's `data.csv` (nanoseconds, w, a), or any table whose columns are named.

Source: Burri et al., "The EuRoC micro aerial vehicle datasets", 2016 (the layout of `data.csv`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from worldline.errors import FormatError, InputError
from worldline.io.known.named_columns import STANDARD_GRAVITY_MPS2, NamedColumns, read_columns, seconds_of
from worldline.scene.observations import Source
from worldline.scene.sensor_readings import ImuSamples

_TIME = "time|timestamp|stamp|t|sec|seconds|epoch|elapsed"
_STAMP = "stamp|timestamp"
_GYRO = "w|g|gyro?|gyroscope|omega|rot|rotation|rates?|angular|angvel"
_ACCEL = "a|f|alpha|acc|accel|acceleration|accelerometer|linear|force"
_IN_G = (0.8, 1.25)
_IN_MPS2 = (7.0, 14.0)
_TOO_FAST_RADPS = 20.0


def read_imu(path: Path) -> ImuSamples:
    """Samples of a file, on the times of the file; what was assumed of units and columns is in the source's notes.

    The columns are found by their names (`time, gyro_x, ..., accel_z` and many like them), with units in brackets or
    as a last word: ns us ms s; rad/s deg/s dps; m/s^2 g. Without a header seven columns are time, gyro, accelerometer
    or time, accelerometer, gyro, whichever has gravity. A unit that is not said is told by the values.

    Raises:
        InputError: no samples, times that fall, or accelerations without gravity. FormatError: not such a table.
    """
    table = read_columns(path)
    time, gyro, accel, order = _columns(table)
    times_s, notes = seconds_of(table.values[:, time], None if table.names is None else table.names[time])
    rates, of_rates = _rates(table, gyro)
    forces, of_forces = _forces(table, accel)
    good = np.isfinite(times_s) & np.isfinite(rates).all(1) & np.isfinite(forces).all(1)
    good[good] = np.diff(times_s[good], prepend=-np.inf) != 0
    if not good.any():
        raise InputError(f"{path} holds no whole sample of an IMU; check that it is the right file.")
    if (np.diff(times_s[good]) < 0).any():
        raise InputError(f"the times in {path} fall; sort its lines by time.")
    left = len(good) - int(good.sum())
    dropped = (f"{left} of its samples are not finite or repeat a time and were left out",) if left else ()
    said = (
        [f"{path.name}: {'; '.join(all_notes)}."]
        if (all_notes := (*order, *notes, *of_rates, *of_forces, *dropped))
        else []
    )
    return ImuSamples(times_s[good], rates[good], forces[good], Source(path.name, notes=tuple(said)))


def _columns(table: NamedColumns) -> tuple[int, list[int], list[int], tuple[str, ...]]:
    """Time, gyro and accelerometer columns, and what was assumed."""
    count = table.values.shape[1]
    if table.names is None:
        if count != 7:
            raise FormatError(
                f"{table.path} has {count} columns without names; give time, three rates and three accelerations, or a "
                "first line of names such as time,gyro_x,gyro_y,gyro_z,accel_x,accel_y,accel_z."
            )
        first, second = (_usual(table.values[:, cut]) for cut in (slice(1, 4), slice(4, 7)))
        if _has_gravity(first) and not _has_gravity(second):
            return 0, [4, 5, 6], [1, 2, 3], ("its columns have no names and were read as time, accelerometer, gyro",)
        return 0, [1, 2, 3], [4, 5, 6], ("its columns have no names and were read as time, gyro, accelerometer",)
    stamp, time = table.find(_STAMP), table.find(_TIME)
    gyro, accel = ([table.find(pattern, axis) for axis in "xyz"] for pattern in (_GYRO, _ACCEL))
    missing = [
        what
        for what, found in (("time", [time]), ("angular rates x, y, z", gyro), ("accelerations x, y, z", accel))
        if None in found
    ]
    if missing:
        raise FormatError(
            f"{table.path} has no columns for {' and '.join(missing)}; name them like "
            "time,gyro_x,gyro_y,gyro_z,accel_x,accel_y,accel_z."
        )
    at = stamp if stamp is not None else time
    return int(at or 0), [int(i or 0) for i in gyro], [int(i or 0) for i in accel], ()


def _rates(table: NamedColumns, columns: list[int]) -> tuple[Float[np.ndarray, "n 3"], tuple[str, ...]]:
    values = table.values[:, columns]
    factor = (
        None
        if table.names is None
        else table.names[columns[0]].factor("rad/s") or table.names[columns[0]].factor("rad")
    )
    if factor is not None:
        return values * factor, ()
    if np.nanpercentile(np.linalg.norm(values, axis=1), 99) > _TOO_FAST_RADPS:
        return np.radians(values), ("its rates were taken to be degrees per second, as they are too high for radians",)
    return values, ("its rates were taken to be radians per second",)


def _forces(table: NamedColumns, columns: list[int]) -> tuple[Float[np.ndarray, "n 3"], tuple[str, ...]]:
    values = table.values[:, columns]
    factor = None if table.names is None else table.names[columns[0]].factor("m/s^2")
    usual = _usual(values * (factor or 1.0))
    if factor is None and _IN_G[0] < usual < _IN_G[1]:
        return values * STANDARD_GRAVITY_MPS2, ("its accelerations were taken to be in units of gravity",)
    if not _IN_MPS2[0] < usual < _IN_MPS2[1]:
        raise InputError(
            f"the accelerations in {table.path} are usually of size {usual:.3g}, but an accelerometer mostly reads "
            "gravity, 9.8 m/s^2 or 1 g; give raw readings, with gravity in them, and name their unit."
        )
    return values * (factor or 1.0), () if factor else ("its accelerations were taken to be m/s^2",)


def _usual(vectors: Float[np.ndarray, "n 3"]) -> float:
    return float(np.nanmedian(np.linalg.norm(vectors, axis=1)))


def _has_gravity(usual: float) -> bool:
    return _IN_G[0] < usual < _IN_G[1] or _IN_MPS2[0] < usual < _IN_MPS2[1]
