"""Video: frames, their time stamps, and how stored pixels map to the original ones. No geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from worldline.errors import InputError


@dataclass(frozen=True, eq=False)
class Video:
    """A clip in memory or behind a memory map.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB; anything that indexes like an array (numpy, memmap), so long clips stay on disk.
        times_s: (T,) seconds, strictly increasing, as in the file (variable rate kept).
        name: for people; the stem of the file or folder, with `_` for what cannot be printed on one line.
        original_from_stored: (3, 3) maps stored uv (pixel centres at +0.5) to uv of the upright original image.
        original_size: (width, height) of the upright original image.
        facts: what the reader found out (codec, rotation, frames lost, focal_px of the stored image...).
        notes: sentences for the user: what was assumed, lost or changed while reading.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    times_s: Float[np.ndarray, "t"]
    name: str = "video"
    original_from_stored: Float[np.ndarray, "3 3"] | None = None
    original_size: tuple[int, int] | None = None
    facts: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if len(shape) != 4 or shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise InputError(f"frames must be (T, H, W, 3) uint8, not {shape} {self.frames.dtype}; convert them first.")
        times = np.asarray(self.times_s, dtype=np.float64)
        if times.shape != shape[:1]:
            raise InputError(f"{shape[0]} frames but {times.size} time stamps; give one stamp per frame.")
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise InputError("time stamps must be finite and strictly increasing; sort the frames or drop repeats.")
        object.__setattr__(self, "times_s", times)
        object.__setattr__(self, "name", "".join(c if c.isprintable() else "_" for c in self.name))
        if self.original_from_stored is None:
            object.__setattr__(self, "original_from_stored", np.eye(3))
        if self.original_size is None:
            object.__setattr__(self, "original_size", (shape[2], shape[1]))
        if self.facts is None:
            object.__setattr__(self, "facts", {})

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (np.asarray(self.frames[t]) for t in range(len(self)))

    @property
    def height(self) -> int:
        """Rows of a stored frame."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """Columns of a stored frame."""
        return int(self.frames.shape[2])

    def grey(self, frames: Sequence[int] | None = None) -> UInt8[np.ndarray, "t h w"]:
        """Luma (BT.601) of the chosen frames, or of all."""
        chosen = range(len(self)) if frames is None else frames
        weight = np.array([77, 150, 29], dtype=np.uint16)
        return np.stack([((np.asarray(self.frames[t]) @ weight) >> 8).astype(np.uint8) for t in chosen])
