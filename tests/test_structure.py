"""Cameras from pixel tracks alone, on point clouds whose truth is known."""

import numpy as np
import pytest
import torch

from worldline.errors import SolveFailed
from worldline.geometry import se3, sim3
from worldline.scene.observations import PixelTracks, Source
from worldline.solve.resection import interpolate_missing, refine_cameras
from worldline.solve.structure import MEDIAN_DEPTH, rigid_structure, structure_at
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.triangulation import triangulate

WIDTH, HEIGHT, FOCAL = 640, 480, 560.0
FEW = StructureSettings(tracks=500)


def path(frames: int, travel: float, turn_rad: float) -> np.ndarray:
    s = torch.linspace(0, 1, frames, dtype=torch.float64)
    xi = torch.stack([travel * s, 0.2 * travel * (6 * s).sin(), 0.3 * travel * s, 0.1 * s, turn_rad * s, 0 * s], -1)
    return se3.exp(xi).numpy()


def seen(world_from_cam: np.ndarray, *, movers: int = 0, noise_px: float = 0.1, points: int = 400) -> PixelTracks:
    """Tracks of a static cloud that fills the view of all cameras, and of movers that drift through it."""
    random = np.random.default_rng(0)
    count = len(world_from_cam)
    depth = random.uniform(2, 8, points)
    cloud = np.stack(
        [random.uniform(-0.9, 0.9, points) * depth, random.uniform(-0.45, 0.45, points) * depth, depth], -1
    )
    over_time = np.repeat(cloud[None], count, 0)
    drift = np.linspace(0, 1, count)[:, None, None] * random.normal(0, 0.6, (movers, 3))
    over_time[:, :movers] += drift
    cam_from_world = np.linalg.inv(world_from_cam)
    points_cam = np.einsum("tij,tnj->tni", cam_from_world[:, :3, :3], over_time) + cam_from_world[:, None, :3, 3]
    uv = points_cam[..., :2] / points_cam[..., 2:] * FOCAL + [WIDTH / 2, HEIGHT / 2]
    uv += random.normal(0, noise_px, uv.shape)
    inside = (uv > 0).all(-1) & (uv < [WIDTH, HEIGHT]).all(-1) & (points_cam[..., 2] > 0.1)
    sigma = np.full(inside.shape, 0.1, dtype=np.float32)
    return PixelTracks(uv.astype(np.float32), inside, sigma, np.zeros(points, dtype=np.int32), Source("test"))


def path_error(found: np.ndarray, true: np.ndarray) -> float:
    """Error of the camera centres after a similarity, as a share of the way."""
    a, b = torch.from_numpy(true[:, :3, 3]), torch.from_numpy(found[:, :3, 3])
    error = (sim3.fit(a, b).apply(b) - a).norm(dim=-1)
    return float(error.square().mean().sqrt() / (a[1:] - a[:-1]).norm(dim=-1).sum())


def test_a_moving_camera_is_recovered_among_movers() -> None:
    true = path(16, 1.0, 0.15)
    found = rigid_structure(seen(true, movers=80), WIDTH, HEIGHT, focal_px=FOCAL, settings=FEW)
    assert found.motion == "general" and found.solved.all()
    assert path_error(found.world_from_cam, true) < 0.005
    assert found.focal_sigma == 0 and found.intrinsics[0] == FOCAL


def test_movers_have_larger_residuals_than_static_points() -> None:
    found = rigid_structure(seen(path(16, 1.0, 0.15), movers=80), WIDTH, HEIGHT, focal_px=FOCAL, settings=FEW)
    movers, static = found.track_rms_px[:80], found.track_rms_px[80:]
    assert np.nanmedian(movers) > 5 * np.nanmedian(static)
    assert np.nanpercentile(static, 95) < 1.0


def test_an_unknown_focal_length_is_found_and_its_doubt_reported() -> None:
    true = path(16, 1.5, 0.3)
    found = rigid_structure(seen(true), WIDTH, HEIGHT, settings=FEW)
    assert abs(np.log(found.intrinsics[0] / FOCAL)) < 0.03
    assert 0 < found.focal_sigma < 0.3
    assert path_error(found.world_from_cam, true) < 0.01


