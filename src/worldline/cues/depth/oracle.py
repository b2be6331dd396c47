"""Depth from a truth that the caller has: a synthetic world, a scanned scene, another reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldline.errors import InputError, MissingObservation
from worldline.scene.journal import Journal
from worldline.scene.observations import DepthMaps, Observations, Source
from worldline.scene.scene import Scene
from worldline.scene.video import Video

_LEAST_SIGMA = 1e-4


@dataclass(frozen=True)
class Config:
    """The truth: observations with chosen noise (they come first), or a scene."""

    observations: Observations | None = None
    scene: Scene | None = None


@dataclass(frozen=True)
class OracleDepth:
    """Hands out the depth it was given."""

    config: Config
    needs: tuple[str, ...] = ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> DepthMaps:
        """Depth of every frame.

        Raises:
            MissingObservation: no truth was given. InputError: it is of another clip.
        """
        depth = self._depth()
        if len(depth.depth_z) != len(video):
            raise InputError(f"the oracle has {len(depth.depth_z)} depth maps for {len(video)} frames; give its clip.")
        return depth

    def _depth(self) -> DepthMaps:
        given = self.config.observations
        if given is not None and given.depth is not None:
            return given.depth
        if self.config.scene is None:
            raise MissingObservation(
                "depth/oracle was given no truth; pass Config(observations=...) or Config(scene=...)."
            )
        return from_scene(self.config.scene)


def from_scene(scene: Scene) -> DepthMaps:
    """A scene's depth as an observation."""
    depth = np.where(scene.valid, scene.depth_z, 0).astype(np.float32)
    sigma = np.maximum(np.asarray(scene.depth_sigma), _LEAST_SIGMA).astype(np.float32)
    return DepthMaps(depth, sigma, Source("oracle"), metric=scene.metric, frame_scale_sigma=0.0)


def build(config: Config) -> Callable[[Video, Observations, Journal], DepthMaps]:
    """The cue of a truth."""
    return OracleDepth(config)
