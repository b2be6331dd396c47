"""Where an IMU goes, from its accelerations: only shortly after (or between) times at which it stood still.

Gravity is what the accelerometer reads at rest; taken off the later readings in one frame, it leaves the acceleration,
which is integrated twice. A tilt that is off by one milliradian is a centimetre per second squared, so the error grows
with the second and third power of time. At the end of a motion the speed is known to be zero again, which takes out
most of it (zero-velocity update; Foxlin, "Pedestrian tracking with shoe-mounted inertial sensors", 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.scene.sensor_readings import ImuSamples


@dataclass(frozen=True)
class Reckoning:
    """Errors of the accelerometer and how far it is followed.

    Attributes:
        accel_noise: velocity random walk, m / s^2 / sqrt(Hz).
        accel_sigma_mps2: what is left of a constant error: bias and scale in another attitude than at rest.
        drift_mps3: growth of the error by the tilt that the gyroscope's bias causes.
        longest_s: of a motion whose end at rest corrects it; after a longer one the drift is no longer a line.
        rest_gyro_radps, rest_accel_mps2: how little the readings vary at rest (norms of standard deviations). Strict,
            as a smooth motion of constant speed differs from rest in nothing else.
        still_sigma_m: of places while standing still. largest_sigma_m: places less certain are not told.
    """

    accel_noise: float = 5e-3
    accel_sigma_mps2: float = 0.06
    drift_mps3: float = 0.01
    longest_s: float = 10.0
    rest_gyro_radps: float = 0.015
    rest_accel_mps2: float = 0.15
    still_sigma_m: float = 0.003
    largest_sigma_m: float = 0.25


def reckoned(
    samples: ImuSamples,
    world_from_imu: Float[Tensor, "n 3 3"],
    still: Bool[np.ndarray, "n"],
    at_s: Float[np.ndarray, "m"],
    settings: Reckoning | None = None,
) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, "m"]]:
    """Places at times within the samples, metres from where it first stood still, and their standard deviations.

    Args:
        world_from_imu: attitude at the samples, in any world. still: where the IMU stands.

    Returns:
        NaN and infinity where places are not known: without standing still before, or too long after it.
    """
    s = settings or Reckoning()
    force = (world_from_imu.numpy() @ samples.accel_mps2[..., None])[..., 0]
    place, sigma = np.full((len(samples), 3), np.nan), np.full(len(samples), np.inf)
    starts, stops = _stretches(still)
    here, doubt = np.zeros(3), 0.0
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        place[start:stop], sigma[start:stop] = here, np.hypot(doubt, s.still_sigma_m)
        again = starts[i + 1] if i + 1 < len(starts) else len(samples)
        gravity = force[start:stop].mean(0)
        moving = slice(stop - 1, again)
        travelled, spread = _travelled(samples.times_s[moving], force[moving] - gravity, i + 1 < len(starts), s)
        place[moving] = here + travelled
        sigma[moving] = np.hypot(np.hypot(doubt, s.still_sigma_m), spread)
        here, doubt = place[again - 1], float(np.hypot(doubt, spread[-1]))
    sigma[sigma > s.largest_sigma_m] = np.inf
    place[~np.isfinite(sigma)] = np.nan
    sigma_there = _at(samples.times_s, sigma[:, None], at_s)[:, 0]
    return _at(samples.times_s, place, at_s), np.where(np.isfinite(sigma_there), sigma_there, np.inf)


def _stretches(still: Bool[np.ndarray, "n"]) -> tuple[Int[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """First sample of each stretch of standing still, and the one after its last."""
    edges = np.diff(np.r_[0, still.astype(np.int64), 0])
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _travelled(
    times_s: Float[np.ndarray, "n"], acceleration: Float[np.ndarray, "n 3"], stands_again: bool, s: Reckoning
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
    """Displacement from the first sample, at which it stands, and its standard deviation per axis."""
    passed = times_s - times_s[0]
    velocity = _integral(times_s, acceleration)
    whole = max(float(passed[-1]), 1e-9)
    noise = s.accel_noise * np.sqrt(passed**3 / 3)
    if stands_again and whole <= s.longest_s:
        velocity = velocity - velocity[-1] * (passed / whole)[:, None]
        drift = (s.drift_mps3 + s.accel_sigma_mps2 / whole) * np.abs(passed**3 / 6 - passed**2 * whole / 4)
        return _integral(times_s, velocity), np.hypot(drift, noise)
    constant, drift = s.accel_sigma_mps2 * passed**2 / 2, s.drift_mps3 * passed**3 / 6
    return _integral(times_s, velocity), np.sqrt(constant**2 + drift**2 + noise**2)


def _integral(times_s: Float[np.ndarray, "n"], values: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    steps = np.diff(times_s)[:, None] * (values[1:] + values[:-1]) / 2
    return np.concatenate([np.zeros((1, 3)), np.cumsum(steps, 0)])


def _at(
    times_s: Float[np.ndarray, "n"], values: Float[np.ndarray, "n c"], at_s: Float[np.ndarray, "m"]
) -> Float[np.ndarray, "m c"]:
    """Values between samples, linearly; not finite where one of the two is not."""
    before = np.clip(np.searchsorted(times_s, at_s, side="right") - 1, 0, len(times_s) - 2)
    share = ((at_s - times_s[before]) / (times_s[before + 1] - times_s[before]))[:, None]
    first, second = (np.where(np.isfinite(side), side, np.nan) for side in (values[before], values[before + 1]))
    return np.where(share <= 0, first, np.where(share >= 1, second, first * (1 - share) + second * share))
