"""TAPVid-3D: 3D tracks of points on real videos, one `.npz` per clip (Koppula et al., NeurIPS 2024).

    images_jpeg_bytes (T,)      the frames, as the bytes of JPEG files
    tracks_XYZ (T, N, 3)        metres, in the axes of each frame's camera (OpenCV)
    visibility (T, N)
    queries_xyt (N, 3)          x, y in raster coordinates (the top left corner is 0, 0), and the frame
    fx_fy_cx_cy (4,)            pixels, of the same raster
    extrinsics_w2c (T, 4, 4)    camera from world, in some copies

Raster coordinates put the centre of the first pixel at +0.5, as worldline does, so nothing is converted. A file's name
tells its part: `boxes_22` (Panoptic Studio, still cameras), `tapvid3d_9142..._2_5AKc...` (DriveTrack, from Waymo),
`Apartment_release_meal_seq136_8` (Aria Digital Twin).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from worldline.data.encoded_images import UNREADABLE, read_encoded
from worldline.data.sequence import Sequence, TrackTruth, first_seen
from worldline.errors import FormatError, InputError
from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.scene.observations import CameraMotion, CameraPrior, Observations, Source
from worldline.scene.video import Video

Part = Literal["pstudio", "drivetrack", "adt", "unknown"]

REQUIRED = ("images_jpeg_bytes", "tracks_XYZ", "visibility", "fx_fy_cx_cy")
_NAMES: dict[Part, str] = {
    "pstudio": r"(basketball|boxes|football|juggle|softball|tennis)_\d+",
    "drivetrack": r"tapvid3d_\d+_.+",
    "adt": r"(Apartment|Lite)_release_.+_seq\d+.*_\d+",
}
_WHOLE = ("fx_fy_cx_cy", "queries_xyt")
"""Arrays without an axis of frames."""
_FPS: dict[Part, float] = {"pstudio": 30.0, "drivetrack": 10.0, "adt": 30.0, "unknown": 30.0}


def part_of(name: str) -> Part:
    """The part of the benchmark that a file belongs to, by its name without suffix."""
    return next((part for part, pattern in _NAMES.items() if re.fullmatch(pattern, name)), "unknown")


def read(path: Path, *, max_frames: int | None = None) -> Sequence:
    """A clip with its truth. Where the file has no poses, those of still cameras (Panoptic Studio) are the identity.

    Raises:
        InputError: no such file. FormatError: not a TAPVid-3D file, or a damaged one.
    """
    return assembled(path, load(path), max_frames)


def load(path: Path) -> dict[str, np.ndarray]:
    """The plain arrays of the file as they are stored."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; give an .npz file of TAPVid-3D or WorldTrack.")
    try:
        with np.load(path) as archive:
            missing = [key for key in REQUIRED if key not in archive.files]
            if missing:
                raise FormatError(f"{path.name} has no {', '.join(missing)}, so it is no TAPVid-3D or WorldTrack file.")
            wanted = [*REQUIRED[1:], "queries_xyt", "extrinsics_w2c"]
            return {key: archive[key] for key in wanted if key in archive.files}
    except FormatError:
        raise
    except UNREADABLE as error:
        raise FormatError(f"{path.name} cannot be read as .npz; it is damaged or of another kind.") from error


def assembled(path: Path, arrays: dict[str, np.ndarray], max_frames: int | None) -> Sequence:
    """The sequence of a file whose arrays are laid out as in TAPVid-3D."""
    _check(path.name, arrays)
    name, part = path.stem, part_of(path.stem)
    arrays = {key: a if key in _WHOLE else a[:max_frames] for key, a in arrays.items()}
    count = len(arrays["tracks_XYZ"])
    frames = read_encoded(path, "images_jpeg_bytes", count)
    if len(frames) != count:
        raise FormatError(f"{path.name} has {len(frames)} images but {count} frames of tracks; download it again.")
    camera = Camera(arrays["fx_fy_cx_cy"], frames.shape[2], frames.shape[1])
    truth = _truth(name, np.arange(count) / _FPS[part], camera, arrays)
    note = f"{name} stores no time stamps; {_FPS[part]:.0f} frames per second were assumed."
    return Sequence(Video(frames, truth.times_s, name=name, notes=(note,)), _observed(truth), truth)


def camera_poses(arrays: dict[str, np.ndarray], name: str) -> np.ndarray | None:
    """World from camera, (T, 4, 4), the first frame's camera being the world; None where they are not known."""
    if "extrinsics_w2c" in arrays:
        cam_from_world = torch.from_numpy(arrays["extrinsics_w2c"].astype(np.float64))
        return (cam_from_world[0] @ se3.inverse(cam_from_world)).numpy()
    if part_of(name) == "pstudio":
        return np.tile(np.eye(4), (len(arrays["tracks_XYZ"]), 1, 1))
    return None


def _check(name: str, arrays: dict[str, np.ndarray]) -> None:
    tracks = arrays["tracks_XYZ"]
    if any(array.dtype.kind not in "fiub" for array in arrays.values()):
        raise FormatError(f"{name} holds something else than numbers; download it again.")
    if tracks.ndim != 3 or tracks.shape[-1] != 3 or tracks.dtype.kind != "f" or tracks.size == 0:
        raise FormatError(f"tracks_XYZ of {name} has shape {tracks.shape}, not (frames, points, 3); download it again.")
    shapes = {
        "visibility": tracks.shape[:2],
        "queries_xyt": (tracks.shape[1], 3),
        "extrinsics_w2c": (len(tracks), 4, 4),
        "fx_fy_cx_cy": (4,),
    }
    for key, shape in shapes.items():
        if key in arrays and arrays[key].shape != shape:
            raise FormatError(f"{key} of {name} has shape {arrays[key].shape}, not {shape}; download it again.")
    poses = arrays.get("extrinsics_w2c")
    if poses is not None and not np.isfinite(poses).all():
        raise FormatError(f"extrinsics_w2c of {name} is not finite everywhere; leave out the frames without a pose.")
    if "queries_xyt" in arrays and not (0 <= arrays["queries_xyt"][:, 2]).all():
        raise FormatError(f"queries_xyt of {name} asks for frames before the first; download it again.")


def _truth(name: str, times_s: np.ndarray, camera: Camera, arrays: dict[str, np.ndarray]) -> TrackTruth:
    points_cam, visible = arrays["tracks_XYZ"], arrays["visibility"].astype(bool)
    if "queries_xyt" in arrays:
        query_frame, uv = np.rint(arrays["queries_xyt"][:, 2]).astype(np.int64), arrays["queries_xyt"][:, :2]
        asked = query_frame < len(points_cam)
        points_cam, visible, query_frame, uv = points_cam[:, asked], visible[:, asked], query_frame[asked], uv[asked]
    else:
        query_frame, uv = first_seen(points_cam, visible, camera)
    poses = camera_poses(arrays, name)
    return TrackTruth(name, times_s, camera, points_cam, visible, query_frame, uv.astype(np.float64), poses)


def _observed(truth: TrackTruth) -> Observations:
    source = Source(f"TAPVid-3D, {truth.name}")
    motion = None
    if truth.world_from_cam is not None:
        known = np.ones(len(truth), dtype=bool)
        motion = CameraMotion(truth.world_from_cam, known, 0.01, 0.001, source, metric=True, metric_source=source.name)
    return Observations(camera=CameraPrior(truth.camera, 0.0, source), camera_motion=motion)
