"""Path errors: perfect is zero, invariances, agreement with evo, and what degenerate paths give."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.evaluate.alignment import align_points_trimmed, align_poses
from worldline.evaluate.paths import associate, at_times, path_length, path_scores, relative_errors
from worldline.geometry import se3

seeds = st.integers(0, 2**31)
quick = settings(max_examples=25, deadline=None)


def random_path(seed, count=20, noise=1.0):
    xi = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return se3.exp(noise * xi).numpy()


def moved(path, seed, scale=1.0):
    """The same path in another world: rotated, shifted, scaled."""
    motion = random_path(seed, 1)[0]
    out = motion @ path
    out[:, :3, 3] = scale * out[:, :3, 3]
    return out


def line(count=10):
    path = np.tile(np.eye(4), (count, 1, 1))
    path[:, 0, 3] = np.linspace(0, 3, count)
    return path


@quick
@given(seeds, seeds, st.floats(0.01, 100))
def test_a_perfect_path_in_another_world_and_scale_has_no_error(seed, other, scale):
    path = random_path(seed)
    scores = path_scores(moved(path, other, scale), path, alignment="sim3")
    assert max(scores.ate_m, scores.rpe_t_m, scores.rpe_r_deg) < 1e-6
    assert scores.alignment.name == "sim3" and scores.alignment.scale == pytest.approx(1 / scale)


@quick
@given(seeds, seeds)
def test_errors_do_not_depend_on_the_world_of_the_estimate(seed, other):
    truth, estimate = random_path(seed), random_path(seed + 1)
    a, b = (path_scores(e, truth, alignment="se3") for e in (estimate, moved(estimate, other)))
    np.testing.assert_allclose([a.ate_m, a.rpe_t_m, a.rpe_r_deg], [b.ate_m, b.rpe_t_m, b.rpe_r_deg], rtol=1e-6)


@quick
@given(seeds)
def test_more_freedom_never_gives_a_larger_ate_and_se3_is_symmetric(seed):
    truth, estimate = random_path(seed), random_path(seed + 1)
    none, se3_, sim3 = (path_scores(estimate, truth, alignment=k).ate_m for k in ("none", "se3", "sim3"))
    assert sim3 <= se3_ + 1e-12 <= none + 2e-12
    assert path_scores(truth, estimate, alignment="se3").ate_m == pytest.approx(se3_)


def test_hand_computed_errors():
    truth, estimate = line(4), line(4)
    estimate[:, 1, 3] = [0.1, -0.1, 0.1, -0.1]
    scores = path_scores(estimate, truth, alignment="none")
    assert scores.ate_m == pytest.approx(0.1)
    assert scores.ate_pct == pytest.approx(100 * 0.1 / 3)
    assert scores.rpe_t_m == pytest.approx(0.2) and scores.rpe_r_deg == 0
    assert path_scores(estimate, truth, alignment="none", delta=2).rpe_t_m == pytest.approx(0)


def test_rpe_r_is_the_angle_between_relative_rotations():
    truth = line(3)
    estimate = truth.copy()
    angle = np.radians(5)
    estimate[2, :2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    np.testing.assert_allclose(relative_errors(estimate, truth)[1], [0, 5], atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("kind", "scaled", "aligned"), [("none", False, False), ("se3", False, True), ("sim3", True, True)]
)
@pytest.mark.parametrize("delta", [1, 3])
def test_agreement_with_evo(seed, kind, scaled, aligned, delta):
    metrics = pytest.importorskip("evo.core.metrics", reason="evo is not installed")
    PosePath3D = pytest.importorskip("evo.core.trajectory", reason="evo is not installed").PosePath3D
    truth = random_path(seed, 30)
    estimate = truth @ random_path(seed + 100, 30, noise=0.1)
    if aligned:
        estimate = moved(estimate, seed + 7, 2.5)
    a, b = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(estimate))
    if aligned:
        b.align(a, correct_scale=scaled)
    relation = metrics.PoseRelation
    found = [metrics.APE(relation.translation_part)]
    found += [metrics.RPE(r, delta, all_pairs=True) for r in (relation.translation_part, relation.rotation_angle_deg)]
    for metric in found:
        metric.process_data((a, b))
    expected = [m.get_statistic(metrics.StatisticsType.rmse) for m in found]
    scores = path_scores(estimate, truth, alignment=kind, delta=delta)
    np.testing.assert_allclose([scores.ate_m, scores.rpe_t_m, scores.rpe_r_deg], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["se3", "sim3"])
def test_a_straight_line_takes_the_rotation_about_it_from_the_orientations(kind):
    truth = line() @ random_path(3, 10, noise=0.2)
    truth[:, :3, 3] = line()[:, :3, 3]
    found = align_poses(moved(truth, 5), truth, kind=kind)
    assert "straight line" in found.name
    np.testing.assert_allclose(found.apply_to_cameras(moved(truth, 5)), truth, atol=1e-9)


def test_an_estimate_that_leaves_the_true_line_keeps_its_scale():
    truth, estimate = line(), line()
    estimate[:, 1, 3] = 0.05 * np.sin(np.arange(10))
    scores = path_scores(estimate, truth)
    assert "straight line" in scores.alignment.name
    assert scores.ate_m < 0.05 and scores.alignment.scale == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(scores.alignment.rotation, np.eye(3), atol=0.02)


def test_a_static_truth_does_not_swallow_the_errors_of_the_estimate():
    truth, estimate = np.tile(np.eye(4), (10, 1, 1)), line()
    scores = path_scores(estimate, truth)
    assert "static" in scores.alignment.name and scores.alignment.scale == 1
    assert scores.ate_m == pytest.approx(estimate[:, 0, 3].std())
    assert np.isnan(scores.ate_pct)


@pytest.mark.parametrize("where", [(0, 0, 0), (1e4, -3, 7)])
def test_two_static_cameras_agree_after_their_mean_rotation(where):
    truth = random_path(1, 10, noise=0.3)
    truth[:, :3, 3] = where
    scores = path_scores(moved(truth, 9), truth)
    assert scores.ate_m < 1e-8 and scores.rpe_r_deg < 1e-6


def test_one_pose_has_no_absolute_error_and_no_relative_one():
    scores = path_scores(random_path(1, 1), random_path(2, 1))
    assert scores.ate_m == pytest.approx(0, abs=1e-9) and "one pose" in scores.alignment.name
    assert np.isnan(scores.rpe_t_m) and np.isnan(scores.rpe_r_deg)


@pytest.mark.parametrize("spoil", ["nan", "shear", "mirror"])
def test_a_pose_that_is_not_rigid_is_named(spoil):
    path = random_path(1)
    if spoil == "nan":
        path[3, 0, 3] = np.nan
    elif spoil == "shear":
        path[3, 0, 1] += 0.5
    else:
        path[3, :3, 0] *= -1
    with pytest.raises(InputError, match="pose 3 of the estimate"):
        path_scores(path, random_path(2))


@pytest.mark.usefixtures("production")
def test_unequal_counts_and_empty_paths_are_refused():
    with pytest.raises(InputError, match="pair them"):
        path_scores(random_path(1, 4), random_path(2, 5))
    with pytest.raises(InputError, match="T > 0"):
        path_scores(np.zeros((0, 4, 4)), np.zeros((0, 4, 4)))
    with pytest.raises(InputError, match="choose one of none, se3, sim3"):
        path_scores(random_path(1), random_path(2), alignment="affine")
    with pytest.raises(InputError, match="at least one frame"):
        path_scores(random_path(1), random_path(2), delta=0)


def test_stamps_are_paired_when_each_is_the_others_nearest():
    a, b = associate(np.array([0.0, 1.0, 2.0, 9.0]), np.array([0.1, 0.9, 1.1, 2.05]), max_gap_s=0.2)
    assert list(a) == [0, 1, 2] and list(b) == [0, 1, 3]
    assert len(associate(np.array([0.0]), np.array([5.0]), max_gap_s=1.0)[0]) == 0
    assert len(associate(np.zeros(0), np.array([5.0]), max_gap_s=1.0)[0]) == 0
    with pytest.raises(InputError, match="increasing"):
        associate(np.array([0.0, 0.0]), np.array([0.0]), max_gap_s=1.0)


@quick
@given(seeds)
def test_association_is_symmetric(seed):
    rng = np.random.default_rng(seed)
    a, b = np.cumsum(rng.uniform(0.01, 1, 30)), np.cumsum(rng.uniform(0.01, 1, 25))
    i, j = associate(a, b, max_gap_s=0.3)
    k, m = associate(b, a, max_gap_s=0.3)
    assert list(i) == list(m) and list(j) == list(k) and (np.diff(i) > 0).all() and (np.diff(j) > 0).all()


def test_a_path_at_other_times_passes_through_its_poses_and_between_them():
    path, times = random_path(4, 5), np.arange(5.0)
    np.testing.assert_allclose(at_times(times, path, times), path, atol=1e-12)
    middle = at_times(times, path, np.array([1.5]))[0]
    np.testing.assert_allclose(middle[:3, 3], (path[1, :3, 3] + path[2, :3, 3]) / 2)
    with pytest.raises(InputError, match="covers"):
        at_times(times, path, np.array([4.5]))


def test_a_trimmed_alignment_is_not_moved_by_a_minority_of_wrong_pairs():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(200, 3))
    points = 0.5 * truth @ random_path(1, 1)[0, :3, :3].T + [1, 2, 3]
    points[:40] += rng.normal(size=(40, 3)) * 3
    residual = np.linalg.norm(align_points_trimmed(points, truth).apply(points) - truth, axis=-1)
    assert residual[40:].max() < 1e-6


def test_path_length_is_the_sum_of_steps():
    assert path_length(line(7)) == pytest.approx(3) and path_length(line(1)) == 0
