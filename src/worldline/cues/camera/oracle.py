"""The camera from a truth that the caller has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worldline.errors import InputError, MissingObservation
from worldline.scene.journal import Journal
from worldline.scene.observations import CameraPrior, Observations, Source
from worldline.scene.scene import Scene
from worldline.scene.video import Video


@dataclass(frozen=True)
class Config:
    """The truth: observations with chosen noise (they come first), or a scene."""

    observations: Observations | None = None
    scene: Scene | None = None


@dataclass(frozen=True)
class OracleCamera:
    """Hands out the camera it was given, at the video's size."""

    config: Config
    needs: tuple[str, ...] = ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> CameraPrior:
        """Intrinsics of the clip.

        Raises:
            MissingObservation: no truth was given. InputError: it is of another clip.
        """
        prior = self._prior()
        if prior.camera.per_frame and len(prior.camera.intrinsics) != len(video):
            raise InputError(f"the oracle's camera has another number of frames than the {len(video)}; give its clip.")
        camera = prior.camera.resized(video.width, video.height)
        return CameraPrior(camera, prior.focal_sigma, prior.source)

    def _prior(self) -> CameraPrior:
        given = self.config.observations
        if given is not None and given.camera is not None:
            return given.camera
        if self.config.scene is None:
            raise MissingObservation(
                "camera/oracle was given no truth; pass Config(observations=...) or Config(scene=...)."
            )
        return CameraPrior(self.config.scene.camera, 0.0, Source("oracle"))


def build(config: Config) -> Callable[[Video, Observations, Journal], CameraPrior]:
    """The cue of a truth."""
    return OracleCamera(config)
