"""Dynamic Replica: rendered stereo clips of people and animals in rooms (Karaev et al., CVPR 2023).

    SPLIT/frame_annotations_SPLIT.jgz (or .json)     a list with an entry for every frame of both cameras
    SPLIT/NAME_source_left/images/*.png              NAME_source_right likewise
    SPLIT/NAME_source_left/depths/*.geometric.png    depth_z: 16 bits per pixel that are a float16
    SPLIT/NAME_source_left/masks/*.png               what was put into the room, so may move: not 0
    SPLIT/NAME_source_left/trajectories/*.pth        per frame: traj_3d_world (N, 3), verts_inds_vis (N,), ...

An entry has `sequence_name`, `camera_name`, `frame_number`, `frame_timestamp`, `image`, `depth`, `mask`, `trajectories`
(each with a `path` relative to SPLIT) and `viewpoint` with R, T, `focal_length` and `principal_point` in PyTorch3D's
convention: x_cam = x_world R + T with x to the left and y up; lengths in half images, measured from the middle.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from worldline.data.encoded_images import UNREADABLE
from worldline.data.sequence import Sequence, TrackTruth, first_seen
from worldline.errors import FormatError, InputError
from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.scene.observations import CameraMotion, CameraPrior, DepthMaps, MovingMasks, Observations, Source
from worldline.scene.video import Video

_ANNOTATIONS = ("frame_annotations_*.jgz", "frame_annotations_*.json")
_FPS = 30.0
_FLIP = np.diag([-1.0, -1.0, 1.0])

Entry = dict[str, Any]


def belongs(folder: Path) -> bool:
    """Whether the folder is a sequence of Dynamic Replica, or a split."""
    return folder.is_dir() and _annotation_file(folder) is not None


def read(folder: Path, *, max_frames: int | None = None) -> Sequence:
    """A sequence with its truth: images, lens, poses, depth, masks and trajectories, as far as the files are there.

    Args:
        folder: of the sequence (`.../NAME_source_left`), or of a split that holds only one.

    Raises:
        InputError: not such a folder. FormatError: an annotation or a file is missing or damaged.
    """
    split, entries = _entries(folder)
    entries = entries[:max_frames]
    source = Source(f"Dynamic Replica, {entries[0]['sequence_name']} {entries[0]['camera_name']}")
    frames = _stacked([_each(split, e, "image", _rgb) for e in entries], "images")
    height, width = frames.shape[1:3]
    depth_z = _maps(split, entries, "depth", _depth_z, (height, width))
    depth_z = None if depth_z is None else depth_z * np.array([_depth_scale(e) for e in entries])[:, None, None]
    ids = _maps(split, entries, "mask", _foreground, (height, width))
    camera = Camera(np.array([_intrinsics(e, width, height) for e in entries]), width, height)
    world_from_cam = _world_from_cam(entries)
    times_s = _times_s(entries)
    points_cam, visible = _trajectories(split, entries, world_from_cam)
    query_frame, query_uv = first_seen(points_cam, visible, camera)
    truth = TrackTruth(
        f"{entries[0]['sequence_name']}_{entries[0]['camera_name']}", times_s, camera, points_cam, visible, query_frame,
        query_uv, world_from_cam, depth_z, ids,
    )  # fmt: skip
    return Sequence(Video(frames, times_s, name=truth.name), _observed(truth, source), truth)


def _annotation_file(folder: Path) -> Path | None:
    places = (folder, folder.parent)
    return next((f for place in places for pattern in _ANNOTATIONS for f in sorted(place.glob(pattern))), None)


def _entries(folder: Path) -> tuple[Path, list[Entry]]:
    """The folder that paths are relative to, and the entries of the one sequence and camera, in order of time."""
    file = _annotation_file(folder) if folder.is_dir() else None
    if file is None:
        raise InputError(f"{folder} has no frame_annotations_*.jgz beside it; give a sequence of Dynamic Replica.")
    entries = _annotations(file)
    if folder != file.parent:
        entries = [e for e in entries if _path(e, "image", file).parts[0] == folder.name]
    clips = sorted({(e["sequence_name"], e["camera_name"]) for e in entries})
    if not clips:
        raise InputError(f"{file.name} knows no frame in {folder.name}; give the folder of one of its sequences.")
    if len(clips) > 1:
        some = ", ".join(f"{name}_source_{camera}" for name, camera in clips[:3])
        raise InputError(f"{folder} holds {len(clips)} clips ({some}...); give the folder of one of them.")
    return file.parent, sorted(entries, key=lambda e: e["frame_number"])


def _annotations(file: Path) -> list[Entry]:
    try:
        text = gzip.decompress(file.read_bytes()) if file.suffix == ".jgz" else file.read_bytes()
        entries = json.loads(text)
        for entry in entries:
            entry["sequence_name"], entry["camera_name"], entry["image"]["path"]
            entry["frame_number"] = int(entry["frame_number"])
    except UNREADABLE as error:
        raise FormatError(f"{file.name} is no list of frame annotations ({error!r}); download it again.") from error
    return list(entries)


def _path(entry: Entry, what: str, where: Path) -> Path:
    item = entry.get(what)
    path = item.get("path") if isinstance(item, dict) else item
    if not isinstance(path, str):
        raise FormatError(
            f"frame {entry['frame_number']} in {where.name} has no {what}; download the annotations again."
        )
    return Path(path)


def _each(split: Path, entry: Entry, what: str, load: Callable[[Path], np.ndarray]) -> np.ndarray:
    path = split / _path(entry, what, split)
    try:
        return load(path)
    except (*UNREADABLE, RuntimeError) as error:
        state = "is damaged or of another kind" if path.exists() else "is missing"
        raise FormatError(f"{path} {state}; download the sequence again.") from error


def _stacked(arrays: list[np.ndarray], what: str) -> np.ndarray:
    if len({array.shape for array in arrays}) > 1:
        raise FormatError(f"the {what} have different sizes; download the sequence again.")
    return np.stack(arrays)


def _maps(
    split: Path, entries: list[Entry], what: str, load: Callable[[Path], np.ndarray], size: tuple[int, int]
) -> np.ndarray | None:
    """A map per frame, of the images' size, or None where the annotations have none."""
    if any(not entry.get(what) for entry in entries):
        return None
    maps = _stacked([_each(split, e, what, load) for e in entries], f"files of {what}")
    if maps.shape[1:] != size:
        raise FormatError(f"the files of {what} are not of the images' size; download the sequence again.")
    return maps


