"""What a log holds: every topic with its type, count, rate and span, and the first message of those that matter."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from worldline.errors import InputError
from worldline.io.sensors import clouds, foxglove, images
from worldline.io.sensors.log_files import Log

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
IMU = "sensor_msgs/msg/Imu"
CLOUD = "sensor_msgs/msg/PointCloud2"
RADAR_SCAN, RADAR_POINT = "radar_msgs/msg/RadarScan", "ti_mmwave_rospkg/msg/RadarScan"
ODOMETRY = "nav_msgs/msg/Odometry"
POSE = "geometry_msgs/msg/PoseStamped"
POSE_WITH_COVARIANCE = "geometry_msgs/msg/PoseWithCovarianceStamped"
TRANSFORM = "geometry_msgs/msg/TransformStamped"
TRANSFORMS = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")

_VECTOR = ("x", "y", "z")
_IMAGE = ("height", "width", "encoding", "step", "is_bigendian", "data")
_PLACED = ("position.x", "position.y", "position.z", "orientation.x", "orientation.y", "orientation.z", "orientation.w")
_FIELDS: dict[str, tuple[str, ...]] = {
    IMAGE: _IMAGE,
    COMPRESSED: ("format", "data"),
    CAMERA_INFO: ("height", "width", "distortion_model"),
    IMU: tuple(f"{name}.{axis}" for name in ("angular_velocity", "linear_acceleration") for axis in _VECTOR),
    CLOUD: ("height", "width", "fields", "is_bigendian", "point_step", "row_step", "data"),
    RADAR_SCAN: ("returns",),
    RADAR_POINT: ("point_id", "x", "y", "z", "velocity", "intensity"),
    ODOMETRY: tuple(f"pose.pose.{name}" for name in _PLACED),
    POSE: tuple(f"pose.{name}" for name in _PLACED),
    POSE_WITH_COVARIANCE: tuple(f"pose.pose.{name}" for name in _PLACED),
    TRANSFORM: ("child_frame_id", "transform.translation.x", "transform.rotation.w"),
}
"""The types that may be used, and the fields of their messages that are read."""


@dataclass(frozen=True, eq=False)
class TopicContents:
    """One topic of a log.

    Attributes:
        type: as the log names it; ros_type: the ROS type whose fields its messages have.
        rate_hz: messages per second between the first and the last; 0 for fewer than two.
        first_s, last_s: when they were recorded, seconds; NaN where there are none.
        sample: the first message of a kind that may be used, else None.
        problem: why that could not be read.
    """

    name: str
    type: str
    ros_type: str
    count: int
    rate_hz: float
    first_s: float
    last_s: float
    sample: Any = None
    problem: str = ""

    @property
    def detail(self) -> str:
        """What the first message shows, in a few words."""
        if self.problem or self.sample is None:
            return self.problem
        if self.ros_type in (IMAGE, COMPRESSED):
            size = f" {self.sample.width}x{self.sample.height}" if hasattr(self.sample, "width") else ""
            return f"{images.encoding_of(self.sample)}{size}"
        if self.ros_type == CLOUD:
            return f"{self.sample.width * self.sample.height} points of {' '.join(clouds.field_names(self.sample))}"
        if self.ros_type == CAMERA_INFO:
            return f"{self.sample.width}x{self.sample.height} {self.sample.distortion_model}".rstrip()
        return ""


def contents_of(log: Log) -> tuple[TopicContents, ...]:
    """All topics of a log in order of their names.

    Raises:
        InputError: the log has no messages. FormatError: damaged.
    """
    found = tuple(_contents(log, name) for name in log.topics)
    if not any(topic.count for topic in found):
        raise InputError(f"{log.path} has no messages ({len(found)} topics); record it again.")
    return found


def _contents(log: Log, name: str) -> TopicContents:
    topic, recorded_s = log.topics[name], log.recorded_s(name)
    first_s, last_s = (float(recorded_s.min()), float(recorded_s.max())) if len(recorded_s) else (np.nan, np.nan)
    rate_hz = (len(recorded_s) - 1) / (last_s - first_s) if last_s > first_s else 0.0
    ros_type = foxglove.ros_type(topic.type)
    sample, problem = _sample(log, name, ros_type) if len(recorded_s) else (None, "")
    return TopicContents(name, topic.type, ros_type, len(recorded_s), rate_hz, first_s, last_s, sample, problem)


def _sample(log: Log, name: str, ros_type: str) -> tuple[Any, str]:
    """The first message of a kind that may be used, or why it cannot be."""
    if ros_type not in _FIELDS:
        return None, ""
    try:
        message = log.first(name)
        if message is not None:
            attrgetter(*_FIELDS[ros_type])(message.content)
    except InputError as error:
        return None, str(error)
    except AttributeError as error:  # a definition in the log that is not that of its name
        return None, f"its messages lack the field {error.name}"
    return (None if message is None else message.content), ""
