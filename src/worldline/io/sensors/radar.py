"""Radar messages to returns: point clouds, radar_msgs/RadarScan, and the single points of ti_mmwave_rospkg.

Speeds are taken as drivers give them, positive for what moves away (range rate): radar_msgs, TI's mmWave SDK,
Continental and Delphi agree on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.errors import InputError
from worldline.io.sensors import clouds
from worldline.io.sensors.clock import LogClock, dates_of, frame_of, times_on
from worldline.io.sensors.log_files import Log, Message
from worldline.scene.observations import Source
from worldline.scene.sensor_readings import RadarReturns

CLOUD, SCAN, POINT = "sensor_msgs/msg/PointCloud2", "radar_msgs/msg/RadarScan", "ti_mmwave_rospkg/msg/RadarScan"
TYPES = (CLOUD, SCAN, POINT)
_FORWARD_SHARE = 0.98
_ALL_IN_FRONT = 0.995
_FRAMES_OF_THE_ROBOT = frozenset(("base_link", "base_footprint", "body", "vehicle", "map", "odom", "world"))


@dataclass(frozen=True, eq=False)
class _Scan:
    """Returns of one message: points on the axes of the device, speed, strength (NaN where not given)."""

    points: Float[np.ndarray, "n 3"]
    speed_mps: Float[np.ndarray, "n"]
    strength: Float[np.ndarray, "n"]


def radar_returns(log: Log, topic: str, clock: LogClock, *, need_speed: bool = False) -> RadarReturns:
    """All returns of a radar topic on the log's clock, on axes x forward, y left, z up.

    Points without range or that are not finite are left out. A device that looks along its y axis (x right, z up) or
    its z axis (x right, y down) is turned; the source's notes say so.

    Raises:
        InputError: no messages, no returns in them, times that go backwards, or no speeds where they are needed.
    """
    messages = list(log.messages(topic))
    if not messages:
        raise InputError(f"{topic} of {log.name} has no messages; choose another topic with --topic radar=NAME.")
    times_s, notes = times_on(clock, log, topic, dates_of(messages))
    scans = [_scan(m.content, topic) for m in messages]
    single = log.topics[topic].type == POINT
    number = _of_points(messages) if single else np.arange(len(scans))
    if single:
        times_s = _first_of_each(times_s, number)
    found = _joined(scans, times_s, number)
    if not len(found.times_s):
        raise InputError(f"{topic} of {log.name} has no radar returns in its {len(scans)} messages; record it again.")
    if need_speed and not np.isfinite(found.speed_mps).any():
        fields = ", ".join(_field_names(messages[0].content))
        raise InputError(
            f"{topic} of {log.name} has no radial speeds (it has {fields}), which are needed here; record the Doppler "
            "of the radar, or choose another topic with --topic radar=NAME."
        )
    left = sum(len(s.points) for s in scans) - len(found.times_s)
    notes = (*notes, *((f"{left} returns of {topic} had no range and were left out.",) if left else ()))
    frame = frame_of(messages[0].content)
    return _returns(found, topic, notes, turn=frame not in _FRAMES_OF_THE_ROBOT)


def has_speed(message: Any) -> bool:
    """Whether a message of a radar (or a cloud) has radial speeds."""
    if hasattr(message, "fields"):
        return clouds.named(clouds.field_names(message), clouds.SPEED) is not None
    return hasattr(message, "returns") or hasattr(message, "velocity")


@dataclass(frozen=True, eq=False)
class _Joined:
    times_s: Float[np.ndarray, "n"]
    scan: Int[np.ndarray, "n"]
    points: Float[np.ndarray, "n 3"]
    speed_mps: Float[np.ndarray, "n"]
    strength: Float[np.ndarray, "n"]

    def only(self, good: Bool[np.ndarray, "n"]) -> _Joined:
        return _Joined(*(value[good] for value in vars(self).values()))


def _joined(scans: Sequence[_Scan], times_s: Float[np.ndarray, "m"], number: Int[np.ndarray, "m"]) -> _Joined:
    counts = [len(s.points) for s in scans]
    whole = _Joined(
        np.repeat(times_s, counts),
        np.repeat(number, counts),
        np.concatenate([s.points for s in scans]),
        np.concatenate([s.speed_mps for s in scans]),
        np.concatenate([s.strength for s in scans]),
    )
    return whole.only(np.isfinite(whole.points).all(1) & (np.linalg.norm(whole.points, axis=1) > 0))


def _returns(found: _Joined, topic: str, notes: tuple[str, ...], *, turn: bool) -> RadarReturns:
    ros_from_device, axes = forward_axis(found.points) if turn else (np.eye(3), ROS_AXES)
    points = found.points @ ros_from_device.T
    across = np.hypot(points[:, 0], points[:, 1])
    turned = () if axes == ROS_AXES else (f"{topic} has the axes {axes}; its returns were turned to {ROS_AXES}.",)
    return RadarReturns(
        times_s=found.times_s,
        scan=found.scan,
        azimuth_rad=np.arctan2(points[:, 1], points[:, 0]),
        elevation_rad=np.arctan2(points[:, 2], across),
        range_m=np.linalg.norm(points, axis=1),
        speed_mps=np.where(np.isfinite(found.speed_mps), found.speed_mps, np.nan),
        strength=found.strength,
        source=Source(topic, notes=(*notes, *turned)),
    )


ROS_AXES = "x forward, y left, z up"


def forward_axis(points: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "3 3"], str]:
    """Rotation from the device's axes to ROS's, by the axis along which all points lie ahead; those axes in words."""
    ahead = (points > 0).mean(0)
    if ahead[0] >= _FORWARD_SHARE or ahead.max() < _ALL_IN_FRONT:
        return np.eye(3), ROS_AXES
    if ahead[1] >= _ALL_IN_FRONT:
        return np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]), "x right, y forward, z up"
    return np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), "x right, y down, z forward"


def _scan(message: Any, topic: str) -> _Scan:
    if hasattr(message, "returns"):
        return _of_returns(message.returns)
    if hasattr(message, "fields"):
        return _of_cloud(message, topic)
    if hasattr(message, "velocity"):
        point = np.array([[message.x, message.y, message.z]], dtype=np.float64)
        return _Scan(point, np.array([float(message.velocity)]), np.array([float(message.intensity)]))
    raise InputError(f"the messages of {topic} are none of a radar that can be read; these types can be: {TYPES}.")


def _of_returns(returns: Sequence[Any]) -> _Scan:
    fields = ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
    table = np.array([[getattr(r, f) for f in fields] for r in returns], dtype=np.float64).reshape(-1, 5)
    return _Scan(_cartesian(*table[:, :3].T), table[:, 3], table[:, 4])


def _of_cloud(message: Any, topic: str) -> _Scan:
    columns = clouds.columns(message)
    names = tuple(columns)
    count = len(next(iter(columns.values()), ()))
    speed, strength = (
        columns[name] if (name := clouds.named(names, wanted)) else np.full(count, np.nan)
        for wanted in (clouds.SPEED, clouds.STRENGTH)
    )
    xyz = [clouds.named(names, (axis,)) for axis in "xyz"]
    if None not in xyz:
        return _Scan(np.stack([columns[str(name)] for name in xyz], -1), speed, strength)
    polar = [clouds.named(names, wanted) for wanted in (clouds.RANGE, clouds.AZIMUTH, clouds.ELEVATION)]
    if polar[0] is None or polar[1] is None:
        raise InputError(
            f"{topic} has neither x, y, z nor range and azimuth (it has {', '.join(names)}); choose another."
        )
    flat = np.zeros(count) if polar[2] is None else columns[polar[2]]
    return _Scan(_cartesian(columns[polar[0]], columns[polar[1]], flat), speed, strength)


def _cartesian(
    range_m: Float[np.ndarray, "n"], azimuth_rad: Float[np.ndarray, "n"], elevation_rad: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n 3"]:
    across = range_m * np.cos(elevation_rad)
    return np.stack([across * np.cos(azimuth_rad), across * np.sin(azimuth_rad), range_m * np.sin(elevation_rad)], -1)


def _of_points(messages: Sequence[Message]) -> Int[np.ndarray, "m"]:
    """The scan of every message of one point: a new one begins where their numbers start again."""
    numbers = np.array([int(m.content.point_id) for m in messages])
    return np.cumsum(np.diff(numbers, prepend=-1) <= 0)


def _first_of_each(times_s: Float[np.ndarray, "m"], number: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    _, first, inverse = np.unique(number, return_index=True, return_inverse=True)
    return times_s[first][inverse]


def _field_names(message: Any) -> tuple[str, ...]:
    return clouds.field_names(message) if hasattr(message, "fields") else ("no such field",)
