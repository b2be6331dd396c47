"""TAPVid-3D's measures: against a scorer written sample by sample, by hand, and what scalings do not see."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.evaluate.tapvid3d import SCALINGS, THRESHOLDS_M, THRESHOLDS_PX, tapvid3d_scores

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
FOCAL_PX = 180.0


def clip(seed, frames=5, count=9, noise=0.03):
    """Tracks in two clumps (so that some have neighbours) with an estimate and partly wrong visibility."""
    rng = np.random.default_rng(seed)
    clump = rng.normal(size=(2, 3))[rng.integers(2, size=count)]
    truth = clump + rng.normal(size=(count, 3)) * 0.04 + rng.normal(size=(frames, 1, 3)) * 0.2 + [0, 0, 4]
    points = (truth + rng.normal(size=truth.shape) * noise) * rng.uniform(0.5, 2)
    seen = rng.random((frames, count)) < 0.7
    said = np.where(rng.random(seen.shape) < 0.8, seen, ~seen)
    return points, said, truth, seen, rng.integers(frames, size=count)


def slow_scores(points, said, truth, seen, focal_px, thresholds, scaling, query, radius=0.05):
    """Written from the definitions: one list of weighted samples (estimate, said, truth, seen), one loop over it."""
    frames, count = seen.shape
    norm = lambda p: math.sqrt(sum(x * x for x in p))  # noqa: E731
    everywhere = [(t, n) for t in range(frames) for n in range(count)]
    samples = []
    for n in range(count):
        own = max(truth[query[n], n, 2], 1e-12) / max(points[query[n], n, 2], 1e-12)
        if scaling == "local_neighborhood":
            near = [(t, m) for t, m in everywhere if norm(truth[t, m] - truth[t, n]) < radius]
            weight = sum(seen[:, n]) / max(1, sum(seen[t, m] for t, m in near))
            samples += [(weight, own, t, m) for t, m in near]
        elif scaling == "per_trajectory":
            samples += [(1.0, own, t, n) for t in range(frames)]
    if scaling == "reproduce_2d":
        samples = [(1.0, truth[t, n, 2] / points[t, n, 2], t, n) for t, n in everywhere]
    if not samples:
        both = [(t, n) for t, n in everywhere if seen[t, n] and said[t, n]]
        if scaling == "median_on_queries":
            both = [(t, n) for t, n in both if t == query[n]]
        middle = {"mean": np.mean, "none": lambda _: 1.0}.get(scaling, np.median)
        if both or scaling == "none":
            one = middle([norm(truth[i]) for i in both]) / middle([norm(points[i]) for i in both])
        else:
            one = math.nan
        samples = [(1.0, one, t, n) for t, n in everywhere]
    jaccards, shares = [], []
    for threshold in thresholds:
        hits = visible = false = close = 0.0
        for weight, scale, t, n in samples:
            limit = threshold if focal_px is None else threshold * truth[t, n, 2] / focal_px
            near = norm(scale * points[t, n] - truth[t, n]) < limit
            visible += weight * seen[t, n]
            close += weight * (seen[t, n] and near)
            hits += weight * (seen[t, n] and near and said[t, n])
            false += weight * (said[t, n] and not (near and seen[t, n]))
        jaccards.append(hits / (visible + false) if visible + false else math.nan)
        shares.append(close / visible if visible else math.nan)
    right = sum(w * (seen[t, n] == said[t, n]) for w, _, t, n in samples) / sum(w for w, *_ in samples)
    return np.mean(jaccards), np.mean(shares), right, jaccards, shares


def scores(points, said, truth, seen, query, scaling="median", focal_px=FOCAL_PX, **more):
    return tapvid3d_scores(points, said, truth, seen, focal_px=focal_px, scaling=scaling, query_frame=query, **more)


def numbers(found):
    return [found.average_jaccard, found.apd, found.occlusion_accuracy, *found.jaccard, *found.within]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("focal_px", [FOCAL_PX, None])
@quick
@given(seed=seeds)
def test_it_agrees_with_a_scorer_that_goes_from_sample_to_sample(scaling, focal_px, seed):
    points, said, truth, seen, query = clip(seed)
    aj, apd, right, jaccards, shares = slow_scores(
        points, said, truth, seen, focal_px, THRESHOLDS_PX if focal_px else THRESHOLDS_M, scaling, query
    )
    expected = [aj, apd, right, *jaccards, *shares]
    np.testing.assert_allclose(
        numbers(scores(points, said, truth, seen, query, scaling, focal_px)), expected, atol=1e-12
    )


@pytest.mark.parametrize("scaling", SCALINGS)
@quick
@given(seed=seeds, factor=st.floats(0.1, 10))
def test_a_perfect_prediction_scores_one_at_any_scale_that_the_scaling_removes(scaling, seed, factor):
    _, _, truth, seen, query = clip(seed)
    seen[query, np.arange(len(query))] = True
    found = scores(truth * (1 if scaling == "none" else factor), seen, truth, seen, query, scaling)
    assert numbers(found) == pytest.approx([1.0] * 13)


@pytest.mark.parametrize("scaling", [s for s in SCALINGS if s != "none"])
@quick
@given(seed=seeds, factor=st.floats(0.1, 10))
def test_the_scale_of_an_estimate_does_not_matter_once_it_is_removed(scaling, seed, factor):
    points, said, truth, seen, query = clip(seed)
    once, again = (scores(p, said, truth, seen, query, scaling) for p in (points, factor * points))
    np.testing.assert_allclose(numbers(once), numbers(again), atol=1e-9)


@pytest.mark.parametrize("scaling", SCALINGS)
@quick
@given(seed=seeds)
def test_the_order_of_tracks_does_not_matter(scaling, seed):
    points, said, truth, seen, query = clip(seed)
    order = np.random.default_rng(seed).permutation(len(query))
    shuffled = scores(points[:, order], said[:, order], truth[:, order], seen[:, order], query[order], scaling)
    np.testing.assert_allclose(
        numbers(shuffled), numbers(scores(points, said, truth, seen, query, scaling)), atol=1e-12
    )


def test_by_hand():
    truth = np.tile([0.0, 0.0, 2.0], (1, 4, 1))
    points = truth + np.array([[0.015, 0, 0], [0.03, 0, 0], [0, 0, 0], [0, 0, 0]])  # at 2 m and 100 px, a pixel is 2 cm
    seen = np.array([[True, True, True, False]])
    said = np.array([[True, True, False, True]])
    found = tapvid3d_scores(points, said, truth, seen, focal_px=100.0, scaling="none")
    assert found.within == pytest.approx((2 / 3, 1, 1, 1, 1))
    # under 1 px: one hit; false: the one too far and the hidden one; under 2 px: two hits, one false
    assert found.jaccard == pytest.approx((1 / 5, 2 / 4, 2 / 4, 2 / 4, 2 / 4))
    assert found.occlusion_accuracy == 0.5


def test_a_hit_is_strictly_inside_its_threshold_and_grows_with_depth():
    truth = np.array([[[0.0, 0, 1], [0, 0, 4]]])
    seen = np.ones((1, 2), dtype=bool)
    points = truth + [0.25, 0, 0]
    found = tapvid3d_scores(points, seen, truth, seen, focal_px=4.0, thresholds=(0.5, 1.0), scaling="none")
    assert found.within == (0.5, 0.5)


def test_the_query_frame_is_judged_like_the_others():
    _, _, truth, seen, _ = clip(1)
    seen[:] = True
    wrong = truth.copy()
    wrong[0] += 10
    found = scores(wrong, seen, truth, seen, np.zeros(9, dtype=int), "none")
    assert found.apd == pytest.approx(0.8)


def test_missing_positions_are_misses_said_to_be_hidden_and_leave_scales_alone():
    points, _, truth, seen, query = clip(2, noise=0)
    seen[:] = True
    points[:, ::2] = np.nan
    found = scores(points, seen, truth, seen, query)
    kept = 4 / 9
    assert (found.apd, found.occlusion_accuracy, found.average_jaccard) == pytest.approx((kept, kept, kept))
    assert scores(points, seen, truth, seen, query, "local_neighborhood").apd < 1


def test_degenerate_clips_are_defined():
    truth, seen = np.array([[[0.0, 0, 2]]]), np.ones((1, 1), dtype=bool)
    first = np.zeros(1, dtype=int)
    for scaling in SCALINGS:
        assert numbers(scores(truth, seen, truth, seen, first, scaling)) == [1.0] * 13  # one point
        hidden = scores(truth, ~seen, truth, ~seen, first, scaling)
        assert math.isnan(hidden.average_jaccard) and math.isnan(hidden.apd)
        if scaling != "local_neighborhood":  # where a track without visible samples weighs nothing
            assert hidden.occlusion_accuracy == 1
    blind = scores(truth, ~seen, truth, seen, first, "median")
    assert (blind.average_jaccard, blind.apd, blind.occlusion_accuracy) == (0, 0, 0)
    nothing = scores(truth[:, :0], seen[:, :0], truth[:, :0], seen[:, :0], first[:0], "none")
    assert all(math.isnan(value) for value in numbers(nothing))


@pytest.mark.usefixtures("production")
def test_what_cannot_be_scored_is_said():
    points, said, truth, seen, query = clip(3)
    with pytest.raises(InputError, match="choose one of median, mean"):
        scores(points, said, truth, seen, query, "sim3")
    with pytest.raises(InputError, match="needs the query frame"):
        scores(points, said, truth, seen, None, "per_trajectory")
    with pytest.raises(InputError, match="rise"):
        scores(points, said, truth, seen, query, thresholds=(2.0, 1.0))
    with pytest.raises(InputError, match="match them"):
        scores(points[:, :2], said[:, :2], truth, seen, query)


def test_a_large_clip_is_scored_within_a_second():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-4, 4, (64, 20_000, 3)) + [0, 0, 6]
    seen = rng.random(truth.shape[:2]) < 0.8
    points = truth + rng.normal(size=truth.shape) * 0.05
    from time import process_time

    begun = process_time()
    scores(points, seen, truth, seen, np.zeros(20_000, dtype=int))
    assert process_time() - begun < 2
