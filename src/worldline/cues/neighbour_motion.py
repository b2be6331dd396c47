"""The motion of a hidden point, guessed from points around it that are still seen and moved like it before.

The neighbours are chosen once, when the point disappears; in every later frame an affine motion is fitted to those
still seen. So what covers the point does not carry it away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class Config:
    """How neighbours are chosen and believed."""

    count: int = 12
    """Neighbours of a point."""
    reach_px: float = 24.0
    """Distance at which a neighbour counts half as much."""
    alike_px: float = 0.7
    """Difference of the last motion at which a neighbour counts half as much."""
    stiffness_px: float = 20.0
    """A neighbourhood narrower than this only shifts."""
    least_weight: float = 0.1
    """Total weight of the neighbours below which they say nothing."""


@dataclass(frozen=True, eq=False)
class Guess:
    """Displacement of N points between two frames.

    Attributes:
        step: (N, 2) pixels; spread_px: (N,) how far the neighbours differ from it, per axis.
        known: (N,) whether enough neighbours were seen in both frames.
    """

    step: Float[np.ndarray, "n 2"]
    spread_px: Float[np.ndarray, "n"]
    known: Bool[np.ndarray, "n"]


def choose(
    uv: Float[np.ndarray, "n 2"],
    step: Float[np.ndarray, "n 2"],
    other_uv: Float[np.ndarray, "m 2"],
    other_step: Float[np.ndarray, "m 2"],
    config: Config,
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """For every point others near it in one frame and their weights, by nearness and by likeness of motion.

    Of the others by distance the 1st, 2nd, 4th, 7th and so on are taken: what covers the point soon covers the
    nearest ones too.

    Args:
        step, other_step: last motion, NaN where unknown (such points are believed a little).
    """
    ranks = np.cumsum(np.arange(config.count)) + 1
    ranks = ranks[ranks <= len(other_uv)]
    count = len(ranks)
    if count == 0 or len(uv) == 0:
        return np.zeros((len(uv), config.count), np.int64), np.zeros((len(uv), config.count), np.float32)
    away, index = cKDTree(other_uv).query(uv, k=ranks)
    apart = np.linalg.norm(other_step[index] - step[:, None], axis=-1)
    pace = np.maximum(np.linalg.norm(np.nan_to_num(step), axis=-1, keepdims=True), 1.0)
    alike = np.nan_to_num(1 / (1 + (apart / (config.alike_px * np.sqrt(pace))) ** 2), nan=0.2)
    weight = alike / (1 + (away / config.reach_px) ** 2)
    missing = ((0, 0), (0, config.count - count))
    return np.pad(index, missing), np.pad(weight, missing).astype(np.float32)


def guess(
    uv: Float[np.ndarray, "n 2"],
    before: Float[np.ndarray, "n k 2"],
    after: Float[np.ndarray, "n k 2"],
    weight: Float[np.ndarray, "n k"],
    config: Config,
    *,
    rounds: int = 2,
) -> Guess:
    """Where points move whose neighbours went from `before` to `after` (NaN where not seen)."""
    seen = np.isfinite(before).all(-1) & np.isfinite(after).all(-1)
    base = np.where(seen, weight, 0.0).astype(np.float64)
    offset = np.where(seen[..., None], before - uv[:, None], 0.0) / config.stiffness_px
    moved = np.where(seen[..., None], after - before, 0.0)
    design = np.concatenate([np.ones_like(offset[..., :1]), offset], -1)
    w = base
    for _ in range(rounds):
        normal = np.einsum("nk,nki,nkj->nij", w, design, design) + np.diag([1e-9, 1.0, 1.0]) * config.least_weight
        fit = np.linalg.solve(normal, np.einsum("nk,nki,nkc->nic", w, design, moved))
        apart = np.linalg.norm(moved - design @ fit, axis=-1)
        w = base / (1 + (apart / config.alike_px) ** 2)
    total = np.maximum(w.sum(-1), 1e-9)
    spread = np.sqrt((w * apart**2).sum(-1) / total / 2)
    return Guess(fit[:, 0].astype(np.float32), spread.astype(np.float32), w.sum(-1) > config.least_weight)
