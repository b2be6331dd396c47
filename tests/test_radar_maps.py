"""Doppler maps and ego-velocity against worlds whose radial motion is known: sign, interval, mount, robustness."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.geometry import doppler, pixels, se3
from worldline.geometry.camera import Camera, rays_z1
from worldline.io.sensors.recordings import read_imu, read_radar
from worldline.scene.observations import DepthMaps, Source
from worldline.scene.sensor_readings import RadarReturns
from worldline.solve.ego_velocity import ego_velocity
from worldline.solve.gyro_bias import estimate_bias, standing_still
from worldline.solve.gyro_integration import rotations_at_samples
from worldline.solve.radar_maps import doppler_maps, doppler_vectors, radial_unit
from worldline.synthetic.presets import tiny_world
from worldline.synthetic.radar import CAM_FROM_RADAR, radar_returns, radial_speed
from worldline.synthetic.rendering import render

BAG = Path(__file__).parents[1].parent / "shared" / "data" / "radar_ti_imu_40s" / "demo_ti_mmwave_rospkg_format.bag"

numbers = st.floats(-5, 5)
vectors = st.tuples(numbers, numbers, numbers).map(lambda v: torch.tensor(v, dtype=torch.float64))


def unit_rays(world, frame=0, *, height=None, width=None):
    camera = world.camera if height is None else world.camera.resized(width, height)
    uv = pixels.centres(camera.height, camera.width, dtype=torch.float64)
    rays = rays_z1(uv, torch.from_numpy(camera.at(frame).copy()))
    return rays / rays.norm(dim=-1, keepdim=True)


@pytest.fixture(scope="module")
def world():
    return tiny_world(seed=1, frames=4, width=48, height=32)


def beside(x, y, z):
    mount = CAM_FROM_RADAR.copy()
    mount[:3, 3] = x, y, z
    return mount


# the whole way from a scan to the network's vectors


def test_the_map_made_of_scans_is_the_analytic_one(world):
    maps = doppler_maps(radar_returns(world), world.times_s, world.camera)
    rays = torch.stack([unit_rays(world, t) for t in range(4)])
    vectors, there = doppler_vectors(maps, world.times_s, np.arange(4), rays)
    dt = np.diff(world.times_s)
    for t in range(4):
        interval = dt[min(t, 2)]
        expected = np.nan_to_num(radial_speed(world, t) * interval)[..., None] * rays[t].numpy()
        assert np.abs(vectors[t].numpy() - expected).max() < 1e-5
    assert there.all() and vectors.dtype == torch.float32 and float(vectors.abs().max()) > 1e-3


def test_movers_and_the_cameras_own_motion_are_both_in_the_radial_motion(world):
    truth = render(world).scene
    centres, points = truth.world_from_cam[:, :3, 3], truth.tracks
    for t, (a, b) in enumerate(((0, 1), (1, 2), (2, 3), (2, 3))):
        seen = points.visible[t]
        at, uv = points.points_world[:, seen].astype(np.float64), None
        cam = np.einsum(
            "tij,tnj->tni", np.linalg.inv(truth.world_from_cam[[a, b]])[:, :3, :3], at[[a, b]] - centres[[a, b], None]
        )
        here = cam[1] if t == 3 else cam[0]
        intrinsics = world.camera.at(t)
        uv = here[:, :2] / here[:, 2:] * intrinsics[:2] + intrinsics[2:]
        expected = (
            ((cam[1] - cam[0]) * here).sum(-1) / np.linalg.norm(here, axis=-1) / (world.times_s[b] - world.times_s[a])
        )
        got = radial_speed(world, t)[uv[:, 1].astype(int), uv[:, 0].astype(int)]
        moving = points.moving[seen]
        assert moving.any() and (~moving).any()
        for kind in (moving, ~moving):
            assert np.median(np.abs(got - expected)[kind]) < 0.02


def test_a_camera_that_goes_forward_sees_everything_come_closer():
    ahead = tiny_world(path="forward", frames=3, width=24, height=16, movers=False)
    assert np.nanmax(radial_speed(ahead, 0)) < 0
    maps = doppler_maps(radar_returns(ahead), ahead.times_s, ahead.camera)
    vectors, _ = doppler_vectors(maps, ahead.times_s, np.array([0]), unit_rays(ahead)[None])
    assert float(vectors[..., 2].max()) < 0


def test_the_interval_is_to_the_next_view_in_time_and_the_last_looks_back():
    times = torch.tensor([0.0, 0.1, 0.3, 0.7, 0.1], dtype=torch.float64)
    assert torch.allclose(doppler.intervals_s(times), torch.tensor([0.1, 0.2, 0.4, 0.4, 0.2], dtype=torch.float64))
    world = tiny_world(frames=4, width=24, height=16, movers=False)
    maps = doppler_maps(radar_returns(world), world.times_s, world.camera)
    rays = torch.stack([unit_rays(world)] * 4)
    every, _ = doppler_vectors(maps, world.times_s, np.arange(4), rays)
    turned, _ = doppler_vectors(maps, world.times_s, np.array([3, 1, 0, 2]), rays)
    assert torch.equal(turned, every[[3, 1, 0, 2]])
    some, _ = doppler_vectors(maps, world.times_s, np.array([3, 1]), rays[:2])
    assert torch.allclose(some, 2 * every[[3, 1]], rtol=1e-5)
    alone, _ = doppler_vectors(maps, world.times_s, np.array([1]), rays[:1])
    assert torch.equal(alone[0], every[1])


def test_frames_without_a_scan_near_them_have_no_map(world):
    returns = radar_returns(world)
    only = _some(returns, returns.scan == 0)
    maps = doppler_maps(only, world.times_s + 0.02, world.camera)
    rays = torch.stack([unit_rays(world)] * 4)
    vectors, there = doppler_vectors(maps, world.times_s, np.arange(4), rays)
    assert there.tolist() == [True, False, False, False] and float(vectors[1:].abs().max()) == 0
    with pytest.raises(InputError, match="scans from 0 to 0 s but the frames are at 9 to"):
        doppler_maps(only, world.times_s + 9, world.camera)


def test_the_nearest_return_of_a_pixel_counts_and_maps_follow_to_another_size():
    camera = Camera.from_focal(20.0, 24, 16)
    back = np.linalg.inv(CAM_FROM_RADAR)[:3, :3]
    points = np.array([[0.1, 0.1, 4.0], [0.05, 0.05, 2.0], [-1.0, 0.2, 3.0], [0.0, 0.0, -2.0]]) @ back.T
    returns = _returns(points, np.array([1.0, 2.0, 3.0, 4.0]))
    maps = doppler_maps(returns, np.array([0.0, 0.5]), camera)
    assert sorted(maps.speed_mps[0][np.isfinite(maps.speed_mps[0])]) == [2.0, 3.0]
    assert np.isnan(maps.speed_mps[1]).all()
    rays = torch.zeros(1, 8, 12, 3) + torch.tensor([0.0, 0, 1])
    vectors, _ = doppler_vectors(maps, np.array([0.0, 0.5]), np.array([0]), rays)
    known = vectors[0, ..., 2].nonzero().tolist()
    assert known == [[4, 2], [4, 6]] or len(known) == 2
    cut = np.array([[1.0, 0, -12], [0, 1, -8], [0, 0, 1]])
    vectors, _ = doppler_vectors(maps, np.array([0.0, 0.5]), np.array([0]), rays, cut)
    assert (vectors[0, ..., 2] != 0).sum() == 1 and float(vectors[0, 0, 0, 2]) == pytest.approx(2.0 * 0.5)


def _some(returns, rows):
    names = ("times_s", "scan", "azimuth_rad", "elevation_rad", "range_m", "speed_mps", "strength")
    return replace(returns, **{name: getattr(returns, name)[rows] for name in names})


def _returns(points, speed, scan=None, mount=CAM_FROM_RADAR):
    scan = np.zeros(len(points), int) if scan is None else scan
    return RadarReturns(
        scan * 0.1, scan, np.arctan2(points[:, 1], points[:, 0]),
        np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])), np.linalg.norm(points, axis=1),
        np.asarray(speed, float), np.full(len(points), np.nan), Source("radar"), mount,
    )  # fmt: skip


# the radar beside the camera


def test_a_radar_beside_the_camera_is_brought_to_it_by_its_own_velocity():
    world = tiny_world(path="slide", frames=3, width=48, height=32, movers=False)
    returns = radar_returns(world, cam_from_radar=beside(0.4, 0.1, 0.2))
    maps = doppler_maps(returns, world.times_s, world.camera)
    expected = radial_speed(world, 0)
    away = np.abs(maps.speed_mps[0] - expected)
    raw = np.abs(returns.speed_mps[returns.scan == 0] - expected.reshape(-1)[np.isfinite(expected.reshape(-1))])
    assert np.nanmedian(away) < 0.1 * np.median(raw) and np.nanmax(away) < 0.01
    assert any("brought there" in note for note in maps.source.notes)


@given(vectors, vectors, vectors, vectors)
def test_of_what_stands_still_the_camera_measures_what_its_own_velocity_says(point, lever, velocity, rate):
    radar, camera = torch.zeros(3, dtype=torch.float64), lever
    if float((point - radar).norm()) < 0.1 or float((point - camera).norm()) < 0.1:
        return
    there, here = ((point - at) / (point - at).norm() for at in (radar, camera))
    of_camera = doppler.velocity_of_lever(velocity, rate, lever)
    measured = doppler.static_speed(there, velocity)
    got = doppler.speed_seen_from(measured, there, here, velocity, of_camera)
    assert float(got) == pytest.approx(float(-(here @ of_camera)), abs=1e-9)


@given(vectors, vectors)
def test_radial_motion_lies_on_the_ray_and_turns_with_time(point, velocity):
    if float(point.norm()) < 0.1:
        return
    speed = doppler.radial_speed(point, velocity)
    along = doppler.radial_displacement(speed, torch.tensor(0.5, dtype=torch.float64), point)
    ray = point / point.norm()
    assert torch.allclose(along, 0.5 * (velocity @ ray) * ray, atol=1e-9)
    assert float(doppler.radial_speed(point, -velocity)) == pytest.approx(-float(speed))
    moved = (point + 1e-6 * velocity).norm() - point.norm()
    assert float(moved) / 1e-6 == pytest.approx(float(speed), abs=1e-3)


def test_an_unknown_speed_is_no_motion():
    nothing = doppler.radial_displacement(torch.tensor([torch.nan]), torch.tensor([1.0]), torch.ones(1, 3))
    assert nothing.tolist() == [[0, 0, 0]]


# the normaliser


def test_the_unit_is_the_mean_distance_of_view_0_from_depth_else_from_ranges_else_unknown(world):
    scene = render(world).scene
    maps = doppler_maps(radar_returns(world), world.times_s, world.camera)
    sigma = np.ones_like(scene.depth_z)
    of_depth = radial_unit(maps, world.camera, 0, DepthMaps(scene.depth_z, sigma, Source("x"), metric=True))
    assert of_depth == pytest.approx(float(np.nanmean(maps.range_m[0])), rel=1e-5)
    assert radial_unit(maps, world.camera, 0) == pytest.approx(float(np.nanmean(maps.range_m[0])))
    blind = replace(maps, range_m=np.where(np.arange(4)[:, None, None] == 0, np.nan, maps.range_m))
    assert radial_unit(blind, world.camera, 0) == pytest.approx(float(np.nanmean(blind.range_m)))
    assert radial_unit(replace(maps, range_m=np.full_like(maps.range_m, np.nan)), world.camera) is None
    relative = DepthMaps(scene.depth_z, sigma, Source("x"), metric=False)
    assert radial_unit(maps, world.camera, 0, relative) == radial_unit(maps, world.camera, 0)


# ego-velocity


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), vectors)
def test_the_velocity_of_a_scan_is_found_within_its_noise_among_movers(seed, velocity):
    random = np.random.default_rng(seed)
    directions = random.normal(size=(60, 3)) * [1, 0.8, 0.4] + [1.5, 0, 0]
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    speed = -directions @ velocity.numpy() + 0.05 * random.normal(size=60)
    speed[:15] += random.uniform(1, 4, 15)
    found = ego_velocity(directions, speed)
    assert found is not None
    sigma = np.sqrt(np.diag(found.covariance))
    assert (np.abs(found.velocity_mps - velocity.numpy()) < 5 * sigma + 0.02).all() and (sigma < 0.2).all()
    assert found.static[15:].mean() > 0.9 and found.static[:15].mean() < 0.3


def test_the_velocity_turns_with_the_radars_axes():
    random = np.random.default_rng(0)
    directions = random.normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    velocity = np.array([2.0, -1, 0.5])
    turn = se3.so3_exp(torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64)).numpy()
    speed = -directions @ velocity
    a, b = ego_velocity(directions, speed), ego_velocity(directions @ turn.T, speed)
    np.testing.assert_allclose(a.velocity_mps, velocity, atol=1e-4)
    np.testing.assert_allclose(b.velocity_mps, turn @ velocity, atol=1e-4)


def test_a_flat_scan_tells_the_level_part_and_says_that_the_rest_is_unknown():
    angle = np.linspace(-1, 1, 30)
    flat = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    found = ego_velocity(flat, -flat @ np.array([3.0, 0.5, 0]))
    np.testing.assert_allclose(found.velocity_mps, [3, 0.5, 0], atol=1e-3)
    assert found.covariance[2, 2] > 100 and found.covariance[0, 0] < 0.01


def test_too_few_returns_or_none_that_agree_give_no_velocity():
    random = np.random.default_rng(1)
    directions = random.normal(size=(30, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    assert ego_velocity(directions[:4], np.zeros(4)) is None
    assert ego_velocity(directions, random.uniform(-20, 20, 30)) is None
    assert ego_velocity(directions, np.full(30, np.nan)) is None


def test_scans_of_a_world_give_the_cameras_velocity(world):
    returns = radar_returns(world, per_scan=150, noise_mps=0.03)
    for t in range(3):
        mine = returns.scan == t
        found = ego_velocity(returns.directions_radar[mine], returns.speed_mps[mine])
        step = (
            np.linalg.inv(world.world_from_cam[t])[:3, :3]
            @ (world.world_from_cam[t + 1] - world.world_from_cam[t])[:3, 3]
        )
        expected = CAM_FROM_RADAR[:3, :3].T @ step / (world.times_s[t + 1] - world.times_s[t])
        assert np.abs(found.velocity_mps - expected).max() < 0.08


def test_a_radar_without_doppler_or_out_of_view_is_one_sentence(world):
    returns = radar_returns(world, per_scan=20)
    with pytest.raises(InputError, match="no radial speeds"):
        doppler_maps(replace(returns, speed_mps=np.full(len(returns), np.nan)), world.times_s, world.camera)
    behind = CAM_FROM_RADAR.copy()
    behind[:3, :3] = -behind[:3, :3] @ np.diag([1, 1, -1])
    with pytest.raises(InputError, match="in view"):
        doppler_maps(replace(returns, cam_from_radar=behind), world.times_s, world.camera)


# a real recording


@pytest.fixture(scope="module")
def flight():
    if not BAG.exists():
        pytest.skip("the recording of a radar and an IMU is not here")
    pytest.importorskip("rosbags", reason="reading bags needs worldline[robotics]")
    return read_imu(BAG), read_radar(BAG, need_speed=True)


def scan_velocities(returns):
    """Times, velocities (NaN where there is none) and shares of static returns of all scans."""
    numbers, first = np.unique(returns.scan, return_index=True)
    mine = [returns.scan == n for n in numbers]
    found = [ego_velocity(returns.directions_radar[m], returns.speed_mps[m]) for m in mine]
    velocity = np.array([np.full(3, np.nan) if f is None else f.velocity_mps for f in found])
    return returns.times_s[first], velocity, np.array([0.0 if f is None else f.static.mean() for f in found])


def test_the_velocity_of_a_real_radar_is_that_of_its_imu(flight):
    imu, returns = flight
    times_s, velocity, static = scan_velocities(returns)
    assert np.isfinite(velocity).all() and np.median(static) > 0.95
    still = standing_still(imu)
    rests = np.interp(times_s, imu.times_s, still.astype(float)) > 0.5
    speed = np.linalg.norm(velocity, axis=1)
    assert rests.sum() > 100 and np.percentile(speed[rests], 95) < 0.05 and 0.8 < np.median(speed[~rests]) < 1.6
    bias = estimate_bias(imu)
    turn = rotations_at_samples(
        torch.from_numpy(imu.times_s), torch.from_numpy(imu.gyro_radps - bias.gyro_radps)
    ).numpy()
    force = (turn @ (imu.accel_mps2 - bias.accel_mps2)[..., None])[..., 0]
    rest = slice(int(still.argmax()), int(still.argmax()) + 400)
    gained = np.cumsum((force - force[rest].mean(0)) / imu.rate_hz, 0)
    at = np.clip(np.searchsorted(imu.times_s, times_s), 0, len(imu) - 1)
    by_imu = gained[at[10:]] - gained[at[:-10]]
    # turn @ mount @ velocity is linear in the nine numbers of the mount
    rows = np.einsum("tij,tk->tijk", turn[at], velocity).reshape(-1, 3, 9)
    rows = rows[10:] - rows[:-10]
    mount = np.linalg.lstsq(rows.reshape(-1, 9), by_imu.reshape(-1), rcond=None)[0].reshape(3, 3)
    mount = se3.nearest_rotation(torch.from_numpy(mount)).numpy()
    off = rows @ mount.reshape(9) - by_imu
    assert np.sqrt((off**2).mean()) < 0.1 < 0.4 < np.sqrt((by_imu**2).mean())
