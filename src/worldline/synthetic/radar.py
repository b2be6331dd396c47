"""What a Doppler radar measures of a world: the true radial speed of every pixel, and scans of some of them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import doppler, se3
from worldline.scene.observations import Source
from worldline.scene.sensor_readings import RadarReturns
from worldline.synthetic import truth
from worldline.synthetic.world import World

CAM_FROM_RADAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""A radar (x forward, y left, z up) at the camera's centre that looks where it looks."""


def radial_speed(world: World, frame: int) -> Float[np.ndarray, "h w"]:
    """Rate at which the distance of what each pixel sees grows, metres per second: positive moves away; NaN on the sky.

    It is (flow . ray) / interval, flow being how the point moves in the camera's frame to the next frame of the clip
    (for the last frame from the one before): what stands still moves by the camera's motion, the rest by its own too.
    """
    before, after, interval = _points_cam(world, frame)
    here = after if _is_last(world, frame) else before
    speed = doppler.radial_speed(here, (after - before) / interval)
    return speed.reshape(world.camera.height, world.camera.width).numpy()


def radar_returns(
    world: World,
    *,
    per_scan: int | None = None,
    cam_from_radar: Float[np.ndarray, "4 4"] = CAM_FROM_RADAR,
    noise_mps: float = 0.0,
    seed: int = 0,
) -> RadarReturns:
    """One scan at the time of each frame, of points that the camera sees.

    Args:
        per_scan: so many random pixels of each frame; None: all. noise_mps: standard deviation of the speeds.
    """
    random = np.random.default_rng(seed)
    radar_from_cam = se3.inverse(torch.from_numpy(np.asarray(cam_from_radar, dtype=np.float64)))
    scans = [_scan(world, t, radar_from_cam, per_scan, random) for t in range(len(world))]
    points, speed = (np.concatenate(column) for column in zip(*scans, strict=True))
    number = np.repeat(np.arange(len(world)), [len(s[0]) for s in scans])
    return RadarReturns(
        times_s=world.times_s[number],
        scan=number,
        azimuth_rad=np.arctan2(points[:, 1], points[:, 0]),
        elevation_rad=np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])),
        range_m=np.linalg.norm(points, axis=1),
        speed_mps=speed + noise_mps * random.normal(size=len(speed)),
        strength=np.full(len(speed), np.nan),
        source=Source("synthetic radar"),
        cam_from_radar=np.asarray(cam_from_radar, dtype=np.float64),
    )


def _scan(
    world: World, frame: int, radar_from_cam: Float[Tensor, "4 4"], per_scan: int | None, random: np.random.Generator
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
    before, after, interval = _points_cam(world, frame)
    before, after = se3.apply(radar_from_cam, before), se3.apply(radar_from_cam, after)
    here = after if _is_last(world, frame) else before
    speed = doppler.radial_speed(here, (after - before) / interval).numpy()
    rows = np.flatnonzero(np.isfinite(speed))
    if per_scan is not None:
        rows = np.sort(random.choice(rows, min(per_scan, len(rows)), replace=False))
    return here.numpy()[rows], speed[rows]


def _points_cam(world: World, frame: int) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"], float]:
    """What the pixels of a frame see, in the camera's frame at the two ends of its interval, and its length."""
    ends = (frame - 1, frame) if _is_last(world, frame) else (frame, frame + 1)
    seen = truth.anchors(world, frame)
    cam_from_world = se3.inverse(torch.from_numpy(world.world_from_cam))
    before, after = (se3.apply(cam_from_world[t], truth.points_world(world, seen, t)) for t in ends)
    return before, after, float(world.times_s[ends[1]] - world.times_s[ends[0]])


def _is_last(world: World, frame: int) -> bool:
    return frame == len(world) - 1
