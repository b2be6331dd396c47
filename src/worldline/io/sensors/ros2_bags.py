"""ROS 2 bags whose messages lie in SQLite: a folder with `metadata.yaml` or `.db3` files, or one such file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from worldline.errors import InputError
from worldline.io.sensors.log_files import Channel, times_by_topic
from worldline.io.sensors.packages import package


class Ros2Bag:
    """The bag through `rosbags`."""

    kind = "ROS 2 bag"

    def __init__(self, path: Path) -> None:
        self.notes: tuple[str, ...] = ()
        self._open = ExitStack()
        reader = package("rosbags.rosbag2").Reader
        files = [path] if path.is_file() or (path / "metadata.yaml").is_file() else sorted(path.glob("*.db3"))
        if not files:
            raise InputError(f"{path} holds neither metadata.yaml nor .mcap or .db3 files; give the folder of a bag.")
        try:
            self._parts = [self._open.enter_context(reader(file)) for file in files]
        except BaseException:
            self._open.close()
            raise

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All connections."""
        return tuple(_channel(c) for part in self._parts for c in part.connections)

    def messages(self, topics: frozenset[str]) -> Iterator[tuple[Channel, int, bytes]]:
        """Messages in order of time, part by part."""
        for part in self._parts:
            wanted = [c for c in part.connections if c.topic in topics]
            channels = {c.id: _channel(c) for c in wanted}
            if wanted:
                for connection, at, data in part.messages(connections=wanted):
                    yield channels[connection.id], at, data

    def recorded_ns(self) -> dict[str, list[int]]:
        """From the messages, all in one pass."""
        return times_by_topic(self.messages(frozenset(c.topic for c in self.channels)))

    def close(self) -> None:
        """Close all files."""
        self._open.close()


def _channel(connection: Any) -> Channel:
    layout = {"MSG": "ros2msg", "IDL": "ros2idl"}.get(connection.msgdef.format.name, "")
    definition = connection.msgdef.data.encode() if layout else b""
    return Channel(connection.topic, connection.msgtype, "cdr", connection.msgcount, definition, layout)
