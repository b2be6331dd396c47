"""ROS 1 bags: through their index, or chunk by chunk where the recording stopped before the index was written.

Source: ROS wiki, "Bags/Format/2.0".
"""

from __future__ import annotations

import bz2
import struct
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

from worldline.errors import FormatError
from worldline.io.sensors.log_files import Channel, RawLog, times_by_topic
from worldline.io.sensors.packages import package

_VERSION = b"#ROSBAG V2.0\n"
Stream = BufferedReader | BytesIO
_MESSAGE, _CHUNK, _CONNECTION = 2, 5, 7


def open_bag(path: Path) -> RawLog:
    """The bag, whether or not it has its index.

    Raises:
        FormatError: not a bag of this version, cut off, or nothing in it.
    """
    with path.open("rb") as stream:
        if stream.read(len(_VERSION)) != _VERSION:
            raise FormatError(f"{path} is not a ROS 1 bag of version 2.0; give the log itself.")
        first = _record(stream)
        if first is None:
            raise _cut_off(path)
        index_at, count = _index(first[0])
        stream.seek(index_at)
        if index_at and sum(1 for _ in _records(stream)) < count:
            raise _cut_off(path)
    return _Indexed(path) if index_at else _Unindexed(path)


def _index(header: dict[bytes, bytes]) -> tuple[int, int]:
    """Where the index begins (0: there is none), and how many records it has."""
    names = ((b"index_pos", "<Q"), (b"conn_count", "<I"), (b"chunk_count", "<I"))
    at, connections, chunks = (struct.unpack(kind, header[name])[0] for name, kind in names)
    return at, connections + chunks


def _cut_off(path: Path) -> FormatError:
    return FormatError(
        f"{path} is cut off (the index at its end is not whole); copy it again, or recover what is there with "
        "`rosbag reindex`."
    )


class _Indexed:
    """A whole bag through `rosbags`."""

    kind = "ROS 1 bag"
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._reader = package("rosbags.rosbag1").Reader(path)
        self._reader.open()
        self._channels = {c.id: _channel_of(c) for c in self._reader.connections}

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All connections."""
        return tuple(self._channels.values())

    def messages(self, topics: frozenset[str]) -> Iterator[tuple[Channel, int, bytes]]:
        """Messages in order of time."""
        wanted = [c for c in self._reader.connections if c.topic in topics]
        if wanted:
            for connection, at, data in self._reader.messages(connections=wanted):
                yield self._channels[connection.id], at, data

    def recorded_ns(self) -> dict[str, list[int]]:
        """From the index."""
        found: dict[str, list[int]] = {}
        for connection in self._reader.connections:
            found.setdefault(connection.topic, []).extend(e.time for e in self._reader.indexes[connection.id])
        return found

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class _Unindexed:
    """A bag without index: every chunk is read in turn."""

    kind = "ROS 1 bag without index"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections: dict[int, Channel] = {}
        counts: Counter[int] = Counter(connection for connection, _, _ in self._scan())
        self._connections = {i: Channel(**{**vars(c), "count": counts[i]}) for i, c in self._connections.items()}
        if not counts:
            raise FormatError(f"{path} has no index and no whole chunk in it; record it again.")
        self.notes = (
            f"{path.name} has no index (the recording was not ended properly); the {counts.total()} messages in it "
            "were read one by one, and what was being written at the end is lost.",
        )

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All connections that have come."""
        return tuple(self._connections.values())

    def messages(self, topics: frozenset[str]) -> Iterator[tuple[Channel, int, bytes]]:
        """Messages in the order of the file."""
        for connection, at, data in self._scan():
            channel = self._connections[connection]
            if channel.topic in topics:
                yield channel, at, data

    def recorded_ns(self) -> dict[str, list[int]]:
        """From the messages, all in one pass."""
        return times_by_topic(self.messages(frozenset(c.topic for c in self.channels)))

    def close(self) -> None:
        """Nothing is open between two passes."""

    def _scan(self) -> Iterator[tuple[int, int, bytes]]:
        """All messages: number of the connection, nanoseconds, bytes; connections are noted on the way."""
        with self._path.open("rb") as stream:
            stream.seek(len(_VERSION))
            for header, data in _records(stream):
                if header[b"op"][0] == _CHUNK:
                    yield from self._in_chunk(_unpacked(header[b"compression"], data))

    def _in_chunk(self, chunk: bytes) -> Iterator[tuple[int, int, bytes]]:
        for header, data in _records(BytesIO(chunk)):
            operation = header[b"op"][0]
            if operation == _CONNECTION:
                number = struct.unpack("<I", header[b"conn"])[0]
                self._connections.setdefault(number, _channel_in(header, data))
            elif operation == _MESSAGE:
                seconds, nanoseconds = struct.unpack("<II", header[b"time"])
                yield struct.unpack("<I", header[b"conn"])[0], seconds * 10**9 + nanoseconds, data


def _records(stream: Stream) -> Iterator[tuple[dict[bytes, bytes], bytes]]:
    """The whole records from here on; the first that is cut off ends them."""
    while (record := _record(stream)) is not None:
        yield record


def _record(stream: Stream) -> tuple[dict[bytes, bytes], bytes] | None:
    header, data = _sized(stream), None
    if header is not None:
        data = _sized(stream)
    return None if header is None or data is None else (_fields(header), data)


def _sized(stream: Stream) -> bytes | None:
    """Bytes with their number before them; None at the end of the file."""
    size = stream.read(4)
    if len(size) < 4:
        return None
    wanted = struct.unpack("<I", size)[0]
    data = stream.read(wanted)
    return data if len(data) == wanted else None


def _fields(header: bytes) -> dict[bytes, bytes]:
    stream, found = BytesIO(header), dict[bytes, bytes]()
    while (field := _sized(stream)) is not None:
        name, _, value = field.partition(b"=")
        found[name] = value
    return found


def _unpacked(compression: bytes, data: bytes) -> bytes:
    if compression == b"none":
        return data
    return bz2.decompress(data) if compression == b"bz2" else package("lz4.frame").decompress(data)


def _channel_of(connection: Any) -> Channel:
    definition = connection.msgdef.data.encode()
    return Channel(connection.topic, connection.msgtype, "ros1", connection.msgcount, definition, "ros1msg")


def _channel_in(header: dict[bytes, bytes], data: bytes) -> Channel:
    said = _fields(data)
    name = package("rosbags.typesys.msg").normalize_msgtype(said[b"type"].decode())
    return Channel(header[b"topic"].decode(), name, "ros1", 0, said[b"message_definition"], "ros1msg")
