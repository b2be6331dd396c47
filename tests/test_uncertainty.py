"""Uncertainty of cameras and structure: what sigma says against errors that are known."""

import math

import numpy as np
import pytest
import torch

from worldline.evaluate.calibration import camera_calibration
from worldline.geometry import se3
from worldline.scene.scene import CameraSigma
from worldline.solve import uncertainty
from worldline.solve.polish import in_its_scale, polish
from worldline.solve.terms import PixelSamples, in_camera

INTRINSICS = torch.tensor([300.0, 300.0, 160.0, 120.0], dtype=torch.float64)
Case = tuple[PixelSamples, torch.Tensor, torch.Tensor]


def case(seed: int, *, noise_px: float = 0.2, radial: float = 0.0, frames: int = 12, count: int = 400) -> Case:
    """Sightings with independent noise, true cameras on an arc, true points."""
    g = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, 1, frames, dtype=torch.float64)
    turns = torch.stack([0.1 * t, -0.3 * t, 0.05 * t], -1)
    centres = torch.stack([t, 0.2 * (3 * t).sin(), 0.3 * t**2], -1)
    cameras = se3.from_rotation_translation(se3.so3_exp(turns), centres)
    points = torch.rand(count, 3, generator=g, dtype=torch.float64) * torch.tensor([5.0, 4, 4]) + torch.tensor(
        [-2.2, -2, 3]
    )
    frame, point = (x.reshape(-1) for x in torch.meshgrid(torch.arange(frames), torch.arange(count), indexing="ij"))
    x = in_camera(cameras[frame], points[point])
    xy = x[:, :2] / x[:, 2:]
    uv = xy * (1 + radial * xy.square().sum(-1, keepdim=True)) * INTRINSICS[:2] + INTRINSICS[2:]
    uv = uv + noise_px * torch.randn(uv.shape, generator=g, dtype=torch.float64)
    seen = (uv > 0).all(-1) & (uv < 2 * INTRINSICS[2:]).all(-1)
    sigma_px = torch.full((int(seen.sum()),), noise_px, dtype=torch.float64)
    return PixelSamples(frame[seen], point[seen], uv[seen], sigma_px), cameras, points


def doubts_of(samples: PixelSamples, cameras: torch.Tensor, intrinsics: torch.Tensor, points: torch.Tensor):
    system = uncertainty.linearised(samples, cameras, intrinsics, points)
    blocks = uncertainty.neighbourhoods(points, cameras, 32)
    return uncertainty.doubts(system, blocks, cameras, 0.2, held=False).all_moves


def sigma_of(found: uncertainty.Moved, cameras: torch.Tensor) -> CameraSigma:
    centre, turn = (uncertainty.sizes(x).numpy() for x in uncertainty.aligned(found, cameras, scaled=True))
    return CameraSigma(centre, turn, float(found.lens[0].norm()))


def test_camera_errors_are_as_large_as_their_sigma_says() -> None:
    worlds = []
    for seed in range(5):
        samples, cameras, points = case(seed)
        found = polish(samples, cameras, INTRINSICS, points, focal_sigma=0.2)
        sigma = sigma_of(doubts_of(samples, found.world_from_cam, found.intrinsics, found.points), found.world_from_cam)
        true = camera_calibration(found.world_from_cam.numpy(), cameras.numpy(), sigma, metric=False)
        worlds.append((true.centre, true.rotation))
    centre, rotation = np.median(worlds, 0)
    assert 0.4 < centre < 1.0 and 0.05 < rotation < 1.3


def test_a_lens_that_is_not_modelled_makes_the_cameras_less_certain() -> None:
    found = []
    for radial in (0.0, -0.08):
        samples, cameras, points = case(1, radial=radial)
        done = polish(samples, cameras, INTRINSICS, points, focal_sigma=0.2)
        found.append(doubts_of(samples, done.world_from_cam, done.intrinsics, done.points).lens[0].norm())
    assert found[1] > 5 * found[0]


def test_polishing_finds_the_focal_length_from_ten_per_cent_away() -> None:
    samples, cameras, points = case(2)
    lens = INTRINSICS * torch.tensor([1.1, 1.1, 1.0, 1.0])
    found = polish(samples, cameras, lens, points, focal_sigma=0.3)
    assert float(found.intrinsics[0]) == pytest.approx(300, rel=0.01) and found.costs[1] < found.costs[0]


