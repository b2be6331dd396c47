"""A small robot that drives past a wall, recorded as any kind of log, with everything about it known."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.interfaces import Nodetype
from rosbags.rosbag1 import Writer as Bag1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Bag2Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

KINDS = ("bag", "ros2", "ros2-mcap", "mcap", "mcap-ros1")
FRAMES, HEIGHT, WIDTH = 6, 24, 32
START_S = 1_700_000_000
RATE_HZ = 10
LATE_S = 0.03
FOCAL, CENTRE = 30.0, (15.5, 11.5)
DISTORTION = (0.01, -0.002, 0.0, 0.0, 0.0)
OPTICAL = np.array([[0.0, 0, 1, 0.1], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""base_link from the camera's optical frame: 10 cm ahead, looking forward."""

TI_SCAN = """std_msgs/Header header
uint16 point_id
float32 x
float32 y
float32 z
float32 range
float32 velocity
uint16 doppler_bin
float32 bearing
float32 intensity
"""
RADAR_SCAN = (
    "std_msgs/Header header\nradar_msgs/RadarReturn[] returns\n"
    + "=" * 80
    + (
        "\nMSG: radar_msgs/RadarReturn\nfloat32 range\nfloat32 azimuth\nfloat32 elevation\nfloat32 doppler_velocity\n"
        "float32 amplitude\n"
    )
)
DEFINITIONS = {
    "radar_msgs/msg/RadarScan": RADAR_SCAN,
    "ti_mmwave_rospkg/msg/RadarScan": TI_SCAN,
    "tf2_msgs/msg/TFMessage": "geometry_msgs/TransformStamped[] transforms\n",
}


@dataclass
class Sent:
    """A message on its way into a log: stamped at `time_s`, recorded later."""

    topic: str
    type: str
    time_s: float
    fields: dict[str, Any]
    late_s: float = LATE_S
    stamped: bool = True


