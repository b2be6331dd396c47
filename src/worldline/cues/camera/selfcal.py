"""The camera from the video itself: focal length and motion of the rigid majority of the pixel tracks.

Source: structure from motion as in Hartley and Zisserman, "Multiple View Geometry", 2004, chapters 11, 18 and 19;
see `solve/structure.py` for the model selection.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Config:
    """Settings of the structure behind the camera."""

    structure: StructureSettings = field(default_factory=StructureSettings)


@dataclass(frozen=True)
class SelfCalibration:
    """The cue."""

    config: Config
    needs: tuple[str, ...] = ("tracks",)

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Observations:
        """The focal length, and the poses of all frames."""
        scene = rigid_scene(video, observed, journal, self.config.structure)
        source = Source(ESTIMATED, notes=_notes(scene))
        camera = Camera(scene.intrinsics, video.width, video.height)
        return Observations(
            camera=CameraPrior(camera, scene.focal_sigma, source), camera_motion=camera_motion_of(scene)
        )


def build(config: Config) -> SelfCalibration:
    """The cue with these settings."""
    return SelfCalibration(config)


def _notes(scene: RigidStructure) -> tuple[str, ...]:
    lost = int((~scene.solved).sum())
    motion = (NOTES[scene.motion],) if scene.motion in NOTES else ()
    frames = (f"the camera of {lost} of {len(scene.solved)} frames is only interpolated.",) if lost else ()
    return motion + frames
