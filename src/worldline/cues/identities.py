"""Numbers of objects: regions linked along the flow, through meetings, partings and short absences.

Every pixel keeps the number that the flow brings to it, so objects that meet keep theirs. Numbers that share a region
for most of the shorter one's life were parts of one object. An object that was lost for a moment is found again by
place, size and colours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import distance_transform_edt

from worldline.cues.appearance import colour_index
from worldline.cues.parallax import FlowChain

BINS = (8, 12, 12)


@dataclass(frozen=True)
class IdentitySettings:
    """Areas are shares of the image, times in seconds."""

    least_area: float = 0.001
    """Smaller regions are dropped."""
    least_frames: int = 4
    """Objects that live shorter are dropped."""
    share: float = 0.15
    """Of a region or of its own former area, from which a number that the flow brings is kept."""
    together: float = 0.6
    """Share of the shorter life that two numbers spend in one region if they are one object."""
    absent_s: float = 1.0
    """Longest absence after which an object is known again."""
    alike: float = 0.6
    """Least overlap of colours (Bhattacharyya) to be known again."""


@dataclass(eq=False)
class _Last:
    """An object when it was last seen."""

    frame: int
    centre: np.ndarray
    area: int
    colours: np.ndarray


@dataclass(eq=False)
class _Book:
    """What is known of the numbers given so far."""

    fresh: int
    last: dict[int, _Last] = field(default_factory=dict)
    life: dict[int, int] = field(default_factory=dict)
    shared: dict[tuple[int, int], int] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)

    def root(self, number: int) -> int:
        while number in self.same:
            number = self.same[number]
        return number


def identities(
    chain: FlowChain,
    images: UInt8[np.ndarray, "t h w 3"],
    moving: Bool[np.ndarray, "t h w"],
    given: dict[int, Int[np.ndarray, "h w"]],
    step_s: float,
    settings: IdentitySettings,
) -> Int[np.ndarray, "t h w"]:
    """Numbers of objects, at most 255, the largest first after those of the `given` frames, which stay as they are."""
    taken = sorted({int(n) for ids in given.values() for n in np.unique(ids) if n})
    book = _Book(fresh=max(taken, default=0) + 1)
    ids = np.zeros(moving.shape, dtype=np.int32)
    for t, inside in enumerate(moving):
        before = chain.carried_ids(ids[t - 1], t) if t else np.zeros_like(ids[0])
        if t in given:
            ids[t] = given[t]
            _recognise(book, before, ids[t], taken)
        else:
            _number(book, ids[t], inside, before, images[t], t, round(settings.absent_s / step_s), settings)
        _note(book, ids[t], images[t], t)
    _join_parts(book, taken, settings)
    return _renumbered(ids, book, taken, settings.least_frames)


def _number(
    book: _Book, ids: np.ndarray, inside: np.ndarray, before: np.ndarray, image: np.ndarray, frame: int, absent: int,
    settings: IdentitySettings,
) -> None:  # fmt: skip
    """Numbers for the regions of one frame, written into `ids`."""
    count, regions, stats, centres = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=4)
    for k in range(1, count):
        area = int(stats[k, cv2.CC_STAT_AREA])
        if area < settings.least_area * inside.size:
            continue
        u, v, width, height = stats[k, :4]
        box = np.s_[v : v + height, u : u + width]
        region = regions[box] == k
        kept = _kept(book, before[box], region, area, settings.share)
        if not kept:
            kept = [_found_again(book, image[box][region], centres[k], area, frame, absent, settings)]
        ids[box][region] = _nearest(before[box], region, kept)[region]
        for i, a in enumerate(kept):
            for b in kept[i + 1 :]:
                pair = min(a, b), max(a, b)
                book.shared[pair] = book.shared.get(pair, 0) + 1


def _kept(book: _Book, before: np.ndarray, region: np.ndarray, area: int, share: float) -> list[int]:
    """Numbers that the flow brings into a region, those of the most pixels first."""
    pixels = np.bincount(before[region], minlength=1)
    pixels[0] = 0
    found = [int(n) for n in np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)]]
    return [n for n in found if pixels[n] > share * min(area, book.last[n].area)]


def _nearest(before: np.ndarray, region: np.ndarray, kept: list[int]) -> Int[np.ndarray, "h w"]:
    """Every pixel's own number if that is kept, else that of the nearest pixel that has one."""
    if len(kept) == 1:
        return np.full(region.shape, kept[0], dtype=np.int32)
    own = np.where(region & np.isin(before, kept), before, 0)
    v, u = distance_transform_edt(own == 0, return_distances=False, return_indices=True)
    return own[v, u]


