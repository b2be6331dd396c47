"""MCAP files: one, or the parts of a ROS 2 bag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from worldline.errors import FormatError
from worldline.io.sensors.log_files import Channel, times_by_topic
from worldline.io.sensors.packages import package

_MAGIC = b"\x89MCAP0\r\n"
_RECORD_HEADER = 1 + 8  # operation and length
_ENCODINGS = {"ros1": "ros1", "ros1msg": "ros1", "cdr": "cdr", "json": "json", "protobuf": "protobuf"}


class McapFiles:
    """One or more MCAP files, read one after the other."""

    kind = "MCAP"

    def __init__(self, paths: Sequence[Path]) -> None:
        self.notes: tuple[str, ...] = ()
        self._files = ExitStack()
        self._parts = [self._files.enter_context(path.open("rb")) for path in paths]
        try:
            for path, stream in zip(paths, self._parts, strict=True):
                _check_whole(path, stream)
            self._channels = _channels(self._parts)
        except BaseException:
            self._files.close()
            raise

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All channels of all parts, each once."""
        return tuple(self._channels.values())

    def messages(self, topics: frozenset[str]) -> Iterator[tuple[Channel, int, bytes]]:
        """Messages in order of time where the file has an index, else in its own order."""
        for stream in self._parts:
            yield from self._messages(stream, topics)

    def recorded_ns(self) -> dict[str, list[int]]:
        """From the index of the messages where there is one, else from the messages."""
        found: dict[str, list[int]] = {}
        for stream in self._parts:
            times = _indexed_times(stream) or times_by_topic(self._messages(stream, None))
            for topic, recorded_ns in times.items():
                found.setdefault(topic, []).extend(recorded_ns)
        return found

    def close(self) -> None:
        """Close all parts."""
        self._files.close()

    def _messages(self, stream: Any, topics: frozenset[str] | None) -> Iterator[tuple[Channel, int, bytes]]:
        ordered = _indexed(stream)
        for schema, channel, message in _reader(stream).iter_messages(topics=topics, log_time_order=ordered):
            yield self._channels[_key(channel, schema)], message.log_time, message.data


def _reader(stream: Any) -> Any:
    stream.seek(0)
    return package("mcap.reader").make_reader(stream, validate_crcs=True)


def _indexed(stream: Any) -> bool:
    summary = _reader(stream).get_summary()
    return summary is not None and bool(summary.chunk_indexes)


def _indexed_times(stream: Any) -> dict[str, list[int]]:
    """Times by topic from the records that index each chunk, so that no chunk is unpacked; empty without them."""
    summary = _reader(stream).get_summary()
    chunks = [] if summary is None else summary.chunk_indexes
    if any(not chunk.message_index_offsets for chunk in chunks):
        return {}
    found: dict[str, list[int]] = {}
    for channel, at in ((c, at) for chunk in chunks for c, at in chunk.message_index_offsets.items()):
        stream.seek(at + _RECORD_HEADER)
        index = package("mcap.records").MessageIndex.read(package("mcap.data_stream").ReadDataStream(stream))
        found.setdefault(summary.channels[channel].topic, []).extend(time for time, _ in index.records)
    return found


def _check_whole(path: Path, stream: Any) -> None:
    """Refuse what is no MCAP file, or one whose end is missing."""
    start = stream.read(len(_MAGIC))
    if start != _MAGIC:
        raise FormatError(f"{path} is not an MCAP file (it begins with {start!r}); give the log itself.")
    size = stream.seek(0, 2)
    stream.seek(max(size - len(_MAGIC), 0))
    if size <= len(_MAGIC) or stream.read() != _MAGIC:
        raise FormatError(f"{path} is cut off (its end is missing); copy it again, or repair it with `mcap recover`.")


def _key(channel: Any, schema: Any) -> tuple[str, str, str]:
    return channel.topic, "" if schema is None else schema.name, channel.message_encoding


def _channels(parts: Sequence[Any]) -> dict[tuple[str, str, str], Channel]:
    found: dict[tuple[str, str, str], Channel] = {}
    for stream in parts:
        for key, channel in _channels_of(stream):
            count = channel.count + (found[key].count if key in found else 0)
            found[key] = Channel(**{**vars(channel), "count": count})
    return found


def _channels_of(stream: Any) -> list[tuple[tuple[str, str, str], Channel]]:
    """From the summary, or, where that is missing, from the messages themselves."""
    summary = _reader(stream).get_summary()
    if summary is not None and summary.statistics is not None and summary.channels:
        counts = summary.statistics.channel_message_counts
        triples = [(c, summary.schemas.get(c.schema_id), counts.get(c.id, 0)) for c in summary.channels.values()]
        return [(_key(c, s), _channel(c, s, n)) for c, s, n in triples]
    return [(_key(c, s), _channel(c, s, 1)) for s, c, _ in _reader(stream).iter_messages(log_time_order=False)]


def _channel(channel: Any, schema: Any, count: int) -> Channel:
    name = "" if schema is None else schema.name
    layout = "" if schema is None else schema.encoding
    encoding = _ENCODINGS.get(channel.message_encoding, channel.message_encoding)
    return Channel(channel.topic, _ros2_name(name), encoding, count, b"" if schema is None else schema.data, layout)


def _ros2_name(name: str) -> str:
    package_name, slash, message = name.partition("/")
    return f"{package_name}/msg/{message}" if slash and "/" not in message else name
