"""Depth maps and tracks carried over to cameras that have moved: what changed along the static tracks, spread smoothly.

Along every static track that was solved again, depth has changed by a known factor in every frame that sees it. Its
logarithm is fitted per frame by a plane over the image and the log depth, so that a changed focal length, a bent path
and a changed unit are followed, and applied to every pixel and every moving point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import camera as pinhole
from worldline.geometry import pixels, se3
from worldline.geometry.camera import Camera, real_uv
from worldline.run.refining.adjustment import Adjusted
from worldline.scene.motion import WorldTracks
from worldline.scene.scene import Scene

_FEWEST = 12
"""Fewer tracks in a frame tell nothing about it; its neighbours do."""
_SLOPE = 0.1
"""How much log depth may change over the image, or per unit of log depth, where little is seen (standard deviation)."""
_LEAST_DOUBT = 0.01
"""No track tells the change of its depth better than this (relative)."""
_ROUNDS = 5


@dataclass(frozen=True, eq=False)
class DepthChange:
    """log(new / old depth) = coefficients . (1, u / width - 1/2, v / width - 1/2, log old depth - middle)."""

    coefficients: Float[np.ndarray, "t 4"]
    middle: Float[np.ndarray, "t"]
    width: int

    def at(
        self, frame: int, uv: Float[np.ndarray, "*n 2"], depth_z: Float[np.ndarray, "*n"]
    ) -> Float[np.ndarray, "*n"]:
        """The factor on depth at pixels of a frame; 1 where depth is unknown."""
        known = np.isfinite(depth_z) & (depth_z > 0)
        log_z = np.log(np.where(known, depth_z, np.exp(self.middle[frame]))) - self.middle[frame]
        rows = _rows(uv, np.clip(log_z, -3, 3), self.width)
        return np.where(known, np.exp(rows @ self.coefficients[frame]), 1.0)


def carried(scene: Scene, adjusted: Adjusted) -> Scene:
    """The scene with the cameras of the adjustment, its depth, points and tracks carried over."""
    change = depth_change(scene, adjusted)
    after = replace(scene, camera=adjusted.camera, world_from_cam=adjusted.world_from_cam)
    uv = pixels.centres(scene.height, scene.width, dtype=torch.float64).numpy()
    maps = [np.asarray(scene.depth_z[t]) for t in range(len(scene))]
    depth_z = np.stack([z * change.at(t, uv, z) for t, z in enumerate(maps)]).astype(np.float32)
    tracks = None if scene.tracks is None else _carried_tracks(scene, after, scene.tracks, adjusted, change)
    return replace(after, depth_z=depth_z, tracks=tracks, static_points=_carried_points(scene, tracks))


def depth_change(scene: Scene, adjusted: Adjusted) -> DepthChange:
    """Fit the change of log depth along the solved tracks, frame by frame; gaps follow their neighbours."""
    assert scene.tracks is not None and scene.tracks.uv is not None
    uv = scene.tracks.uv[:, adjusted.columns]
    before = _depth_in(scene.world_from_cam, scene.tracks.points_world[:, adjusted.columns])
    after = _depth_in(adjusted.world_from_cam, np.broadcast_to(adjusted.points_world, before.shape + (3,)))
    use = np.isfinite(uv).all(-1) & scene.tracks.visible[:, adjusted.columns] & (before > 0) & (after > 0)
    use &= np.isfinite(before) & np.isfinite(after)
    found, middle = np.full((len(scene), 4), np.nan), np.full(len(scene), np.nan)
    for t in np.flatnonzero(use.sum(1) >= _FEWEST):
        log_z = np.log(before[t, use[t]])
        middle[t] = np.median(log_z)
        rows = _rows(uv[t, use[t]].astype(np.float64), np.clip(log_z - middle[t], -3, 3), scene.width)
        found[t] = _robust_fit(rows, np.log(after[t, use[t]]) - log_z, adjusted.doubt[use[t]])
    return DepthChange(_filled(found), _filled(middle[:, None])[:, 0], scene.width)


def _depth_in(world_from_cam: np.ndarray, points_world: np.ndarray) -> Float[np.ndarray, "t n"]:
    forward, centre = world_from_cam[:, :3, 2], world_from_cam[:, :3, 3]
    return np.einsum("tni,ti->tn", points_world.astype(np.float64) - centre[:, None], forward)


def _rows(uv: np.ndarray, log_z: np.ndarray, width: int) -> np.ndarray:
    return np.stack([np.ones_like(log_z), uv[..., 0] / width - 0.5, uv[..., 1] / width - 0.5, log_z], -1)


def _robust_fit(rows: np.ndarray, values: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """Reweighted least squares (Cauchy) with a prior on the slopes; the start is the median change."""
    found = np.array([np.median(values), 0.0, 0.0, 0.0])
    doubt = np.hypot(doubt, _LEAST_DOUBT)
    for _ in range(_ROUNDS):
        off = (values - rows @ found) / doubt
        noise = max(1.4826 * float(np.median(np.abs(off))), 1e-2)
        weight = 1 / (1 + (off / (3 * noise)) ** 2) / (noise * doubt) ** 2
        normal = (rows * weight[:, None]).T @ rows + np.diag([1e-12, *[_SLOPE**-2] * 3])
        found = np.linalg.solve(normal, (rows * weight[:, None]).T @ values)
    return found


def _filled(values: Float[np.ndarray, "t k"]) -> Float[np.ndarray, "t k"]:
    """Frames without a fit take what lies between their neighbours; nothing has changed where no frame has one."""
    known = np.flatnonzero(np.isfinite(values).all(1))
    if not len(known):
        return np.zeros_like(values)
    return np.stack([np.interp(np.arange(len(values)), known, column[known]) for column in values.T], -1)


def _carried_tracks(
    scene: Scene, after: Scene, tracks: WorldTracks, adjusted: Adjusted, change: DepthChange
) -> WorldTracks:
    """Every position along its own ray by the change of depth; the median of it for static ones."""
    moved = np.stack([_moved_points(scene, after, tracks, change, t) for t in range(len(scene))])
    static = ~np.asarray(tracks.moving, dtype=bool)
    seen = np.where((tracks.visible & static)[..., None], moved, np.nan)
    seen = np.where(np.isfinite(seen).any(0), seen, moved)
    moved[:, static] = np.nanmedian(seen[:, static], axis=0)
    moved[:, adjusted.columns] = adjusted.points_world
    return replace(tracks, points_world=moved.astype(np.float32))


def _moved_points(
    scene: Scene, after: Scene, tracks: WorldTracks, change: DepthChange, frame: int
) -> Float[np.ndarray, "n 3"]:
    cam_from_world = se3.inverse(_tensor(scene.world_from_cam[frame]))
    points_cam = se3.apply(cam_from_world, _tensor(tracks.points_world[frame]))
    depth_z = points_cam[:, 2].numpy()
    uv = _image_uv(points_cam, scene.camera, frame)
    scaled = _tensor(depth_z * change.at(frame, uv, depth_z))
    rays = pinhole.rays_z1(_tensor(uv), _tensor(after.camera.at(frame)), after.camera.distortion)
    moved = se3.apply(_tensor(after.world_from_cam[frame]), rays * scaled[:, None]).numpy()
    moved[~(depth_z > 0)] = np.nan
    return moved


def _image_uv(points_cam: Tensor, camera: Camera, frame: int) -> np.ndarray:
    """Where points appear in the image as filmed."""
    own = camera.at(frame)
    uv = pinhole.project(points_cam, _tensor(own)).numpy()
    return real_uv(uv, Camera(own, camera.width, camera.height, camera.distortion), own)


def _carried_points(scene: Scene, tracks: WorldTracks | None) -> np.ndarray | None:
    """The static structure follows the static tracks that it was made of."""
    if scene.static_points is None or scene.tracks is None or tracks is None:
        return scene.static_points
    static = np.flatnonzero(~np.asarray(scene.tracks.moving, dtype=bool))[: len(scene.static_points)]
    same = len(static) == len(scene.static_points)
    if same and np.array_equal(scene.tracks.points_world[0, static], scene.static_points, equal_nan=True):
        return tracks.points_world[0, static]
    return None


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))