def test_polishing_keeps_the_scale_and_tells_how_far_it_bends() -> None:
    cameras = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    cameras[:, 0, 3] = torch.tensor([0.0, 1.0, 2.0])
    depth = torch.linspace(0.5, 1.5, 11, dtype=torch.float64)
    scaled, bent = in_its_scale(cameras, depth, depth + math.log(2))
    assert scaled[:, 0, 3].tolist() == pytest.approx([0, 0.5, 1])
    assert bent == pytest.approx(0)
    assert in_its_scale(cameras, depth, 1.5 * depth)[1] > 0.1


def test_a_path_that_drifts_is_turned_by_its_alignment_as_far_as_is_said() -> None:
    t = torch.linspace(0, 1, 60, dtype=torch.float64)
    centres = torch.stack([t, 0.2 * (9 * t).sin(), 0.1 * (5 * t).cos()], -1)
    cameras = se3.from_rotation_translation(torch.eye(3, dtype=torch.float64).expand(60, 3, 3), centres)
    steps = torch.randn(60, 3, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = move(0.001 * steps.cumsum(0))
    turned = uncertainty.aligned(found, cameras, scaled=True)[1][0].square().mean().sqrt()
    said = [
        uncertainty.loose_turn(move(found.centres[..., [drift]]), cameras, scaled=True) for drift in range(0, 400, 8)
    ]
    assert np.sqrt(np.mean(np.square(said))) == pytest.approx(float(turned), rel=0.3)


def test_a_path_without_drift_or_without_breadth_is_hardly_turned() -> None:
    straight = torch.eye(4, dtype=torch.float64).repeat(12, 1, 1)
    straight[:, 0, 3] = torch.arange(12)
    drift = torch.randn(12, 3, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert 0 < uncertainty.loose_turn(move(0.1 * drift), straight, scaled=True) < 0.1
    assert uncertainty.loose_turn(move(0 * drift), case(0)[1], scaled=True) == 0


def move(centres: torch.Tensor) -> uncertainty.Moved:
    """Moves of the centres alone."""
    return uncertainty.Moved(
        centres,
        torch.zeros_like(centres),
        centres.new_zeros(5, centres.shape[2]),
        centres.new_zeros(0, 3, centres.shape[2]),
    )


def test_steps_along_the_gauge_change_no_image() -> None:
    samples, cameras, points = case(0, noise_px=1e-3)
    system = uncertainty.linearised(samples, cameras, INTRINSICS, points).system
    free = uncertainty.gauge(cameras)
    moved = (free * (system @ free)).sum(0) / (free.square().sum(0) * system.diagonal()[:-5].mean())
    assert moved.abs().max() < 1e-8


def test_doubt_falls_with_more_independent_tracks() -> None:
    sizes = []
    for count in (200, 1600):
        samples, cameras, points = case(5, count=count)
        found = polish(samples, cameras, INTRINSICS, points, focal_sigma=0.2)
        doubt = doubts_of(samples, found.world_from_cam, found.intrinsics, found.points)
        sizes.append(np.median(sigma_of(doubt, found.world_from_cam).centre))
    assert sizes[1] < 0.6 * sizes[0]


def test_blocks_hold_equally_many_neighbours() -> None:
    _, cameras, points = case(3)
    blocks = uncertainty.neighbourhoods(points, cameras, 16)
    assert torch.bincount(blocks).tolist() == [25] * 16
    spread = torch.stack([points[blocks == b].std(0).norm() for b in range(16)])
    assert spread.mean() < 0.6 * points.std(0).norm()


def test_frames_without_evidence_are_as_uncertain_as_the_camera_moves_in_them() -> None:
    cameras = case(0)[1]
    seen = np.ones(12, dtype=bool)
    seen[5:8] = False
    centre, turn = uncertainty.interpolated(cameras, seen)
    assert (centre[seen] == 0).all() and (turn[seen] == 0).all()
    assert centre[6] > centre[5] > 0 and turn[6] > turn[5] > 0
