"""The doubt of depth that regions share, and what another focal length makes of a scene."""

import numpy as np
import pytest
import torch

from worldline.engines.uni4d.shared_doubt import SharedDoubt
from worldline.geometry import se3
from worldline.solve import track_polish, uncertainty
from worldline.solve.focal import Focal
from worldline.solve.polish import at_focal, cost, log_depth, polish
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.terms import PixelSamples, in_camera
from worldline.solve.track_cameras import Cameras
from worldline.solve.track_samples import TrackSamples

FOCAL, SIZE = 300.0, (320, 240)
INTRINSICS = torch.tensor([FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2], dtype=torch.float64)


def arc(
    seed: int, noise_px: float, *, count: int = 300, frames: int = 10
) -> tuple[TrackSamples, torch.Tensor, torch.Tensor]:
    """Dense tracks of static points seen along an arc, the true cameras and points."""
    g = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, 1, frames, dtype=torch.float64)
    turns, centres = torch.stack([0.1 * t, -0.3 * t, 0.05 * t], -1), torch.stack([t, 0.2 * t, 0.3 * t**2], -1)
    cameras = se3.from_rotation_translation(se3.so3_exp(turns), centres)
    points = torch.rand(count, 3, generator=g, dtype=torch.float64) * 4 + torch.tensor([-1.8, -2.0, 3.0])
    frame, point = (x.flatten() for x in torch.meshgrid(torch.arange(frames), torch.arange(count), indexing="ij"))
    x = in_camera(cameras[frame], points[point])
    uv = x[:, :2] / x[:, 2:] * INTRINSICS[:2] + INTRINSICS[2:]
    uv = (uv + noise_px * torch.randn(uv.shape, generator=g, dtype=torch.float64)).view(frames, count, 2)
    seen = (uv > 0).all(-1) & (uv < torch.tensor(SIZE)).all(-1)
    return TrackSamples(uv, seen.double() / 0.5**2), cameras, points


def sightings(samples: TrackSamples, noise_px: float) -> PixelSamples:
    frame, point = torch.nonzero(samples.weight > 0, as_tuple=True)
    return PixelSamples(frame, point, samples.uv[frame, point], torch.full((len(frame),), noise_px).double())


def test_a_doubt_that_grows_with_depth_is_found_where_it_is() -> None:
    random = np.random.default_rng(0)
    place, log_depth_ = random.random((2000, 2)), random.normal(0.5, 0.3, 2000)
    changes = 0.2 * (log_depth_ - 0.5)[:, None] + 0.1 * (place[:, :1] - 0.5)
    doubt = SharedDoubt.of(changes, place, log_depth_)
    assert doubt.at(np.array([0.5, 0.5]), np.array(0.5)) == pytest.approx(0, abs=5e-3)
    assert doubt.at(np.array([0.5, 0.5]), np.array(0.9)) == pytest.approx(0.08, rel=0.1)
    assert doubt.at(np.array([1.0, 0.5]), np.array(0.5)) == pytest.approx(0.05, rel=0.1)


def test_a_doubt_of_images_is_that_of_their_pixels() -> None:
    random = np.random.default_rng(1)
    doubt = SharedDoubt.of(0.1 * random.normal(size=(500, 7)), random.random((500, 2)), random.normal(size=500))
    depth_z = np.exp(random.normal(size=(6, 8))).astype(np.float32)
    place = np.stack(np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(6) + 0.5) / 6), -1)
    np.testing.assert_allclose(doubt.over(6, 8).sigma(depth_z), doubt.at(place, np.log(depth_z)), rtol=1e-3)
    again = SharedDoubt.read(doubt.stored())
    np.testing.assert_array_equal(again.at(place, np.log(depth_z)), doubt.at(place, np.log(depth_z)))


def test_points_whose_own_depth_is_lost_do_not_tell_the_doubt_of_regions() -> None:
    random = np.random.default_rng(2)
    place, z = random.random((1000, 2)), random.normal(size=1000)
    changes = 0.01 * random.normal(size=5) * np.ones((1000, 1))
    own = np.where(random.random((1000, 1)) < 0.1, 1.0, 0.0) * random.normal(size=(1000, 5))
    clean, noisy = (
        SharedDoubt.of(c, place, z).at(np.array([0.5, 0.5]), np.array(0.0)) for c in (changes, changes + own)
    )
    assert noisy == pytest.approx(clean, rel=0.3)


def test_walking_to_another_focal_length_ends_where_polishing_would_hold_it() -> None:
    samples, cameras, points = arc(0, 0.05)
    seen = sightings(samples, 0.05)
    there = at_focal(seen, cameras, INTRINSICS, points, 1.2 * FOCAL)
    assert float(there.intrinsics[0]) == pytest.approx(1.2 * FOCAL)
    held = polish(seen, there.world_from_cam, there.intrinsics, there.points, focal_sigma=0.0)
    assert held.costs[1] == pytest.approx(there.costs[1], rel=0.02)
    back = at_focal(seen, there.world_from_cam, there.intrinsics, there.points, FOCAL)
    assert back.costs[1] == pytest.approx(cost(seen, (cameras, INTRINSICS, points)), rel=0.05)


def test_moves_at_a_held_focal_length_have_none_of_it() -> None:
    samples, cameras, points = arc(3, 0.1)
    seen = sightings(samples, 0.1)
    system = uncertainty.linearised(seen, cameras, INTRINSICS, points)
    blocks = uncertainty.neighbourhoods(points, cameras, 16)
    found = uncertainty.doubts(system, blocks, cameras, 0.2, held=False)
    assert uncertainty.at_held_focal(system, found.sampled, cameras).lens[0].abs().max() < 1e-9
    assert found.focal_scatter > float(found.sampled.lens[0, :16].norm())


def test_drifting_tracks_do_not_pull_the_focal_length_of_a_polished_structure() -> None:
    samples, cameras, _ = arc(4, 0.05)
    drift = torch.linspace(0, 2.5, len(cameras), dtype=torch.float64)[:, None]
    samples.uv[:, ::7, 0] += drift
    wrong = INTRINSICS * torch.tensor([1.1, 1.1, 1.0, 1.0])
    state = Cameras(cameras, torch.ones(len(cameras), dtype=torch.bool), wrong, 0.1)
    start = Focal(wrong, 0.3, (float(wrong[0]),), 0.05)
    found = track_polish.polished(samples, state, start, StructureSettings())
    assert float(found.intrinsics[0]) == pytest.approx(FOCAL, rel=0.01)
    known = track_polish.polished(samples, state, start._replace(sigma=0.0), StructureSettings())
    assert known is state


def test_log_depth_is_that_along_the_axis_of_the_camera_that_saw_it() -> None:
    samples, cameras, points = arc(5, 0.0, count=20)
    seen = sightings(samples, 1.0)
    expected = in_camera(cameras[seen.frame], points[seen.point])[:, 2].log()
    torch.testing.assert_close(log_depth(seen, cameras, points), expected)
