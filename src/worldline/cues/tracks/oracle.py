"""2D tracks from a truth that the caller has: a synthetic world's, or a scene's own 3D tracks seen by its camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from worldline.errors import InputError, MissingObservation
from worldline.geometry import camera, se3
from worldline.scene.journal import Journal
from worldline.scene.motion import WorldTracks
from worldline.scene.observations import Observations, PixelTracks, Source
from worldline.scene.scene import Scene
from worldline.scene.video import Video

_LEAST_SIGMA_PX = 1e-3


@dataclass(frozen=True)
class Config:
    """The truth: observations with chosen noise (they come first), or a scene with tracks."""

    observations: Observations | None = None
    scene: Scene | None = None


@dataclass(frozen=True)
class OracleTracks:
    """Hands out the tracks it was given."""

    config: Config
    needs: tuple[str, ...] = ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> PixelTracks:
        """Tracks over the whole clip.

        Raises:
            MissingObservation: no truth was given. InputError: it is of another clip.
        """
        tracks = self._tracks()
        if len(tracks.uv) != len(video):
            raise InputError(f"the oracle has tracks of {len(tracks.uv)} frames for {len(video)}; give its clip.")
        return tracks

    def _tracks(self) -> PixelTracks:
        given, scene = self.config.observations, self.config.scene
        if given is not None and given.tracks is not None:
            return given.tracks
        if scene is None or scene.tracks is None:
            raise MissingObservation(
                "tracks/oracle was given no truth; pass Config(observations=...) or Config(scene=...) with tracks."
            )
        return from_scene(scene, scene.tracks)


def from_scene(scene: Scene, tracks: WorldTracks) -> PixelTracks:
    """3D tracks of a scene projected into its own camera."""
    cam_from_world = se3.inverse(torch.from_numpy(np.array(scene.world_from_cam)))
    points_cam = se3.apply(cam_from_world, torch.from_numpy(tracks.points_world).double())
    intrinsics = torch.from_numpy(scene.camera.frames(len(scene)).copy())[:, None]
    uv = torch.where(points_cam[..., 2:] > 0, camera.project(points_cam, intrinsics), -1.0)
    visible = tracks.visible & np.isfinite(tracks.points_world).all(-1) & (points_cam[..., 2] > 0).numpy()
    sigma = np.full(visible.shape, _LEAST_SIGMA_PX, dtype=np.float32)
    return PixelTracks(
        np.nan_to_num(uv.float().numpy(), nan=-1.0), visible, sigma, tracks.query_frame, Source("oracle")
    )


def build(config: Config) -> Callable[[Video, Observations, Journal], PixelTracks]:
    """The cue of a truth."""
    return OracleTracks(config)
