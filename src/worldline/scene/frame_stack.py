"""Arrays with a row for every frame that stay on disk: written frame by frame, read when indexed.

A stack is a plain `.npy` file. It is read, not mapped, so that frames once looked at do not stay in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from worldline.scene.lazy import LazyArray


@dataclass(frozen=True, eq=False)
class FrameStack:
    """An array on disk, (T, ...), that becomes numpy when it is indexed along its first axis."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def open(cls, path: Path) -> FrameStack:
        """The array in a `.npy` file in C order.

        Raises:
            ValueError: not such a file, or one that was cut off. OSError: it cannot be read.
        """
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
            offset = stream.tell()
        stack = cls(path, dtype, shape, offset)
        if by_columns or path.stat().st_size != offset + stack.nbytes:
            raise ValueError(f"{path} is no whole stack of frames")
        return stack

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all frames."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[t] for t in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        """One frame, or an array of the frames that a slice or a list of numbers (then further indices) names."""
        first, *rest = index if isinstance(index, tuple) else (index,)
        if first is Ellipsis:
            first = slice(None)
        if isinstance(first, (int, np.integer)):
            return self._frame(range(len(self))[first])[tuple(rest)]
        frames = np.arange(len(self))[first]
        rows = [self._frame(int(t))[tuple(rest)] for t in frames]
        return np.stack(rows) if rows else np.empty((0, *self.shape[1:]), self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def _frame(self, frame: int) -> np.ndarray:
        count = int(np.prod(self.shape[1:], dtype=np.int64))
        start = self.offset + frame * count * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count, offset=start).reshape(self.shape[1:])


def write_frames(folder: Path, frames: Iterable[Mapping[str, np.ndarray]], count: int) -> None:
    """A folder with a stack for every name in `frames`, which are `count` mappings of equal shapes."""
    folder.mkdir()
    with ExitStack() as files:
        streams: dict[str, BinaryIO] = {}
        for row in frames:
            for name, values in row.items():
                array = np.ascontiguousarray(values)
                if name not in streams:
                    streams[name] = files.enter_context((folder / f"{name}.npy").open("wb"))
                    _write_header(streams[name], array, count)
                streams[name].write(array.data)


def open_frames(folder: Path) -> dict[str, LazyArray]:
    """All stacks of a folder, by name; empty where there is no such folder.

    Raises:
        ValueError: one of them is damaged.
    """
    stacks: dict[str, Any] = {path.stem: FrameStack.open(path) for path in sorted(folder.glob("*.npy"))}
    return stacks


def _write_header(stream: BinaryIO, array: np.ndarray, count: int) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(array.dtype),
        "fortran_order": False,
        "shape": (count, *array.shape),
    }
    np.lib.format.write_array_header_1_0(stream, header)
