"""Track and flow errors: perfect is zero, by hand, and what missing samples do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.evaluate.motion import (
    TRACK_ALIGNMENTS,
    align_tracks,
    badja_tolerance_px,
    pck,
    scene_flow_scores,
    tap_scores,
    track_scores,
)

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)


def tracks(seed, frames=6, count=30):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(frames, count, 3)) + [0, 0, 5], rng.random((frames, count)) < 0.8, rng


def test_pck_counts_visible_points_within_the_radius_of_their_frame():
    truth = np.zeros((2, 2, 2))
    uv = np.array([[[3.0, 4.0], [0.0, 6.0]], [[3.0, 4.0], [np.nan, 0.0]]])
    visible = np.array([[True, True], [True, True]])
    assert pck(uv, truth, visible, 5) == 0.5
    assert pck(uv, truth, visible, np.array([6.0, 1.0])) == 0.5
    assert np.isnan(pck(uv, truth, np.zeros_like(visible), 5))


def test_badja_radius_follows_the_area():
    masks = np.zeros((2, 20, 20), dtype=np.uint8)
    masks[0, :10, :10] = 1
    np.testing.assert_allclose(badja_tolerance_px(masks), [2.0, 0.0])


def test_perfect_2d_tracks_score_one_and_the_query_frame_is_not_judged():
    _, visible, rng = tracks(0)
    uv = rng.uniform(0, 256, (6, 30, 2))
    query = np.full(30, 2)
    scores = tap_scores(uv, visible, uv, visible, query)
    assert (scores.average_jaccard, scores.delta_avg, scores.occlusion_accuracy) == (1, 1, 1)
    wrong_before = uv.copy()
    wrong_before[:3] += 100
    assert tap_scores(wrong_before, visible, uv, visible, query) == scores
    assert tap_scores(wrong_before, visible, uv, visible, query, first=False).delta_avg < 1


def test_hand_computed_tap_scores():
    truth = np.zeros((2, 4, 2))
    uv = truth.copy()
    uv[1, :, 0] = [0, 3, 0, 0]
    seen, said = np.ones((2, 4), dtype=bool), np.ones((2, 4), dtype=bool)
    seen[1, 3], said[1, 2] = False, False
    scores = tap_scores(uv, said, truth, seen, np.zeros(4, dtype=int), thresholds_px=(1,))
    assert scores.delta_avg == pytest.approx(2 / 3)
    # one hit; false: one too far, one that is hidden; true visible: three
    assert scores.average_jaccard == pytest.approx(1 / 5)
    assert scores.occlusion_accuracy == 0.5


@quick
@given(seeds, st.sampled_from(TRACK_ALIGNMENTS))
def test_perfect_3d_tracks_have_no_error(seed, name):
    truth, visible, _ = tracks(seed)
    scores = track_scores(align_tracks(truth, truth, visible, name=name).apply(truth), truth, visible)
    assert max(scores.epe_m, scores.epe_median_m, scores.flow_epe_m) < 1e-9
    assert (scores.apd, scores.coverage, scores.samples) == (1, 1, visible.sum())


@quick
@given(seeds, st.floats(0.05, 20))
def test_alignments_remove_what_they_are_named_after(seed, scale):
    truth, visible, rng = tracks(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    for name, points in (
        ("median-scale", scale * truth),
        ("se3", truth @ turn.T + [1, 2, 3]),
        ("sim3", scale * truth @ turn.T + [1, 2, 3]),
        ("trimmed-sim3", scale * truth @ turn.T + [1, 2, 3]),
    ):
        aligned = align_tracks(points, truth, visible, name=name).apply(points)
        assert track_scores(aligned, truth, visible).epe_m < 1e-8


def test_missing_positions_lower_apd_and_coverage_but_not_epe():
    truth, _, _ = tracks(1)
    visible = np.ones(truth.shape[:2], dtype=bool)
    points = truth + [0.2, 0, 0]
    points[:, :15] = np.nan
    scores = track_scores(points, truth, visible)
    assert scores.epe_m == pytest.approx(0.2) and scores.coverage == 0.5
    assert scores.apd == pytest.approx((0 + 0.5 + 0.5 + 0.5) / 4)
    assert scores.flow_epe_m == pytest.approx(0)


def test_flow_needs_both_ends():
    truth = np.zeros((3, 1, 3))
    points = np.array([[[0.0, 0, 0]], [[1.0, 0, 0]], [[np.nan] * 3]])
    assert track_scores(points, truth, np.ones((3, 1), dtype=bool)).flow_epe_m == 1
    assert np.isnan(track_scores(points[1:], truth[1:], np.ones((2, 1), dtype=bool)).flow_epe_m)


def test_hand_computed_scene_flow():
    truth = np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    flow = truth + np.array([[0.05, 0, 0], [0.12, 0, 0], [0.2, 0, 0], [0.0, 0, 0]])
    scores = scene_flow_scores(flow, truth, np.ones(4, dtype=bool))
    assert scores.epe_m == pytest.approx(0.37 / 4) and (scores.inlier, scores.outlier) == (0.5, 0.25)


@pytest.mark.usefixtures("production")
def test_tracks_that_do_not_belong_together_are_refused():
    truth, visible, _ = tracks(2)
    with pytest.raises(InputError, match="match them"):
        track_scores(truth[:, :3], truth, visible)
    with pytest.raises(InputError, match="choose one of none, median-scale"):
        align_tracks(truth, truth, visible, name="ransac")
    with pytest.raises(InputError, match="no track sample"):
        align_tracks(truth * np.nan, truth, visible)
