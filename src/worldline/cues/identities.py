"""Numbers of objects: regions linked along the flow, through meetings, partings and short absences.

1. Every pixel keeps the number that the flow brings to it, so objects that meet keep theirs. A number whose pixels are
   in two regions is split: the smaller part gets a new one, or that of an object that was lost for a moment and has
   its place, size and colours.
2. Numbers that are near each other for most of their lives and go the same way are joined again (`companions`).
3. What parted for good is told apart before it parted too: the numbers are carried back along the flow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import distance_transform_edt

from worldline.cues.appearance import colour_index
from worldline.cues.companions import Company, Parts, objects
from worldline.cues.parallax import FlowChain

BINS = (8, 12, 12)

CELLS = int(np.prod(BINS))
COLOUR_FLOOR, COLOUR_MOST, COLOUR_WEIGHT = 2.0, 3.0, 0.5
"""Pixels added to every colour, greatest log odds of a pixel's colour, and its weight beside a pixel of flow."""

FORGET = 0.95
"""Of its former area, what an object is still thought to have a frame later."""

REACH = np.ones((7, 7), dtype=np.uint8)
"""How far from where the flow brought it a number may go to pixels of its colours."""


@dataclass(frozen=True)
class IdentitySettings:
    """Areas are shares of the image, times in seconds."""

    least_area: float = 0.001
    """Smaller regions are dropped."""
    least_frames: int = 4
    """Objects that live shorter are dropped."""
    share: float = 0.15
    """Of a region or of its own former area, from which a number that the flow brings is kept."""
    absent_s: float = 1.0
    """Longest absence after which an object is known again."""
    alike: float = 0.6
    """Least overlap of colours (Bhattacharyya) to be known again."""
    company: Company = field(default_factory=Company)
    """When numbers are joined."""


@dataclass(eq=False)
class _Last:
    """An object when it was last seen, and how large it was before something began to hide it."""

    frame: int
    centre: np.ndarray
    area: int
    whole: float


class _Split(NamedTuple):
    """From this frame on a part has its own number."""

    frame: int
    part: int
    whole: int


class _Region(NamedTuple):
    """A connected region of a frame: its box, its pixels in it, its centre."""

    box: tuple[slice, slice]
    inside: Bool[np.ndarray, "h w"]
    centre: Float[np.ndarray, "2"]


@dataclass(eq=False)
class _Book:
    """What is known of the numbers given so far; `colours` are sums over all their pixels."""

    fresh: int
    taken: list[int]
    last: dict[int, _Last] = field(default_factory=dict)
    colours: dict[int, np.ndarray] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    splits: list[_Split] = field(default_factory=list)

    def new(self) -> int:
        self.fresh += 1
        return self.fresh - 1

    def origin(self, number: int) -> int:
        """The number that it was split from, and that one's, to the first."""
        parents = {s.part: s.whole for s in reversed(self.splits)}
        seen = {number}
        while parents.get(number, number) not in seen:
            number = parents[number]
            seen.add(number)
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
    book = _Book(max(taken, default=0) + 1, taken)
    ids = np.zeros(moving.shape, dtype=np.int32)
    for t, inside in enumerate(moving):
        before = chain.carried_ids(ids[t - 1], t) if t else np.zeros_like(ids[0])
        if t in given:
            ids[t] = given[t]
            _recognise(book, before, ids[t])
        else:
            _number(book, ids[t], inside, before, images[t], t, round(settings.absent_s / step_s), settings)
        _note(book, ids[t], images[t], t)
    _join(book, chain, ids, step_s, settings.company)
    _carry_back(book, chain, images, ids, given, settings)
    return _renumbered(ids, taken, settings.least_frames)


