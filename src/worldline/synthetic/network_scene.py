"""A rendered world as a feed-forward network would hand it over: the true scene with the errors of such a network.

Depth is wrong by a smooth factor and by one scale per window, cameras wander, 3D tracks start on the depth of their
reference frame and drift away from there with time, the background seems to move a little, and at times a whole frame
is bad. Every error has a size of its own, so that a test can ask for one alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.spatial.transform import Rotation

from worldline.geometry import camera, pixels
from worldline.geometry.sim3 import Sim3
from worldline.scene.motion import WorldTracks
from worldline.scene.scene import Scene, Step
from worldline.synthetic.rendering import Rendered


@dataclass(frozen=True)
class NetworkNoise:
    """What is wrong with the scene; all zero is the exact truth.

    Attributes:
        depth_smooth: standard deviation of a smooth log bias over image and time. depth_window: of the log scale of
            each window of `window` frames. depth_frame: of each frame by itself. depth_pixel: per pixel.
        centre: of camera centres, as a share of the median depth; rotation_rad: of rotations per axis. Half of their
            variance is smooth in time, half comes and goes from frame to frame.
        track: how far tracks of movers are off after one second, as a share of the depth; it grows with the time from
            the reference frame. background: the same for static tracks. track_outliers: share of tracks that run away.
        bad_frame: one frame's depth, centre and rotation are this many times worse (0: none).
        scale: all lengths times this, as a wrong metric scale would have it.
    """

    depth_smooth: float = 0.0
    depth_window: float = 0.0
    depth_frame: float = 0.0
    depth_pixel: float = 0.0
    window: int = 12
    centre: float = 0.0
    rotation_rad: float = 0.0
    track: float = 0.0
    background: float = 0.0
    track_outliers: float = 0.0
    bad_frame: float = 0.0
    scale: float = 1.0

    @classmethod
    def good(cls) -> NetworkNoise:
        """About what a good network gives on ordinary video."""
        return cls(
            depth_smooth=0.025, depth_window=0.02, depth_frame=0.01, depth_pixel=0.004, centre=0.006,
            rotation_rad=0.003, track=0.02, background=0.006, track_outliers=0.02,
        )  # fmt: skip


def network_scene(rendered: Rendered, noise: NetworkNoise, seed: int = 0) -> Scene:
    """The scene that a network with these errors would hand over; its tracks do not know where they were seen.

    Args:
        rendered: from `render`; the reference frames are the query frames of its tracks.
        seed: of the errors; each kind draws its own, so switching one off leaves the others as they are.
    """
    true = rendered.scene
    bad = np.random.default_rng((seed, 9)).integers(1, max(len(true), 2)) if noise.bad_frame else -1
    worse = np.where(np.arange(len(true)) == bad, noise.bad_frame, 1.0)
    cameras = _cameras(true, noise, worse, np.random.default_rng((seed, 1)))
    depth_z = _depth(true, noise, worse, np.random.default_rng((seed, 2)))
    sigma = np.full(depth_z.shape, max(np.hypot(noise.depth_smooth, noise.depth_window), 0.02), np.float32)
    scene = replace(
        true, world_from_cam=cameras, depth_z=depth_z, depth_sigma=sigma, health={"trust": np.ones(len(true))},
        metric_source="a synthetic network", history=(Step("synthetic network", {"seed": seed}),),
    )  # fmt: skip
    if true.tracks is not None:
        tracks = _tracks(true, scene, noise, np.random.default_rng((seed, 3)))
        scene = replace(scene, tracks=tracks)
    return _scaled(scene, noise.scale)


def _cameras(true: Scene, noise: NetworkNoise, worse: np.ndarray, random: np.random.Generator) -> np.ndarray:
    count = len(true)
    smooth = ndimage.gaussian_filter1d(random.normal(size=(count, 6)), 3.0, axis=0, mode="nearest")
    smooth /= np.maximum(smooth.std(0), 1e-9)
    error = np.sqrt(0.5) * (smooth + random.normal(size=(count, 6))) * worse[:, None]
    middle = float(np.median(np.asarray(true.depth_z)[np.asarray(true.valid)]))
    out = true.world_from_cam.copy()
    out[:, :3, 3] += noise.centre * middle * error[:, :3]
    out[:, :3, :3] = out[:, :3, :3] @ Rotation.from_rotvec(noise.rotation_rad * error[:, 3:]).as_matrix()
    return out


def _depth(true: Scene, noise: NetworkNoise, worse: np.ndarray, random: np.random.Generator) -> np.ndarray:
    count, height, width = true.depth_z.shape
    coarse = random.normal(size=(max(2, round(count / 10) + 1), 4, 5))
    zoom = [n / c for n, c in zip((count, height, width), coarse.shape, strict=True)]
    field = ndimage.zoom(coarse, zoom, order=3, grid_mode=False)
    windows = random.normal(size=count // noise.window + 1)[np.arange(count) // noise.window]
    scale = noise.depth_window * windows + noise.depth_frame * random.normal(size=count) * worse
    error = noise.depth_smooth * field / max(float(field.std()), 1e-9) * worse[:, None, None] + scale[:, None, None]
    error = error + noise.depth_pixel * random.normal(size=field.shape)
    return (np.asarray(true.depth_z) * np.exp(error)).astype(np.float32)


def _tracks(true: Scene, scene: Scene, noise: NetworkNoise, random: np.random.Generator) -> WorldTracks:
    """True displacement from where the reference frame has the point, and a drift that grows with time."""
    tracks = true.tracks
    assert tracks is not None
    age_s = np.abs(true.times_s[:, None] - true.times_s[tracks.query_frame])
    away = _drift(true, tracks, noise, random) * age_s[..., None]
    start = _reference_points(scene, true, tracks)
    at_start = np.take_along_axis(tracks.points_world, tracks.query_frame[None, :, None], axis=0)[0]
    points = tracks.points_world + (start - at_start) + away
    sigma = np.linalg.norm(away, axis=-1) / 3**0.5
    return replace(tracks, points_world=points.astype(np.float32), sigma=sigma.astype(np.float32), uv=None)


def _drift(true: Scene, tracks: WorldTracks, noise: NetworkNoise, random: np.random.Generator) -> np.ndarray:
    """(T, N, 3) metres per second: alike for neighbours, a little their own, far too much for outliers."""
    count, columns = tracks.visible.shape
    middle = float(np.median(np.asarray(true.depth_z)[np.asarray(true.valid)]))
    size = np.where(np.asarray(tracks.moving, dtype=bool), noise.track, noise.background)
    size = np.where(random.random(columns) < noise.track_outliers, 0.3, size)
    shared = random.normal(size=(int(tracks.query_frame.max(initial=0)) + 1, 3))[tracks.query_frame]
    own = ndimage.gaussian_filter1d(random.normal(size=(count, columns, 3)), 3.0, axis=0, mode="nearest") * 3.2
    return middle * size[:, None] * (0.6 * shared + 0.8 * own)


def _reference_points(scene: Scene, true: Scene, tracks: WorldTracks) -> Float[np.ndarray, "n 3"]:
    """Where the scene has the points of tracks in their reference frames: its depth under the true pixel."""
    points = np.empty((len(tracks), 3))
    for t in np.unique(tracks.query_frame):
        chosen = tracks.query_frame == t
        cam_from_world = np.linalg.inv(true.world_from_cam[t])
        in_cam = tracks.points_world[t, chosen].astype(np.float64) @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
        uv = camera.project(torch.from_numpy(in_cam), torch.from_numpy(true.camera.at(int(t)).copy()))
        row, column = pixels.indices(uv, true.height, true.width)
        factor = _factor(scene, true, int(t))[row.numpy(), column.numpy()]
        moved = scene.world_from_cam[t]
        points[chosen] = (in_cam * factor[:, None]) @ moved[:3, :3].T + moved[:3, 3]
    return points


def _factor(scene: Scene, true: Scene, frame: int) -> Float[np.ndarray, "h w"]:
    known: Bool[np.ndarray, "h w"] = np.asarray(true.valid[frame])
    return np.where(known, np.asarray(scene.depth_z[frame]), 1.0) / np.where(
        known, np.asarray(true.depth_z[frame]), 1.0
    )


def _scaled(scene: Scene, scale: float) -> Scene:
    if scale == 1.0:
        return scene
    by = Sim3(torch.tensor(scale, dtype=torch.float64), torch.eye(3).double(), torch.zeros(3).double())
    tracks = scene.tracks
    if tracks is not None:
        tracks = replace(tracks, points_world=tracks.points_world * np.float32(scale), sigma=tracks.sigma * scale)
    cameras = by.apply_to_cameras(torch.from_numpy(scene.world_from_cam)).numpy()
    return replace(scene, world_from_cam=cameras, depth_z=np.asarray(scene.depth_z) * np.float32(scale), tracks=tracks)
