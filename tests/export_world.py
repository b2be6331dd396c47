"""A small scene with every part an export may write: odd numbers, holes, moving pixels, tracks, flow, colours."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch

from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.scene.motion import Flow, WorldTracks
from worldline.scene.scene import CameraSigma, Scene, Step

T, H, W, N = 5, 24, 32, 40
ORIGINAL = (96, 72)


def random_poses(count: int, seed: int = 0, step: float = 0.05) -> np.ndarray:
    """A path that starts at the identity."""
    steps = step * torch.randn(count - 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    path = [torch.eye(4, dtype=torch.float64)]
    for motion in se3.exp(steps):
        path.append(path[-1] @ motion)
    return torch.stack(path).numpy()


@cache
def export_scene() -> Scene:
    rng = np.random.default_rng(0)
    moving = np.zeros((T, H, W), np.uint8)
    moving[:, 5:10, 6:12] = 1
    valid = np.ones((T, H, W), dtype=bool)
    valid[:, :2] = False
    tracks = WorldTracks(
        points_world=np.broadcast_to(rng.uniform([-1, -0.8, 3], [1, 0.8, 5], (N, 3)), (T, N, 3)).astype(np.float32),
        visible=rng.random((T, N)) < 0.8,
        sigma=np.full((T, N), 0.01, np.float32),
        colour=rng.integers(0, 255, (N, 3), dtype=np.uint8),
        moving=np.arange(N) < 5,
        query_frame=np.zeros(N, np.int32),
    )
    smooth = cv2.resize(rng.integers(0, 255, (3, 4, 3), dtype=np.uint8), (W, H))
    return Scene(
        times_s=1311868164.363181 + np.arange(T) / 29.97,
        camera=Camera(np.array([40.0, 41.0, 15.5, 12.5]), W, H),
        world_from_cam=random_poses(T),
        depth_z=np.where(valid, rng.uniform(2, 6, (T, H, W)), 0).astype(np.float32),
        depth_sigma=np.full((T, H, W), 0.1, np.float32),
        valid=valid,
        moving=moving,
        image=np.stack([np.roll(smooth, t, axis=1) for t in range(T)]),
        camera_sigma=CameraSigma(np.linspace(0.01, 0.02, T), np.full(T, 0.001), 0.03),
        tracks=tracks,
        flow=Flow(1, rng.normal(size=(T, H, W, 3)).astype(np.float32), valid),
        static_points=rng.normal(size=(30, 3)).astype(np.float32),
        static_colour=rng.integers(0, 255, (30, 3), dtype=np.uint8),
        metric=True,
        metric_source="given",
        health={"trust": np.linspace(0, 1, T)},
        name="kitchen",
        original_from_stored=np.diag([3.0, 3.0, 1.0]),
        original_size=ORIGINAL,
        notes=("a note", "another"),
        history=(Step("cameras", {"iterations": 3}, {"cost": 0.5}),),
    )


def written(path: Path) -> dict[str, bytes]:
    """The files of an export and what is in them."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {p.name: p.read_bytes() for p in files}