def _rgb(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def _depth_z(path: Path) -> Float[np.ndarray, "h w"]:
    with Image.open(path) as image:
        depth_z = np.array(image).astype(np.uint16).view(np.float16).astype(np.float32)
    return np.where(np.isfinite(depth_z) & (depth_z > 0), depth_z, 0).astype(np.float32)


def _depth_scale(entry: Entry) -> np.float32:
    """What stored depth is multiplied with; 1 in the published files."""
    item = entry["depth"]
    scale = item.get("scale_adjustment", 1.0) if isinstance(item, dict) else 1.0
    if not (isinstance(scale, (int, float)) and 0 < scale < np.inf):
        raise FormatError(f"the depth of frame {entry['frame_number']} has the scale {scale!r}; download it again.")
    return np.float32(scale)


def _foreground(path: Path) -> UInt8[np.ndarray, "h w"]:
    with Image.open(path) as image:
        return (np.array(image.convert("L")) > 0).astype(np.uint8)


def _viewpoint(entry: Entry, key: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        value = np.array(entry["viewpoint"][key], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"frame {entry['frame_number']} has no {key} of its viewpoint; download it again.") from error
    if value.shape != shape or not np.isfinite(value).all():
        raise FormatError(f"{key} of frame {entry['frame_number']} is no array of shape {shape}; download it again.")
    return value


def _intrinsics(entry: Entry, width: int, height: int) -> Float[np.ndarray, "4"]:
    """fx fy cx cy in pixels; PyTorch3D's image plane has its middle at (W / 2, H / 2), as ours."""
    half = np.array([width, height]) / 2
    focal, principal = _viewpoint(entry, "focal_length", (2,)), _viewpoint(entry, "principal_point", (2,))
    kind = str(entry["viewpoint"].get("intrinsics_format", "ndc_norm_image_bounds")).lower()
    if kind not in ("ndc_isotropic", "ndc_norm_image_bounds"):
        raise FormatError(
            f"intrinsics of kind {kind!r} are not known; only ndc_isotropic and ndc_norm_image_bounds are."
        )
    unit = np.repeat(half.min(), 2) if kind == "ndc_isotropic" else half
    return np.concatenate([focal * unit, half - principal * unit])


def _world_from_cam(entries: list[Entry]) -> Float[np.ndarray, "t 4 4"]:
    rotation = np.stack([_FLIP @ _viewpoint(e, "R", (3, 3)).T for e in entries])
    translation = np.stack([_FLIP @ _viewpoint(e, "T", (3,)) for e in entries])
    cam_from_world = se3.from_rotation_translation(torch.from_numpy(rotation), torch.from_numpy(translation))
    return se3.inverse(cam_from_world).numpy()


def _times_s(entries: list[Entry]) -> Float[np.ndarray, "t"]:
    """The stamps of the frames where they rise, else their numbers at 30 frames per second."""
    stamped = [e.get("frame_timestamp") for e in entries]
    stamps = np.array([s if isinstance(s, (int, float)) else np.nan for s in stamped], dtype=np.float64)
    if np.isfinite(stamps).all() and (np.diff(stamps) > 0).all():
        return stamps - stamps[0]
    return np.array([e["frame_number"] - entries[0]["frame_number"] for e in entries]) / _FPS


def _trajectories(
    split: Path, entries: list[Entry], world_from_cam: np.ndarray
) -> tuple[Float[np.ndarray, "t n 3"], np.ndarray]:
    """Camera points and visibility; no points where the annotations have no trajectories (the right camera, say)."""
    if any(not entry.get("trajectories") for entry in entries):
        return np.zeros((len(entries), 0, 3)), np.zeros((len(entries), 0), dtype=bool)
    each = [_each(split, e, "trajectories", _trajectory) for e in entries]
    if len({len(points) for points in each}) > 1:
        raise FormatError(f"the trajectories in {split} have different numbers of points; download them again.")
    both = np.stack(each)
    cam_from_world = se3.inverse(torch.from_numpy(world_from_cam))
    return se3.apply(cam_from_world, torch.from_numpy(both[..., :3])).numpy(), both[..., 3] > 0


def _trajectory(path: Path) -> Float[np.ndarray, "n 4"]:
    """World points with their visibility as the fourth column."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    points, visible = stored["traj_3d_world"].double(), stored["verts_inds_vis"].double()
    return torch.cat([points, visible[:, None]], -1).numpy()


def _observed(truth: TrackTruth, source: Source) -> Observations:
    assert truth.world_from_cam is not None
    every = np.ones(len(truth), dtype=bool)
    depth = truth.depth_z
    return Observations(
        camera=CameraPrior(truth.camera, 0.0, source),
        camera_motion=CameraMotion(
            truth.world_from_cam, every, 1e-3, 1e-4, source, metric=True, metric_source=source.name
        ),
        depth=None if depth is None else DepthMaps(depth, np.full_like(depth, 0.01), source, metric=True),
        moving=None if truth.moving is None else MovingMasks(truth.moving, source),
    )