def _number(
    book: _Book, ids: np.ndarray, inside: np.ndarray, before: np.ndarray, image: np.ndarray, frame: int, absent: int,
    settings: IdentitySettings,
) -> None:  # fmt: skip
    """Numbers for the regions of one frame, written into `ids`."""
    found = _regions(inside, settings.least_area)
    kept = [_kept(book, before, region, settings.share) for region in found]
    looks = [_shares(_colours(image[region.box][region.inside])) for region in found]
    for number, of in _split_numbers(kept):
        for i in of if number not in book.taken else ():
            if not _swap(book, number, kept, i, found[i], looks[i], settings):
                _split(book, number, kept[i], found[i], looks[i], frame, absent, settings)
    for region, numbers, look in zip(found, kept, looks, strict=True):
        labels = {old: new for old, (new, _) in numbers.items()}
        if not labels:
            there = {new for k in kept for new, _ in k.values()}
            labels = {0: _found_again(book, look, region, frame, absent, there, settings) or book.new()}
            numbers[0] = labels[0], 0
        divided = _divided(book, before[region.box], image[region.box], region.inside, labels)
        ids[region.box][region.inside] = divided[region.inside]


def _regions(inside: Bool[np.ndarray, "h w"], least_area: float) -> list[_Region]:
    count, regions, stats, centres = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=4)
    found = []
    for k in range(1, count):
        if stats[k, cv2.CC_STAT_AREA] >= least_area * inside.size:
            u, v, width, height = stats[k, :4]
            box = np.s_[v : v + height, u : u + width]
            found.append(_Region(box, regions[box] == k, centres[k]))
    return found


_Kept = dict[int, tuple[int, int]]
"""Numbers that the flow brings into a region -> the number that they have from now on, and their pixels."""


def _kept(book: _Book, before: np.ndarray, region: _Region, share: float) -> _Kept:
    pixels = np.bincount(before[region.box][region.inside], minlength=1)
    pixels[0] = 0
    area = int(region.inside.sum())
    found = np.flatnonzero(pixels).tolist()
    return {n: (n, int(pixels[n])) for n in found if pixels[n] > share * min(area, book.last[n].whole)}


def _split_numbers(kept: list[_Kept]) -> list[tuple[int, list[int]]]:
    """Numbers that are in several regions, and those regions but the one with the most pixels."""
    where: dict[int, list[int]] = {}
    for i, numbers in enumerate(kept):
        for n in numbers:
            where.setdefault(n, []).append(i)
    split = {n: sorted(of, key=lambda i: -kept[i][n][1])[1:] for n, of in where.items()}
    return [(n, of) for n, of in split.items() if of]


def _swap(
    book: _Book, number: int, kept: list[_Kept], i: int, region: _Region, look: np.ndarray, settings: IdentitySettings
) -> bool:
    """Whether a region that parts from a number is one that the flow left in the number's other region: then both
    change places.

    It has the colours that were learnt of it while it was alone, and its size.
    """
    area = region.inside.sum()
    least = max(settings.alike, _alike(book, number, look) + 0.1)
    for others in kept:
        for n, (new, pixels) in others.items():
            size = book.last[n].whole / area
            if n not in (number, *book.taken) and number in others and n == new and others is not kept[i]:
                if 0.4 < size < 2.5 and _alike(book, n, look) > least:
                    kept[i][number] = n, kept[i][number][1]
                    others[n] = number, pixels
                    return True
    return False


def _split(
    book: _Book, number: int, kept: _Kept, region: _Region, look: np.ndarray, frame: int, absent: int,
    settings: IdentitySettings,
) -> None:  # fmt: skip
    """A number for the part of a number that is in another region than its main part."""
    origin, pixels = book.origin(number), kept[number][1]
    kin = [n for n in kept if n != number and book.origin(n) == origin]
    if kin:
        part = kept[max(kin, key=lambda n: kept[n][1])][0]
    else:
        there = {new for new, _ in kept.values()}
        known = 0 if len(kept) > 1 else _found_again(book, look, region, frame, absent, there, settings)
        part = known or book.new()
        book.splits.append(_Split(frame, part, number))
        book.last.setdefault(part, _Last(frame, region.centre, pixels, pixels))
    kept[number] = part, pixels


