"""Point clouds: identical ones, by hand, and the roles of the two sides."""

import numpy as np
import pytest

from worldline.errors import InputError
from worldline.evaluate.points import cloud_scores, nearest_distances


def test_a_cloud_against_itself_in_any_order_has_no_error():
    cloud = np.random.default_rng(0).normal(size=(500, 3))
    scores = cloud_scores(cloud[::-1], cloud)
    assert scores.chamfer_m == 0 and scores.f_score == 1


def test_hand_computed_accuracy_and_completeness():
    truth = np.array([[0.0, 0, 0], [1, 0, 0]])
    scores = cloud_scores(np.array([[0.0, 0, 0.1]]), truth, threshold_m=0.2)
    assert scores.accuracy_m == pytest.approx(0.1)
    assert scores.completeness_m == pytest.approx((0.1 + np.hypot(1, 0.1)) / 2)
    assert (scores.precision, scores.recall) == (1, 0.5) and scores.f_score == pytest.approx(2 / 3)


def test_swapping_the_clouds_swaps_accuracy_and_completeness():
    rng = np.random.default_rng(1)
    a, b = cloud_scores(x := rng.normal(size=(50, 3)), y := rng.normal(size=(70, 3))), cloud_scores(y, x)
    assert a.accuracy_m == b.completeness_m and a.precision == b.recall and a.chamfer_m == b.chamfer_m


def test_chunks_do_not_change_distances():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(50, 3)), rng.normal(size=(60, 3))
    np.testing.assert_array_equal(nearest_distances(a, b, chunk=7), nearest_distances(a, b))
    plain = np.linalg.norm(a[:, None] - b, axis=-1).min(1)
    np.testing.assert_allclose(nearest_distances(a, b), plain)


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.array([[np.nan, 0, 0]])])
def test_empty_and_unknown_points_are_refused(bad):
    with pytest.raises(InputError, match="empty or not finite"):
        cloud_scores(bad, np.zeros((1, 3)))
