"""What all stages of the engine work on, prepared once: numpy on the host, tensors where the solver runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.engines.uni4d import evidence
from worldline.engines.uni4d.evidence import Evidence, Labelling
from worldline.engines.uni4d.ratios import Fusing
from worldline.engines.uni4d.structure import Bundling, Cameras, Tracks
from worldline.geometry import se3
from worldline.scene.journal import Arrays
from worldline.scene.observations import DepthMaps, MovingMasks, Observations, PixelTracks
from worldline.scene.video import Video
from worldline.solve.known_poses import OFF_SIGMAS, KnownPoses
from worldline.solve.nonrigid import Weights
from worldline.solve.uncertainty import Doubting

FROM_HERE = ("camera/selfcal", "depth/motion")
"""Sources of what was made from the same tracks: no independent knowledge."""

LENS_SHARE = 0.02
"""By how much (relative) the focal length that tracks tell may be off where the lens is not modelled."""


@dataclass(frozen=True)
class Config:
    """Settings of every stage; the defaults are tuned on synthetic worlds with truth.

    Attributes:
        dtype: float64 or float32 of the solver; device: where it runs.
        moving_tracks: most moving tracks that are solved (longest first).
        dense_motion_frames: clips of at most so many frames get dense scene flow; longer ones have tracks.
    """

    labelling: Labelling = field(default_factory=Labelling)
    bundling: Bundling = field(default_factory=Bundling)
    motion: Weights = field(default_factory=Weights)
    fusing: Fusing = field(default_factory=Fusing)
    doubting: Doubting = field(default_factory=Doubting)
    moving_tracks: int = 20_000
    dense_motion_frames: int = 8
    dtype: str = "float32"
    device: str = "cpu"

    @classmethod
    def tiny(cls) -> Config:
        """Small settings for tests."""
        return cls(bundling=Bundling(tracks=300, coarse_tracks=100, held_out=30), motion=Weights(outer=2, inner=4))


@dataclass(frozen=True, eq=False)
class Inputs:
    """The video, what is known about it, and which tracks are evidence for what.

    Attributes:
        tracks: as an ideal pinhole would have seen them. intrinsics: (4,) the start; focal_sigma: its log spread.
        world_from_local: (4, 4) of the frame in which all stages work, whose origin is near the cameras.
        poses: those that are known, in that frame.
    """

    config: Config
    video: Video
    observed: Observations
    evidence: Evidence
    tracks: PixelTracks
    depth: DepthMaps
    masks: MovingMasks
    intrinsics: Float[np.ndarray, "4"]
    focal_sigma: float
    world_from_local: Float[np.ndarray, "4 4"]
    poses: KnownPoses | None

    @classmethod
    def of(cls, config: Config, video: Video, observed: Observations) -> Inputs:
        """Undo the lens, label the tracks."""
        assert observed.tracks and observed.moving and observed.depth and observed.camera
        prior = observed.camera
        labels = evidence.collect(observed.tracks, observed.moving, video.width, video.height, config.labelling)
        intrinsics = np.asarray(prior.camera.intrinsics, dtype=np.float64)
        intrinsics = np.median(intrinsics, 0) if prior.camera.per_frame else intrinsics
        tracks = observed.tracks.ideal(prior.camera, intrinsics)
        world_from_local, poses = _known_poses(observed)
        return cls(
            config, video, observed, labels, tracks, observed.depth, observed.moving, intrinsics, prior.focal_sigma,
            world_from_local, poses,
        )  # fmt: skip

    @property
    def seen_uv(self) -> Float[np.ndarray, "t n 2"]:
        """Where the tracks are in the images and in the maps that cover them."""
        assert self.observed.tracks is not None
        return self.observed.tracks.uv

    @property
    def sized_by_poses(self) -> bool:
        """Whether known poses are far enough apart to give the size of the scene."""
        return self.poses is not None and self.poses.reach > OFF_SIGMAS * self.poses.sigma_m

    def tensor(self, array: np.ndarray) -> Tensor:
        """On the solver's device, floats in its precision."""
        out = torch.from_numpy(np.ascontiguousarray(array)).to(self.config.device)
        return out.to(getattr(torch, self.config.dtype)) if out.is_floating_point() else out

    @property
    def focal_known(self) -> bool:
        """Whether the focal length is known from elsewhere, better than tracks tell it through an unknown lens."""
        camera = self.observed.camera
        return camera is not None and camera.source.name not in FROM_HERE and self.focal_sigma < LENS_SHARE

    @cached_property
    def static_tracks(self) -> tuple[Tracks, np.ndarray]:
        """The static tracks with the depth cue at their sightings, and their columns."""
        columns = np.flatnonzero((self.evidence.group == 0) & (self.evidence.static.sum(0) >= 2))
        seen = self.evidence.static[:, columns]
        log_depth, sigma = self.cue_at(seen, columns)
        least = self.config.bundling
        sigma_px = np.maximum(self.tracks.sigma_px[:, columns], least.least_sigma_px)
        return Tracks(
            self.tensor(self.tracks.uv[:, columns]), self.tensor(seen), self.tensor(sigma_px),
            self.tensor(log_depth), self.tensor(sigma), max(self.depth.frame_scale_sigma, least.least_scale_sigma),
        ), columns  # fmt: skip

    def cue_at(self, seen: Bool[np.ndarray, "t k"], columns: Int[np.ndarray, "k"]) -> tuple[np.ndarray, np.ndarray]:
        """Log depth and its sigma, (T, k), NaN where unseen or unknown."""
        frame, track = np.nonzero(seen)
        uv = self.seen_uv[frame, columns[track]]
        size = (self.video.width, self.video.height)
        log_depth = np.full(seen.shape, np.nan, np.float32)
        sigma = np.full(seen.shape, np.nan, np.float32)
        log_depth[frame, track] = evidence.log_depth_at(self.depth.depth_z, frame, uv, *size)
        sigma[frame, track] = evidence.nearest_at(self.depth.sigma, frame, uv, *size)
        return log_depth, sigma

    def solved(self, bundled: Arrays) -> Cameras:
        """The cameras of the bundle stage as tensors."""
        names = ("world_from_cam", "intrinsics", "log_depth_scale")
        return Cameras(*(self.tensor(bundled[name]) for name in names))


def _known_poses(observed: Observations) -> tuple[Float[np.ndarray, "4 4"], KnownPoses | None]:
    """A frame near the cameras (world coordinates may be large), and the known poses in it."""
    motion = observed.camera_motion
    if motion is None or not motion.given_frames.any():
        return np.eye(4), None
    poses = KnownPoses.of(motion)
    first = poses.world_from_cam[int(poses.known.nonzero()[0, 0])]
    return first.numpy().copy(), poses.seen_from(se3.inverse(first))
