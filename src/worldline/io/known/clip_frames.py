"""Which frames of the input a clip consists of, and which file of a folder belongs to which of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.errors import InputError
from worldline.scene.video import Video

ASSOCIATION_S = 0.02
"""The largest difference of two time stamps that mean the same frame (as in the tools of the TUM RGB-D benchmark)."""

_SECONDS = re.compile(r"\d+\.\d+")
_NANOSECONDS = re.compile(r"\d{18,19}")


@dataclass(frozen=True, eq=False)
class ClipFrames:
    """The frames that were read, as their input names them.

    Attributes:
        times_s: (T,) as in the video. numbers: (T,) position in the whole input, counted from 0.
        clip_frames: how many frames the whole input has.
        files: (T,) names of the images; None for an encoded video.
        stamped: whether `times_s` are time stamps of the recording, so that they can be compared with other files.
        timed: whether `times_s` are known at all; False where a frame rate was assumed.
    """

    times_s: Float[np.ndarray, "t"]
    numbers: Int[np.ndarray, "t"]
    clip_frames: int
    files: tuple[str, ...] | None = None
    stamped: bool = False
    timed: bool = True
    name: str = "the clip"

    @classmethod
    def of(cls, video: Video) -> ClipFrames:
        """The frames of a video, from what its reader found out."""
        facts = video.facts or {}
        numbers = np.asarray(facts.get("frame_numbers", range(len(video))), dtype=np.int64)
        files = tuple(facts["files"]) if "files" in facts else None
        count = max(int(facts.get("clip_frames") or facts.get("declared_frames") or 0), int(numbers[-1]) + 1)
        clock = facts.get("clock", "file")
        return cls(video.times_s, numbers, count, files, clock == "names", clock != "assumed", video.name)

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def stems(self) -> tuple[str, ...] | None:
        """Names of the images without suffix."""
        return None if self.files is None else tuple(Path(f).stem for f in self.files)

    @property
    def span(self) -> str:
        """First and last frame, for people."""
        if self.files is not None:
            return f"{self.files[0]} to {self.files[-1]}"
        return f"frames {self.numbers[0]} to {self.numbers[-1]}"


@dataclass(frozen=True, eq=False)
class Matched:
    """The file of each frame, None where there is none, and how they were found (for a note)."""

    files: tuple[Path | None, ...]
    how: str

    @property
    def known(self) -> Bool[np.ndarray, "t"]:
        """(T,) which frames have a file."""
        return np.array([file is not None for file in self.files])

    @property
    def first(self) -> Path:
        """The first file there is."""
        return next(file for file in self.files if file is not None)


def stamp_s(stem: str) -> float | None:
    """The time stamp that a name is: seconds with a point, or nanoseconds of 18 or 19 digits."""
    if _SECONDS.fullmatch(stem):
        return float(stem)
    return int(stem) / 1e9 if _NANOSECONDS.fullmatch(stem) else None


def on_the_clock(
    times_s: Float[np.ndarray, "n"], offset_s: float, name: str, clip: ClipFrames
) -> tuple[Float[np.ndarray, "n"], bool, tuple[str, ...]]:
    """Times of a file on the clock of the frames, whether that begins with the file's first, and what was assumed.

    Time stamps are compared as they are. A video begins at 0: times that fit into its length are taken as they are,
    others are counted from the first.
    """
    given_s = times_s + offset_s
    if clip.stamped or (given_s[0] > -1 and given_s[-1] <= clip.times_s[-1] + 1):
        return given_s, False, ()
    note = f"the times of {name} and of {clip.name} were both counted from their first."
    return given_s - times_s[0], offset_s == 0, (note,)


def match_files(
    files: Sequence[Path], clip: ClipFrames, what: str, *, stamps_s: Sequence[float] | None = None
) -> Matched:
    """The file that belongs to each frame.

    By time stamps; in order where there are as many files as frames in the input; by equal names; by the numbers in
    the names; in order where there are as many files as frames in use.

    Args:
        files: in natural order. what: the folder's name, for errors.
        stamps_s: times of the files where a list gives them; otherwise they are read from the names.

    Raises:
        InputError: no file belongs to a frame, or two to the same.
    """
    if not files:
        raise InputError(f"{what} holds no files that can be used; check the folder.")
    found = _by_time(files, clip, stamps_s)
    if found is None and len(files) == clip.clip_frames:
        found = _one_each(files, clip)
    found = found or _by_name(files, clip) or _by_number(files, clip, what)
    if found is None and len(files) == len(clip):
        found = Matched(tuple(files), "in order")
    if found is None or not found.known.any():
        raise InputError(
            f"none of the {len(files)} files in {what} ({files[0].name} to {files[-1].name}) belongs to a frame of "
            f"{clip.name} ({clip.span}); name them after the frames, or give one for every frame."
        )
    return found


def _one_each(files: Sequence[Path], clip: ClipFrames) -> Matched:
    """As many files as frames: in order, whatever their names, since equal names have an equal order."""
    hits = tuple(files[n] for n in clip.numbers)
    return Matched(hits, "by name" if tuple(file.stem for file in hits) == clip.stems else "in order")


def _by_name(files: Sequence[Path], clip: ClipFrames) -> Matched | None:
    by_stem = {file.stem: file for file in files}
    hits = tuple(by_stem.get(stem) for stem in clip.stems or ())
    return Matched(hits, "by name") if any(hits) else None


def _by_time(files: Sequence[Path], clip: ClipFrames, stamps_s: Sequence[float] | None) -> Matched | None:
    stamps = [stamp_s(file.stem) for file in files] if stamps_s is None else list(stamps_s)
    if not clip.stamped or any(s is None for s in stamps):
        return None
    nearest = nearest_in_time(clip.times_s, np.array(stamps, dtype=np.float64), ASSOCIATION_S)
    return Matched(tuple(files[i] if i >= 0 else None for i in nearest), "by time stamp")


def nearest_in_time(
    wanted_s: Float[np.ndarray, "t"], given_s: Float[np.ndarray, "n"], limit_s: float
) -> Int[np.ndarray, "t"]:
    """For each wanted time the given one that is nearest, -1 where it is too far or nearer to another wanted one."""
    there = _nearest(wanted_s, given_s)
    back = _nearest(given_s, wanted_s)[there]
    good = (np.abs(given_s[there] - wanted_s) <= limit_s) & (back == np.arange(len(wanted_s)))
    return np.where(good, there, -1)


def _nearest(wanted: Float[np.ndarray, "t"], given: Float[np.ndarray, "n"]) -> Int[np.ndarray, "t"]:
    order = np.argsort(given, kind="stable")
    ranked = given[order]
    after = np.clip(np.searchsorted(ranked, wanted), 0, len(given) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.where(np.abs(ranked[before] - wanted) <= np.abs(ranked[after] - wanted), before, after)
    return order[closer]


def _by_number(files: Sequence[Path], clip: ClipFrames, what: str) -> Matched | None:
    of_file = name_numbers([file.stem for file in files])
    if of_file is None:
        return None
    wanted = None if clip.stems is None else name_numbers(clip.stems)
    how = "by the numbers in their names"
    if wanted is None:
        start = int(min(of_file) == 1 and max(of_file) == clip.clip_frames)
        wanted = [int(n) + start for n in clip.numbers]
        how = f"by the numbers in their names, counted from {start}"
    by_number = dict(zip(of_file, files, strict=True))
    if len(by_number) < len(files) and any(of_file.count(n) > 1 for n in wanted if n in by_number):
        raise InputError(f"{what} has more than one file for the same frame; leave one of each.")
    return Matched(tuple(by_number.get(n) for n in wanted), how)


def name_numbers(stems: Sequence[str]) -> list[int] | None:
    """The number in each name that tells the frames apart; None where a name has none."""
    groups = [re.findall(r"\d+", stem) for stem in stems]
    shared = min(len(g) for g in groups)
    if shared == 0:
        return None
    columns = list(zip(*(g[:shared] for g in groups), strict=True))
    best = max(columns, key=lambda column: (len(set(column)), max(map(len, column))))
    return [int(digits) for digits in best]
