"""WorldTrack: 3D tracks with camera poses, one `.npz` per clip.

Clips with chosen points are laid out as TAPVid-3D's (`data/tapvid3d.py`) with `extrinsics_w2c`, and may lack queries.
In dense clips `tracks_XYZ` is (T, H, W, 3): where what each pixel of the first frame shows is at every time, in the
world of the poses, and `visibility`, where it is there, (T, H, W).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from worldline.data import tapvid3d
from worldline.data.sequence import Sequence
from worldline.errors import FormatError
from worldline.geometry import pixels, se3


def read(path: Path, *, max_frames: int | None = None) -> Sequence:
    """A clip with its truth.

    Raises:
        InputError: no such file. FormatError: not a WorldTrack file (without poses, say), or a damaged one.
    """
    arrays = tapvid3d.load(path)
    if "extrinsics_w2c" not in arrays:
        raise FormatError(f"{path.name} has no extrinsics_w2c, which WorldTrack needs; read it as TAPVid-3D.")
    return tapvid3d.assembled(path, by_points(arrays) if is_dense(arrays) else arrays, max_frames)


def is_dense(arrays: dict[str, np.ndarray]) -> bool:
    """Whether every pixel of the first frame has a track."""
    return arrays["tracks_XYZ"].ndim == 4


def by_points(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A dense clip laid out as a list of points in camera axes, queried at the centres of the first frame's pixels."""
    count, height, width, _ = arrays["tracks_XYZ"].shape
    points_world = arrays["tracks_XYZ"].reshape(count, height * width, 3)
    poses = arrays["extrinsics_w2c"]
    if poses.shape != (count, 4, 4):
        raise FormatError(f"extrinsics_w2c has shape {poses.shape} for {count} frames; download the file again.")
    cam_from_world = torch.from_numpy(poses.astype(np.float64))
    points_cam = se3.apply(cam_from_world, torch.from_numpy(points_world.astype(np.float64))).float().numpy()
    uv = pixels.centres(height, width).reshape(-1, 2).numpy()
    return {
        **arrays,
        "tracks_XYZ": points_cam,
        "visibility": arrays["visibility"].reshape(count, -1).astype(bool) & np.isfinite(points_cam).all(-1),
        "queries_xyt": np.concatenate([uv, np.zeros_like(uv[:, :1])], -1),
    }
