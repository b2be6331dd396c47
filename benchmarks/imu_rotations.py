"""How far rotations integrated from an IMU are off the truth over every ten seconds of a recording like EuRoC's.

    python benchmarks/imu_rotations.py FOLDER [--window S]

FOLDER has imu0/data.csv and a truth: state_groundtruth_estimate0/data.csv, or a .txt of the same columns. One JSON
line: `angle_deg`, by how much the angle turned differs from the true one, which no turn between the axes of the two can
change; `mounted_deg`, the whole rotation off after the one turn between those axes that fits best; `tilt_deg`, how much
the direction of gravity changes in the world of the IMU, and `true_tilt_deg` in that of the truth. There gravity is the
mean force over four seconds less the true change of speed, so a tilt judges the attitudes of the truth as well.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.signal import savgol_filter

from worldline.geometry import se3
from worldline.io.known.imu import read_imu
from worldline.io.known.named_columns import read_columns
from worldline.scene.sensor_readings import ImuSamples
from worldline.solve.gyro_bias import estimate_bias
from worldline.solve.strapdown import imu_motion

TILT_S = 4.0


class Truth(NamedTuple):
    """Times (T,) on the clock of the IMU, places (T, 3), attitudes (T, 3, 3)."""

    times_s: np.ndarray
    place: np.ndarray
    attitude: np.ndarray


def truth_of(folder: Path) -> Truth:
    """Times, places and attitudes of the truth; the step between them is even."""
    found = [*folder.glob("**/state_groundtruth_estimate0/data.csv"), *sorted(folder.glob("*.txt"))]
    table = read_columns(found[0]).values
    attitude = se3.rotation_from_wxyz(torch.from_numpy(table[:, 4:8])).numpy()
    return Truth(table[:, 0] / 1e9, table[:, 1:4], attitude)


def judged(imu: ImuSamples, truth: Truth, window_s: float = 10.0) -> dict[str, object]:
    """The figures of one recording."""
    motion = imu_motion(imu, truth.times_s)
    known = motion.valid
    times_s, own = truth.times_s[known], motion.world_from_cam[known][:, :3, :3]
    step_s = float(np.median(np.diff(times_s)))
    window = round(window_s / step_s)
    own_turn = _turn(own, window)
    meant = min((truth.attitude[known], _t(truth.attitude[known])), key=lambda r: _misfit(own, r, round(1 / step_s)))
    true_turn = _turn(meant, window)
    angle = np.abs(_angle_deg(own_turn) - _angle_deg(true_turn))
    off = _mounted(own_turn, true_turn)
    imu_from_true = _axes_between(own, meant, round(1 / step_s))
    place = truth.place[known]
    gravity = (
        _gravity(imu, times_s, place, own, own @ imu_from_true @ _t(meant)),
        _gravity(imu, times_s, place, meant @ imu_from_true.T, np.broadcast_to(np.eye(3), own.shape)),
    )
    tilts = [np.degrees(np.linalg.norm(g[window:] - g[:-window], axis=1)) for g in gravity]
    return {
        "windows": len(angle),
        "window_s": window_s,
        "angle_deg": _figures(angle),
        "mounted_deg": _figures(off),
        "tilt_deg": _figures(tilts[0]),
        "true_tilt_deg": _figures(tilts[1]),
        "sigma_deg": round(float(np.degrees(motion.frame_sigma_rad[known][window] * 3**0.5)), 3),
        "notes": motion.source.notes,
    }


def _figures(values: np.ndarray) -> dict[str, float]:
    return {"median": round(float(np.median(values)), 3), "worst": round(float(values.max()), 3)}


def _t(rotation: np.ndarray) -> np.ndarray:
    return np.swapaxes(rotation, -1, -2)


def _turn(attitude: np.ndarray, window: int) -> np.ndarray:
    return _t(attitude[:-window]) @ attitude[window:]


def _log(rotation: np.ndarray) -> np.ndarray:
    return se3.so3_log(torch.from_numpy(rotation)).numpy()


def _angle_deg(rotation: np.ndarray) -> np.ndarray:
    return np.degrees(np.linalg.norm(_log(rotation), axis=-1))


def _axes_between(own: np.ndarray, true: np.ndarray, window: int) -> np.ndarray:
    """The turn from the axes of the truth to the IMU's, by those about which both turn within a second."""
    a, b = _log(_turn(own, window)), _log(_turn(true, window))
    return se3.nearest_rotation(torch.from_numpy(a.T @ b)).numpy()


def _misfit(own: np.ndarray, true: np.ndarray, window: int) -> float:
    mount = _axes_between(own, true, window)
    return float(np.linalg.norm(_log(_turn(own, window)) - _log(_turn(true, window)) @ mount.T))


def _mounted(own_turn: np.ndarray, true_turn: np.ndarray) -> np.ndarray:
    """Angles of the rotations off (degrees) after the turn between the axes that makes them least."""
    start = se3.nearest_rotation(torch.from_numpy(_log(own_turn).T @ _log(true_turn))).numpy()

    def off(turn: np.ndarray) -> np.ndarray:
        mount = start @ se3.so3_exp(torch.from_numpy(turn)).numpy()
        return _log(_t(own_turn) @ mount @ true_turn @ mount.T)

    best = least_squares(lambda turn: off(turn)[::5].ravel(), np.zeros(3), loss="soft_l1", f_scale=0.01).x
    return np.degrees(np.linalg.norm(off(best), axis=1))


def _gravity(
    imu: ImuSamples, times_s: np.ndarray, place: np.ndarray, attitude: np.ndarray, own_from_true: np.ndarray
) -> np.ndarray:
    """Direction of gravity from each time on, in the world of `attitude`; own_from_true: (T, 3, 3) of the two worlds.

    The true positions are those of the body up to a small lever arm, which does not matter over seconds.
    """
    step_s = float(np.median(np.diff(times_s)))
    window = round(TILT_S / step_s)
    force = imu.accel_mps2 - estimate_bias(imu).accel_mps2
    smooth = np.stack([np.convolve(c, np.full(10, 0.1), "same") for c in force.T], -1)
    there = np.stack([np.interp(times_s, imu.times_s, c) for c in smooth.T], -1)
    summed = np.cumsum((attitude @ there[..., None])[..., 0], 0)
    speed = savgol_filter(place, 11, 3, deriv=1, delta=step_s, axis=0)
    gained = (own_from_true[:-window] @ (speed[window:] - speed[:-window])[..., None])[..., 0] / TILT_S
    gravity = (summed[window:] - summed[:-window]) / window - gained
    return gravity / np.linalg.norm(gravity, axis=1)[:, None]


def main() -> int:
    folder = Path(sys.argv[1])
    window_s = float(sys.argv[sys.argv.index("--window") + 1]) if "--window" in sys.argv else 10.0
    print(json.dumps(judged(read_imu(folder / "imu0" / "data.csv"), truth_of(folder), window_s)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
