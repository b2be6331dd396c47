"""A path in, a Video out: encoded files through PyAV, folders of images through Pillow, logs by their camera."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldline.errors import FormatError, InputError
from worldline.io.encoded_video import read_encoded, write_video
from worldline.io.frame_store import DiskFrames, FrameStore, MemoryFrames
from worldline.io.image_folders import SUFFIXES, ImageFolder, find_images, read_images
from worldline.io.selection import Selection
from worldline.io.sensors.log_files import is_log
from worldline.scene.atomic import write_whole
from worldline.scene.journal import Progress, Silent, content_key, file_key
from worldline.scene.video import Video

__all__ = ["read_video", "video_key", "write_video"]


@dataclass(frozen=True)
class _LogInput:
    """A log and which of its topics are wanted."""

    path: Path
    topics: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, or those of its folder."""
        return (self.path,) if self.path.is_file() else tuple(sorted(p for p in self.path.iterdir() if p.is_file()))


_READER = 2  # part of every key: raise it when the same file would be read to other pixels, times or facts


def read_video(
    path: str | Path,
    *,
    every: int = 1,
    start_s: float | None = None,
    end_s: float | None = None,
    max_frames: int | None = None,
    max_side: int | None = None,
    strict: bool = False,
    topics: Sequence[str] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Video:
    """Read a video file, a folder of images, one image, or the camera of a log (ROS bag or MCAP).

    Frames come upright, with square pixels, 8-bit RGB. Time stamps are those of the file: seconds since the first
    frame for a video; for images, the time stamps in their names, or 30 frames per second. Whatever was lost,
    assumed or changed is said in `notes`; `facts` has codec, fps, rotation (degrees), declared_frames,
    decoded_frames, lost_frames, corrupt_frames, frame_numbers (in the whole input, from 0), and where known bits,
    transfer, focal_px (of the stored frames), files, clip_frames and clock ("names": times_s are the time stamps in
    the names or messages, "assumed": a frame rate was assumed), and topic (of a log).

    Args:
        every: keep every n-th frame.
        start_s, end_s: the part to read, seconds after the first frame, both ends included.
        max_frames: stop after so many frames. max_side: shrink so that the longer side has at most so many pixels.
        strict: a damaged or truncated clip is an error, not a note.
        topics: of a log, texts such as `camera=/cam0/image_raw`, in place of what would be chosen.
        cache: a folder in which the decoded frames are kept, mapped instead of held in memory; used again next time.
        progress: told the share that has been read.

    Raises:
        InputError: no such path, nothing to read in it, nothing in the chosen time, images of unlike sizes; a log
            without a camera, or whose times go backwards.
        FormatError: not a video or image, no frame in it, or (strict) damaged.
        OutputError: the cache cannot be written.
    """
    selection = Selection(every, start_s, end_s, max_frames, max_side)
    source = _source(Path(path), tuple(topics))
    if cache is None:
        return _read(source, selection, MemoryFrames(), strict, progress or Silent())
    kept = Path(cache) / f"frames-{_key(source, (selection, strict, *topics))[:16]}.npy"
    found = _from_cache(kept)
    if found is None:
        found = _read(source, selection, DiskFrames(kept), strict, progress or Silent())
        _write_sidecar(kept, found)
    return found


def video_key(path: str | Path, options: Any = None) -> str:
    """A key that changes with the content of the clip (the bytes of its file or images) and with `options`."""
    return _key(_source(Path(path)), options)


def _key(source: Path | ImageFolder | _LogInput, options: Any) -> str:
    files = (source,) if isinstance(source, Path) else source.files
    return content_key(_READER, [(f.name, file_key(f)) for f in files], options)


def _source(path: Path, topics: tuple[str, ...] = ()) -> Path | ImageFolder | _LogInput:
    """The video file, the images in order, or the log."""
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist; give a video file or a folder of images.")
        if is_log(path):
            return _LogInput(path, topics)
        if topics:
            raise InputError(f"{path} is not a log, so it has no topics; leave out --topic {topics[0]}.")
        if path.is_dir():
            return find_images(path)
        if not path.is_file():  # a pipe would be waited for, a device has no end
            raise InputError(f"{path} is a pipe or a device, not a file; save the video to a file first.")
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from error
    if empty:
        raise FormatError(f"{path} is empty (zero bytes); give a video file or a folder of images.")
    return ImageFolder(path.stem, (path,)) if path.suffix.lower() in SUFFIXES else path


def _read(
    source: Path | ImageFolder | _LogInput, selection: Selection, store: FrameStore, strict: bool, progress: Progress
) -> Video:
    try:
        if isinstance(source, _LogInput):
            # here, so that the readers of logs are loaded only for logs
            from worldline.io.sensors.recordings import video_of

            return video_of(source.path, source.topics, selection, store, progress, strict=strict)
        if isinstance(source, ImageFolder):
            return read_images(source, selection, store, progress)
        return read_encoded(source, selection, store, progress, strict=strict)
    finally:
        store.discard()


def _from_cache(kept: Path) -> Video | None:
    """The clip as it was read before, or None where that is missing or damaged."""
    try:
        said = json.loads(kept.with_suffix(".json").read_text())
        frames = np.load(kept, mmap_mode="c")
        said["original_from_stored"] = np.array(said["original_from_stored"])
        said["original_size"] = tuple(said["original_size"])
        return Video(frames=frames, **{**said, "times_s": np.array(said["times_s"]), "notes": tuple(said["notes"])})
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None


def _write_sidecar(kept: Path, video: Video) -> None:
    said = {k: v for k, v in vars(video).items() if k != "frames"}
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in said.items()}
    write_whole(kept.with_suffix(".json"), json.dumps(plain), overwrite=True)
