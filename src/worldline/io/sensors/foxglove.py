"""Foxglove's messages (JSON or protobuf) with the fields of the ROS messages that say the same.

Source: docs.foxglove.dev, "Message schemas".
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

_ROS_DATATYPE = {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 7: 7, 8: 8}  # Foxglove counts uint8 first, ROS int8


def as_ros(name: str, message: Any) -> Any:
    """The message as ROS would have it; one of another kind is handed on as it is."""
    convert = _CONVERTERS.get(name)
    return message if convert is None else convert(message)


def ros_type(name: str) -> str:
    """The ROS type that `as_ros` makes of a type of this name."""
    return _ROS_TYPES.get(name, name)


def _header(message: Any) -> SimpleNamespace:
    stamp = message.timestamp
    seconds = getattr(stamp, "seconds", getattr(stamp, "sec", 0))
    nanoseconds = getattr(stamp, "nanos", getattr(stamp, "nsec", 0))
    time = SimpleNamespace(sec=int(seconds), nanosec=int(nanoseconds))
    return SimpleNamespace(stamp=time, frame_id=getattr(message, "frame_id", ""))


def _bytes(data: Any) -> np.ndarray:
    return np.frombuffer(base64.b64decode(data) if isinstance(data, str) else data, np.uint8)


def _raw_image(m: Any) -> SimpleNamespace:
    return SimpleNamespace(
        header=_header(m),
        width=m.width,
        height=m.height,
        encoding=m.encoding,
        step=m.step,
        is_bigendian=0,
        data=_bytes(m.data),
    )


def _compressed_image(m: Any) -> SimpleNamespace:
    return SimpleNamespace(header=_header(m), format=m.format, data=_bytes(m.data))


def _calibration(m: Any) -> SimpleNamespace:
    fields: dict[str, Sequence[float]] = {k.lower(): list(getattr(m, k, ())) for k in ("D", "K", "R", "P")}
    model = getattr(m, "distortion_model", "")
    return SimpleNamespace(header=_header(m), width=m.width, height=m.height, distortion_model=model, **fields)


def _point_cloud(m: Any) -> SimpleNamespace:
    fields = [SimpleNamespace(name=f.name, offset=f.offset, datatype=_ROS_DATATYPE[f.type], count=1) for f in m.fields]
    data = _bytes(m.data)
    count = len(data) // m.point_stride
    return SimpleNamespace(
        header=_header(m),
        width=count,
        height=1,
        fields=fields,
        is_bigendian=False,
        point_step=m.point_stride,
        row_step=count * m.point_stride,
        data=data,
    )


def _pose(m: Any) -> SimpleNamespace:
    return SimpleNamespace(header=_header(m), pose=m.pose)


def _transform(m: Any) -> SimpleNamespace:
    header = _header(m)
    header.frame_id = m.parent_frame_id
    transform = SimpleNamespace(translation=m.translation, rotation=m.rotation)
    return SimpleNamespace(header=header, child_frame_id=m.child_frame_id, transform=transform)


def _transforms(m: Any) -> SimpleNamespace:
    return SimpleNamespace(transforms=[_transform(t) for t in getattr(m, "transforms", [m])])


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "foxglove.RawImage": _raw_image,
    "foxglove.CompressedImage": _compressed_image,
    "foxglove.CameraCalibration": _calibration,
    "foxglove.PointCloud": _point_cloud,
    "foxglove.PoseInFrame": _pose,
    "foxglove.FrameTransform": _transforms,
    "foxglove.FrameTransforms": _transforms,
}
_ROS_TYPES = {
    "foxglove.RawImage": "sensor_msgs/msg/Image",
    "foxglove.CompressedImage": "sensor_msgs/msg/CompressedImage",
    "foxglove.CameraCalibration": "sensor_msgs/msg/CameraInfo",
    "foxglove.PointCloud": "sensor_msgs/msg/PointCloud2",
    "foxglove.PoseInFrame": "geometry_msgs/msg/PoseStamped",
    "foxglove.FrameTransform": "tf2_msgs/msg/TFMessage",
    "foxglove.FrameTransforms": "tf2_msgs/msg/TFMessage",
}
