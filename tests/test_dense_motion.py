"""Dense scene flow: a card that moves before a wall, from its flow and depth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldline.engines.uni4d import dense_motion as stage
from worldline.engines.uni4d.dense_motion import depth_at
from worldline.geometry import pixels, se3
from worldline.geometry.camera import Camera
from worldline.scene.motion import Flow
from worldline.scene.observations import PixelFlow, Source
from worldline.scene.scene import Scene

H, W, FOCAL = 60, 80, 100.0
WALL_M, CARD_M = 3.0, 1.5
MOVE = np.array([0.15, -0.06, 0.1])
CARD = (slice(20, 40), slice(20, 45))


def world_from_cams() -> np.ndarray:
    """The camera steps aside and turns a little while the card moves."""
    step = se3.exp(torch.tensor([0.05, 0.02, 0.0, 0.0, 0.03, 0.01], dtype=torch.float64))
    return torch.stack([torch.eye(4, dtype=torch.float64), step]).numpy()


def made(marked: bool, sigma: float = 0.005) -> tuple[Scene, PixelFlow, np.ndarray]:
    """The scene of two frames, its flow, and the true displacement of the first frame's pixels."""
    camera = Camera.from_focal(FOCAL, W, H)
    uv = pixels.centres(H, W).double().numpy()
    card = np.zeros((H, W), bool)
    card[CARD] = True
    z = np.where(card, CARD_M, WALL_M)
    xyz = np.concatenate([(uv - camera.at(0)[2:]) / FOCAL * z[..., None], z[..., None]], -1)
    truth = np.where(card[..., None], MOVE, 0.0)
    poses = world_from_cams()
    inverse = np.linalg.inv(poses[1])
    there = (xyz + truth) @ inverse[:3, :3].T + inverse[:3, 3]
    uv_there = there[..., :2] / there[..., 2:] * FOCAL + camera.at(0)[2:]
    depth = np.stack([z, wall_seen_from(poses[1], uv)])
    rows, columns = (np.round(uv_there[card][:, i] - 0.5).astype(int) for i in (1, 0))
    for dv in (-1, 0, 1):  # the card from the second camera, without holes
        for du in (-1, 0, 1):
            depth[1, (rows + dv).clip(0, H - 1), (columns + du).clip(0, W - 1)] = there[card][:, 2]
    moving = np.zeros((2, H, W), np.uint8)
    moving[0] = card * marked
    maps = depth.astype(np.float32)
    scene = Scene(
        np.arange(2.0), camera, poses, maps, np.full_like(maps, sigma), np.ones_like(maps, bool), moving, metric=True
    )
    shift = np.stack([np.zeros_like(uv), uv_there - uv]).astype(np.float32)
    flow = PixelFlow(0, shift, np.full((2, H, W), 0.1, np.float32), Source("truth"))
    return scene, flow, truth


def dense_motion(scene: Scene, flow: PixelFlow) -> Flow:
    """The stage's arrays as the scene holds them."""
    return Flow(flow.reference, **stage.dense_motion(scene, flow))


def wall_seen_from(world_from_cam: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Depth of the plane z = WALL_M of the world along the rays of a camera."""
    rays = np.concatenate([(uv - [W / 2, H / 2]) / FOCAL, np.ones((H, W, 1))], -1) @ world_from_cam[:3, :3].T
    return (WALL_M - world_from_cam[2, 3]) / rays[..., 2]


@pytest.mark.parametrize("marked", [True, False])
def test_what_moves_is_moved_whether_or_not_it_is_marked(marked):
    scene, flow, truth = made(marked)
    found = dense_motion(scene, flow)
    known = np.asarray(found.valid[1])
    error = np.linalg.norm(np.asarray(found.displacement[1]) - truth, axis=-1)
    assert known[CARD].all()
    assert np.median(error[CARD]) < 0.005
    assert np.median(error[known]) < 0.005


def test_a_sigma_common_to_both_ends_does_not_hide_a_mover():
    scene, flow, truth = made(marked=False, sigma=0.1)
    error = np.linalg.norm(np.asarray(dense_motion(scene, flow).displacement[1]) - truth, axis=-1)
    assert np.median(error[CARD]) < 0.005


def test_a_static_wall_does_not_tremble():
    scene, flow, truth = made(marked=True, sigma=0.02)
    noise = 1 + 0.01 * np.random.default_rng(0).normal(size=scene.depth_z.shape).astype(np.float32)
    trembling = Scene(**{**vars(scene), "depth_z": np.asarray(scene.depth_z) * noise})
    found = dense_motion(trembling, flow)
    wall = np.asarray(found.valid[1]) & (truth == 0).all(-1)
    wall[15:45, 15:60] = False  # not beside the card
    assert (np.asarray(found.displacement[1])[wall] == 0).all(-1).mean() > 0.97


def test_lost_pixels_and_unknown_depth_are_not_valid():
    scene, flow, _ = made(marked=True)
    flow.sigma_px[1, :10] = np.inf
    np.asarray(scene.valid)[0, 50:] = False
    found = dense_motion(scene, flow)
    assert not np.asarray(found.valid[1])[:10].any()
    assert not np.asarray(found.valid[1])[50:].any()
    assert (np.asarray(found.displacement[1])[:10] == 0).all()


def test_the_reference_frame_does_not_move():
    scene, flow, _ = made(marked=False)
    found = dense_motion(scene, flow)
    assert found.reference == 0
    assert (np.asarray(found.displacement[0]) == 0).all()
    assert np.asarray(found.valid[0]).all()


def test_depth_is_never_a_mean_across_an_edge():
    depth = np.where(np.arange(8) < 4, 1.0, 3.0)[None].repeat(4, 0).astype(np.float32)
    at = np.stack(np.meshgrid(np.linspace(0.5, 7.5, 50), np.full(3, 2.0)), -1)
    value, known = depth_at(depth, np.ones_like(depth, bool), at)
    assert known.all()
    assert set(np.unique(value)) == {1.0, 3.0}
