"""Many depth maps into one cloud: weighted means over voxels that grow with the distance to the nearest camera."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

_BITS = 19
_LEVELS_PER_OCTAVE = 2
_MERGE_AT = 1_500_000


@dataclass(eq=False)
class VoxelFusion:
    """An open accumulator: `add` frames, then `result`.

    A voxel's edge is `step` (an angle, rad) times the distance to the nearest camera, rounded down to half an octave,
    so near things are fine and far things coarse whichever frame saw them.
    """

    centres_world: Float[np.ndarray, "c 3"]
    step: float
    nearest: float
    _rows: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    _waiting: int = 0

    @classmethod
    def around(cls, centres_world: Float[np.ndarray, "t 3"], *, step: float, nearest: float) -> VoxelFusion:
        """An empty accumulator for points seen from these cameras; voxels stop shrinking at distance `nearest`."""
        some = np.unique(np.linspace(0, len(centres_world) - 1, min(len(centres_world), 16)).round().astype(int))
        return cls(centres_world[some].astype(np.float32), step, nearest)

    def voxel(self, points_world: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Edge of the voxel that holds each point, units of the scene."""
        return self.step * self.nearest * np.exp2(self._level(points_world) / _LEVELS_PER_OCTAVE).astype(np.float32)

    def add(
        self, points_world: Float[np.ndarray, "n 3"], colour: UInt8[np.ndarray, "n 3"], weight: Float[np.ndarray, "n"]
    ) -> None:
        """Add points; `weight` is the inverse variance of each."""
        if not len(points_world):
            return
        w = np.asarray(weight, dtype=np.float32)[:, None]
        sums = np.concatenate([w, w * (points_world - self.centres_world[0]), w * colour], 1)
        self._rows.append(_sum_by_key(self._key(points_world), sums))
        self._waiting += len(self._rows[-1][0])
        if self._waiting > _MERGE_AT:
            self._merge()
            self._waiting = 0

    def result(self) -> tuple[Float[np.ndarray, "m 3"], UInt8[np.ndarray, "m 3"], Float[np.ndarray, "m"]]:
        """Mean position, mean colour and total weight of every voxel, in the order of their keys."""
        self._merge()
        sums = self._rows[0][1] if self._rows else np.zeros((0, 7), np.float32)
        mean = sums[:, 1:] / sums[:, :1]
        return mean[:, :3] + self.centres_world[0], mean[:, 3:].round().clip(0, 255).astype(np.uint8), sums[:, 0]

    def _merge(self) -> None:
        if len(self._rows) > 1:
            keys, sums = (np.concatenate(column) for column in zip(*self._rows, strict=True))
            self._rows = [_sum_by_key(keys, sums)]

    def _level(self, points_world: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "n"]:
        points, centres = torch.from_numpy(np.asarray(points_world)), torch.from_numpy(self.centres_world)
        distance = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").amin(1).numpy()
        return np.floor(_LEVELS_PER_OCTAVE * np.log2(np.maximum(distance / self.nearest, 1))).astype(np.int64)

    def _key(self, points_world: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "n"]:
        level = self._level(points_world)
        edge = self.step * self.nearest * np.exp2(level / _LEVELS_PER_OCTAVE)
        cell = np.floor((points_world - self.centres_world[0]) / edge[:, None]).astype(np.int64)
        x, y, z = ((cell + (1 << (_BITS - 1))) & ((1 << _BITS) - 1)).T
        return (((level << _BITS | x) << _BITS) | y) << _BITS | z


def coarsen(
    points_world: Float[np.ndarray, "n 3"],
    colour: UInt8[np.ndarray, "n 3"],
    weight: Float[np.ndarray, "n"],
    fusion: VoxelFusion,
    step: float,
    most: int,
) -> VoxelFusion:
    """The finest fusion of these points, no finer than `step` (rad), that has at most `most` voxels."""
    for _ in range(12):
        coarse = VoxelFusion(fusion.centres_world, step, fusion.nearest)
        coarse.add(points_world, colour, weight)
        count = len(coarse.result()[0])
        if count <= most:
            return coarse
        step *= max(1.03, (count / most) ** 0.5)
    return coarse


def _sum_by_key(
    keys: Int[np.ndarray, "n"], sums: Float[np.ndarray, "n k"]
) -> tuple[Int[np.ndarray, "m"], Float[np.ndarray, "m k"]]:
    order = np.argsort(keys)
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(sums[order], first)
