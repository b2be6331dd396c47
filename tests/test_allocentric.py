"""Points after motion in the axes of the first camera: by hand, what alignments remove, and RANSAC against outliers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.evaluate.alignment import align_points_ransac
from worldline.evaluate.allocentric import (
    ALIGNMENTS,
    aligned,
    allocentric_scores,
    in_first_camera,
    points_after_motion,
    scale_error,
)
from worldline.evaluate.motion import track_scores
from worldline.geometry import se3, sim3

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)


def tracks(seed, frames=6, count=30):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(1, count, 3)) + rng.normal(size=(frames, count, 3)) * 0.3 + [0, 0, 5]
    return truth, np.ones((frames, count), dtype=bool), rng


def turned(points, rng, scale):
    rotation = se3.so3_exp(torch.from_numpy(rng.normal(size=3))).numpy()
    return scale * points @ rotation.T + rng.normal(size=3)


def test_points_after_motion_are_the_first_view_moved_by_the_flow():
    first, flow = np.ones((2, 4, 3)), np.zeros((5, 2, 4, 3))
    flow[3, 1, 2] = [0, 0, 0.5]
    moved = points_after_motion(first, flow)
    assert moved.shape == (5, 2, 4, 3)
    np.testing.assert_allclose(moved[3, 1, 2], [1, 1, 1.5])


def test_in_the_first_camera_its_centre_is_the_origin():
    world_from_first = np.eye(4)
    world_from_first[:3, 3] = [1, 2, 3]
    np.testing.assert_allclose(in_first_camera(np.array([[[1.0, 2, 4]]]), world_from_first), [[[0, 0, 1]]])


def test_inliers_and_outliers_by_hand():
    truth = np.array([[[0.0, 0, 2]] * 5])
    error = np.array([0.1, 0.19, 0.25, 0.31, np.nan])
    points = truth + error[None, :, None] * [0, 0, 1]
    scores = allocentric_scores(points, truth, np.ones((1, 5), dtype=bool))
    assert (scores.inlier, scores.outlier) == (0.4, 0.4)  # 5, 9.5, 12.5 and 15.5 per cent, and one that is missing
    assert scores.epe_m == pytest.approx(error[:4].mean()) and scores.coverage == 0.8


def test_a_perfect_estimate_of_a_point_at_the_camera_is_an_inlier_or_not_judged_but_never_an_outlier():
    truth = np.zeros((1, 1, 3))
    assert allocentric_scores(truth, truth, np.ones((1, 1), dtype=bool)).outlier == 0


def test_the_error_of_a_scale_is_relative():
    assert scale_error(1.5, 2.0) == scale_error(2.5, 2.0) == 0.25
    with pytest.raises(InputError, match="positive"):
        scale_error(1.0, 0.0)


@pytest.mark.parametrize("name", ALIGNMENTS)
@quick
@given(seed=seeds)
def test_a_perfect_estimate_stays_perfect(name, seed):
    truth, where, _ = tracks(seed)
    points, _ = aligned(truth, truth, where, name=name)
    np.testing.assert_allclose(points, truth, atol=1e-9)


@quick
@given(seed=seeds, scale=st.floats(0.05, 20))
def test_alignments_remove_what_they_are_named_after(seed, scale):
    truth, where, rng = tracks(seed)
    cases = {
        "median": truth / scale,
        "per_trajectory": truth * rng.uniform(0.1, 10, (30, 1)),
        "sim3": turned(truth, rng, scale),
        "sim3_ransac": turned(truth, rng, scale),
    }
    for name, points in cases.items():
        assert track_scores(aligned(points, truth, where, name=name)[0], truth, where).epe_m < 1e-8, name


@quick
@given(seed=seeds)
def test_the_median_scale_is_the_ratio_of_medians_over_known_samples(seed):
    truth, where, rng = tracks(seed)
    points = truth * rng.uniform(0.5, 2, truth.shape[:2])[..., None]
    where = rng.random(where.shape) < 0.7
    points[rng.random(where.shape) < 0.2] = np.nan
    use = where & np.isfinite(points).all(-1)
    lengths = [np.linalg.norm(side[use], axis=-1) for side in (truth, points)]
    expected = points * np.median(lengths[0]) / np.median(lengths[1])
    np.testing.assert_allclose(aligned(points, truth, where, name="median")[0], expected)
    each = aligned(points, truth, where, name="per_trajectory")[0]
    for n in np.flatnonzero(use.any(0)):
        a, b = (np.median(np.linalg.norm(side[use[:, n], n], axis=-1)) for side in (truth, points))
        np.testing.assert_allclose(each[:, n], points[:, n] * a / b)


def test_ransac_withstands_outliers_that_least_squares_does_not():
    truth, where, rng = tracks(4, frames=10, count=200)
    points = turned(truth, rng, 3.0)
    wrong = rng.random(where.shape) < 0.4
    points[wrong] += rng.normal(size=(wrong.sum(), 3)) * 20
    robust, how = aligned(points, truth, where, name="sim3_ransac", seed=7)
    assert track_scores(robust, truth, ~wrong).epe_m < 1e-9 and "seed 7" in how
    assert track_scores(aligned(points, truth, where, name="sim3")[0], truth, ~wrong).epe_m > 0.3


def test_ransac_gives_the_same_for_the_same_seed_and_bounds_the_points_it_looks_at():
    truth, _, rng = tracks(5, frames=20, count=100)
    points = (truth + rng.normal(size=truth.shape) * 0.04).reshape(-1, 3)
    a, b, other = (align_points_ransac(points, truth.reshape(-1, 3), seed=s, at_most=500) for s in (0, 0, 1))
    assert a.scale == b.scale and a.scale != other.scale
    assert abs(a.scale - 1) < 0.02


def test_alignments_of_few_points_are_defined_and_say_so():
    truth, where, _ = tracks(6, frames=1, count=2)
    points, how = aligned(truth + 1, truth, where, name="sim3_ransac")
    assert "too few" in how and np.allclose(points, truth)
    one, _ = aligned(truth[:, :1] + 1, truth[:, :1], where[:, :1], name="sim3")
    np.testing.assert_allclose(one, truth[:, :1])
    nowhere, how = aligned(truth, truth, ~where, name="median")
    assert "nothing to align" in how and nowhere is truth
    scattered = np.random.default_rng(0).normal(size=(40, 3)) * 100
    assert "no three" in align_points_ransac(scattered, scattered[::-1].copy(), seed=0, inlier_m=1e-12).name


@pytest.mark.usefixtures("production")
def test_an_unknown_alignment_is_refused():
    truth, where, _ = tracks(7)
    with pytest.raises(InputError, match="choose one of none, median"):
        aligned(truth, truth, where, name="se3")


@quick
@given(seed=seeds)
def test_many_similarities_are_fitted_at_once(seed):
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.normal(size=(4, 5, 3))) for _ in range(2))
    together = torch.vmap(sim3.fit)(a, b)
    for i in range(4):
        one = sim3.fit(a[i], b[i])
        for many, single in zip(together, one, strict=True):
            torch.testing.assert_close(many[i], single)
