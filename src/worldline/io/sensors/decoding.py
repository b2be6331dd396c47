"""From the bytes of a message to an object with the fields of its ROS type, by the definition in the log itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from worldline.errors import InputError
from worldline.io.sensors import foxglove
from worldline.io.sensors.log_files import Channel
from worldline.io.sensors.packages import package

_IDL_RULE = "=" * 80 + "\n"
_KNOWN = {
    "radar_msgs/msg/RadarScan": "std_msgs/Header header\nradar_msgs/RadarReturn[] returns\n",
    "radar_msgs/msg/RadarReturn": "float32 range\nfloat32 azimuth\nfloat32 elevation\nfloat32 doppler_velocity\n"
    "float32 amplitude\n",
}
"""Definitions (public, of ros-perception/radar_msgs) for bags that do not bring their own."""


def decoder(channel: Channel) -> Callable[[bytes], Any]:
    """How the messages of a channel are read.

    Raises:
        InputError: its encoding cannot be read, or nothing defines its type.
    """
    if channel.encoding in ("ros1", "cdr"):
        store = _types(channel)
        read = store.deserialize_ros1 if channel.encoding == "ros1" else store.deserialize_cdr
        return lambda data: read(data, channel.type)
    if channel.encoding == "json":
        return lambda data: foxglove.as_ros(channel.type, json.loads(data, object_hook=lambda d: SimpleNamespace(**d)))
    if channel.encoding == "protobuf":
        parse = _protobuf(channel)
        return lambda data: foxglove.as_ros(channel.type, parse(data))
    raise InputError(
        f"the messages of {channel.topic} are encoded as {channel.encoding!r}, which cannot be read; convert the log "
        "to ROS messages."
    )


def _types(channel: Channel) -> Any:
    """The definitions of a channel's type and all that it is made of."""
    if channel.definition:
        return _defined_types(channel.type, channel.definition, channel.definition_format)
    return _public_types(channel, package("rosbags.typesys"))


@lru_cache(maxsize=64)  # to compile them takes longer than to read a short log, which is opened more than once
def _defined_types(name: str, definition: bytes, layout: str) -> Any:
    typesys = package("rosbags.typesys")
    store, text = typesys.get_typestore(typesys.Stores.EMPTY), definition.decode(errors="replace")
    if layout != "ros2idl":
        store.register(typesys.get_types_from_msg(text, name))
        return store
    for part in text.split(_IDL_RULE):
        idl = part.split("\n", 1)[1] if part.startswith("IDL: ") else part
        if idl.strip():
            store.register(typesys.get_types_from_idl(idl))
    return store


def _public_types(channel: Channel, typesys: Any) -> Any:
    """The standard messages of ROS 2, for bags older than those that hold their definitions."""
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    for name in reversed(_KNOWN):
        store.register(typesys.get_types_from_msg(_KNOWN[name], name))
    if channel.type not in store.fielddefs:
        raise InputError(
            f"the log does not say what {channel.type} of {channel.topic} is made of; record it with MCAP storage, "
            "which keeps the definitions."
        )
    return store


def _protobuf(channel: Channel) -> Callable[[bytes], Any]:
    descriptors = package("google.protobuf.descriptor_pb2").FileDescriptorSet.FromString(channel.definition)
    pool = package("google.protobuf.descriptor_pool").DescriptorPool()
    waiting = list(descriptors.file)
    known: set[str] = set()
    while waiting:
        ready = [file for file in waiting if set(file.dependency) <= known]
        if not ready:
            raise InputError(f"the definitions of {channel.type} in the log are incomplete; record it again.")
        for file in ready:
            pool.Add(file)
            known.add(file.name)
        waiting = [file for file in waiting if file.name not in known]
    message = package("google.protobuf.message_factory").GetMessageClass(pool.FindMessageTypeByName(channel.type))
    return message.FromString
