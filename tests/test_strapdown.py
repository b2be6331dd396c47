"""Camera motion from an IMU: rates to rotations, biases, gravity, places soon after standing still, and their doubt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.geometry import se3
from worldline.io.known.imu import read_imu
from worldline.scene.observations import Source
from worldline.scene.sensor_readings import ImuSamples
from worldline.solve.gyro_bias import ImuBias, estimate_bias, standing_still
from worldline.solve.gyro_integration import products, rotations_at, rotations_at_samples
from worldline.solve.strapdown import imu_motion

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from imu_rotations import judged, truth_of  # noqa: E402

EUROC = Path(__file__).parents[1].parent / "shared" / "data" / "euroc_v101_imu"
NO_BIAS = ImuBias.given(np.zeros(3))
GRAVITY = np.array([0.0, 0.0, 9.81])

numbers = st.floats(-2, 2)
vectors = st.tuples(numbers, numbers, numbers).map(np.array)


def eased(t: np.ndarray, start: float, stop: float) -> np.ndarray:
    """From 0 to 1 with two smooth derivatives, standing still before and after."""
    x = np.clip((t - start) / (stop - start), 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def angles(t: np.ndarray) -> np.ndarray:
    return np.stack([0.3 * np.sin(1.1 * t), 0.4 * np.sin(0.7 * t + 1), 0.5 * t + 0.6 * np.sin(0.9 * t)], -1)


def place(t: np.ndarray) -> np.ndarray:
    return np.stack([np.sin(0.8 * t), 0.7 * np.cos(0.6 * t), 0.2 * np.sin(1.3 * t)], -1)


def turned(path: Callable[[np.ndarray], np.ndarray], t: np.ndarray) -> np.ndarray:
    """world_from_imu of roll, pitch and yaw."""
    roll, pitch, yaw = torch.from_numpy(path(np.asarray(t, float))).unbind(-1)
    o = torch.zeros_like(roll)
    parts = [torch.stack(v, -1) for v in ((o, o, yaw), (o, pitch, o), (roll, o, o))]
    x, y, z = (se3.so3_exp(p) for p in parts)
    return (x @ y @ z).numpy()


def readings(
    t: np.ndarray, turns: Callable = angles, places: Callable = place, *, bias: np.ndarray | None = None
) -> ImuSamples:
    """What a perfect IMU reads along analytic turns and places (derivatives by central differences)."""
    h = 1e-4
    rotation = turned(turns, t)
    rate = rotation.transpose(0, 2, 1) @ (turned(turns, t + h) - turned(turns, t - h)) / (2 * h)
    gyro = (
        np.stack([rate[:, 2, 1] - rate[:, 1, 2], rate[:, 0, 2] - rate[:, 2, 0], rate[:, 1, 0] - rate[:, 0, 1]], -1) / 2
    )
    acceleration = (places(t + h) - 2 * places(t) + places(t - h)) / h**2
    force = (rotation.transpose(0, 2, 1) @ (acceleration + GRAVITY)[..., None])[..., 0]
    return ImuSamples(t, gyro + (0 if bias is None else bias), force, Source("imu"))


def relative(rotation: np.ndarray) -> np.ndarray:
    return rotation[0].T @ rotation


def angle_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(se3.angle_rad(torch.from_numpy(a).mT @ torch.from_numpy(b)).numpy())


# rates to rotations


@given(vectors, st.floats(0.01, 3.0))
def test_a_constant_rate_turns_by_rate_times_time_at_any_moment(rate, seconds):
    times = torch.linspace(0, seconds, 30, dtype=torch.float64)
    at = torch.tensor([0.0, 0.37 * seconds, seconds], dtype=torch.float64)
    found = rotations_at(times, torch.from_numpy(rate).expand(30, 3), at)
    expected = se3.so3_exp(at[:, None] * torch.from_numpy(rate))
    assert torch.allclose(found, expected, atol=1e-10)


def test_running_products_are_those_of_a_loop():
    steps = se3.so3_exp(torch.randn(37, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    done = torch.eye(3, dtype=torch.float64)
    for step, found in zip(steps, products(steps), strict=True):
        done = done @ step
        assert torch.allclose(found, done, atol=1e-12)


def test_rates_that_change_are_integrated_to_fourth_order():
    errors = []
    for hertz in (50, 100):
        t = np.arange(0, 4, 1 / hertz)
        found = rotations_at_samples(torch.from_numpy(t), torch.from_numpy(readings(t).gyro_radps)).numpy()
        errors.append(angle_deg(found[-1:], relative(turned(angles, t))[-1:])[0])
    assert errors[1] < 2e-3 and errors[1] < errors[0] / 3


def test_frames_between_samples_get_the_rotation_of_their_own_time():
    t, at = np.arange(0, 3, 1 / 200), np.arange(0.0033, 2.9, 0.0371)
    rate = torch.from_numpy(readings(t).gyro_radps)
    found = rotations_at(torch.from_numpy(t), rate, torch.from_numpy(at)).numpy()
    expected = turned(angles, t[:1])[0].T @ turned(angles, at)
    assert angle_deg(found, expected).max() < 1e-3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_backwards_in_time_the_path_is_the_inverse(seed):
    random = np.random.default_rng(seed)
    t = torch.from_numpy(np.cumsum(random.uniform(0.002, 0.02, 60)))
    rate = torch.from_numpy(random.normal(size=(60, 3)))
    there = rotations_at_samples(t, rate)[-1]
    back = rotations_at_samples(-t.flip(0), -rate.flip(0))[-1]
    assert torch.allclose(there @ back, torch.eye(3, dtype=torch.float64), atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(vectors)
def test_the_axes_of_the_imu_do_not_matter_once_the_mount_is_known(vector):
    t, frames = np.arange(0, 3, 0.01), np.arange(0, 2.9, 0.1)
    imu = readings(t)
    mount = se3.exp(torch.tensor([0.1, -0.05, 0.2, 0.4, 1.1, -0.3], dtype=torch.float64)).numpy()
    turn = np.eye(4)
    turn[:3, :3] = se3.so3_exp(torch.from_numpy(vector)).numpy()
    other = replace(
        imu, gyro_radps=imu.gyro_radps @ turn[:3, :3].T, accel_mps2=imu.accel_mps2 @ turn[:3, :3].T,
        cam_from_imu=mount @ turn.T,
    )  # fmt: skip
    a = imu_motion(replace(imu, cam_from_imu=mount), frames, bias=NO_BIAS)
    b = imu_motion(other, frames, bias=NO_BIAS)
    assert angle_deg(relative(a.world_from_cam[:, :3, :3]), relative(b.world_from_cam[:, :3, :3])).max() < 1e-6


# biases and gravity


def test_standing_still_is_told_from_turning_and_from_shaking():
    t = np.arange(0, 12, 0.005)
    still_then_turning = lambda x: angles(np.maximum(x, 4.0))  # noqa: E731
    imu = readings(t, still_then_turning, lambda x: 0 * place(x), bias=np.array([0.05, -0.01, 0.02]))
    random = np.random.default_rng(0)
    noisy = replace(imu, gyro_radps=imu.gyro_radps + 0.01 * random.normal(size=imu.gyro_radps.shape))
    still = standing_still(noisy)
    assert still[t < 3.9].all() and not still[t > 4.6].any()
    shaken = replace(imu, accel_mps2=imu.accel_mps2 + 2 * random.normal(size=imu.accel_mps2.shape))
    assert not standing_still(shaken).any()


def test_a_steady_pan_is_not_taken_for_the_bias_where_the_recording_also_stands():
    t = np.arange(0, 20, 0.005)
    pan = lambda x: np.stack([0 * x, 0 * x, 0.08 * np.maximum(x - 12, 0)], -1)  # noqa: E731
    found = standing_still(readings(t, pan, lambda x: 0 * place(x), bias=np.array([0.01, 0, 0])))
    assert found[t < 11].all() and not found[t > 13].any()


def test_a_camera_that_only_pans_on_its_tripod_is_not_taken_to_stand():
    t, frames = np.arange(0, 10, 0.005), np.arange(0, 10, 0.5)
    pan = lambda x: np.stack([0.1 + 0 * x, 0 * x, 0.08 * x], -1)  # noqa: E731
    imu = readings(t, pan, lambda x: 0 * place(x))
    assert not standing_still(imu).any()
    turn = imu_motion(imu, frames).world_from_cam[:, :3, :3]
    assert angle_deg(relative(turn), relative(turned(pan, frames))).max() < 0.1


def test_a_pause_in_the_recording_does_not_count_as_turning():
    t = np.concatenate([np.arange(0, 30, 0.01), np.arange(400, 405, 0.01)])
    imu = readings(t, bias=np.array([0.002, -0.002, 0.001]))
    whole, part = estimate_bias(imu), estimate_bias(readings(t[:3000], bias=np.array([0.002, -0.002, 0.001])))
    np.testing.assert_allclose(whole.gyro_radps, part.gyro_radps, atol=1e-9)


def test_a_steady_bias_is_found_where_it_stands_and_taken_off():
    bias = np.array([0.03, -0.02, 0.08])
    path = lambda x: angles(np.maximum(x, 3.0))  # noqa: E731
    t, frames = np.arange(0, 13, 0.005), np.arange(0, 13, 0.1)
    imu = readings(t, path, lambda x: place(np.maximum(x, 3.0)), bias=bias)
    imu = replace(imu, gyro_radps=imu.gyro_radps + 2e-3 * np.random.default_rng(0).normal(size=imu.gyro_radps.shape))
    assert np.abs(estimate_bias(imu).gyro_radps - bias).max() < 3e-4
    motion = imu_motion(imu, frames)
    assert angle_deg(relative(motion.world_from_cam[:, :3, :3]), relative(turned(path, frames))).max() < 0.2


def test_gravity_tells_the_bias_of_a_device_that_never_stands_still():
    bias = np.array([0.04, -0.03, 0.05])
    t = np.arange(0, 60, 0.01)
    tilting = lambda x: np.stack([0.9 * np.sin(0.3 * x), 0.8 * np.sin(0.23 * x + 1), 0.4 * x], -1)  # noqa: E731
    found = estimate_bias(readings(t, tilting, bias=bias))
    assert not standing_still(readings(t, tilting, bias=bias)).any()
    assert (np.abs(found.gyro_radps - bias) < 3 * found.sigma_radps + 1e-4).all()
    assert np.abs(found.gyro_radps - bias).max() < 3e-3 and "gravity" in found.how


def test_what_gravity_cannot_tell_stays_unknown():
    level = lambda x: np.stack([0 * x, 0 * x, 0.4 * x + np.sin(x)], -1)  # noqa: E731
    found = estimate_bias(readings(np.arange(0, 60, 0.01), level, bias=np.array([0.01, 0.01, 0.02])))
    assert found.sigma_radps[2] > 0.04 > 0.006 > found.sigma_radps[:2].max()


def test_without_standing_still_a_short_recording_says_that_its_bias_is_unknown():
    t = np.arange(0, 5, 0.01)
    motion = imu_motion(readings(t), np.arange(0, 5, 0.5))
    assert any("unknown" in note for note in motion.source.notes)
    assert motion.frame_sigma_rad[-1] > 0.1 and np.isinf(motion.sigma_m) and not motion.metric


def test_the_world_has_its_z_axis_up():
    t = np.arange(0, 3, 0.01)
    imu = readings(t, lambda x: angles(0 * x + 2.0), lambda x: 0 * place(x))
    mount = se3.exp(torch.tensor([0, 0, 0, 0.4, 1.1, -0.3], dtype=torch.float64)).numpy()
    motion = imu_motion(replace(imu, cam_from_imu=mount), np.array([0.5, 2.0]))
    up_cam = mount[:3, :3] @ turned(angles, np.array([2.0]))[0].T @ [0, 0, 1]
    np.testing.assert_allclose(motion.world_from_cam[0, :3, :3] @ up_cam, [0, 0, 1], atol=1e-3)


def test_upside_down_is_a_place_like_any_other():
    t = np.arange(0, 3, 0.01)
    over = lambda x: np.stack([np.pi + 0 * x, 0 * x, 0 * x], -1)  # noqa: E731
    motion = imu_motion(readings(t, over, lambda x: 0 * place(x)), np.array([0.5, 2.0]))
    np.testing.assert_allclose(motion.world_from_cam[0, :3, 2], [0, 0, -1], atol=1e-6)
    assert np.linalg.det(motion.world_from_cam[0, :3, :3]) == pytest.approx(1)


# places


def moved(t: np.ndarray) -> np.ndarray:
    return eased(t, 2.0, 4.0)[:, None] * np.array([0.6, -0.3, 0.2])


def tilted(t: np.ndarray) -> np.ndarray:
    return eased(t, 2.0, 4.0)[:, None] * np.array([0.2, -0.3, 0.6]) + np.array([0.3, 0.2, 0])


@pytest.mark.parametrize("stands_again", [False, True])
def test_places_after_standing_still_are_true_within_their_sigma(stands_again):
    t = np.arange(0, 6 if stands_again else 3.5, 0.005)
    frames = np.arange(0, t[-1], 0.1)
    random = np.random.default_rng(1)
    imu = readings(t, tilted, moved, bias=np.array([0.01, 0.02, -0.03]))
    imu = replace(
        imu, gyro_radps=imu.gyro_radps + 1e-3 * random.normal(size=imu.gyro_radps.shape),
        accel_mps2=imu.accel_mps2 + 0.03 + 0.02 * random.normal(size=imu.gyro_radps.shape),
    )  # fmt: skip
    motion = imu_motion(imu, frames)
    known = motion.given_frames
    assert known.all() and motion.metric and motion.metric_source == "accelerometer"
    true = moved(frames) - moved(frames[:1])
    own = turned(tilted, frames[:1])[0] @ motion.world_from_cam[0, :3, :3].T
    off = np.linalg.norm(motion.world_from_cam[:, :3, 3] @ own.T - true, axis=1)
    assert (off < 3 * motion.frame_sigma_m + 1e-4).all()
    assert off[-1] < (0.05 if stands_again else 0.15) and motion.frame_sigma_m[5] < 0.01


def test_places_fade_where_too_much_time_has_passed_since_it_stood():
    t = np.arange(0, 12, 0.005)
    motion = imu_motion(readings(t, lambda x: angles(np.maximum(x, 2)), lambda x: place(np.maximum(x, 2))), t[::20])
    known = np.isfinite(motion.frame_sigma_m)
    assert known[:20].all() and not known[60:].any() and motion.valid.all()
    assert motion.turned_frames.all() and not motion.given_frames[60:].any() and motion.partial
    assert (motion.world_from_cam[~known, :3, 3] == 0).all()


def test_a_device_that_shakes_a_little_is_not_taken_to_rest():
    t, random = np.arange(0, 3, 0.005), np.random.default_rng(0)
    imu = readings(t, lambda x: 0 * angles(x), lambda x: 0 * place(x))
    held = replace(imu, gyro_radps=imu.gyro_radps + 0.015 * random.normal(size=imu.gyro_radps.shape))
    assert standing_still(held).all() and np.isinf(imu_motion(held, t[::20]).sigma_m)
    assert imu_motion(imu, t[::20]).sigma_m < 0.01


def test_the_camera_swings_about_the_imu_by_its_mount():
    t = np.arange(0, 4.0, 0.005)
    mount = np.eye(4)
    mount[:3, 3] = [0.3, 0, 0]
    imu = replace(readings(t, tilted, lambda x: 0 * place(x)), cam_from_imu=mount)
    motion = imu_motion(imu, np.array([0.5, 2.8]))
    turns = turned(tilted, np.array([0.5, 2.8]))
    expected = (turns[1] - turns[0]) @ [-0.3, 0, 0]
    own = turns[0] @ motion.world_from_cam[0, :3, :3].T
    np.testing.assert_allclose(own @ motion.world_from_cam[1, :3, 3], expected, atol=0.02)


# doubt, gaps and times


def test_doubt_grows_with_time_and_covers_the_error():
    t, frames = np.arange(0, 20, 0.005), np.arange(2, 20, 0.5)
    path = lambda x: angles(np.maximum(x, 2.0))  # noqa: E731
    clean = readings(t, path, lambda x: 0 * place(x), bias=np.array([0.02, 0.01, -0.05]))
    off = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        drift = 1e-3 * random.normal(size=3)
        noise = 3e-4 * 200**0.5 * random.normal(size=clean.gyro_radps.shape)
        imu = replace(clean, gyro_radps=clean.gyro_radps + noise + drift * (t > 2)[:, None])
        motion = imu_motion(imu, frames)
        error = angle_deg(relative(motion.world_from_cam[:, :3, :3]), relative(turned(path, frames)))
        off.append(np.radians(error) / 3**0.5 / motion.frame_sigma_rad)
    assert (np.diff(motion.frame_sigma_rad) > -1e-3).all()
    assert 0.2 < np.sqrt(np.mean(np.square(off))) < 1.5


def test_frames_outside_of_the_samples_or_behind_a_gap_are_unknown():
    t = np.concatenate([np.arange(0, 2, 0.01), np.arange(2.5, 6, 0.01)])
    frames = np.arange(-0.5, 7, 0.25)
    motion = imu_motion(readings(t), frames)
    assert (motion.valid == ((frames >= 2.5) & (frames <= 5.99))).all()
    assert (motion.world_from_cam[~motion.valid] == np.eye(4)).all() and np.isinf(motion.frame_sigma_rad[0])


def test_an_imu_of_another_time_or_too_slow_is_one_sentence():
    imu = readings(np.arange(0, 5, 0.01))
    with pytest.raises(InputError, match=r"from 0 to 4\.99 s but the frames are at 100 to 101 s; check the times"):
        imu_motion(imu, np.array([100.0, 101.0]))
    with pytest.raises(InputError, match="at 5 Hz"):
        imu_motion(readings(np.arange(0, 5, 0.2)), np.array([0.0, 1.0]))


# a real recording


@pytest.mark.skipif(not EUROC.exists(), reason="the EuRoC recording is not here")
def test_rotations_of_a_drone_are_right_over_every_ten_seconds():
    """Judged by the angle turned, and by gravity, whose direction the accelerometer and the true places tell.

    The true attitudes of this recording cannot be compared axis by axis: against gravity they tilt with the heading.
    """
    found = judged(read_imu(EUROC / "imu0" / "data.csv"), truth_of(EUROC))
    assert found["windows"] > 2600 and found["sigma_deg"] < 1.5
    assert found["angle_deg"]["median"] < 0.45 and found["angle_deg"]["worst"] < 1.15
    assert found["tilt_deg"]["median"] < 0.5 and found["tilt_deg"]["worst"] < 1.0 < found["true_tilt_deg"]["median"]
