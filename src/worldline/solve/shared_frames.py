"""What two windows of one video say of a frame that both have seen.

They saw it from the same camera at the same instant: pixel by pixel their depths differ by one factor, and their two
poses of this camera say how the one window is turned and moved against the other. Nothing has to be matched, and it
does not matter what moves in the scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.scene.fragment import Fragment
from worldline.solve.robust import GemanMcClure

TILES = 6
"""Along each side of the image. Errors of depth are smooth: a tile has one, whatever the number of its pixels."""
SAMPLES = 12
"""Depths that are kept along each side of a tile."""
LEAST_IN_TILE = 5
"""A tile with fewer depths says nothing, unless all have fewer."""
LEAST_LOG = 0.001
"""Least standard deviation of the log of a ratio of depths."""
ALIKE = 6.0
"""So many tiles share one smooth error."""


@dataclass(frozen=True, eq=False)
class Standpoint:
    """Where a window says that the camera of a frame stood, in its own gauge and unit.

    Attributes:
        frame: of the video. window_from_cam: (4, 4). depth: the usual one of this frame.
        far: how far the camera is from the reference's, and a quarter of how far any is: the error of its centre is
        about a share of this.
    """

    frame: int
    window_from_cam: Float[Tensor, "4 4"]
    depth: float
    far: float


@dataclass(frozen=True, eq=False)
class Sighting:
    """What a window says of one of its frames, thinned out.

    Attributes:
        stood: the camera. log_depth: (tiles, samples) of depth along rays, NaN where there is none; weight: of each,
        in any unit.
    """

    stood: Standpoint
    log_depth: Float[Tensor, "n k"]
    weight: Float[Tensor, "n k"]


class Ratio(NamedTuple):
    """Mean of log(depth of the first / depth of the second), its sigma, how many pixels agree with it, of how many."""

    log: float
    sigma: float
    agreed: int
    pixels: int


@dataclass(frozen=True, eq=False)
class Link:
    """A frame that two windows (by number) have seen."""

    first_window: int
    first: Standpoint
    second_window: int
    second: Standpoint
    ratio: Ratio


def sightings(fragment: Fragment) -> list[Sighting]:
    """All views of a window that has depth along rays and cameras; the first view is its reference."""
    assert fragment.world_from_cam is not None, "windows are joined by their cameras"
    cameras = torch.from_numpy(np.array(fragment.world_from_cam, dtype=np.float64))
    distance = (cameras[:, :3, 3] - cameras[0, :3, 3]).norm(dim=-1)
    far = (distance + 0.25 * distance.max()).tolist()
    found = []
    for view, frame in enumerate(fragment.frames):
        logs, weight = _thinned(fragment, view)
        depth = float(torch.nan_to_num(logs.nanmedian().exp()))
        found.append(Sighting(Standpoint(int(frame), cameras[view], depth, far[view]), logs, weight))
    return found


def _thinned(fragment: Fragment, view: int) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Log depth and weight of a view's samples."""
    assert fragment.depth_ray is not None, "windows are joined by their depth"
    size = fragment.depth_ray.shape[1:]
    at = np.ix_(*(np.linspace(0, n - 1, min(n, TILES * SAMPLES)).round().astype(int) for n in size))
    depth = np.asarray(fragment.depth_ray[view])[at].astype(np.float32)
    sigma = np.ones_like(depth) if fragment.depth_sigma is None else np.asarray(fragment.depth_sigma[view])[at]
    known = np.isfinite(depth) & (depth > 0) & np.isfinite(sigma)
    if fragment.valid is not None:
        known &= np.asarray(fragment.valid[view])[at]
    logs = np.log(np.where(known, depth, 1))
    weight = np.where(known, 1 / np.maximum(sigma, LEAST_LOG) ** 2, 0)
    return _tiled(np.where(known, logs, np.nan), np.nan), _tiled(weight, 0)


def _tiled(x: Float[np.ndarray, "h w"], fill: float) -> Float[Tensor, "n k"]:
    """A map as tiles, each with its samples in a row."""
    tall, wide = (-(-n // TILES) for n in x.shape)
    full = np.full((tall * TILES, wide * TILES), fill, dtype=np.float32)
    full[: x.shape[0], : x.shape[1]] = x
    tiles = full.reshape(TILES, tall, TILES, wide).swapaxes(1, 2).reshape(TILES * TILES, tall * wide)
    return torch.from_numpy(np.ascontiguousarray(tiles))


def links(number: int, seen: Iterable[Sighting], earlier: Mapping[int, Iterable[Sighting]]) -> list[Link]:
    """All frames that a window shares with earlier ones (by number), where both have depth."""
    now = {s.stood.frame: s for s in seen}
    pairs = ((n, s, now[s.stood.frame]) for n, old in earlier.items() for s in old if s.stood.frame in now)
    ratios = ((n, first, second, depth_ratio(first, second)) for n, first, second in pairs)
    return [Link(n, first.stood, number, second.stood, ratio) for n, first, second, ratio in ratios if ratio]


def depth_ratio(first: Sighting, second: Sighting) -> Ratio | None:
    """The factor between two depths of one frame; None where no pixel has both.

    The median of each tile, then a robust mean over tiles: outliers among pixels are the median's business, errors
    that are smooth over the image show in how the tiles differ.
    """
    logs = (first.log_depth - second.log_depth).double()
    both = logs.isfinite()
    weight = torch.where(both, 1 / (1 / first.weight.double() + 1 / second.weight.double()), 0.0)
    counts = both.sum(1)
    if not bool(both.any()):
        return None
    enough = counts >= min(LEAST_IN_TILE, int(counts.max()))
    medians, share = _medians(logs[enough], weight[enough]), weight[enough].sum(1)
    mean, sigma = _mean_of_tiles(medians, share / share.sum())
    off = (logs[both] - mean).abs()
    near = off <= 3 * max(1.4826 * float(off.median()), LEAST_LOG)
    return Ratio(mean, sigma, int(near.sum()), int(both.sum()))


def _mean_of_tiles(medians: Float[Tensor, "n"], share: Float[Tensor, "n"]) -> tuple[float, float]:
    """Robust mean and its standard deviation, knowing that neighbouring tiles share their error."""
    mean = _medians(medians[None], share[None])[0]
    spread = (1.4826 * _medians((medians - mean).abs()[None], share[None])[0]).clamp_min(LEAST_LOG)
    weight = share
    for _ in range(10):
        weight = share * GemanMcClure(5.0).weight(((medians - mean) / spread) ** 2)
        mean = (weight * medians).sum() / weight.sum()
    scatter = (weight @ (medians - mean) ** 2 / weight.sum()).sqrt().clamp_min(LEAST_LOG)
    independent = (weight.sum() ** 2 / (weight**2).sum() / ALIKE).clamp_min(1)
    return float(mean), float(scatter / independent.sqrt())


def _medians(values: Float[Tensor, "n k"], weight: Float[Tensor, "n k"]) -> Float[Tensor, "n"]:
    """Weighted, along the last axis; what has no weight does not count."""
    order = torch.where(weight > 0, values, torch.inf).argsort(1)
    sums = weight.gather(1, order).cumsum(1)
    middle = (sums < 0.5 * sums[:, -1:]).sum(1, keepdim=True).clamp_max(values.shape[1] - 1)
    return values.gather(1, order.gather(1, middle))[:, 0]
