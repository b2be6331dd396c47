"""One reader for all kinds of log: ROS 1 bags, ROS 2 bags (SQLite and MCAP storage) and MCAP files.

Sources: the formats' own descriptions, ROS wiki "Bags/Format/2.0" and mcap.dev "MCAP Format Specification".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from worldline.errors import FormatError, InputError, WorldlineError
from worldline.io.image_folders import SUFFIXES as IMAGE_SUFFIXES
from worldline.io.sensors.packages import damage

SUFFIXES = frozenset((".bag", ".mcap", ".db3"))
_MAGIC = (b"\x89MCAP0\r\n", b"#ROSBAG V")
_PACKED_MESSAGES = re.compile(r"compression_mode:\s*['\"]?message", re.IGNORECASE)
_NANO = 1e-9


@dataclass(frozen=True)
class Channel:
    """Messages of one publisher on one topic, as the file describes them.

    Attributes:
        type: as in ROS 2, `package/msg/Name`, or a name such as `foxglove.RawImage`.
        encoding: of the messages: "ros1", "cdr", "json", "protobuf", or another.
        definition: what the file says of their layout, in the format that `definition_format` names.
    """

    topic: str
    type: str
    encoding: str
    count: int
    definition: bytes = b""
    definition_format: str = ""


@runtime_checkable
class RawLog(Protocol):
    """A kind of log file, its messages still as bytes."""

    @property
    def kind(self) -> str:
        """What it is, for people."""
        ...

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All channels."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the file."""
        ...

    def messages(self, topics: frozenset[str]) -> Iterator[tuple[Channel, int, bytes]]:
        """Messages of these topics as they were recorded: channel, nanoseconds, bytes."""
        ...

    def recorded_ns(self) -> dict[str, list[int]]:
        """When each message of each topic was recorded, without decoding them."""
        ...

    def close(self) -> None:
        """Let the file go."""


def times_by_topic(messages: Iterable[tuple[Channel, int, bytes]]) -> dict[str, list[int]]:
    """The times of messages by their topics."""
    found: dict[str, list[int]] = {}
    for channel, recorded_ns, _ in messages:
        found.setdefault(channel.topic, []).append(recorded_ns)
    return found


@dataclass(frozen=True)
class Topic:
    """A topic: its type and how many messages it has."""

    name: str
    type: str
    count: int


@dataclass(frozen=True)
class Message:
    """One message: when it was recorded (seconds), and its content with the fields of its ROS type."""

    topic: str
    recorded_s: float
    content: Any


class Log:
    """An open log: topics, and their messages decoded."""

    def __init__(self, path: Path, raw: RawLog) -> None:
        self.path, self._raw = path, raw
        self._decoders: dict[Channel, Callable[[bytes], Any]] = {}
        self._recorded_ns: dict[str, list[int]] | None = None

    @property
    def name(self) -> str:
        """For people: the name of the file or folder."""
        return self.path.name

    @property
    def kind(self) -> str:
        """What kind of log it is, for people."""
        return self._raw.kind

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the file."""
        return self._raw.notes

    @property
    def topics(self) -> dict[str, Topic]:
        """All topics by name, in order."""
        found: dict[str, Topic] = {}
        for channel in sorted(self._raw.channels, key=lambda c: c.topic):
            count = channel.count + (found[channel.topic].count if channel.topic in found else 0)
            found[channel.topic] = Topic(channel.topic, channel.type, count)
        return found

    def messages(self, *topics: str) -> Iterator[Message]:
        """The messages of these topics, in the order of the file.

        Raises:
            FormatError: damaged. InputError: an encoding that cannot be read.
        """
        with told(self.path):
            for channel, recorded_ns, data in self._raw.messages(frozenset(topics)):
                if channel not in self._decoders:
                    self._decoders[channel] = _decoder(channel)
                yield Message(channel.topic, recorded_ns * _NANO, self._decoders[channel](data))

    def first(self, topic: str) -> Message | None:
        """The first message of a topic, None where it has none."""
        return next(self.messages(topic), None)

    def recorded_s(self, topic: str) -> Float[np.ndarray, "n"]:
        """When each message of a topic was recorded, seconds."""
        if self._recorded_ns is None:
            with told(self.path):
                self._recorded_ns = self._raw.recorded_ns()
        return np.sort(np.array(self._recorded_ns.get(topic, ()), dtype=np.int64)) * _NANO


def is_log(path: Path) -> bool:
    """Whether a path is meant as a log: by its suffix, by its first bytes, or a folder with a bag in it."""
    try:
        if path.is_dir():
            suffixes = {entry.suffix.lower() for entry in path.iterdir()}
            ours = _ros2_metadata(path) or suffixes & {".mcap", ".db3"} or _only_bag(path)
            return bool(ours) and not suffixes & IMAGE_SUFFIXES
        if path.suffix.lower() in SUFFIXES or path.name.lower().endswith(".bag.active"):
            return True
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as stream:
            return stream.read(8).startswith(_MAGIC)
    except OSError:
        return False


@contextmanager
def open_log(path: Path) -> Iterator[Log]:
    """A log, open for reading.

    Raises:
        InputError: no such path, not a log, a package is missing. FormatError: damaged or cut off.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give a log (.bag, .mcap, .db3, or the folder of a ROS 2 bag).")
    with told(path):
        raw = _opened(path)
    try:
        yield Log(path, raw)
    finally:
        raw.close()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns what parsers say about damaged files into one sentence."""
    try:
        yield
    except WorldlineError:
        raise
    except PermissionError as error:
        raise InputError(f"{path} cannot be read (permission denied); change its permissions.") from error
    except damage() as error:
        raise FormatError(f"{path} is damaged and cannot be read as a log; record or copy it again.") from error


def _opened(path: Path) -> RawLog:
    # here, so that each kind of file loads only its own packages
    from worldline.io.sensors.mcap_files import McapFiles
    from worldline.io.sensors.ros1_bags import open_bag
    from worldline.io.sensors.ros2_bags import Ros2Bag

    if path.is_dir():
        files = sorted(path.glob("*.mcap"))
        packed = _PACKED_MESSAGES.search(_ros2_metadata(path))
        if not files and (bag := _only_bag(path)) is not None:
            return _opened(bag)
        return McapFiles(files) if files and not packed else Ros2Bag(path)
    if path.stat().st_size == 0:
        raise FormatError(f"{path} is empty (zero bytes); record or copy it again.")
    suffix = path.suffix.lower()
    with path.open("rb") as stream:
        start = stream.read(8)
    if suffix == ".mcap" or start == _MAGIC[0]:
        return McapFiles([path])
    return Ros2Bag(path) if suffix == ".db3" else open_bag(path)


def _only_bag(folder: Path) -> Path | None:
    """The ROS 1 bag of a folder that holds one and nothing of ROS 2."""
    bags = list(folder.glob("*.bag"))
    return bags[0] if len(bags) == 1 and not _ros2_metadata(folder) and not list(folder.glob("*.db3")) else None


def _ros2_metadata(folder: Path) -> str:
    """The description of a ROS 2 bag, empty where there is none."""
    path = folder / "metadata.yaml"
    text = path.read_text(errors="replace") if path.is_file() else ""
    return text if "rosbag2_bagfile_information" in text else ""


def _decoder(channel: Channel) -> Callable[[bytes], Any]:
    from worldline.io.sensors.decoding import decoder

    return decoder(channel)
