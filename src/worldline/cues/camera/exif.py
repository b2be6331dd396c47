"""The camera from what the file knows: a focal length from EXIF data, from the user, or a typical one.

A recorded focal length is trusted to five per cent (lens data are rounded, video modes crop the sensor), and what the
images say beyond that refines it; one that was stated by the user is kept exactly. Without either the longer side is
taken to span 60 degrees, which is a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldline.errors import InputError
from worldline.geometry.camera import Camera
from worldline.scene.journal import Journal
from worldline.scene.observations import CameraPrior, Observations, Source
from worldline.scene.video import Video


@dataclass(frozen=True)
class Config:
    """Settings of the camera that is read from the file.

    `video.facts["focal_px"]` is in pixels of the stored frames; `video.facts["focal_sigma"]` (relative) overrides
    `recorded_sigma`, with 0 for a focal length that is certain.
    """

    recorded_sigma: float = 0.05
    """Relative standard deviation of a recorded focal length."""
    typical_fov_deg: float = 60.0
    """View along the longer side of the image of a camera about which nothing is known."""
    typical_sigma: float = 0.3
    """Relative standard deviation of the typical focal length."""


@dataclass(frozen=True)
class RecordedCamera:
    """The cue: reads `video.facts`."""

    config: Config
    needs: tuple[str, ...] = ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> CameraPrior:
        """The recorded camera, or a typical one with a large uncertainty."""
        facts = video.facts or {}
        focal = facts.get("focal_px")
        if focal is None:
            return _typical(self.config, video)
        if not 0 < float(focal) < float("inf"):
            raise InputError(f"a focal length of {focal} px is impossible; give a positive one with --focal.")
        sigma = float(facts.get("focal_sigma", self.config.recorded_sigma))
        source = Source("camera/exif", notes=_recorded(float(focal), sigma))
        return CameraPrior(Camera.from_focal(float(focal), video.width, video.height), sigma, source)


def build(config: Config) -> RecordedCamera:
    """The cue with these settings."""
    return RecordedCamera(config)


def _recorded(focal_px: float, sigma: float) -> tuple[str, ...]:
    if sigma == 0:
        return ()
    return (f"the focal length that is recorded ({focal_px:.0f} px) is taken to be right within {100 * sigma:.0f} %.",)


def _typical(config: Config, video: Video) -> CameraPrior:
    note = f"no focal length is recorded; assumed that the longer side spans {config.typical_fov_deg:g} degrees."
    focal = Camera.from_fov_deg(config.typical_fov_deg, max(video.width, video.height), 1).focal
    camera = Camera.from_focal(focal, video.width, video.height)
    return CameraPrior(camera, config.typical_sigma, Source("camera/exif", notes=(note,)))
