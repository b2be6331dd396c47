"""What given depth maps say at the sightings of tracks, with what is doubtful beside their edges and holes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.geometry import camera
from worldline.scene.observations import DepthMaps, PixelTracks

LEAST_SIGMA = 1e-3
"""No depth map is taken to be better than this (relative)."""


class TrackDepth(NamedTuple):
    """Depth maps at the sightings of tracks.

    Attributes:
        log_depth: (T, N) log of the depth along the axis, NaN where unknown; sigma: (T, N) its standard deviation.
        scale_sigma: spread of the log scale of a frame. metric: whether the maps are in metres.
        log_shift: by how much the log depth was changed for it to be in other units.
    """

    log_depth: Float[Tensor, "t n"]
    sigma: Float[Tensor, "t n"]
    scale_sigma: float
    metric: bool
    log_shift: float = 0.0

    @property
    def known(self) -> Bool[Tensor, "t n"]:
        """Sightings with depth."""
        return self.log_depth.isfinite()

    def tracks(self, index: Tensor) -> TrackDepth:
        """Some of the tracks in all frames."""
        return self._replace(log_depth=self.log_depth[:, index], sigma=self.sigma[:, index])

    def shifted(self, log_scale: float) -> TrackDepth:
        """The same maps in other units."""
        return self._replace(log_depth=self.log_depth + log_scale, log_shift=self.log_shift + log_scale)


def depth_of_tracks(tracks: PixelTracks, depth: DepthMaps, width: int, height: int) -> TrackDepth:
    """Depth at the visible sightings: the median of the 3x3 pixels around each, its sigma widened by their spread.

    Args:
        tracks: in pixels of the image of width x height that the depth maps cover.
    """
    shape = tracks.visible.shape
    log_depth, sigma = np.full(shape, np.nan), np.full(shape, np.nan)
    rows, columns = depth.depth_z.shape[1:]
    scale = np.array([columns / width, rows / height])
    for t in range(shape[0]):
        seen = np.flatnonzero(tracks.visible[t] & np.isfinite(tracks.uv[t]).all(-1))
        place = np.floor(tracks.uv[t, seen] * scale).astype(np.int64)
        log_depth[t, seen], sigma[t, seen] = _around(depth.depth_z[t], depth.sigma[t], place)
    return TrackDepth(
        torch.from_numpy(log_depth), torch.from_numpy(sigma), max(depth.frame_scale_sigma, LEAST_SIGMA), depth.metric
    )


def unprojected(
    uv: Float[Tensor, "m 2"], log_depth: Float[Tensor, "m"], world_from_cam: Float[Tensor, "m 4 4"], intrinsics: Tensor
) -> Float[Tensor, "m 3"]:
    """World points of sightings at their depth, each in its own camera."""
    points_cam = camera.unproject(uv, log_depth.exp(), intrinsics)
    return (world_from_cam[:, :3, :3] @ points_cam[..., None])[..., 0] + world_from_cam[:, :3, 3]


def _around(depth_z: np.ndarray, sigma: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = depth_z.shape
    step = np.array([-1, 0, 1])
    column = np.clip(place[:, 0, None, None] + step, 0, width - 1)
    row = np.clip(place[:, 1, None, None] + step[:, None], 0, height - 1)
    near = np.asarray(depth_z)[row, column].reshape(len(place), 9).astype(np.float64)
    own = np.asarray(sigma)[row, column].reshape(len(place), 9).astype(np.float64)
    good = (near > 0) & np.isfinite(near) & np.isfinite(own)
    near = np.log(np.where(good, near, np.nan))
    inside = ((place >= 0) & (place < [width, height])).all(1) & good.any(1)
    value, doubt = np.full(len(place), np.nan), np.full(len(place), np.nan)
    value[inside] = np.nanmedian(near[inside], 1)
    spread = np.nanmax(near[inside], 1) - np.nanmin(near[inside], 1)
    claimed = np.nanmedian(np.where(good, own, np.nan)[inside], 1)
    doubt[inside] = np.hypot(np.maximum(claimed, LEAST_SIGMA), spread / 2)
    return value, doubt
