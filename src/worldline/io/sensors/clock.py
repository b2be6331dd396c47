"""When things happened: the stamps of messages, the times at which they were recorded, and one clock for a log.

A driver stamps a message with the time of the measurement; the recorder notes when it arrived, which is later. Stamps
are used where they are set. Where sensors stamp by unlike clocks, each is moved to the log's by the median of what
lies between stamp and arrival.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from worldline.errors import InputError
from worldline.io.sensors.log_files import Log, Message

_LOOKED_AT = 100
_SAME_CLOCK_S = 1.0
_SLOWEST_TRIGGER_S = 1.0
_TRIGGER = "std_msgs/msg/Header"


@dataclass(frozen=True, eq=False)
class Dates:
    """What each message of a topic says about its time.

    Attributes:
        stamp_s: (N,) its own stamp; NaN where it is not set.
        recorded_s: (N,) when it was recorded.
        number: (N,) its sequence number (ROS 1), -1 where there is none.
    """

    stamp_s: Float[np.ndarray, "n"]
    recorded_s: Float[np.ndarray, "n"]
    number: Int[np.ndarray, "n"]

    @property
    def stamped(self) -> bool:
        """Whether all messages have stamps."""
        return len(self.stamp_s) > 0 and bool(np.isfinite(self.stamp_s).all())

    @property
    def ahead_s(self) -> float:
        """By how much the clock of the stamps is ahead of the recorder's."""
        return float(np.median(self.stamp_s - self.recorded_s))


@dataclass(frozen=True)
class LogClock:
    """The clock of a log: that of one topic's stamps, ahead of the recorder's by `ahead_s` (None: the recorder's)."""

    topic: str | None
    ahead_s: float = 0.0


def stamp_s(message: Any) -> float:
    """Stamp of a message's header in seconds; NaN where it has none or it is zero."""
    header = getattr(message, "header", message)
    stamp = getattr(header, "stamp", None)
    if stamp is None or not (stamp.sec or stamp.nanosec):
        return float("nan")
    return float(stamp.sec) + float(stamp.nanosec) * 1e-9


def frame_of(message: Any) -> str:
    """The name of the frame that a message's header gives, without a leading slash."""
    return str(getattr(getattr(message, "header", None), "frame_id", "")).lstrip("/")


def sequence_number(message: Any) -> int:
    """The sequence number in the header of a ROS 1 message, -1 where there is none."""
    return int(getattr(getattr(message, "header", message), "seq", -1))


def dates_of(messages: Iterable[Message]) -> Dates:
    """The dates of messages of one topic."""
    rows = [(stamp_s(m.content), m.recorded_s, sequence_number(m.content)) for m in messages]
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return Dates(table[:, 0], table[:, 1], table[:, 2].astype(np.int64))


def clock_of(log: Log, topics: list[str]) -> LogClock:
    """The clock of the first of these topics whose messages are stamped."""
    for topic in topics:
        dates = dates_of(islice(log.messages(topic), _LOOKED_AT))
        if dates.stamped:
            return LogClock(topic, dates.ahead_s)
    return LogClock(None)


def times_on(clock: LogClock, log: Log, topic: str, dates: Dates) -> tuple[Float[np.ndarray, "n"], tuple[str, ...]]:
    """Times of a topic's messages on the log's clock, and what had to be assumed.

    Raises:
        InputError: they go backwards.
    """
    times_s, notes = _placed(clock, log, topic, dates)
    back = np.flatnonzero(np.diff(times_s) < 0)
    if len(back):
        raise backwards(topic, int(back[0]) + 1, float(times_s[back[0]] - times_s[back[0] + 1]))
    return times_s, notes


def backwards(topic: str, number: int, by_s: float) -> InputError:
    """The error about times that do not rise."""
    return InputError(
        f"the times of {topic} go backwards (message {number} is {by_s:.3g} s before the one that precedes it); cut "
        "the log there, or choose another topic with --topic."
    )


def _placed(clock: LogClock, log: Log, topic: str, dates: Dates) -> tuple[Float[np.ndarray, "n"], tuple[str, ...]]:
    if dates.stamped:
        apart_s = dates.ahead_s - clock.ahead_s
        if abs(apart_s) <= _SAME_CLOCK_S:
            return dates.stamp_s, ()
        note = (
            f"the stamps of {topic} are {apart_s:+.6g} s off those of {clock.topic or 'the recorder'}; they were moved "
            "by that, which is known only as well as messages arrive on time."
        )
        return dates.stamp_s - apart_s, (note,)
    trigger = _trigger_of(log, topic, dates)
    if trigger is not None:
        name, stamps_s = trigger
        delay_s = float(np.median(dates.recorded_s + clock.ahead_s - stamps_s))
        note = (
            f"{topic} has no stamps; those of its trigger {name} were used by sequence number (the messages were "
            f"recorded {1e3 * delay_s:.0f} ms later)."
        )
        return stamps_s, (note,)
    note = f"{topic} has no stamps; the times at which it was recorded were used, which come late by its delay."
    return dates.recorded_s + clock.ahead_s, (note,)


def _trigger_of(log: Log, topic: str, dates: Dates) -> tuple[str, Float[np.ndarray, "n"]] | None:
    """Stamps of the topic of bare headers whose sequence numbers are those of this topic."""
    if not len(dates.number) or (dates.number < 0).any() or (np.diff(dates.number) <= 0).any():
        return None
    for name in (t.name for t in log.topics.values() if t.type == _TRIGGER and t.count):
        found = dates_of(log.messages(name))
        where = np.searchsorted(found.number, dates.number)
        where = np.minimum(where, len(found.number) - 1)
        same = found.number[where] == dates.number
        late_s = dates.recorded_s - found.recorded_s[where]
        fits = same & (late_s >= 0) & (late_s < _SLOWEST_TRIGGER_S)
        if found.stamped and fits.all() and (np.diff(found.number) > 0).all():
            return name, found.stamp_s[where]
    return None
