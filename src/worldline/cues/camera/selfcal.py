"""The camera from the video itself: focal length and motion of the rigid majority of the pixel tracks.

Source: structure from motion as in Hartley and Zisserman, "Multiple View Geometry", 2004, chapters 11, 18 and 19;
see `solve/structure.py` for the model selection.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from worldline.cues.rigid_scene import ESTIMATED, camera_motion_of, rigid_scene
from worldline.geometry.camera import Camera
from worldline.scene.journal import Journal
from worldline.scene.observations import CameraPrior, Observations, Source
from worldline.scene.video import Video
from worldline.solve.structure import RigidStructure
from worldline.solve.structure_settings import StructureSettings

NOTES = {
    "static": "the camera stands still, so its focal length and the depth of the scene cannot be seen; "
    "a field of view of 60 degrees is assumed.",
    "turning": "the camera only turns (or sees a single plane), so the depth of the static scene cannot be seen.",
}

HARDLY_SEEN = (
    "the focal length is hardly seen in this clip; if you know it, give it (--focal, --fov or --intrinsics), since "
    "depth along the view stretches with it."
)

UNKNOWN_SCALE = "how far the camera turns and how wide it sees cannot be told apart; the focal length is a guess."

UNSURE = 0.1
"""Relative sigma of a focal length from which it is worth a word."""


UNNOTICED = 8.0
"""Standard deviations that a zoom must reach to be told, about: cameras and points follow it most of the way."""

HIDDEN = 0.1
"""Share of the focal length by which a lens may zoom unnoticed without a word."""

UNSURE_ZOOM = 0.05
"""Standard deviation of the log of a zoom from which it is worth a word."""


@dataclass(frozen=True)
class Config:
    """Settings of the structure behind the camera."""

    structure: StructureSettings = field(default_factory=StructureSettings)

    @classmethod
    def fast(cls) -> Config:
        """A structure of fewer tracks; the cues that share it name the same."""
        return cls(structure=StructureSettings.fast())


@dataclass(frozen=True)
class SelfCalibration:
    """The cue."""

    config: Config
    needs: tuple[str, ...] = ("tracks",)

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Observations:
        """The focal length, and the poses of all frames."""
        scene = rigid_scene(video, observed, journal, self.config.structure)
        source = Source(ESTIMATED, notes=_notes(scene, video.times_s))
        intrinsics = scene.intrinsics_per_frame if scene.zooms else scene.intrinsics
        camera = Camera(intrinsics, video.width, video.height, scene.distortion)
        return Observations(
            camera=CameraPrior(camera, scene.focal_sigma, source), camera_motion=camera_motion_of(scene)
        )


def build(config: Config) -> SelfCalibration:
    """The cue with these settings."""
    return SelfCalibration(config)


def _notes(scene: RigidStructure, times_s: Float[np.ndarray, "t"]) -> tuple[str, ...]:
    lost = int((~scene.solved).sum())
    motion = (NOTES[scene.motion],) if scene.motion in NOTES else ()
    frames = (f"the camera of {lost} of {len(scene.solved)} frames is only interpolated.",) if lost else ()
    unsure = scene.motion != "static" and scene.focal_sigma > UNSURE
    focal = ((HARDLY_SEEN if scene.parallax else UNKNOWN_SCALE),) if unsure else ()
    return motion + _about_zoom(scene, times_s) + focal + frames


def _about_zoom(scene: RigidStructure, times_s: Float[np.ndarray, "t"]) -> tuple[str, ...]:
    """From when to when the focal length changes, and by how much; or how much of it would not have been noticed."""
    if not scene.zooms:
        return _about_hidden_zoom(scene)
    low, high = sorted((int(scene.zoom.argmin()), int(scene.zoom.argmax())))
    factor = scene.zoom[high] / scene.zoom[low]
    way = "in" if factor > 1 else "out"
    size = max(factor, 1 / factor)
    doubt = float(np.exp(scene.zoom_sigma))
    between = f" (likely {max(1.0, size / doubt):.2f} to {size * doubt:.2f})" if scene.zoom_sigma > UNSURE_ZOOM else ""
    return (
        f"the lens seems to zoom {way} by a factor of {size:.2f}{between} from {times_s[low]:.1f} s to "
        f"{times_s[high]:.1f} s, so every frame has its own focal length.",
    )


def _about_hidden_zoom(scene: RigidStructure) -> tuple[str, ...]:
    hidden = float(np.exp(UNNOTICED * scene.zoom_sigma)) - 1
    if scene.motion != "general" or hidden < HIDDEN:
        return ()
    size = f"a zoom by up to {100 * hidden:.0f} %" if hidden < 1 else "a zoom"
    return (
        f"the lens is taken not to zoom; along this path {size} would hardly differ from going forward or back. If it "
        "does zoom, reconstruct the parts of the clip one by one and give each its focal length (--focal).",
    )