def _divided(
    book: _Book, before: np.ndarray, image: np.ndarray, region: np.ndarray, labels: dict[int, int]
) -> Int[np.ndarray, "h w"]:
    """The label of every pixel of a region: what the flow brought there or near it, unless its colours say otherwise.

    Colours are weaker than flow within an area of one label, but move its border, so that what leaked is taken back.
    """
    numbers = sorted(set(labels.values()))
    if len(numbers) == 1:
        return np.full(region.shape, numbers[0], dtype=np.int32)
    own = np.zeros(region.shape, dtype=np.int32)
    for old, new in labels.items():
        own[region & (before == old)] = new
    v, u = distance_transform_edt(own == 0, return_distances=False, return_indices=True)
    brought = np.stack([own[v, u] == n for n in numbers]).astype(np.float32)
    index = colour_index(image, BINS)
    said = np.log([_shares(book.colours.get(n, np.zeros(CELLS)) + COLOUR_FLOOR)[index] for n in numbers])
    said = np.clip(said - said.max(0), -COLOUR_MOST, 0).astype(np.float32)
    weight = region.astype(np.float32)
    around = [cv2.blur(weight * (b + COLOUR_WEIGHT * c), (5, 5)) for b, c in zip(brought, said, strict=True)]
    around = [np.where(cv2.dilate(b, REACH) > 0, a, -np.inf) for a, b in zip(around, brought, strict=True)]
    return np.array(numbers, dtype=np.int32)[np.argmax(around, 0)]


def _found_again(
    book: _Book, look: np.ndarray, region: _Region, frame: int, absent: int, there: set[int],
    settings: IdentitySettings,
) -> int:  # fmt: skip
    """The number of an object that was lost not long ago, near by, of similar size and colours; else 0."""
    area = int(region.inside.sum())
    reach = 1.5 * np.sqrt(area)
    best, number = settings.alike, 0
    for n, last in book.last.items():
        near = np.linalg.norm(last.centre - region.centre) < reach + 0.05 * reach * (frame - last.frame)
        if n not in there and 1 < frame - last.frame <= absent and near and 0.4 < last.whole / area < 2.5:
            overlap = _alike(book, n, look)
            best, number = (overlap, n) if overlap > best else (best, number)
    return number


def _alike(book: _Book, number: int, look: np.ndarray) -> float:
    return float(np.sqrt(_shares(book.colours[number]) * look).sum())


def _colours(pixels: UInt8[np.ndarray, "n 3"]) -> Int[np.ndarray, "c"]:
    return np.bincount(colour_index(pixels[None], BINS).reshape(-1), minlength=CELLS)


def _shares(counts: np.ndarray) -> Float[np.ndarray, "c"]:
    return counts / max(counts.sum(), 1)


def _note(book: _Book, ids: np.ndarray, image: np.ndarray, frame: int) -> None:
    """Where and how large the numbers of a frame are; colours are learnt of what is alone in its regions."""
    alone = _alone(ids)
    for n in np.unique(ids[ids > 0]).tolist():
        inside = ids == n
        area, before = int(inside.sum()), book.last.get(n)
        whole = area if before is None else max(area, FORGET ** (frame - before.frame) * before.whole)
        book.last[n] = _Last(frame, np.argwhere(inside).mean(0)[::-1], area, whole)
        if alone[n] or n not in book.colours:
            book.colours[n] = book.colours.get(n, 0) + _colours(image[inside])


def _alone(ids: Int[np.ndarray, "h w"]) -> Bool[np.ndarray, "n"]:
    """For every number whether no other shares a region with it."""
    count, regions = cv2.connectedComponents((ids > 0).astype(np.uint8), connectivity=4)
    members = np.zeros((count, int(ids.max()) + 1), dtype=bool)
    members[regions, ids] = True
    return ~members[1:][members[1:].sum(1) > 1].any(0)


def _recognise(book: _Book, before: np.ndarray, given: np.ndarray) -> None:
    """Numbers that the flow brings onto a given object, and that are not given themselves, are that object."""
    for n in {int(x) for x in np.unique(before)} - {0, *book.taken}:
        there = np.bincount(given[before == n])
        best = int(there.argmax())
        if best and n not in book.same:
            book.same[n] = best


