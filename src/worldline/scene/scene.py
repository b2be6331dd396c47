"""Scene: the answer. Cameras, depth, what moves and where points go, with uncertainty, history and health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8

from worldline.errors import InputError
from worldline.geometry import depth as depth_geometry
from worldline.geometry.camera import Camera
from worldline.scene.lazy import LazyArray
from worldline.scene.motion import Flow, WorldTracks


@dataclass(frozen=True)
class Step:
    """One entry of a scene's history: what was done, with which settings, and how it ended."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CameraSigma:
    """How well the cameras are known, once a scene is aligned with the truth (by a similarity unless it is metric).

    Attributes:
        centre: (T,) standard deviation of the camera centre per axis, units of the scene.
        rotation_rad: (T,) standard deviation of the rotation per axis. focal: relative, of the focal length.
    """

    centre: Float[np.ndarray, "t"]
    rotation_rad: Float[np.ndarray, "t"]
    focal: float


@dataclass(frozen=True, eq=False)
class Scene:
    """One consistent 4D scene. World = first camera unless gravity or a known pose says otherwise; OpenCV axes.

    Attributes:
        times_s: (T,) seconds. camera: shared or per frame. world_from_cam: (T, 4, 4) float64.
        depth_z: (T, H, W) float32 along the optical axis; 0 where unknown. May be a lazy array (zarr).
        depth_sigma: (T, H, W) float32, standard deviation of log depth.
        valid: (T, H, W) bool, where depth means anything. moving: (T, H, W) uint8 object ids, 0 static.
        image: (T, H, W, 3) uint8 colours at the depth's resolution, or None.
        camera_sigma: uncertainty of the cameras, None where it was not estimated.
        tracks, flow: motion, either or both. metric: lengths are metres; metric_source says how that is known.
        static_points: (M, 3) float32 structure, static_colour: (M, 3) uint8.
        health: per-frame self-check, name -> (T,) array; `trust` in [0, 1] is always there.
        name, original_from_stored, original_size: as in Video, to carry pixels back to the original image.
        history: every step with its settings and outcome. notes: sentences for the user.
    """

    times_s: Float[np.ndarray, "t"]
    camera: Camera
    world_from_cam: Float[np.ndarray, "t 4 4"]
    depth_z: Float[LazyArray, "t h w"]
    depth_sigma: Float[LazyArray, "t h w"]
    valid: Bool[LazyArray, "t h w"]
    moving: Integer[LazyArray, "t h w"]
    image: UInt8[LazyArray, "t h w 3"] | None = None
    camera_sigma: CameraSigma | None = None
    tracks: WorldTracks | None = None
    flow: Flow | None = None
    static_points: Float[np.ndarray, "m 3"] | None = None
    static_colour: UInt8[np.ndarray, "m 3"] | None = None
    metric: bool = False
    metric_source: str = "unknown scale"
    health: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: str = "scene"
    original_from_stored: Float[np.ndarray, "3 3"] | None = None
    original_size: tuple[int, int] | None = None
    history: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count, height, width = self.depth_z.shape
        if self.world_from_cam.shape != (count, 4, 4) or len(self.times_s) != count:
            raise InputError(f"{count} depth maps but poses {self.world_from_cam.shape}; give one pose per frame.")
        if not np.isfinite(self.world_from_cam).all():
            raise InputError("a camera pose is not finite; drop that frame or mark it in health.")
        for what, array in (("depth_sigma", self.depth_sigma), ("valid", self.valid), ("moving", self.moving)):
            if array.shape != self.depth_z.shape:
                raise InputError(f"{what} has shape {array.shape}, depth {self.depth_z.shape}; they must agree.")
        if (self.camera.width, self.camera.height) != (width, height):
            raise InputError("the camera's image size differs from the depth maps'; use camera.resized first.")
        if self.original_from_stored is None:
            object.__setattr__(self, "original_from_stored", np.eye(3))
        if self.original_size is None:
            object.__setattr__(self, "original_size", (width, height))

    def __len__(self) -> int:
        return int(self.depth_z.shape[0])

    @property
    def height(self) -> int:
        """Rows of the depth maps."""
        return int(self.depth_z.shape[1])

    @property
    def width(self) -> int:
        """Columns of the depth maps."""
        return int(self.depth_z.shape[2])

    @property
    def centres_world(self) -> Float[np.ndarray, "t 3"]:
        """Camera centres."""
        return self.world_from_cam[:, :3, 3]

    def depth_around(self, frame: int, uv: Float[np.ndarray, "2"], reach: int = 2) -> tuple[float, float]:
        """Median depth and sigma of the pixels within `reach` of uv in one frame; NaN where none is known."""
        column, row = (int(x) for x in np.clip(np.floor(uv), 0, [self.width - 1, self.height - 1]))
        window = np.s_[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
        valid = np.asarray(self.valid[frame])[window]
        if not valid.any():
            return np.nan, np.nan
        maps = (np.asarray(m[frame])[window][valid] for m in (self.depth_z, self.depth_sigma))
        depth_z, sigma = (float(np.median(values)) for values in maps)
        return depth_z, sigma

    def points_world(self, frame: int) -> Float[np.ndarray, "h w 3"]:
        """World point of every pixel of one frame (computed, never stored); NaN where depth is not valid."""
        depth = torch.from_numpy(np.array(self.depth_z[frame], dtype=np.float64))
        points = depth_geometry.points_world(
            depth, torch.from_numpy(self.camera.at(frame).copy()), torch.from_numpy(self.world_from_cam[frame]),
            self.camera.distortion,
        ).numpy()  # fmt: skip
        points[~np.asarray(self.valid[frame])] = np.nan
        return points.astype(np.float32)
