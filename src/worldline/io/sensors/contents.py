"""What a log holds: every topic with its type, count, rate and span, and the first message of those that matter."""

from __future__ import annotations

from dataclasses import dataclass
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

_OF_INTEREST = frozenset(
    (
        IMAGE,
        COMPRESSED,
        CAMERA_INFO,
        IMU,
        CLOUD,
        RADAR_SCAN,
        RADAR_POINT,
        ODOMETRY,
        POSE,
        POSE_WITH_COVARIANCE,
        TRANSFORM,
    )
)


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
    sample, problem = None, ""
    if ros_type in _OF_INTEREST and len(recorded_s):
        try:
            message = log.first(name)
            sample = None if message is None else message.content
        except InputError as error:
            problem = str(error)
    return TopicContents(name, topic.type, ros_type, len(recorded_s), rate_hz, first_s, last_s, sample, problem)
