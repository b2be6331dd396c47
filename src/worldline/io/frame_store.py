"""Where decoded frames go: an array in memory, or a `.npy` file mapped back, so that long clips stay on disk."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from worldline.scene.atomic import cannot_write, temporary_beside

Frame = UInt8[np.ndarray, "h w 3"]
Frames = UInt8[np.ndarray, "t h w 3"]


@runtime_checkable
class FrameStore(Protocol):
    """Takes frames one by one and hands them back as one array."""

    def add(self, frame: Frame) -> None:
        """Append a frame; all have the size of the first."""

    def finish(self) -> Frames:
        """All frames, (T, H, W, 3)."""
        ...

    def discard(self) -> None:
        """Drop everything; nothing is left on disk. Does nothing after `finish`."""


class MemoryFrames:
    """Frames in one array that grows in place, so that the peak is the clip itself and not twice that."""

    def __init__(self, expected: int = 0) -> None:
        self._expected, self._count = max(expected, 8), 0
        self._array = np.empty((0, 0, 0, 3), np.uint8)

    def add(self, frame: Frame) -> None:
        """Append a frame."""
        if self._count == 0:
            self._array = np.empty((self._expected, *frame.shape), np.uint8)
        elif self._count == len(self._array):
            self._array.resize((self._count * 3 // 2, *frame.shape), refcheck=False)
        self._array[self._count] = frame
        self._count += 1

    def finish(self) -> Frames:
        """The array, cut to the frames that came."""
        self._array.resize((self._count, *self._array.shape[1:]), refcheck=False)
        return self._array

    def discard(self) -> None:
        """Let the memory go."""
        self._array = np.empty((0, 0, 0, 3), np.uint8)


class DiskFrames:
    """Frames in a `.npy` file under a temporary name, renamed when complete and mapped copy-on-write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = temporary_beside(path)
        self._shape: tuple[int, ...] = (0, 0, 0, 3)
        self._file: BinaryIO | None = None

    def add(self, frame: Frame) -> None:
        """Append a frame to the file."""
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._temporary.open("wb")
                self._shape = (0, *frame.shape)
                self._write_header(self._file)
            self._file.write(np.ascontiguousarray(frame).data)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._shape = (self._shape[0] + 1, *self._shape[1:])

    def finish(self) -> Frames:
        """Complete the file and map it."""
        if self._file is None:
            return np.empty(self._shape, np.uint8)
        try:
            self._file.seek(0)
            self._write_header(self._file)
            self._file.close()
            self._temporary.replace(self._path)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return np.load(self._path, mmap_mode="c")

    def discard(self) -> None:
        """Remove the unfinished file."""
        if self._file is not None:
            with suppress(OSError):  # on a full disk, closing tries once more to write what is left
                self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _write_header(self, file: BinaryIO) -> None:
        # numpy pads the header so that the first axis may grow without moving the data behind it
        header = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(file, header)