def _found_again(
    book: _Book, pixels: np.ndarray, centre: np.ndarray, area: int, frame: int, absent: int, settings: IdentitySettings
) -> int:
    """The number of an object that was lost not long ago, near by, of similar size and colours; else a new one."""
    colours, reach = _colours(pixels), 1.5 * np.sqrt(area)
    best, number = settings.alike, 0
    for n, last in book.last.items():
        near = np.linalg.norm(last.centre - centre) < reach + 0.05 * reach * (frame - last.frame)
        if 1 < frame - last.frame <= absent and near and 0.4 < last.area / area < 2.5:
            overlap = float(np.sqrt(last.colours * colours).sum())
            best, number = (overlap, n) if overlap > best else (best, number)
    if number:
        return number
    book.fresh += 1
    return book.fresh - 1


def _colours(pixels: np.ndarray) -> Float[np.ndarray, "n"]:
    counts = np.bincount(colour_index(pixels[None], BINS).reshape(-1), minlength=int(np.prod(BINS)))
    return counts / max(counts.sum(), 1)


def _note(book: _Book, ids: np.ndarray, image: np.ndarray, frame: int) -> None:
    for n in np.unique(ids[ids > 0]):
        inside = ids == n
        centre = np.argwhere(inside).mean(0)[::-1]
        book.last[int(n)] = _Last(frame, centre, int(inside.sum()), _colours(image[inside]))
        book.life[int(n)] = book.life.get(int(n), 0) + 1


def _recognise(book: _Book, before: np.ndarray, given: np.ndarray, taken: list[int]) -> None:
    """Numbers that the flow brings onto a given object, and that are not given themselves, are that object."""
    for n in {int(x) for x in np.unique(before)} - {0, *taken}:
        there = np.bincount(given[before == n])
        best = int(there.argmax())
        if best and book.root(n) == n:
            book.same[n] = best


def _join_parts(book: _Book, taken: list[int], settings: IdentitySettings) -> None:
    for (a, b), frames in sorted(book.shared.items(), key=lambda item: -item[1]):
        one, other = sorted((book.root(a), book.root(b)), key=lambda n: (n not in taken, -book.life.get(n, 0)))
        if one != other and other not in taken and frames >= settings.together * min(book.life[a], book.life[b]):
            book.same[other] = one


def _renumbered(ids: np.ndarray, book: _Book, taken: list[int], least_frames: int) -> np.ndarray:
    """Lasting objects only, the given ones as they were, the others by size, at most 255."""
    alias = np.array([book.root(n) for n in range(book.fresh)])
    ids = alias[ids]
    present = np.stack([np.bincount(frame.reshape(-1), minlength=book.fresh) for frame in ids])
    lasting = (present > 0).sum(0) >= min(least_frames, len(ids))
    lasting[[0, *taken]] = False
    order = np.argsort(-present.sum(0) * lasting, kind="stable")[: int(lasting.sum())]
    free = [n for n in range(1, 256) if n not in taken]
    number = np.zeros(book.fresh, dtype=np.uint8)
    number[taken] = taken
    number[order[: len(free)]] = free[: len(order)]
    return number[ids]
