"""Which numbered parts of a clip are one object: how near two are, and how they move against each other, over time.

Parts of one body stay near each other and go where it goes. Objects that only met have other lives: they part for a
while, or pass along each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.cues.parallax import FlowChain

COARSE = 2
"""Cells of the grid per cell on which distances are measured."""


@dataclass(frozen=True)
class Company:
    """When two parts count as one object. Lengths are in sizes: the root of an area."""

    near: float = 0.5
    """Gap up to which two parts are together, in sizes of the smaller."""
    together: float = 0.6
    """Share of the shorter life that two parts are together if they are one object."""
    parting_s: float = 0.3
    """Time apart, in seconds (and at least four frames), from which parts that also went apart are two objects."""
    parting: float = 1.0
    """How far they went apart then, in sizes (the mean of the two)."""
    passing: float = 1.0
    """Motion along each other, in sizes of the larger, from which what only met is two objects."""
    abreast: float = 0.3
    """Relative motion, in sizes of the smaller, up to which what is near but never touched is one object with a gap."""
    alike: float = 0.6
    """Least overlap of colours (Bhattacharyya) of what is seen on both sides of a gap for a moment only."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two parts in the frames that show both.

    Attributes:
        frames: (F,). gap: (F,) cells between them, 0 where they share a region. smaller, larger: (F,) sizes.
        moved: (2, F, 2) of one against the other, in cells: by their flow, and by their centres.
    """

    frames: Int[np.ndarray, "f"]
    gap: Float[np.ndarray, "f"]
    smaller: Float[np.ndarray, "f"]
    larger: Float[np.ndarray, "f"]
    moved: Float[np.ndarray, "2 f 2"]

    def drift(self, use: slice = slice(None)) -> float:
        """How far the two went against each other, in cells: by flow, which adds up errors, or by their centres,
        which jump with the masks, whichever says less."""
        return float(np.linalg.norm(np.ptp(self.moved[:, use], axis=1), axis=-1).min())

    def near(self, settings: Company) -> Bool[np.ndarray, "f"]:
        """Whether they are together in each frame."""
        return self.gap <= settings.near * self.smaller

    def parted(self, step_s: float, settings: Company) -> bool:
        """Whether they were apart for long, and went apart."""
        edges = np.diff(np.concatenate([[True], self.near(settings), [True]]).astype(int))
        least = max(settings.parting_s / step_s, 4)
        for start, stop in zip(np.flatnonzero(edges < 0), np.flatnonzero(edges > 0), strict=True):
            while start > 0 and self.gap[start - 1] > 0:
                start -= 1
            use = slice(max(start - 1, 0), stop)
            size = 0.5 * np.median(self.smaller[use] + self.larger[use])
            if stop - start >= least and self.drift(use) > settings.parting * size:
                return True
        return False

    def one_object(self, step_s: float, lives: tuple[int, int], kin: bool, alike: float, settings: Company) -> bool:
        """Whether the two are parts of one.

        Args:
            lives: frames in which each is seen. kin: whether one region was the start of both, which then need to part
                to be two. alike: overlap of their colours.
        """
        if self.parted(step_s, settings):
            return False
        if kin:
            return True
        long = len(self.frames) >= settings.together * min(lives)
        if (self.gap == 0).any():
            return long and self._stuck(min(lives), settings)
        return (long or alike >= settings.alike) and self._abreast(settings)

    def _stuck(self, life: int, settings: Company) -> bool:
        """Whether two that touch do so for most of a life, and do not pass each other."""
        near = np.count_nonzero(self.near(settings)) >= settings.together * life
        return bool(near) and self.drift() <= settings.passing * float(np.median(self.larger))

    def _abreast(self, settings: Company) -> bool:
        """Whether two that never touch go side by side; behind a pole an object comes out as a sliver."""
        size = float(self.smaller.max())
        near = np.count_nonzero(self.gap <= settings.near * size) >= 0.8 * len(self.frames)
        return len(self.frames) >= 4 and bool(near) and self.drift() <= settings.abreast * size


@dataclass(eq=False)
class Parts:
    """Every number in every frame.

    Attributes:
        area: (T, N) pixels. centre: (T, N, 2) in cells. step: (T, N, 2) mean motion from the frame before, in cells.
        gap: pairs of numbers, the lesser first -> (T,) cells between them, infinite where not both are there.
        colours: (N, C) shares of colours. kin: pairs that come from one region.
    """

    area: Int[np.ndarray, "t n"]
    centre: Float[np.ndarray, "t n 2"]
    step: Float[np.ndarray, "t n 2"]
    gap: dict[tuple[int, int], Float[np.ndarray, "t"]]
    colours: Float[np.ndarray, "n c"]
    kin: set[tuple[int, int]]

    @classmethod
    def of(
        cls,
        chain: FlowChain,
        ids: Int[np.ndarray, "t h w"],
        colours: Float[np.ndarray, "n c"],
        kin: set[tuple[int, int]],
    ) -> Parts:
        """All numbers of a clip, measured."""
        moments = [_moments(ids[t], chain, t, len(colours)) for t in range(len(ids))]
        area, centre, step = (np.stack(x) for x in zip(*moments, strict=True))
        gap: dict[tuple[int, int], np.ndarray] = {}
        for t, numbers in enumerate(ids):
            for pair, cells in _gaps(numbers):
                gap.setdefault(pair, np.full(len(ids), np.inf))[t] = cells
        return cls(area, centre, step, gap, colours, kin)

    def pair(self, a: int, b: int) -> Pair:
        """Two numbers that are in one frame at least once."""
        gap = self.gap[a, b]
        frames = np.flatnonzero(np.isfinite(gap))
        sizes = np.sqrt(self.area[frames][:, [a, b]])
        by_flow = np.cumsum(self.step[frames, a] - self.step[frames, b], 0)
        by_centre = self.centre[frames, a] - self.centre[frames, b]
        return Pair(frames, gap[frames], sizes.min(1), sizes.max(1), np.stack([by_flow, by_centre]))

    def one_object(self, a: int, b: int, step_s: float, settings: Company) -> bool:
        """Whether two numbers are parts of one."""
        lives = int(np.count_nonzero(self.area[:, a])), int(np.count_nonzero(self.area[:, b]))
        alike = float(np.sqrt(self.colours[a] * self.colours[b]).sum())
        return self.pair(a, b).one_object(step_s, lives, (a, b) in self.kin, alike, settings)

    def absorb(self, keeps: int, goes: int) -> None:
        """Make one number of two."""
        both = self.area[:, [keeps, goes]]
        share = (both / np.maximum(both.sum(1, keepdims=True), 1))[..., None]
        for values in (self.centre, self.step):
            values[:, keeps] = (share * values[:, [keeps, goes]]).sum(1)
        life = both.sum(0) / max(both.sum(), 1)
        self.colours[keeps] = life @ self.colours[[keeps, goes]]
        self.area[:, keeps], self.area[:, goes] = both.sum(1), 0
        for pair in [p for p in self.gap if goes in p]:
            gap, other = self.gap.pop(pair), pair[pair[0] == goes]
            if other != keeps:
                kept = min(keeps, other), max(keeps, other)
                self.gap[kept] = np.minimum(self.gap.get(kept, np.inf), gap)
        self.kin = {_ordered(*(keeps if n == goes else n for n in p)) for p in self.kin} - {(keeps, keeps)}


def objects(parts: Parts, taken: list[int], step_s: float, settings: Company) -> dict[int, int]:
    """Numbers that are part of another -> that other; `parts` is used up.

    Those that are together the longest are joined first, so that a hand is judged by the body it is on, not by a foot.
    `taken` numbers stay apart.
    """
    same: dict[int, int] = {}
    verdict: dict[tuple[int, int], bool] = {}
    while True:
        order = sorted(parts.gap, key=lambda p: -np.count_nonzero(parts.gap[p] == 0))
        for pair in order:
            if pair not in verdict:
                verdict[pair] = not set(pair) <= set(taken) and parts.one_object(*pair, step_s, settings)
        joined = next((p for p in order if verdict[p]), None)
        if joined is None:
            return same
        keeps, goes = sorted(joined, key=lambda n: (n not in taken, -int(parts.area[:, n].sum()), n))
        parts.absorb(keeps, goes)
        same[goes] = keeps
        verdict = {p: v for p, v in verdict.items() if not {keeps, goes} & set(p)}


def _ordered(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def _moments(ids: np.ndarray, chain: FlowChain, frame: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Area, centre and mean step from the frame before, of all numbers in one frame."""
    v, u = np.nonzero(ids)
    number = ids[v, u]
    area = np.bincount(number, minlength=count)
    centre = np.stack([np.bincount(number, x, count) for x in (u, v)], -1) / np.maximum(area, 1)[:, None]
    if frame == 0:
        return area, centre, np.zeros((count, 2))
    flow = chain.adjacent(frame, -1)[v, u].astype(np.float64)
    weight = 1 / (1 + flow[:, 2] ** 2)
    total = np.maximum(np.bincount(number, weight, count), 1e-9)
    step = np.stack([np.bincount(number, -weight * flow[:, k] / chain.scale[k], count) for k in (0, 1)], -1)
    return area, centre, step / total[:, None]


def _gaps(ids: Int[np.ndarray, "h w"]) -> Iterator[tuple[tuple[int, int], float]]:
    """All pairs of numbers of a frame with the distance between their nearest cells; 0 in one region."""
    numbers = np.unique(ids[ids > 0])
    if len(numbers) < 2:
        return
    regions = cv2.connectedComponents((ids > 0).astype(np.uint8), connectivity=4)[1]
    inside = [set(np.unique(regions[ids == n]).tolist()) for n in numbers]
    coarse = ids[::COARSE, ::COARSE]
    for i, a in enumerate(numbers):
        away = cv2.distanceTransform((coarse != a).astype(np.uint8), cv2.DIST_L2, 3)
        for j in range(i + 1, len(numbers)):
            there = away[coarse == numbers[j]]
            between = max(1.0, COARSE * (float(there.min()) - 1)) if there.size else np.inf
            yield (int(a), int(numbers[j])), 0.0 if inside[i] & inside[j] else between
