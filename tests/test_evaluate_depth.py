"""Depth errors: perfect is zero, each alignment removes what its name says and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.evaluate.depth import ALIGNMENTS, align, named, regions, scores

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)


def clip(seed, shape=(3, 8, 10)):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 10, shape).astype(np.float32)
    return truth, np.ones(shape, dtype=bool), rng


def measured(depth_z, truth, where, name, **rules):
    return scores(depth_z, truth, where, align(depth_z, truth, where, name=name), **rules)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_a_perfect_prediction_has_no_error_under_any_alignment(name):
    truth, where, _ = clip(0)
    found = measured(truth, truth, where, name)
    assert max(found.abs_rel, found.rmse_m, found.rmse_log) < 1e-5
    assert (found.delta_1, found.delta_3, found.coverage, found.pixels) == (1, 1, 1, truth.size)


@quick
@given(seeds, st.floats(0.05, 50), st.sampled_from([n for n in ALIGNMENTS if n != "none"]))
def test_every_alignment_removes_a_scale(seed, scale, name):
    truth, where, rng = clip(seed)
    depth_z = truth * rng.uniform(0.9, 1.1, truth.shape)
    a, b = measured(depth_z, truth, where, name), measured(scale * depth_z, truth, where, name)
    assert a.abs_rel == pytest.approx(b.abs_rel, rel=1e-3)


@quick
@given(seeds, st.floats(0.1, 3), st.sampled_from(["scale-shift", "lsq-scale-shift"]))
def test_scale_shift_removes_a_shift_in_depth(seed, shift, name):
    truth, where, _ = clip(seed)
    assert measured(0.5 * truth + shift, truth, where, name).abs_rel < 1e-4


@quick
@given(seeds, st.floats(0.0, 0.5))
def test_lsq_disparity_removes_a_shift_in_disparity(seed, shift):
    truth, where, _ = clip(seed)
    assert measured(1 / (3 / truth + shift), truth, where, "lsq-disparity").abs_rel < 1e-4


def test_median_frame_removes_a_scale_per_frame_and_median_does_not():
    truth, where, _ = clip(1)
    depth_z = truth * np.array([1.0, 2.0, 4.0])[:, None, None]
    assert measured(depth_z, truth, where, "median-frame").abs_rel < 1e-6
    assert measured(depth_z, truth, where, "median").abs_rel > 0.3


@quick
@given(seeds)
def test_absolute_alignments_ignore_outliers_and_reach_the_least_absolute_error(seed):
    truth, where, rng = clip(seed)
    depth_z = truth.copy()
    depth_z.reshape(-1)[:40] /= 20
    for name in ("scale", "scale-shift"):
        found = align(depth_z, truth, where, name=name)
        assert found.scale[0] == pytest.approx(1, abs=1e-3) and found.shift[0] == pytest.approx(0, abs=1e-2)
    noisy = truth * rng.uniform(0.5, 1.5, truth.shape)
    best = align(noisy, truth, where, name="scale").scale[0]
    cost = [np.abs(s * noisy - truth).sum() for s in (0.99 * best, best, 1.01 * best)]
    assert cost[1] <= min(cost)


def test_hand_computed_errors():
    truth = np.array([[[1.0, 2.0, 4.0, 5.0]]])
    depth_z = np.array([[[1.2, 2.0, 2.0, 0.0]]])
    found = measured(depth_z, truth, np.ones_like(truth, dtype=bool), "none")
    assert found.abs_rel == pytest.approx((0.2 + 0 + 0.5) / 3)
    assert found.rmse_m == pytest.approx(np.sqrt((0.04 + 4) / 3))
    assert found.rmse_log == pytest.approx(np.sqrt((np.log(1.2) ** 2 + np.log(2) ** 2) / 3))
    assert (found.delta_1, found.delta_2, found.delta_3) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert found.pixels == 3 and found.coverage == 0.75


@quick
@given(seeds)
def test_delta_and_rmse_log_are_symmetric_in_prediction_and_truth(seed):
    truth, where, rng = clip(seed)
    other = truth * rng.uniform(0.5, 2, truth.shape)
    a, b = measured(other, truth, where, "none"), measured(truth, other, where, "none")
    assert (a.delta_1, a.delta_2, a.delta_3) == (b.delta_1, b.delta_2, b.delta_3)
    assert a.rmse_log == pytest.approx(b.rmse_log)


def test_a_cap_leaves_out_far_truth_and_clamps_predictions():
    truth = np.array([[[10.0, 60.0, 80.0]]])
    depth_z = np.array([[[10.0, 100.0, 5.0]]])
    found = measured(depth_z, truth, np.ones_like(truth, dtype=bool), "none", cap_m=70)
    assert found.pixels == 2 and found.abs_rel == pytest.approx((0 + 10 / 60) / 2)


def test_pixels_and_frames_can_be_weighted():
    truth = np.ones((2, 1, 4))
    depth_z = np.ones((2, 1, 4))
    depth_z[1] = 1.5
    where = np.ones_like(truth, dtype=bool)
    where[1, 0, 1:] = False
    none = align(depth_z, truth, where, name="none")
    assert scores(depth_z, truth, where, none).abs_rel == pytest.approx(0.5 / 5)
    assert scores(depth_z, truth, where, none, weighting="frames").abs_rel == pytest.approx(0.25)


def test_static_and_moving_pixels_split_the_whole():
    truth, where, rng = clip(3)
    moving = rng.integers(0, 3, truth.shape)
    depth_z = np.where(moving, 2 * truth, truth)
    split = regions(moving)
    found = align(depth_z, truth, split["static"], name="median")
    parts = {k: scores(depth_z, truth, v, found) for k, v in split.items()}
    assert parts["static"].abs_rel == 0 and parts["moving"].abs_rel == pytest.approx(1)
    assert parts["all"].pixels == parts["static"].pixels + parts["moving"].pixels
    assert "depth_abs_rel_moving" in named(parts["moving"], "depth_", "_moving")


def test_an_aligned_depth_is_never_negative():
    truth, where, _ = clip(4)
    depth_z = 11 - truth
    for name in ("lsq-scale-shift", "scale-shift", "lsq-disparity"):
        assert np.isfinite(measured(depth_z, truth, where, name).rmse_log)


def test_a_constant_prediction_takes_a_scale_only():
    truth, where, _ = clip(5)
    found = align(np.full_like(truth, 2.0), truth, where, name="lsq-scale-shift")
    assert found.shift[0] == 0 and found.scale[0] == pytest.approx(truth.mean() / 2, rel=1e-5)


@pytest.mark.usefixtures("production")
def test_no_common_pixel_and_unknown_names_are_refused():
    truth, where, _ = clip(6)
    with pytest.raises(InputError, match="no pixel"):
        align(np.zeros_like(truth), truth, where)
    with pytest.raises(InputError, match="choose one of none, median"):
        align(truth, truth, where, name="affine")
    with pytest.raises(InputError, match="resize"):
        align(truth[:, :4], truth, where)
    nothing = scores(np.zeros_like(truth), truth, where, align(truth, truth, where))
    assert np.isnan(nothing.abs_rel) and nothing.coverage == 0