def test_world_is_the_first_camera_and_the_median_depth_is_fixed() -> None:
    found = rigid_structure(seen(path(12, 1.0, 0.1)), WIDTH, HEIGHT, focal_px=FOCAL, settings=FEW)
    assert np.allclose(found.world_from_cam[0], np.eye(4), atol=1e-9)
    assert np.nanmedian(found.points_world[:, 2]) == pytest.approx(MEDIAN_DEPTH, rel=0.3)


def test_a_turning_camera_claims_no_translation() -> None:
    true = path(16, 0.0, 0.25)
    found = rigid_structure(seen(true, movers=40), WIDTH, HEIGHT, focal_px=FOCAL, settings=FEW)
    assert found.motion == "turning" and not found.parallax
    assert np.abs(found.world_from_cam[:, :3, 3]).max() == 0
    between = np.einsum("tji,tjk->tik", found.world_from_cam[:, :3, :3], true[:, :3, :3])
    assert float(se3.angle_rad(torch.from_numpy(between)).max()) < 0.003


def test_a_standing_camera_is_recognised_among_movers() -> None:
    found = rigid_structure(seen(np.repeat(np.eye(4)[None], 12, 0), movers=150), WIDTH, HEIGHT, settings=FEW)
    assert found.motion == "static"
    assert np.array_equal(found.world_from_cam, np.repeat(np.eye(4)[None], 12, 0))


def test_known_cameras_are_kept_as_they_are() -> None:
    true = path(10, 1.0, 0.1)
    intrinsics = np.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
    found = structure_at(seen(true), true, intrinsics)
    assert np.array_equal(found.world_from_cam, true) and found.motion == "general"
    assert np.nanmedian(found.track_rms_px) < 0.3


def test_a_handful_of_tracks_is_refused_in_one_sentence() -> None:
    with pytest.raises(SolveFailed, match="longer or sharper clip"):
        rigid_structure(seen(path(8, 1.0, 0.1), points=10), WIDTH, HEIGHT)


def test_triangulation_shrugs_off_a_wrong_sighting() -> None:
    true = path(12, 1.0, 0.1)
    tracks = seen(true, noise_px=0.0)
    uv = torch.from_numpy(tracks.uv.astype(np.float64))
    weight = torch.from_numpy(tracks.visible.astype(np.float64))
    intrinsics = torch.tensor([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2], dtype=torch.float64)
    clean = triangulate(uv, weight, torch.from_numpy(true), intrinsics, rounds=8).points_world
    uv[5] += 30
    spoilt = triangulate(uv, weight, torch.from_numpy(true), intrinsics, rounds=8).points_world
    full = (weight > 0).all(0)
    assert float(((clean - spoilt).norm(dim=-1) / clean.norm(dim=-1))[full].median()) < 0.01


def test_refined_poses_return_to_the_truth() -> None:
    true = torch.from_numpy(path(8, 1.0, 0.1))
    tracks = seen(true.numpy(), noise_px=0.0)
    uv = torch.from_numpy(tracks.uv.astype(np.float64))
    weight = torch.from_numpy(tracks.visible.astype(np.float64))
    intrinsics = torch.tensor([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2], dtype=torch.float64)
    points = triangulate(uv, weight, true, intrinsics).points_world
    shaken = true @ se3.exp(0.02 * torch.ones(8, 6, dtype=torch.float64))
    refined = refine_cameras(shaken, points, uv, weight, intrinsics, kernel_px=10.0, steps=20)
    assert float((refined - true).abs().max()) < 1e-3


def test_missing_poses_lie_between_their_neighbours() -> None:
    poses = torch.from_numpy(path(5, 1.0, 0.0))
    known = torch.tensor([False, True, False, True, False])
    filled = interpolate_missing(poses, known)
    assert torch.allclose(filled[2, :3, 3], (poses[1] + poses[3])[:3, 3] / 2)
    assert torch.equal(filled[0], filled[1]) and torch.equal(filled[4], filled[3])
