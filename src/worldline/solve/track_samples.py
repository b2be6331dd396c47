"""Pixel tracks as dense weighted samples: which tracks and frames are used, and how well residuals fit them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.geometry import camera
from worldline.scene.observations import PixelTracks


class TrackSamples(NamedTuple):
    """Dense samples of tracks: positions in pixels, and weights 1 / variance, 0 where not visible."""

    uv: Float[Tensor, "t n 2"]
    weight: Float[Tensor, "t n"]

    def frames(self, index: Int[Tensor, "k"]) -> TrackSamples:
        """All tracks in some of the frames."""
        return TrackSamples(self.uv[index], self.weight[index])

    def tracks(self, index: Int[Tensor, "k"]) -> TrackSamples:
        """Some of the tracks in all frames."""
        return TrackSamples(self.uv[:, index], self.weight[:, index])

    def ideal(self, intrinsics: Float[Tensor, "4"], distortion: tuple[float, ...]) -> TrackSamples:
        """The samples as a pinhole would have seen them instead of a lens with this distortion."""
        if not any(distortion):
            return self
        xy = camera.undistort((self.uv - intrinsics[2:]) / intrinsics[:2], distortion)
        return self._replace(uv=xy * intrinsics[:2] + intrinsics[2:])

    @classmethod
    def of(cls, tracks: PixelTracks, noise_px: float) -> TrackSamples:
        """All samples of the tracks, none of them taken to be better than `noise_px` (standard deviation)."""
        uv = torch.from_numpy(tracks.uv.astype(np.float64))
        sigma = torch.from_numpy(np.hypot(tracks.sigma_px.astype(np.float64), noise_px))
        visible = torch.from_numpy(tracks.visible) & uv.isfinite().all(-1) & sigma.isfinite()
        weight = torch.where(visible, 1 / sigma.square(), torch.zeros_like(sigma))
        return cls(torch.where(visible[..., None], uv, torch.zeros_like(uv)), weight)


def well_spread(
    samples: TrackSamples, query_frame: Int[np.ndarray, "n"], width: int, height: int, count: int
) -> Int[Tensor, "k"]:
    """At most `count` tracks: the longest of every image region and start frame, regions taking turns."""
    seen = samples.weight > 0
    length = seen.sum(0)
    first = samples.uv[seen.to(torch.uint8).argmax(0), torch.arange(len(length))]
    column, row = (first[:, 0] / width * 12).long().clamp(0, 11), (first[:, 1] / height * 8).long().clamp(0, 7)
    group = torch.from_numpy(query_frame.astype(np.int64)) * 96 + row * 12 + column
    order = torch.argsort(length, descending=True, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    start = torch.cat([torch.ones(1, dtype=torch.bool), group[order][1:] != group[order][:-1]])
    place = torch.arange(len(order))
    rank = place - torch.where(start, place, torch.zeros_like(place)).cummax(0).values
    turn = order[torch.argsort(rank, stable=True)]
    return turn[length[turn] >= min(4, len(seen))][:count].sort().values


def still_share(samples: TrackSamples, still_px: float) -> float:
    """Share of the tracks that move less than `still_px` over a few frames, in the median frame."""
    gap = min(5, len(samples.uv) - 1)
    both = (samples.weight[gap:] > 0) & (samples.weight[:-gap] > 0)
    still = (samples.uv[gap:] - samples.uv[:-gap]).norm(dim=-1) < still_px
    return float(((still & both).sum(1) / both.sum(1).clamp_min(1)).median())


def keyframes(samples: TrackSamples, frames_per_key: int) -> Int[Tensor, "k"]:
    """Frames at equal shares of the image motion (and of time, a little), `frames_per_key` apart on average."""
    count = len(samples.uv)
    wanted = min(count, max(8, -(-count // frames_per_key)))
    both = (samples.weight[1:] > 0) & (samples.weight[:-1] > 0)
    step = (samples.uv[1:] - samples.uv[:-1]).norm(dim=-1)
    motion = torch.stack(
        [step[t, both[t]].median() if both[t].any() else step.new_tensor(0.0) for t in range(count - 1)]
    )
    motion = motion.clamp_max(4 * motion.median() + 1e-9) + 0.5 * motion.mean() + 1e-6
    progress = torch.cat([motion.new_zeros(1), motion.cumsum(0)])
    goals = torch.linspace(0, float(progress[-1]), wanted, dtype=progress.dtype)
    return torch.unique((progress[None] - goals[:, None]).abs().argmin(1))


def fitting(residual_px: Float[Tensor, "t n"], weight: Float[Tensor, "t n"]) -> Bool[Tensor, "n"]:
    """Tracks whose mean squared residual is within three sigma of their noise and drift."""
    square = torch.where(weight > 0, residual_px.clamp_max(1e3).square() * weight, torch.zeros_like(weight))
    return square.sum(0) < 9 * (weight > 0).sum(0)


def mean_square(residual_px: Float[Tensor, "t n"], weight: Float[Tensor, "t n"], outlier_sigmas: float) -> float:
    """Mean over tracks of their mean squared normalised residual, truncated at `outlier_sigmas` squared."""
    limit = outlier_sigmas**2
    each = (residual_px.square() * weight).clamp_max(limit).nan_to_num(limit)
    seen = (weight > 0).sum(0)
    return float((torch.where(weight > 0, each, torch.zeros_like(each)).sum(0) / seen.clamp_min(1))[seen > 1].mean())


def log_misfit(residual_px: Float[Tensor, "t n"], weight: Float[Tensor, "t n"]) -> float:
    """Mean over tracks of the log of their mean squared residual: the likelihood of noise of unknown size.

    Movers misfit every solution alike and so do not decide between them.
    """
    seen = (weight > 0).sum(0)
    square = torch.where(weight > 0, residual_px.clamp_max(10).square(), torch.zeros_like(weight)).sum(0)
    return float((square / seen.clamp_min(1) + 0.05**2).log()[seen > 1].mean())
