"""The rigid scene of a clip: cameras and static points from the pixel tracks, one computation shared by the cues."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch

from worldline.geometry import camera
from worldline.scene.journal import Arrays, Journal, content_key
from worldline.scene.observations import CameraMotion, Observations, PixelTracks, Source
from worldline.scene.video import Video
from worldline.solve.structure import MEDIAN_DEPTH, RigidStructure, rigid_structure, structure_at
from worldline.solve.structure_settings import StructureSettings

ESTIMATED = "camera/selfcal"
"""Source of cameras and poses that came from here: they carry no knowledge of their own."""

CENTRE_SIGMA = 0.02
"""Standard deviation of a camera centre, as a share of the median depth."""

ROTATION_SIGMA_RAD = 0.004
"""Standard deviation of a camera's rotation."""


def rigid_scene(
    video: Video, observed: Observations, journal: Journal, settings: StructureSettings | None = None
) -> RigidStructure:
    """Structure from the observed tracks, with the camera and the poses that are known already.

    Needs `observed.tracks`. A known camera (from a file, a sensor) gives the focal length; known poses of all frames
    are taken as they are.
    """
    assert observed.tracks is not None, "the rigid scene comes from tracks"
    chosen = settings or StructureSettings()
    known = observed.camera if observed.camera and observed.camera.source.name != ESTIMATED else None
    motion = (
        observed.camera_motion if observed.camera_motion and observed.camera_motion.source.name != ESTIMATED else None
    )
    tracks = observed.tracks if known is None else _ideal(observed.tracks, known.camera)
    size = (video.width, video.height)

    def compute() -> Arrays:
        if motion is not None and known is not None and motion.valid.all():
            found = structure_at(tracks, motion.world_from_cam, known.camera.at(0), settings=chosen)
        elif known is not None:
            found = rigid_structure(
                tracks, *size, focal_px=known.camera.focal, focal_sigma=known.focal_sigma, settings=chosen
            )
        else:
            found = rigid_structure(tracks, *size, settings=chosen)
        return {f.name: np.asarray(getattr(found, f.name)) for f in fields(found)}

    key = {
        "settings": chosen,
        "tracks": content_key(observed.tracks.uv, observed.tracks.visible, observed.tracks.sigma_px),
        "camera": known and (known.camera.intrinsics, known.camera.distortion, known.focal_sigma),
        "camera_motion": motion and (motion.world_from_cam, motion.valid),
    }
    stored = journal.run("structure", compute, settings=key)
    plain = {"focal_sigma": float(stored["focal_sigma"]), "motion": str(stored["motion"])}
    return RigidStructure(**{**stored, **plain})  # type: ignore[arg-type]


def camera_motion_of(scene: RigidStructure) -> CameraMotion:
    """The camera motion as an observation, so that an engine can start from it."""
    return CameraMotion(
        scene.world_from_cam, scene.solved, CENTRE_SIGMA * MEDIAN_DEPTH, ROTATION_SIGMA_RAD, Source(ESTIMATED)
    )


def _ideal(tracks: PixelTracks, lens: camera.Camera) -> PixelTracks:
    """The tracks as a camera without distortion would see them."""
    if not lens.distortion:
        return tracks
    fxfy, centre = lens.at(0)[:2], lens.at(0)[2:]
    xy = torch.from_numpy((tracks.uv - centre) / fxfy)
    uv = camera.undistort(xy, lens.distortion).numpy() * fxfy + centre
    return PixelTracks(uv.astype(np.float32), tracks.visible, tracks.sigma_px, tracks.query_frame, tracks.source)
