"""A recording as the truth: the folder that a clip came from, with camera poses and depth images beside its pictures.

Layouts as in `io.known`: 7-Scenes (`frame-000000.pose.txt` and `.depth.png` beside the colour image), TUM RGB-D
(`groundtruth.txt`, `depth/`), or the same with other names that say pose, ground truth, intrinsics or calibration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldline.errors import InputError
from worldline.geometry.camera import Camera
from worldline.io.known.rgbd_folders import find_beside
from worldline.run.known import Known, observations
from worldline.run.refine import clip_of
from worldline.run.refining.similarity import on_grid
from worldline.scene.observations import DepthMaps, Observations
from worldline.scene.scene import Scene

_POSE_FILE = re.compile(r"(ground.?truth|trajectory|traj|poses?)[^.]*\.(txt|tum)$", re.IGNORECASE)
_CAMERA_FILE = re.compile(r"(intrinsic|calib)[^.]*\.(txt|json|ya?ml)$|^cameras\.txt$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class RecordedTruth:
    """What a recording knows of the frames of a scene, as a scene of the frames whose pose it knows.

    Attributes:
        has_depth, has_camera: whether the recording says anything of depth and of the lens; where it does not, the
            scene has none, and the camera of the estimate. What moves is never known.
        notes: which files were taken for what.
    """

    scene: Scene
    has_depth: bool
    has_camera: bool
    notes: tuple[str, ...]


def recorded_truth(folder: Path, estimate: Scene) -> RecordedTruth:
    """The truth about the frames of `estimate` in the folder of their recording.

    Raises:
        InputError: the folder holds no poses, or none of these frames. FormatError: a file cannot be read.
    """
    places = [folder, *(p for p in (folder / "frames", folder / "rgb") if p.is_dir())]
    poses = next((path for path in map(_poses, places) if path is not None), None)
    if poses is None:
        raise InputError(
            f"{folder} is neither a saved scene nor a recording with camera poses (groundtruth.txt, or .pose.txt "
            "beside the images); give the true scene or a camera path."
        )
    source = next((place for place in places if find_beside(place) is not None), None)
    known = Known(poses=poses, intrinsics=_named(folder, _CAMERA_FILE))
    found = observations(known, clip_of(estimate), source=source)
    assert found is not None and found.camera_motion is not None
    camera = estimate.camera if found.camera is None else found.camera.camera
    truth = _scene(estimate, found, camera, folder.resolve().name)
    return RecordedTruth(truth, found.depth is not None, found.camera is not None, found.notes)


def _poses(place: Path) -> Path | None:
    """The folder itself where it has a pose per frame, else the file that is called so."""
    return place if any(place.glob("*.pose.txt")) else _named(place, _POSE_FILE)


def _named(folder: Path, pattern: re.Pattern[str]) -> Path | None:
    return next((p for p in sorted(folder.iterdir()) if p.is_file() and pattern.search(p.name)), None)


def _scene(estimate: Scene, found: Observations, camera: Camera, name: str) -> Scene:
    assert found.camera_motion is not None
    frames = np.flatnonzero(found.camera_motion.given_frames)
    shape = (len(frames), estimate.height, estimate.width)
    depth_z = np.zeros(shape, np.float32) if found.depth is None else _depth(found.depth, frames, shape)
    return Scene(
        times_s=estimate.times_s[frames],
        camera=camera,
        world_from_cam=found.camera_motion.world_from_cam[frames],
        depth_z=depth_z,
        depth_sigma=np.ones(shape, np.float32),
        valid=depth_z > 0,
        moving=np.zeros(shape, np.uint8),
        metric=True,
        metric_source=f"the recording {name}",
        name=name,
    )


def _depth(depth: DepthMaps, frames: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    maps = [on_grid(np.nan_to_num(np.asarray(depth.depth_z[t])), *shape[1:]) for t in frames]
    return np.stack(maps).astype(np.float32)