def _join(book: _Book, chain: FlowChain, ids: np.ndarray, step_s: float, settings: Company) -> None:
    """Give what is one object one number, in place."""
    ids[:] = _alias(book.same, book.fresh)[ids]
    colours = np.zeros((book.fresh, CELLS))
    for n, counts in book.colours.items():
        colours[book.same.get(n, n)] += counts
    shares = colours / np.maximum(colours.sum(1, keepdims=True), 1)
    alias = _alias(book.same, book.fresh)
    pairs = (sorted((int(alias[s.part]), int(alias[s.whole]))) for s in book.splits)
    kin = {(a, b) for a, b in pairs if a != b}
    same = objects(Parts.of(chain, ids, shares, kin), book.taken, step_s, settings)
    book.same.update(same)
    ids[:] = _alias(same, book.fresh)[ids]
    for part in sorted(same):
        root = int(_alias(same, book.fresh)[part])
        book.colours[root] = book.colours[root] + book.colours[part]


def _alias(same: dict[int, int], count: int) -> Int[np.ndarray, "n"]:
    """For every number the one that it goes by."""
    alias = np.arange(count, dtype=np.int32)
    for _ in range(len(same)):
        step = np.array([same.get(int(n), int(n)) for n in alias], dtype=np.int32)
        if np.array_equal(step, alias):
            break
        alias = step
    return alias


def _carry_back(
    book: _Book, chain: FlowChain, images: np.ndarray, ids: np.ndarray, given: dict[int, np.ndarray],
    settings: IdentitySettings,
) -> None:  # fmt: skip
    """Where an object parted from another for good, its number for its pixels before, in place."""
    alias = _alias(book.same, book.fresh)
    splits = {(s.frame, int(alias[s.part]), int(alias[s.whole])) for s in book.splits}
    at_split: dict[tuple[int, int], int] = {}
    for t in range(len(ids) - 2, -1, -1):
        for frame, part, whole in splits:
            if frame == t + 1 and part != whole:
                at_split[part, whole] = int(np.count_nonzero(ids[t + 1] == part))
        if t in given or not at_split:
            at_split.clear()
            continue
        after = chain.carried_ids(ids[t + 1], t, -1)
        at_split = {
            pair: area for pair, area in at_split.items()
            if _parted_before(book, images[t], ids[t], after, *pair, least=settings.share * area)
        }  # fmt: skip


def _parted_before(
    book: _Book, image: np.ndarray, ids: np.ndarray, after: np.ndarray, part: int, whole: int, *, least: float
) -> bool:
    """Give a part its pixels of what was one number in a frame, and whether it was there."""
    if (ids == part).any():
        return False
    merged = ids == whole
    brought = merged & (after == part)
    if np.count_nonzero(brought) <= least:
        return False
    regions = cv2.connectedComponents(merged.astype(np.uint8), connectivity=4)[1]
    inside = merged & np.isin(regions, np.unique(regions[brought]))
    ids[inside] = _divided(book, after, image, inside, {part: part, whole: whole})[inside]
    return True


def _renumbered(ids: np.ndarray, taken: list[int], least_frames: int) -> Int[np.ndarray, "t h w"]:
    """Lasting objects only, the given ones as they were, the others by size, at most 255."""
    count = int(ids.max()) + 1
    present = np.stack(
        [np.bincount(frame.reshape(-1), minlength=max(count, max(taken, default=0) + 1)) for frame in ids]
    )
    lasting = (present > 0).sum(0) >= min(least_frames, len(ids))
    lasting[[0, *taken]] = False
    order = np.argsort(-present.sum(0) * lasting, kind="stable")[: int(lasting.sum())]
    free = [n for n in range(1, 256) if n not in taken]
    number = np.zeros(present.shape[1], dtype=np.uint8)
    number[taken] = taken
    number[order[: len(free)]] = free[: len(order)]
    return number[ids]
