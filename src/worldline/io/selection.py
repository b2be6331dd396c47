"""Which frames of a clip are wanted, and how large: the options shared by video files and folders of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from worldline.errors import InputError


@dataclass(frozen=True)
class Selection:
    """Every n-th frame between two times (seconds after the first frame), at most so many, at most so large.

    Attributes:
        every: 1 keeps all frames; counting starts at the first frame that is not before `start_s`.
        max_side: the longer side of a stored frame, pixels; smaller frames are left as they are.
    """

    every: int = 1
    start_s: float | None = None
    end_s: float | None = None
    max_frames: int | None = None
    max_side: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("max_frames", self.max_frames)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}; leave it out to use all frames.")
        if self.max_side is not None and self.max_side < 16:
            raise InputError(f"max_side must be at least 16 pixels, not {self.max_side}; choose a larger one.")
        if self.start_s is not None and not np.isfinite(self.start_s):
            raise InputError(f"the start must be a time in seconds, not {self.start_s}; leave it out to begin at once.")
        if self.end_s is not None and np.isnan(self.end_s):
            raise InputError("the end must be a time in seconds, not nan; leave it out to go on to the last frame.")
        if self.start_s is not None and self.end_s is not None and self.end_s <= self.start_s:
            raise InputError(f"the end ({self.end_s} s) must come after the start ({self.start_s} s); swap them.")

    def is_before(self, time_s: float) -> bool:
        """Whether a frame at `time_s` comes too early."""
        return self.start_s is not None and time_s < self.start_s - _ROUNDING_S

    def is_after(self, time_s: float) -> bool:
        """Whether a frame at `time_s`, and so every later one, comes too late."""
        return self.end_s is not None and time_s > self.end_s + _ROUNDING_S

    def indices(self, times_s: Float[np.ndarray, "t"]) -> list[int]:
        """Which of the frames at `times_s` (seconds after the first) are wanted."""
        inside = [i for i, t in enumerate(times_s.tolist()) if not (self.is_before(t) or self.is_after(t))]
        return inside[:: self.every][: self.max_frames]

    def stored_size(self, width: float, height: float) -> tuple[int, int]:
        """Width and height in whole pixels, shrunk to `max_side` with the aspect kept."""
        scale = 1.0 if self.max_side is None else min(1.0, self.max_side / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))


_ROUNDING_S = 1e-6  # time stamps come as fractions; 0.1 s as a float must still include the frame at 1/10 s


def original_from_stored(original: tuple[int, int], stored: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    """The scale from stored to original uv, both sizes as (width, height); centres are at +0.5, so no offset."""
    return np.diag([original[0] / stored[0], original[1] / stored[1], 1.0])


def increasing(times_s: Float[np.ndarray, "t"], step_s: float) -> tuple[Float[np.ndarray, "t"], int]:
    """Strictly increasing time stamps, and how many had to be changed.

    Stamps that are missing (NaN) or not after all earlier ones are put evenly between their good neighbours;
    at the end of the clip, `step_s` apart.
    """
    times = np.asarray(times_s, dtype=np.float64)
    before = np.fmax.accumulate(np.concatenate([[-np.inf], times[:-1]]))
    good = np.flatnonzero(np.isfinite(times) & (times > before))
    if len(good) == len(times):
        return times, 0
    if not len(good):
        return np.arange(len(times)) * step_s, len(times)
    at = np.arange(len(times), dtype=np.float64)
    fixed = np.interp(at, good, times[good])
    fixed += step_s * (np.clip(at - good[-1], 0, None) + np.clip(at - good[0], None, 0))
    return fixed, len(times) - len(good)
