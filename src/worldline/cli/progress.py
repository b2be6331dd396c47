"""What the user sees while work goes on: a live line on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from worldline.scene.journal import Progress, Silent


class PlainLines:
    """One line per stage, and one per quarter of a stage that takes longer than a few seconds."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._start = self._stage_start = time.monotonic()
        self._name = ""
        self._told = 0.0

    def stage(self, name: str) -> None:
        """Say that a stage begins."""
        self._name, self._told, self._stage_start = name, 0.0, time.monotonic()
        self._say(name)

    def share(self, done: float) -> None:
        """Say how far a long stage is and how long it will take, four times at most."""
        spent = time.monotonic() - self._stage_start
        if spent > 5 and self._told + 0.25 <= done < 1:
            self._told = done
            self._say(f"{self._name}: {done:.0%}, about {spent / done - spent:.0f} s left")

    def note(self, sentence: str) -> None:
        """Pass a sentence on."""
        self._say(f"note: {sentence}")

    def _say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {line}", file=self._stream, flush=True)


class LiveBar:
    """A bar for the current stage; finished stages stay above it with the time they took."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._name = ""
        self._start = time.monotonic()

    def stage(self, name: str) -> None:
        """Close the stage before and begin another."""
        self.close()
        self._name, self._start = name, time.monotonic()
        self._task = self._bars.add_task(name, total=1.0)

    def share(self, done: float) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=done)

    def note(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._bars.console.print(f"note: {sentence}", markup=False, highlight=False, style="yellow")

    def close(self) -> None:
        """Turn the bar of the current stage into a line with its time."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._bars.console.print(f"{self._name:<28}{time.monotonic() - self._start:7.1f} s", highlight=False)
            self._task = None


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[Progress]:
    """Progress for the current stderr: live on a terminal, lines in a file or pipe, nothing if quiet."""
    if quiet:
        yield Silent()
    elif not sys.stderr.isatty():
        yield PlainLines(sys.stderr)
    else:
        columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        console = Console(stderr=True)
        with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
            live = LiveBar(bars)
            yield live
            live.close()
