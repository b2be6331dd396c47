"""Stages that can be interrupted: each stage's arrays are kept under a content key, written by rename.

A stage is computed once. Running the same command again finds its file and goes on behind it; a changed input,
setting or version changes the key, so nothing stale is ever read. Results are handed on only in the form that is
stored, so a resumed run sees the same bits as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zipfile import BadZipFile

import numpy as np

import worldline
from worldline.scene.atomic import written_whole
from worldline.scene.frame_stack import open_frames, write_frames
from worldline.scene.lazy import LazyArray

Arrays = dict[str, np.ndarray]


@runtime_checkable
class Progress(Protocol):
    """What long work reports to: the command line draws a bar, a library user passes nothing."""

    def stage(self, name: str) -> None:
        """A new stage begins."""

    def share(self, done: float) -> None:
        """The share of the current stage that is done, 0 to 1."""

    def note(self, sentence: str) -> None:
        """Something the user should know."""


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str) -> None:
        """Do nothing."""

    def share(self, done: float) -> None:
        """Do nothing."""

    def note(self, sentence: str) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class StageTime:
    """What one stage cost: wall and CPU seconds of this process, peak memory so far, and whether it was found."""

    name: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    resumed: bool


@dataclass
class Clock:
    """A stage under way: whoever runs it may say that its result was found."""

    resumed: bool = False


class Journal:
    """Runs stages in order, keeps their results in `folder` (None: in memory only), and their times.

    `key` is any JSON-like description of everything the stages depend on; each stage adds its name and settings.
    """

    def __init__(self, key: Any, folder: Path | None = None, progress: Progress | None = None) -> None:
        self._key = content_key(worldline.__version__, key)
        self._folder = folder
        self._kept: dict[str, Arrays] = {}
        self.progress: Progress = progress or Silent()
        self.times: list[StageTime] = []

    def run(self, name: str, compute: Callable[[], Arrays], *, settings: Any = None) -> Arrays:
        """The stage's arrays, from its file if it is there, else computed, stored, and then handed on.

        Scalars and text may be stored as 0-d arrays; use `pack` and `unpack` for JSON-like values.
        """
        key = content_key(self._key, name, settings)
        with self.timed(name) as clock:
            found = self._found(name, key)
            clock.resumed = found is not None
            return self._keep(name, key, compute()) if found is None else found

    def again(self, name: str, *, settings: Any = None) -> Arrays:
        """The arrays of a stage that has been run, for another look at them; not a stage of its own."""
        key = content_key(self._key, name, settings)
        found = self._found(name, key)
        assert found is not None, f"stage {name} was run before"
        return found

    def run_by_frame(
        self, name: str, compute: Callable[[], Iterable[Arrays]], count: int, *, settings: Any = None
    ) -> dict[str, LazyArray]:
        """A stage of `count` frames, each a set of arrays of the same shapes, which are stacked by frame.

        With a folder they are written as they come and handed on as arrays on disk, so that memory stays flat.
        """
        key = content_key(self._key, name, settings)
        with self.timed(name) as clock:
            found = self._found_frames(name, key)
            clock.resumed = bool(found)
            return found or self._keep_frames(name, key, compute(), count)

    @contextmanager
    def timed(self, name: str) -> Iterator[Clock]:
        """A stage whose result is no set of arrays (a file of its own): shown and timed, but not kept."""
        self.progress.stage(name)
        clock, wall, cpu = Clock(), time.perf_counter(), time.process_time()
        yield clock
        spent = time.perf_counter() - wall, time.process_time() - cpu
        self.times.append(StageTime(name, *spent, _peak_mb(), clock.resumed))
        self.progress.share(1.0)

    def _found(self, name: str, key: str) -> Arrays | None:
        return self._kept.get(key) if self._folder is None else _read(self._folder / _file_name(name, key))

    def _found_frames(self, name: str, key: str) -> dict[str, LazyArray]:
        if self._folder is None:
            return self._kept.get(key, {})
        folder = self._folder / _folder_name(name, key)
        try:
            return {**open_frames(folder)}
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)  # damaged on disk: computing again is always right
            return {}

    def _keep_frames(self, name: str, key: str, frames: Iterable[Arrays], count: int) -> dict[str, LazyArray]:
        if self._folder is None:
            rows = list(frames)
            self._kept[key] = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
            return self._kept[key]
        folder = self._folder / _folder_name(name, key)
        with written_whole(folder) as temporary:
            write_frames(temporary, frames, count)
        return {**open_frames(folder)}

    def _keep(self, name: str, key: str, made: Arrays) -> Arrays:
        arrays = {k: np.asarray(v) for k, v in made.items()}
        if self._folder is None:
            self._kept[key] = arrays
        else:
            _write(self._folder / _file_name(name, key), arrays)
        return arrays


def pack(value: Any) -> np.ndarray:
    """A JSON-like value (or dataclass) as a 0-d text array, to travel among a stage's arrays."""
    return np.array(json.dumps(_plain(value)))


def unpack(array: np.ndarray) -> Any:
    """The value behind `pack`."""
    return json.loads(str(array))


def content_key(*parts: Any) -> str:
    """A hash of JSON-like values, dataclasses, paths and arrays; equal content gives an equal key."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(str((part.dtype, part.shape)).encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(json.dumps(_plain(part), sort_keys=True).encode())
        digest.update(b"\x00")
    return digest.hexdigest()


def file_key(path: Path) -> str:
    """A hash of a file's bytes, or of all files of a folder with their names."""
    digest = hashlib.blake2b(digest_size=20)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _file_name(name: str, key: str) -> str:
    return f"{name.replace('/', '-')}-{key[:16]}.npz"


def _folder_name(name: str, key: str) -> str:
    return f"{name.replace('/', '-')}-{key[:16]}.frames"


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # bytes on macOS, kilobytes elsewhere


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: _plain(asdict(value))}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_plain(v) for v in value]
        return sorted(items, key=str) if isinstance(value, (set, frozenset)) else items
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if isinstance(value, np.ndarray):
        return content_key(value) if value.size > 64 else value.tolist()
    if isinstance(value, Path):
        return str(value)
    return value


def _read(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {k: stored[k] for k in stored.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, BadZipFile):
        path.unlink(missing_ok=True)  # damaged on disk: computing again is always right
        return None


def _write(path: Path, arrays: Arrays) -> None:
    with written_whole(path, overwrite=True) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
