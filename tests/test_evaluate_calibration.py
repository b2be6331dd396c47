"""Whether sigma is true: normal errors of the right sigma give 0.67, and sigma must rank the errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test_evaluate_report import elsewhere, true_scene
from worldline.evaluate import calibration
from worldline.evaluate.alignment import align_poses
from worldline.evaluate.report import evaluate
from worldline.geometry import se3
from worldline.scene.scene import CameraSigma


def normal(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(0.1, 10))
def test_the_error_in_sigma_is_relative_to_sigma(sigma, promised):
    error = sigma * normal(20_000)
    found = calibration.error_in_sigma(error, np.full(error.shape, sigma * promised))
    assert found == pytest.approx(calibration.PERFECT / promised, rel=0.03)


def test_a_sigma_per_sample_is_used_per_sample():
    sigma = np.exp(normal(40_000, 1))
    assert calibration.error_in_sigma(sigma * normal(40_000, 2), sigma) == pytest.approx(calibration.PERFECT, rel=0.03)


def test_exactness_that_is_claimed_counts_as_infinitely_wrong_unless_it_is_true():
    error, sigma = np.array([0.0, 1.0, 1.0]), np.zeros(3)
    assert calibration.error_in_sigma(error, sigma) == np.inf
    assert np.isnan(calibration.error_in_sigma(error[:1], sigma[:1]))


def test_nothing_to_judge_is_not_a_number():
    nothing = np.zeros(0)
    assert np.isnan(calibration.error_in_sigma(nothing, nothing))
    assert np.isnan(calibration.halves_ratio(nothing, nothing))
    assert np.isnan(calibration.depth_calibration(nothing, nothing, np.zeros(0, bool)).abs_rel_sure)


@settings(max_examples=20, deadline=None)
@given(st.floats(1.5, 20))
def test_the_halves_tell_by_how_much_sigma_ranks_the_errors(apart):
    sigma = np.repeat([0.01, 0.01 * apart], 20_000)
    assert calibration.halves_ratio(sigma * normal(40_000), sigma) == pytest.approx(1 / apart, rel=0.05)


def test_a_sigma_that_says_nothing_has_equal_halves_or_none():
    error = normal(40_000)
    assert calibration.halves_ratio(error, np.exp(normal(40_000, 3))) == pytest.approx(1, rel=0.03)
    assert np.isnan(calibration.halves_ratio(error, np.ones(40_000)))


def test_pixels_are_judged_where_they_stand_still_and_where_they_move():
    error, moving = 0.01 * normal(40_000), np.arange(40_000) % 2 == 0
    found = calibration.depth_calibration(error, np.where(moving, 0.005, 0.01), moving)
    assert found.static == pytest.approx(calibration.PERFECT, rel=0.04)
    assert found.moving == pytest.approx(2 * calibration.PERFECT, rel=0.04)
    assert found.abs_rel_sure == pytest.approx(np.abs(np.expm1(error[moving])).mean())


@pytest.mark.parametrize("metric", [True, False])
def test_cameras_with_normal_errors_are_calibrated_in_any_world_and_scale(metric):
    random = np.random.default_rng(0)
    truth = se3.exp(torch.from_numpy(random.normal(size=(600, 6)))).numpy()
    sigma = CameraSigma(np.full(600, 0.02), np.full(600, 0.01), 0.01)
    error = np.concatenate([0.02 * random.normal(size=(600, 3)), 0.01 * random.normal(size=(600, 3))], 1)
    turned = truth[:, :3, :3] @ se3.so3_exp(torch.from_numpy(error[:, 3:])).numpy()
    wrong = truth.copy()
    wrong[:, :3, :3], wrong[:, :3, 3] = turned, truth[:, :3, 3] + error[:, :3]
    scale = 1.0 if metric else 0.1
    moved = replace(align_poses(truth[:1], truth[1:2], kind="se3"), scale=scale).apply_to_cameras(wrong)
    here = replace(sigma, centre=scale * sigma.centre)
    found = calibration.camera_calibration(moved, truth, here, metric=metric)
    assert found.centre == pytest.approx(calibration.PERFECT, rel=0.05)
    assert found.rotation == pytest.approx(calibration.PERFECT, rel=0.05)


def test_the_report_judges_every_sigma_that_a_scene_has():
    truth = true_scene()
    noise = np.random.default_rng(1).normal(size=truth.depth_z.shape)
    sigma = np.where(np.arange(truth.width) % 2, 0.01, 0.03) * np.ones(truth.depth_z.shape)
    wrong = replace(elsewhere(truth, 0.5), depth_sigma=sigma.astype(np.float32))
    wrong = replace(
        wrong,
        depth_z=(wrong.depth_z * np.exp(sigma * noise)).astype(np.float32),
        camera=replace(truth.camera, intrinsics=truth.camera.intrinsics * [1.02, 1.02, 1, 1]),
        camera_sigma=CameraSigma(np.full(len(truth), 0.01), np.full(len(truth), 0.01), 0.01),
    )
    metrics = evaluate(wrong, truth).metrics
    assert metrics["depth_error_in_sigma_static"] == pytest.approx(calibration.PERFECT, rel=0.05)
    assert metrics["depth_error_in_sigma_moving"] == pytest.approx(calibration.PERFECT, rel=0.15)
    assert metrics["depth_sigma_halves"] == pytest.approx(1 / 3, rel=0.05)
    assert metrics["depth_abs_rel_sure"] < metrics["depth_abs_rel"]
    assert metrics["focal_error_in_sigma"] == pytest.approx(np.log(1.02) / 0.01, rel=1e-6)
    assert metrics["centre_error_in_sigma"] < 1e-6 and metrics["rotation_error_in_sigma"] < 1e-6
