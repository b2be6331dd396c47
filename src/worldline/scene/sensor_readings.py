"""What an IMU and a radar measured, each on its own axes and at its own times, before anything is made of it.

Times are seconds on one clock for all sensors of a recording, the same as `Video.times_s` of its camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from worldline.errors import InputError
from worldline.scene.observations import Source


@dataclass(frozen=True, eq=False)
class ImuSamples:
    """Readings of an inertial measurement unit on its own axes x, y, z (right-handed, as the device gives them).

    Attributes:
        times_s: (N,) float64, strictly increasing.
        gyro_radps: (N, 3) angular rate of the body, right-handed about x, y, z.
        accel_mps2: (N, 3) specific force: a body at rest reads +9.8 along the axis that points up.
        cam_from_imu: (4, 4) from the axes of the IMU to the camera's (x right, y down, z forward), metres; None:
            unknown.
    """

    times_s: Float[np.ndarray, "n"]
    gyro_radps: Float[np.ndarray, "n 3"]
    accel_mps2: Float[np.ndarray, "n 3"]
    source: Source
    cam_from_imu: Float[np.ndarray, "4 4"] | None = None

    def __post_init__(self) -> None:
        count = len(self.times_s)
        for name, value in (("rates", self.gyro_radps), ("accelerations", self.accel_mps2)):
            if value.shape != (count, 3):
                raise InputError(f"{count} times of an IMU but {name} of shape {value.shape}; give (N, 3).")
        _finite("IMU", self.times_s, self.gyro_radps, self.accel_mps2)
        if (np.diff(self.times_s) <= 0).any():
            raise InputError("the times of the IMU must increase strictly; sort the samples or drop repeats.")

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def rate_hz(self) -> float:
        """Samples per second (by the median step; 0 for fewer than two samples)."""
        return float(1 / np.median(np.diff(self.times_s))) if len(self) > 1 else 0.0


@dataclass(frozen=True, eq=False)
class RadarReturns:
    """Single returns of a radar, scan by scan, on its own axes: x forward, y left, z up (as in ROS, REP 103).

    Attributes:
        times_s: (N,) float64, the time of each return's scan; never decreasing.
        scan: (N,) int, the number of that scan from 0, never decreasing; scans without a return leave a gap.
        azimuth_rad: (N,) about z, 0 ahead, positive to the left. elevation_rad: (N,) above the x-y plane.
        range_m: (N,) distance from the radar, positive.
        speed_mps: (N,) rate at which the distance grows: positive moves away. The radar's own motion is in it.
            NaN: not measured.
        strength: (N,) signal strength in the unit of the device (mostly dB); NaN: not given.
        cam_from_radar: (4, 4) from the radar's axes to the camera's (x right, y down, z forward), metres; None:
            unknown.
    """

    times_s: Float[np.ndarray, "n"]
    scan: Integer[np.ndarray, "n"]
    azimuth_rad: Float[np.ndarray, "n"]
    elevation_rad: Float[np.ndarray, "n"]
    range_m: Float[np.ndarray, "n"]
    speed_mps: Float[np.ndarray, "n"]
    strength: Float[np.ndarray, "n"]
    source: Source
    cam_from_radar: Float[np.ndarray, "4 4"] | None = None

    def __post_init__(self) -> None:
        names = ("scan", "azimuth_rad", "elevation_rad", "range_m", "speed_mps", "strength")
        for name in names:
            if getattr(self, name).shape != self.times_s.shape:
                shape = getattr(self, name).shape
                raise InputError(f"{len(self.times_s)} times of radar returns but {name} of shape {shape}; give (N,).")
        _finite("radar", self.times_s, self.azimuth_rad, self.elevation_rad, self.range_m)
        if (np.diff(self.times_s) < 0).any() or (np.diff(self.scan) < 0).any():
            raise InputError("radar returns must come in order of time and scan; sort them.")
        if (self.range_m <= 0).any():
            raise InputError("radar returns must have a positive range; drop the others.")

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def has_speed(self) -> bool:
        """Whether any return has a radial speed."""
        return bool(np.isfinite(self.speed_mps).any())

    @property
    def directions_radar(self) -> Float[np.ndarray, "n 3"]:
        """Unit vectors from the radar to where the returns came from, on its axes."""
        flat = np.cos(self.elevation_rad)
        across = (flat * np.cos(self.azimuth_rad), flat * np.sin(self.azimuth_rad), np.sin(self.elevation_rad))
        return np.stack(across, -1)

    @property
    def points_radar(self) -> Float[np.ndarray, "n 3"]:
        """Where the returns came from, metres on the radar's axes."""
        return self.directions_radar * self.range_m[:, None]


def _finite(sensor: str, *values: np.ndarray) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise InputError(f"readings of the {sensor} hold values that are not finite; drop those samples.")
