"""Masks of what moves from a truth that the caller has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldline.errors import InputError, MissingObservation
from worldline.scene.journal import Journal
from worldline.scene.observations import MovingMasks, Observations, Source
from worldline.scene.scene import Scene
from worldline.scene.video import Video


@dataclass(frozen=True)
class Config:
    """The truth: observations with chosen noise (they come first), or a scene."""

    observations: Observations | None = None
    scene: Scene | None = None


@dataclass(frozen=True)
class OracleMoving:
    """Hands out the masks it was given."""

    config: Config
    needs: tuple[str, ...] = ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> MovingMasks:
        """Masks of every frame.

        Raises:
            MissingObservation: no truth was given. InputError: it is of another clip.
        """
        masks = self._masks()
        if len(masks.ids) != len(video):
            raise InputError(f"the oracle has {len(masks.ids)} masks for {len(video)} frames; give its clip.")
        return masks

    def _masks(self) -> MovingMasks:
        given = self.config.observations
        if given is not None and given.moving is not None:
            return given.moving
        if self.config.scene is None:
            raise MissingObservation(
                "moving/oracle was given no truth; pass Config(observations=...) or Config(scene=...)."
            )
        return MovingMasks(np.asarray(self.config.scene.moving), Source("oracle"))


def build(config: Config) -> Callable[[Video, Observations, Journal], MovingMasks]:
    """The cue of a truth."""
    return OracleMoving(config)
