"""Which frames go through the network together, and the image features that windows have in common.

A long clip is cut into blocks of consecutive frames. A window is a block and a few frames of the windows before it, by
which the windows are joined (`joining.py`); its reference, the view that the network treats differently and whose
pixels are tracked, is the nearest of those, so that tracks can be handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.errors import InputError


@dataclass(frozen=True)
class Window:
    """Frames of a video that the network sees together.

    Attributes:
        frames: their indices in the video, the reference first, the others as time goes.
        shared: those that a window before this one has as well.
        own: those for which this window's answer counts; every frame of the video is one window's own.
    """

    frames: tuple[int, ...]
    shared: tuple[int, ...]
    own: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def reference(self) -> int:
        """The frame that is the network's first view."""
        return self.frames[0]

    def led_by_one_of(self, frames: Collection[int]) -> Window:
        """The window with the nearest of some frames as its reference; as it is if none of them is in it."""
        known = [f for f in self.frames if f in frames]
        if not known or self.reference in known:
            return self
        first = min(known, key=lambda f: (f not in self.shared and bool(self.shared), abs(f - self.reference)))
        return replace(self, frames=_with_first(first, self.frames))

    @property
    def own_views(self) -> Int[np.ndarray, "n"]:
        """Which views of the window its own frames are."""
        place = {frame: view for view, frame in enumerate(self.frames)}
        return np.array([place[frame] for frame in self.own], dtype=np.int64)


def plan(
    count: int,
    *,
    window: int,
    shared: int,
    reference: int | None = None,
    references: Sequence[int] = (),
    reach: int | None = None,
) -> tuple[Window, ...]:
    """Windows over a clip, in the order in which they are to be run.

    Args:
        count: frames of the clip. A clip that fits into one window is one.
        window: most frames of a window. They are about equally long, none is tiny.
        shared: frames that a window has in common with those before it.
        reference: the first window has this frame first; the others go from there to both ends. None: frame 0.
        references: further frames that come first once: the window of which each is one is run again in another order,
        so that the pixels of this frame are tracked too. Such a window has no frames of its own.
        reach: how many frames back shared frames may lie. Half of them are near, where the pictures are most alike, the
        others farther and farther back: what ties windows together over a longer stretch of time drifts less. None:
        three times the length of a window.

    Raises:
        InputError: no frames, a reference outside the clip, or numbers of frames that cannot be met.
    """
    first = 0 if reference is None else reference
    _check(count, window, shared, (first, *references))
    blocks, start = _blocks(count, window, shared, first)
    order = [*range(start, len(blocks)), *range(start - 1, -1, -1)]
    back = reach or 3 * window
    found = []
    for b in order:
        own = tuple(blocks[b])
        seen = () if b == start else _looked_back_at(blocks, start, b, shared, max(back, shared))
        found.append(Window(_with_first(first if b == start else seen[0], (*seen, *own)), tuple(sorted(seen)), own))
        found += [_again(found[-1], other) for other in references if other in own and other != found[-1].reference]
    return tuple(found)


def _check(count: int, window: int, shared: int, references: tuple[int, ...]) -> None:
    if count < 1:
        raise InputError("there are no frames to plan windows for; give a video with at least one.")
    if window < 1 or shared < 0 or shared >= window:
        raise InputError(f"windows of {window} frames cannot share {shared}; share fewer frames than a window has.")
    if shared == 0 and count > window:
        raise InputError(
            f"{count} frames do not fit into one window of {window}, and windows that share none cannot be joined; "
            "share at least one frame."
        )
    outside = [r for r in references if not 0 <= r < count]
    if outside:
        raise InputError(f"frame {outside[0]} cannot be a reference of frames 0 to {count - 1}; choose one of them.")


def _blocks(count: int, window: int, shared: int, reference: int) -> tuple[list[range], int]:
    """The frames cut into the own frames of windows, and which block comes first: it shares nothing and is longer."""
    windows = 1 if count <= window else 1 + -(-(count - window) // (window - shared))
    lengths = np.diff(np.linspace(0, count + (windows - 1) * shared, windows + 1).round().astype(int))
    best: tuple[float, int, np.ndarray] | None = None
    for start in range(windows):
        edges = np.concatenate([[0], np.cumsum(lengths - shared * (np.arange(windows) != start))])
        middle = (edges[start] + edges[start + 1] - 1) / 2
        if edges[start] <= reference < edges[start + 1] and (best is None or abs(middle - reference) < best[0]):
            best = (abs(middle - reference), start, edges)
    assert best is not None, "blocks of any start overlap, so that one holds the reference"
    _, start, edges = best
    return [range(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)], start


def _looked_back_at(blocks: list[range], start: int, block: int, shared: int, reach: int) -> tuple[int, ...]:
    """Frames of earlier windows, the nearest first, each about a factor farther back than the one before."""
    forwards = block > start
    available = blocks[block].start - blocks[start].start if forwards else blocks[start].stop - blocks[block].stop
    steps = np.geomspace(1, min(reach, available), shared).round().astype(int)
    steps = np.maximum(steps, 1 + np.arange(shared))
    return tuple(int(blocks[block].start - s if forwards else blocks[block].stop - 1 + s) for s in steps)


def _with_first(first: int, frames: Sequence[int]) -> tuple[int, ...]:
    return (first, *sorted(set(frames) - {first}))


def _again(window: Window, reference: int) -> Window:
    return Window(_with_first(reference, window.frames), tuple(sorted(window.frames)), ())


def last_uses(windows: Sequence[Window]) -> dict[int, int]:
    """Number of the last window that has a frame, for every frame."""
    return {frame: number for number, window in enumerate(windows) for frame in window.frames}


class FeatureCache:
    """Image features of windows, computed once per frame; only what later windows need is kept.

    The features of an image do not depend on the other views.
    """

    def __init__(self, windows: Sequence[Window], encode: Callable[[tuple[int, ...]], Tensor]) -> None:
        """Nothing is computed yet.

        Args:
            windows: all that may be asked for, from `plan`.
            encode: features of frames of the video, stacked along the first axis.
        """
        self._windows, self._encode, self._last = tuple(windows), encode, last_uses(windows)
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """How many frames are kept."""
        return len(self._kept)

    def features(self, number: int) -> Float[Tensor, "v *c"]:
        """Those of the views of a window, by its number in the plan; numbers only rise, some may be left out."""
        frames = self._windows[number].frames
        missing = tuple(frame for frame in frames if frame not in self._kept)
        fresh = dict(zip(missing, self._encode(missing), strict=True)) if missing else {}
        out = torch.stack([fresh[f] if f in fresh else self._kept[f] for f in frames])
        known = self._kept | {f: out[v] for v, f in enumerate(frames) if f in fresh}
        needed = {f: x for f, x in known.items() if self._last[f] > number}
        self._kept = {f: x.clone() if f in fresh else x for f, x in needed.items()}
        return out
