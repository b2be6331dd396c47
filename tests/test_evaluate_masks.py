"""Masks: J and F at their ends, by hand, and their symmetry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.evaluate.masks import contour_accuracy, mean_over_frames, region_similarity


def blob(height=40, width=60, top=10, left=10, size=15):
    mask = np.zeros((1, height, width), dtype=np.uint8)
    mask[0, top : top + size, left : left + size] = 3
    return mask


def test_equal_masks_and_two_empty_ones_give_one():
    empty = np.zeros_like(blob())
    for measure in (region_similarity, contour_accuracy):
        assert measure(blob(), 1 * (blob() > 0))[0] == 1
        assert measure(empty, empty)[0] == 1
        assert measure(blob(), empty)[0] == 0 and measure(empty, blob())[0] == 0


def test_hand_computed_intersection_over_union():
    a, b = np.zeros((2, 1, 4), dtype=bool), np.zeros((2, 1, 4), dtype=bool)
    a[0, 0, :3], b[0, 0, 1:] = True, True
    a[1, 0, :1], b[1, 0, 1:2] = True, True
    np.testing.assert_allclose(region_similarity(a, b), [0.5, 0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_j_and_f_are_symmetric_and_between_zero_and_one(seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.random((2, 12, 14)) < rng.random() for _ in range(2))
    for measure in (region_similarity, contour_accuracy):
        np.testing.assert_allclose(measure(a, b), measure(b, a))
        assert ((measure(a, b) >= 0) & (measure(a, b) <= 1)).all()


def test_a_contour_may_be_off_by_the_tolerance_and_not_by_more():
    # the diagonal of 40 x 60 is 72 px, so 0.008 of it rounds up to one pixel
    assert contour_accuracy(blob(left=11), blob())[0] == 1
    assert contour_accuracy(blob(left=14), blob())[0] < 0.8
    assert contour_accuracy(blob(left=14), blob(), tolerance=0.06)[0] == 1


def test_the_ends_of_a_clip_can_be_left_out():
    values = np.array([0.0, 1.0, 0.5, 0.0])
    assert mean_over_frames(values) == 0.375 and mean_over_frames(values, skip_ends=True) == 0.75
    assert np.isnan(mean_over_frames(values[:2], skip_ends=True))


@pytest.mark.usefixtures("production")
def test_masks_of_different_sizes_are_refused():
    with pytest.raises(InputError, match="resize"):
        region_similarity(blob(), blob(height=41))
