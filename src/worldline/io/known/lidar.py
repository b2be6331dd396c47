"""LiDAR points, one file per frame, seen as sparse depth maps by a known camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from worldline.errors import FormatError, InputError
from worldline.geometry import se3
from worldline.geometry.camera import Camera, distort
from worldline.io.formats.ply import read_points
from worldline.io.image_folders import natural_key
from worldline.io.known.clip_frames import ClipFrames, match_files
from worldline.io.known.number_tables import number_table
from worldline.scene.observations import DepthMaps, Source
from worldline.scene.video import Video

RANGE_SIGMA_M = 0.02
"""Standard deviation of a LiDAR's range."""

LEAST_SIGMA = 0.003
"""The smallest relative uncertainty: points lie between the pixels, and the mount is calibrated only so well."""

SUFFIXES = (".npy", ".bin", ".ply", ".xyz", ".txt", ".csv", ".pts")
_NEAREST_M = 0.1


def read_lidar(
    folder: Path, video: Video, camera: Camera, camera_from_lidar: Float[np.ndarray, "4 4"] | None = None
) -> DepthMaps:
    """Sparse depth of every frame in metres; where several points meet a pixel, the nearest one.

    Args:
        camera: of the stored frames. camera_from_lidar: None where the points are in camera axes already.

    Raises:
        InputError: no file belongs to a frame, or no point is in view. FormatError: a file that is not of points.
    """
    found = match_files(_files(folder), ClipFrames.of(video), str(folder))
    motion = np.eye(4) if camera_from_lidar is None else camera_from_lidar
    depth_z = np.zeros((len(video), video.height, video.width), dtype=np.float32)
    for t, file in enumerate(found.files):
        if file is not None:
            depth_z[t] = sparse_depth(read_point_file(file), motion, camera, t)
    seen = np.count_nonzero(depth_z, axis=(1, 2))[found.known]
    if not seen.any():
        raise InputError(
            f"no point of {folder} is in view of the camera; check the matrix from LiDAR to camera axes "
            "(x right, y down, z forward)."
        )
    sigma = np.hypot(RANGE_SIGMA_M / np.maximum(depth_z, _NEAREST_M), LEAST_SIGMA).astype(np.float32)
    note = (
        f"LiDAR points of {int(found.known.sum())} of {len(video)} frames were taken from {folder.name} ({found.how}), "
        f"{int(np.median(seen))} in view per frame."
    )
    return DepthMaps(depth_z, sigma, Source(folder.name, notes=(note,)), metric=True, frame_scale_sigma=0.001)


def read_point_file(file: Path) -> Float[np.ndarray, "n 3"]:
    """x, y, z of one file: `.npy` (N, 3 or more), KITTI's `.bin` (float32 x y z intensity), `.ply`, or text.

    Raises:
        FormatError: not of this form. Points that are not finite are left out; an empty file is of a scan without any.
    """
    if file.stat().st_size == 0:
        return np.zeros((0, 3))
    suffix = file.suffix.lower()
    points = _binary(file) if suffix == ".bin" else _ply(file) if suffix == ".ply" else _table(file)
    return points[np.isfinite(points).all(1)]


def sparse_depth(
    points_lidar: Float[np.ndarray, "n 3"],
    camera_from_lidar: Float[np.ndarray, "4 4"],
    camera: Camera,
    frame: int = 0,
) -> Float[np.ndarray, "h w"]:
    """Depth of the nearest point in each pixel, 0 where there is none."""
    points = se3.apply(torch.from_numpy(camera_from_lidar), torch.from_numpy(points_lidar))
    points = points[points[:, 2] > _NEAREST_M]
    fxfy, centre = torch.from_numpy(camera.at(frame)).split(2)
    ideal = points[:, :2] / points[:, 2:]
    uv = (distort(ideal, camera.distortion) if camera.distortion else ideal) * fxfy + centre
    inside = ((uv >= 0) & (uv < torch.tensor([camera.width, camera.height]))).all(1)
    inside &= (ideal * fxfy + centre - uv).abs().amax(1) < max(camera.width, camera.height) / 2
    column, row = uv[inside].floor().long().unbind(1)
    flat = torch.full((camera.height * camera.width,), torch.inf, dtype=torch.float64)
    flat.scatter_reduce_(0, row * camera.width + column, points[inside, 2], "amin")
    return torch.where(flat.isfinite(), flat, 0.0).reshape(camera.height, camera.width).numpy().astype(np.float32)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder with a file of points per frame.")
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return sorted(files, key=lambda p: natural_key(p.name))


def _binary(file: Path) -> Float[np.ndarray, "n 3"]:
    data = file.read_bytes()
    if len(data) % 16:
        raise FormatError(f"{file} is not KITTI's format (float32 x y z intensity); it has {len(data)} bytes.")
    return np.frombuffer(data, "<f4").reshape(-1, 4)[:, :3].astype(np.float64)


def _ply(file: Path) -> Float[np.ndarray, "n 3"]:
    return read_points(file)[0].astype(np.float64)


def _table(file: Path) -> Float[np.ndarray, "n 3"]:
    if file.suffix.lower() == ".npy":
        try:
            points = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FormatError(f"{file} cannot be read; write it again with numpy.save.") from error
    else:
        points = number_table(file, finite=False)
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind not in "fiu":
        raise FormatError(f"{file} has shape {points.shape}, not points of x, y, z; give one point per row.")
    return points[:, :3].astype(np.float64)
