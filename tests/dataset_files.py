"""Small files in the layouts of public datasets, made from a true clip, for tests of what reads them."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from worldline.data import TrackTruth

FLIP = np.diag([-1.0, -1.0, 1.0])
DEPTH_SCALE = 2.0


def encoded(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def tapvid3d_arrays(truth: TrackTruth, frames: np.ndarray, *, poses: bool = False) -> dict[str, np.ndarray]:
    """The arrays of a TAPVid-3D file."""
    arrays = {
        "images_jpeg_bytes": np.array([encoded(frame) for frame in frames]),
        "queries_xyt": np.concatenate([truth.query_uv, truth.query_frame[:, None]], -1).astype(np.float32),
        "tracks_XYZ": truth.points_cam.astype(np.float32),
        "visibility": truth.visible,
        "fx_fy_cx_cy": truth.camera.at(0),
    }
    return {**arrays, "extrinsics_w2c": np.linalg.inv(truth.world_from_cam)} if poses else arrays


def write_dynamic_replica(
    split: Path, name: str, truth: TrackTruth, frames: np.ndarray, *, zipped: bool = True
) -> Path:
    """A split with one stereo clip whose left camera is the truth; the right one has no trajectories."""
    entries = []
    for side in ("left", "right"):
        folder = split / f"{name}_source_{side}"
        for kind in ("images", "depths", "masks", "trajectories"):
            (folder / kind).mkdir(parents=True)
        entries += [_entry(folder, name, side, t, truth, frames[t]) for t in reversed(range(len(frames)))]
    text = json.dumps(entries).encode()
    if zipped:
        (split / f"frame_annotations_{split.name}.jgz").write_bytes(gzip.compress(text))
    else:
        (split / f"frame_annotations_{split.name}.json").write_bytes(text)
    return split / f"{name}_source_left"


def _entry(folder: Path, name: str, side: str, t: int, truth: TrackTruth, frame: np.ndarray) -> dict:
    stem = f"{name}_source_{side}-{t:04d}"
    paths = {
        "image": folder / "images" / f"{stem}.png",
        "depth": folder / "depths" / f"{stem}.geometric.png",
        "mask": folder / "masks" / f"{stem}.png",
        "trajectories": folder / "trajectories" / f"{t:06d}.pth",
    }
    Image.fromarray(frame).save(paths["image"])
    Image.fromarray((truth.depth_z[t] / DEPTH_SCALE).astype(np.float16).view(np.uint16)).save(paths["depth"])
    Image.fromarray(np.where(truth.moving[t] > 0, 255, 0).astype(np.uint8)).save(paths["mask"])
    if side == "left":
        world, seen = torch.from_numpy(truth.points_world[t]).float(), torch.from_numpy(truth.visible[t])
        torch.save({"traj_3d_world": world, "verts_inds_vis": seen}, paths["trajectories"])
    height, width = frame.shape[:2]
    files = {what: {"path": str(path.relative_to(folder.parent))} for what, path in paths.items()}
    if side == "right":
        files["trajectories"] = None
    files["depth"]["scale_adjustment"] = DEPTH_SCALE
    return {
        "sequence_name": name,
        "camera_name": side,
        "frame_number": t,
        "frame_timestamp": float(truth.times_s[t]),
        "viewpoint": _viewpoint(np.linalg.inv(truth.world_from_cam[t]), truth.camera.at(t), width, height),
        **files,
    }


def _viewpoint(cam_from_world: np.ndarray, intrinsics: np.ndarray, width: int, height: int) -> dict:
    """PyTorch3D's: rows of R are columns of ours, x and y the other way round, lengths in half of the smaller side."""
    half = min(width, height) / 2
    return {
        "R": (FLIP @ cam_from_world[:3, :3]).T.tolist(),
        "T": (FLIP @ cam_from_world[:3, 3]).tolist(),
        "focal_length": (intrinsics[:2] / half).tolist(),
        "principal_point": ((np.array([width, height]) / 2 - intrinsics[2:]) / half).tolist(),
        "intrinsics_format": "ndc_isotropic",
    }