@dataclass
class Recorder:
    """Writes messages as one kind of log."""

    kind: str
    sent: list[Sent] = field(default_factory=list)

    @property
    def ros1(self) -> bool:
        return self.kind in ("bag", "mcap-ros1")

    def write(self, folder: Path, name: str = "drive", **options: Any) -> Path:
        """The log's path."""
        self.store = _types(ros1=self.ros1)
        rows = [(round((m.time_s + m.late_s) * 1e9), m, self._packed(i, m)) for i, m in enumerate(self.sent)]
        rows.sort(key=lambda row: row[0])
        return getattr(self, "_" + self.kind.replace("-", "_"))(folder, name, rows, **options)

    def _bag(self, folder: Path, name: str, rows: list, compression: str | None = None) -> Path:
        path = folder / f"{name}.bag"
        writer = Bag1Writer(path)
        if compression:
            writer.set_compression(Bag1Writer.CompressionFormat[compression])
        self._into(writer, rows)
        return path

    def _ros2(self, folder: Path, name: str, rows: list, packed: str | None = None, storage: str = "SQLITE3") -> Path:
        writer = Bag2Writer(folder / name, version=9, storage_plugin=StoragePlugin[storage])
        if packed:
            writer.set_compression(CompressionMode[packed], CompressionFormat.ZSTD)
        self._into(writer, rows)
        return folder / name

    def _ros2_mcap(self, folder: Path, name: str, rows: list, packed: str | None = None) -> Path:
        return self._ros2(folder, name, rows, packed, "MCAP")

    def _into(self, writer: Any, rows: list) -> None:
        with writer:
            connections: dict[str, Any] = {}
            for message in self.sent:
                if message.topic not in connections:
                    connections[message.topic] = writer.add_connection(
                        message.topic, message.type, typestore=self.store
                    )
            for at, message, data in rows:
                writer.write(connections[message.topic], at, data)

    def _mcap(self, folder: Path, name: str, rows: list, indexed: bool = True) -> Path:
        path = folder / f"{name}.mcap"
        encoding, layout = ("ros1", "ros1msg") if self.ros1 else ("cdr", "ros2msg")
        with path.open("wb") as stream:
            writer = McapWriter(stream, compression=CompressionType.ZSTD, use_chunking=indexed)
            writer.start()
            channels: dict[str, int] = {}
            for at, message, data in rows:
                if message.topic not in channels:
                    text = self.store.generate_msgdef(message.type, ros_version=1 if self.ros1 else 2)[0]
                    type_name = message.type.replace("/msg/", "/") if self.ros1 else message.type
                    schema = writer.register_schema(type_name, layout, text.encode())
                    channels[message.topic] = writer.register_channel(message.topic, encoding, schema)
                writer.add_message(channels[message.topic], at, bytes(data), at)
            writer.finish()
        return path

    _mcap_ros1 = _mcap

    def _packed(self, number: int, message: Sent) -> bytes:
        content = self._made(message.type, self._with_header(message, number))
        pack = self.store.serialize_ros1 if self.ros1 else self.store.serialize_cdr
        return bytes(pack(content, message.type))

    def _with_header(self, message: Sent, number: int) -> dict[str, Any]:
        stamp = round(message.time_s * 1e9) if message.stamped else 0
        time = {"sec": stamp // 10**9, "nanosec": stamp % 10**9}
        fields = dict(message.fields)
        frame = fields.pop("frame_id", "")
        seq = fields.pop("seq", number)
        header = {"stamp": time, "frame_id": frame, **({"seq": seq} if self.ros1 else {})}
        return header if message.type == "std_msgs/msg/Header" else {"header": header, **fields}

    def _made(self, name: str, fields: dict[str, Any]) -> Any:
        """A message with these fields, the others as empty as they can be."""
        content = {}
        for key, kind in self.store.fielddefs[name][1]:
            given = fields.get(key, fields.get(key.lower()))
            content[key] = self._value(kind, given)
        return self.store.types[name](**content)

    def _value(self, kind: Any, given: Any) -> Any:
        node, inner = kind
        if node == Nodetype.NAME:
            return self._made(inner, given or {})
        if node == Nodetype.BASE:
            empty: Any = "" if inner[0] == "string" else 0
            return empty if given is None else given
        element, size = inner
        if element[0] == Nodetype.NAME:
            return [self._made(element[1], item) for item in given or []]
        dtype = np.dtype({"octet": "u1", "char": "u1", "byte": "u1"}.get(element[1][0], element[1][0]))
        return np.zeros(size, dtype) if given is None else np.asarray(given, dtype=dtype)


@cache
def _types(*, ros1: bool) -> Any:
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    for type_name, text in DEFINITIONS.items():
        types = get_types_from_msg(text, type_name)
        store.register({k: v for k, v in types.items() if k not in store.fielddefs})
    return store


def drive(kind: str, *, encoding: str = "rgb8", camera: bool = True, frames: int = FRAMES) -> Recorder:
    """Camera, calibration, depth, IMU, radar, odometry and mounts of a robot that drives ahead at 1 m/s."""
    log = Recorder(kind)
    for t in range(frames):
        time_s = START_S + t / RATE_HZ
        if camera:
            log.sent.append(Sent("/cam0/image_raw", "sensor_msgs/msg/Image", time_s, image(picture(t), encoding)))
            log.sent.append(Sent("/cam0/camera_info", "sensor_msgs/msg/CameraInfo", time_s, calibration()))
            log.sent.append(Sent("/depth/image", "sensor_msgs/msg/Image", time_s + 0.004, depth(t)))
        log.sent.append(Sent("/radar/points", "sensor_msgs/msg/PointCloud2", time_s, cloud(t)))
        log.sent.append(Sent("/odom", "nav_msgs/msg/Odometry", time_s - 0.02, odometry(time_s - 0.02)))
    log.sent.append(Sent("/odom", "nav_msgs/msg/Odometry", time_s + 0.08, odometry(time_s + 0.08)))
    for i in range(20 * frames):
        time_s = START_S + i / (20 * RATE_HZ)
        log.sent.append(Sent("/imu", "sensor_msgs/msg/Imu", time_s, imu(i), late_s=0.001))
    log.sent.append(Sent("/tf_static", "tf2_msgs/msg/TFMessage", START_S - 0.1, mounts(), late_s=0.0))
    return log


def picture(t: int) -> np.ndarray:
    """(H, W, 3) RGB of frame t: smooth, and its own."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([u * 6 + 5 * t, v * 8, 40 + 3 * u + 2 * v], -1).astype(np.uint8)


def image(rgb: np.ndarray, encoding: str = "rgb8", *, padding: int = 3) -> dict[str, Any]:
    """An Image message whose rows are padded."""
    pixels = {
        "rgb8": lambda: rgb,
        "bgr8": lambda: rgb[..., ::-1],
        "rgba8": lambda: np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]),
        "mono8": lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY),
        "mono16": lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype("<u2") << 8,
        "yuv422": lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_UYVY),
        "yuv422_yuy2": lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_YUY2),
    }[encoding]()
    return framed(np.ascontiguousarray(pixels), encoding, padding=padding)


def framed(pixels: np.ndarray, encoding: str, *, padding: int = 0) -> dict[str, Any]:
    """Pixels of any type as the fields of an Image message."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, padding)))
    sizes = {"height": height, "width": width, "step": padded.shape[1]}
    return {**sizes, "encoding": encoding, "data": padded.ravel(), "frame_id": "cam0_optical"}


def compressed(rgb: np.ndarray, suffix: str = ".png") -> dict[str, Any]:
    """A CompressedImage message."""
    data = cv2.imencode(suffix, rgb[..., ::-1])[1].ravel()
    return {"format": suffix[1:], "data": data, "frame_id": "cam0_optical"}


def calibration(model: str = "plumb_bob", distortion: tuple[float, ...] = DISTORTION) -> dict[str, Any]:
    k = [FOCAL, 0, CENTRE[0], 0, FOCAL, CENTRE[1], 0, 0, 1]
    sizes = {"width": WIDTH, "height": HEIGHT}
    return {**sizes, "distortion_model": model, "k": k, "d": list(distortion), "frame_id": "cam0_optical"}


def depth_z(t: int) -> np.ndarray:
    """(H, W) metres of frame t: a wall 3 m away that comes nearer, with a hole."""
    z = np.full((HEIGHT, WIDTH), 3.0 - t / RATE_HZ, np.float32)
    z[:4, :4] = 0
    return z


def depth(t: int, encoding: str = "16UC1") -> dict[str, Any]:
    values = np.round(depth_z(t) * 1000).astype("<u2") if encoding == "16UC1" else depth_z(t)
    return framed(values, encoding)


RADAR_POINTS = np.array([[5.0, 1, 0.2], [8, -3, 0.5], [3, 0.5, -0.4], [12, 2, 1.0]])
RADAR_VELOCITY = np.array([1.0, 0.1, 0.0])
"""Of the radar on its own axes; the world stands still."""


def radial_speed(points: np.ndarray) -> np.ndarray:
    """The rate at which distances to standing points grow."""
    return -(points / np.linalg.norm(points, axis=1, keepdims=True)) @ RADAR_VELOCITY


def cloud(
    t: int, *, names: tuple[str, ...] = ("x", "y", "z", "intensity", "velocity"), big: bool = False, gap: int = 4
) -> dict[str, Any]:
    """A cloud of radar points; `gap` bytes that nobody names lie behind z."""
    points = RADAR_POINTS + (0, 0, 0.01 * t)
    columns = [*points.T, np.arange(4.0) + 10, radial_speed(points)][: len(names)]
    offsets = [4 * i + (gap if i > 2 else 0) for i in range(len(names))]
    step = offsets[-1] + 8
    order = ">" if big else "<"
    layout = np.dtype({"names": names, "formats": [order + "f4"] * len(names), "offsets": offsets, "itemsize": step})
    rows = np.zeros(len(points), layout)
    for name, column in zip(names, columns, strict=True):
        rows[name] = column
    fields = [{"name": n, "offset": o, "datatype": 7, "count": 1} for n, o in zip(names, offsets, strict=True)]
    data = np.frombuffer(rows.tobytes(), np.uint8)
    sizes = {"height": 1, "width": len(points), "point_step": step, "row_step": step * len(points)}
    return {**sizes, "fields": fields, "is_bigendian": big, "data": data, "is_dense": True, "frame_id": "radar"}


def imu(i: int) -> dict[str, Any]:
    rate, force = {"x": 0.0, "y": 0.01 * i, "z": 0.2}, {"x": 0.0, "y": 0.1, "z": 9.81}
    return {"angular_velocity": rate, "linear_acceleration": force, "frame_id": "imu"}


def odometry(time_s: float) -> dict[str, Any]:
    position = {"x": time_s - START_S, "y": 0.0, "z": 0.0}
    pose = {"pose": {"position": position, "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}}}
    return {"pose": pose, "frame_id": "odom", "child_frame_id": "base_link"}


def mounts() -> dict[str, Any]:
    """The camera ahead of the robot's centre, looking forward; IMU and radar at the centre with its axes."""
    half = {"x": -0.5, "y": 0.5, "z": -0.5, "w": 0.5}
    none = {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
    here = {"x": 0.0, "y": 0.0, "z": 0.0}
    rows = (("cam0_optical", {"x": 0.1, "y": 0.0, "z": 0.0}, half), ("imu", here, none), ("radar", here, none))
    return {
        "transforms": [
            {
                "header": {"frame_id": "base_link"},
                "child_frame_id": child,
                "transform": {"translation": place, "rotation": turn},
            }
            for child, place, turn in rows
        ]
    }


def foxglove_json(folder: Path, frames: int = 3) -> Path:
    """An MCAP file with Foxglove's own messages in JSON."""
    path = folder / "foxglove.mcap"
    with path.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start()
        schemas = {name: writer.register_schema(f"foxglove.{name}", "jsonschema", b"{}") for name in FOXGLOVE}
        channels = {name: writer.register_channel(f"/{name}", "json", schema) for name, schema in schemas.items()}
        for t in range(frames):
            at = START_S * 10**9 + t * 10**8
            for name, make in FOXGLOVE.items():
                stamped = {"timestamp": {"sec": at // 10**9, "nsec": at % 10**9}, "frame_id": "cam0_optical", **make(t)}
                writer.add_message(channels[name], at, json.dumps(stamped).encode(), at)
        writer.finish()
    return path


def _text(data: Any) -> str:
    return base64.b64encode(bytes(data)).decode()


def _foxglove_image(t: int) -> dict[str, Any]:
    said = image(picture(t))
    return {**{k: said[k] for k in ("width", "height", "step", "encoding")}, "data": _text(said["data"])}


def _foxglove_calibration(t: int) -> dict[str, Any]:
    said = calibration()
    sizes = {k: said[k] for k in ("width", "height", "distortion_model")}
    return {**sizes, "K": said["k"], "D": said["d"], "R": [], "P": []}


def _foxglove_cloud(t: int) -> dict[str, Any]:
    said = cloud(t)
    fields = [{"name": f["name"], "offset": f["offset"], "type": 7} for f in said["fields"]]
    return {"point_stride": said["point_step"], "fields": fields, "data": _text(said["data"]), "frame_id": "radar"}


def _foxglove_mount(t: int) -> dict[str, Any]:
    said = mounts()["transforms"][0]["transform"]
    return {"parent_frame_id": "radar", "child_frame_id": "cam0_optical", **said}


FOXGLOVE = {
    "RawImage": _foxglove_image,
    "CameraCalibration": _foxglove_calibration,
    "PointCloud": _foxglove_cloud,
    "FrameTransform": _foxglove_mount,
}


PROTO_TYPES = {"string": 9, "bytes": 12, "fixed32": 7, "message": 11, "int64": 3, "int32": 5}


def foxglove_protobuf(folder: Path, frames: int = 3) -> Path:
    """An MCAP file with foxglove.RawImage in protobuf, by the public definition."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    time = descriptor_pb2.FileDescriptorProto(name="google/protobuf/timestamp.proto", package="google.protobuf")
    _proto_message(time, "Timestamp", (("seconds", 1, "int64", ""), ("nanos", 2, "int32", "")))
    image_file = descriptor_pb2.FileDescriptorProto(name="foxglove/RawImage.proto", package="foxglove", syntax="proto3")
    image_file.dependency.append(time.name)
    fields = (
        ("timestamp", 1, "message", ".google.protobuf.Timestamp"),
        ("width", 2, "fixed32", ""),
        ("height", 3, "fixed32", ""),
        ("encoding", 4, "string", ""),
        ("step", 5, "fixed32", ""),
        ("data", 6, "bytes", ""),
        ("frame_id", 7, "string", ""),
    )
    _proto_message(image_file, "RawImage", fields)
    pool = descriptor_pool.DescriptorPool()
    for file in (time, image_file):
        pool.Add(file)
    make = message_factory.GetMessageClass(pool.FindMessageTypeByName("foxglove.RawImage"))
    definition = descriptor_pb2.FileDescriptorSet(file=[image_file, time]).SerializeToString()
    path = folder / "protobuf.mcap"
    with path.open("wb") as stream:
        writer = McapWriter(stream)
        writer.start()
        schema = writer.register_schema("foxglove.RawImage", "protobuf", definition)
        channel = writer.register_channel("/camera", "protobuf", schema)
        for t in range(frames):
            at = START_S * 10**9 + t * 10**8
            said = image(picture(t))
            message = make(**{k: said[k] for k in ("width", "height", "step", "encoding", "frame_id")})
            message.data = bytes(said["data"])
            message.timestamp.seconds, message.timestamp.nanos = at // 10**9, at % 10**9
            writer.add_message(channel, at, message.SerializeToString(), at)
        writer.finish()
    return path


def _proto_message(file: Any, name: str, fields: tuple[tuple[str, int, str, str], ...]) -> None:
    message = file.message_type.add(name=name)
    for key, number, kind, type_name in fields:
        row = message.field.add(name=key, number=number, type=PROTO_TYPES[kind], label=1)
        if type_name:
            row.type_name = type_name
