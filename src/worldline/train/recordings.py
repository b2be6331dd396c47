"""A source of recorded clips: public datasets as `worldline.data` reads them, whatever truth they have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from worldline import data
from worldline.data.sequence import TrackTruth
from worldline.engines.any4d.resolution import Fit
from worldline.errors import InputError
from worldline.geometry import pixels
from worldline.scene.video import Video
from worldline.train.samples import Sample, Wanted


@dataclass(frozen=True)
class Recordings:
    """Clips with their truth; dense depth and poses where there are any, else what the tracked points tell.

    Attributes:
        clips: images and truth. reach: frames within which the views of a sample lie; the earliest is the reference.
    """

    clips: tuple[tuple[Video, TrackTruth], ...]
    reach: int = 24

    def __post_init__(self) -> None:
        if not self.clips:
            raise InputError("there is no clip to train with; give files or folders of a dataset.")
        for video, truth in self.clips:
            if any(truth.camera.distortion):
                raise InputError(f"the lens of {truth.name} is not a pinhole; undistort its images first.")
            if len(video) != len(truth):
                raise InputError(f"{truth.name} has {len(video)} images and a truth of {len(truth)}; they must agree.")

    @classmethod
    def read(cls, paths: Iterable[str | Path]) -> Recordings:
        """Clips of the datasets that `worldline.data.read` knows.

        Raises:
            InputError: no such path, or nothing that is known. FormatError: a file is not what it should be.
        """
        sequences = [data.read(path) for path in paths]
        return cls(tuple((sequence.video, sequence.truth) for sequence in sequences))

    def __call__(self, random: np.random.Generator, wanted: Wanted) -> Sample:
        """A few frames of one clip, resized and cut as the network takes them."""
        video, truth = self.clips[int(random.integers(len(self.clips)))]
        span = min(self.reach, len(video))
        first = int(random.integers(len(video) - span + 1))
        drawn = random.choice(span, wanted.views, replace=span < wanted.views)
        return cut(video, truth, first + np.sort(drawn), wanted)


def cut(video: Video, truth: TrackTruth, frames: Int[np.ndarray, "v"], wanted: Wanted) -> Sample:
    """Frames of a clip, the first being the reference, at the size that is wanted."""
    fit = Fit.of(video.width, video.height, (wanted.width, wanted.height))
    return Sample(
        images=np.stack([fit.image(np.asarray(video.frames[f])) for f in frames]),
        times_s=truth.times_s[frames],
        intrinsics=fit.intrinsics(truth.camera.frames(len(truth))[frames]),
        world_from_cam=None if truth.world_from_cam is None else truth.world_from_cam[frames],
        depth_z=_depth_z(truth, frames, fit),
        flow=None if truth.world_from_cam is None else _flow(truth, frames, fit),
    )


def _depth_z(truth: TrackTruth, frames: np.ndarray, fit: Fit) -> Float[np.ndarray, "v h w"]:
    """The maps, or the depths of the points that are seen."""
    if truth.depth_z is not None:
        return np.stack([fit.nearest(np.asarray(truth.depth_z[f])) for f in frames])
    maps = np.zeros((len(frames), fit.height, fit.width), dtype=np.float32)
    for view, frame in enumerate(frames):
        point, row, column = _seen(truth, int(frame), fit)
        maps[view, row, column] = truth.points_cam[frame, point, 2]
    return maps


def _flow(truth: TrackTruth, frames: np.ndarray, fit: Fit) -> Float[np.ndarray, "v h w 3"]:
    """At the points that the reference sees; none where it sees what is known not to move; NaN elsewhere."""
    flow = np.full((len(frames), fit.height, fit.width, 3), np.nan, dtype=np.float32)
    if truth.moving is not None:
        flow[:, fit.nearest(np.asarray(truth.moving[frames[0]])) == 0] = 0
    point, row, column = _seen(truth, int(frames[0]), fit)
    points = truth.points_world[:, point]
    flow[:, row, column] = points[frames] - points[frames[0]]
    return flow


def _seen(truth: TrackTruth, frame: int, fit: Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points that are visible in a frame, and their pixels (row, column) in the network's image; far ones first."""
    uv = truth.uv(frame)
    away = np.diag(fit.original_from_network)[:2], fit.original_from_network[:2, 2]
    uv = (uv - away[1]) / away[0]
    inside = pixels.inside(torch.from_numpy(np.nan_to_num(uv, nan=-1)), fit.height, fit.width).numpy()
    point = np.flatnonzero(truth.visible[frame] & inside & (truth.points_cam[frame, :, 2] > 0))
    point = point[np.argsort(-truth.points_cam[frame, point, 2], kind="stable")]
    row, column = pixels.indices(torch.from_numpy(uv[point]), fit.height, fit.width)
    return point, row.numpy(), column.numpy()
