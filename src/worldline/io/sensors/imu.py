"""IMU messages to samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from worldline.errors import InputError
from worldline.io.sensors.clock import LogClock, dates_of, times_on
from worldline.io.sensors.contents import IMU
from worldline.io.sensors.log_files import Log, Message
from worldline.scene.observations import Source
from worldline.scene.sensor_readings import ImuSamples

STANDARD_GRAVITY_MPS2 = 9.80665
_IN_G = (0.8, 1.25)

_Table = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"], tuple[str, ...]]


def imu_samples(log: Log, topic: str, clock: LogClock) -> ImuSamples:
    """All samples of a sensor_msgs/Imu topic on the log's clock.

    Samples that are not finite or repeat a time are left out; accelerations whose usual size is about 1 are taken to
    be in units of gravity. Both are said in the source's notes.

    Raises:
        InputError: no messages, or their times go backwards.
    """
    times_s, gyro, accel, notes = _read(log, topic, clock)
    if not accel.any():
        accel, found = _accelerations_elsewhere(log, topic, clock, times_s)
        notes = (*notes, *found)
    good = np.isfinite(np.hstack([gyro, accel])).all(axis=1)
    good[1:] &= np.diff(times_s) > 0
    if not good.any():
        raise InputError(f"{topic} of {log.name} has no sample that is finite; choose another topic or leave it out.")
    left = len(good) - int(good.sum())
    notes = (*notes, *((f"{left} samples of {topic} were not finite or repeated and were left out.",) if left else ()))
    usual = float(np.median(np.linalg.norm(accel[good], axis=1)))
    if _IN_G[0] < usual < _IN_G[1]:
        accel = accel * STANDARD_GRAVITY_MPS2
        notes = (*notes, f"the accelerations of {topic} were taken to be in units of gravity (usually {usual:.2f}).")
    return ImuSamples(times_s[good], gyro[good], accel[good], Source(topic, notes=notes))


def _read(log: Log, topic: str, clock: LogClock) -> _Table:
    messages = list(log.messages(topic))
    if not messages:
        raise InputError(f"{topic} of {log.name} has no messages; choose another topic with --topic imu=NAME.")
    times_s, notes = times_on(clock, log, topic, dates_of(messages))
    return times_s, _vectors(messages, "angular_velocity"), _vectors(messages, "linear_acceleration"), notes


def _accelerations_elsewhere(
    log: Log, topic: str, clock: LogClock, times_s: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "n 3"], tuple[str, ...]]:
    """Accelerations at the times of a gyroscope, from the topic that has only these (as RealSense cameras do)."""
    for name in (t.name for t in log.topics.values() if t.type == IMU and t.count and t.name != topic):
        given_s, gyro, accel, _ = _read(log, name, clock)
        if accel.any() and not gyro.any():
            there = np.stack([np.interp(times_s, given_s, part) for part in accel.T], -1)
            return there, (f"{topic} has only rates; the accelerations were taken from {name}, between its samples.",)
    return np.zeros((len(times_s), 3)), (f"{topic} has no accelerations, so it does not tell what is up.",)


def _vectors(messages: Sequence[Message], name: str) -> Float[np.ndarray, "n 3"]:
    vectors = (getattr(message.content, name) for message in messages)
    return np.array([(v.x, v.y, v.z) for v in vectors], dtype=np.float64).reshape(-1, 3)
