"""Windows over a clip, and how they become one world."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.engines.any4d.joining import Placed, Seam, cameras, join, settled
from worldline.engines.any4d.windows import FeatureCache, Window, plan
from worldline.errors import InputError, SolveFailed
from worldline.evaluate.paths import path_scores
from worldline.geometry import se3
from worldline.scene.fragment import Fragment
from worldline.solve import problem
from worldline.solve.shared_frames import depth_ratio, sightings
from worldline.solve.window_alignment import Measured, _links_term
from worldline.synthetic import presets
from worldline.synthetic.predictions import Oracle, WindowNoise

SIZE = (36, 48)


@st.composite
def clips(draw: st.DrawFn) -> tuple[int, int, int, int]:
    count, window = draw(st.integers(1, 120)), draw(st.integers(2, 20))
    return count, window, draw(st.integers(1, window - 1)), draw(st.integers(0, count - 1))


@given(clips())
@settings(deadline=None)
def test_every_frame_is_one_windows_own_and_windows_hang_together(clip: tuple[int, int, int, int]):
    count, window, shared, reference = clip
    windows = plan(count, window=window, shared=shared, reference=reference)
    assert sorted(f for w in windows for f in w.own) == list(range(count))
    assert windows[0].reference == reference and windows[0].shared == ()
    seen: set[int] = set()
    for number, w in enumerate(windows):
        assert len(set(w.frames)) == len(w) <= window
        assert set(w.shared) == seen & set(w.frames)
        assert number == 0 or (len(w.shared) == shared and w.reference in seen)
        assert [w.frames[v] for v in w.own_views] == list(w.own)
        seen |= set(w.frames)
    assert max(map(len, windows)) - min(map(len, windows)) <= 1


def test_a_clip_that_fits_is_one_window_whatever_is_shared():
    assert plan(1, window=1, shared=0) == (Window((0,), (), (0,)),)
    (only,) = plan(16, window=16, shared=4, reference=3)
    assert only.frames == (3, 0, 1, 2, *range(4, 16)) and only.own == tuple(range(16))


def test_the_next_reference_is_the_nearest_frame_before():
    for before, after in zip(plan(60, window=16, shared=4), plan(60, window=16, shared=4)[1:], strict=False):
        assert after.reference == before.own[-1] == after.own[0] - 1


def test_half_of_the_shared_frames_are_near_and_the_others_as_far_as_they_may_be():
    near, far = (plan(100, window=16, shared=4, reach=reach)[4] for reach in (4, 40))
    assert near.shared == tuple(range(near.own[0] - 4, near.own[0]))
    assert [far.own[0] - f for f in reversed(far.shared)] == [1, 3, 12, 40]


def test_further_references_run_their_window_again_in_another_order():
    windows = plan(60, window=16, shared=4, references=(5, 50, 0))
    again = [w for w in windows if not w.own]
    assert [w.reference for w in again] == [5, 50]
    for w in again:
        original = windows[windows.index(w) - 1]
        assert set(w.frames) == set(original.frames) == set(w.shared) and w.reference in original.own


@pytest.mark.parametrize(
    ("count", "wanted", "said"),
    [
        (0, {"window": 16, "shared": 4}, "no frames"),
        (30, {"window": 4, "shared": 4}, "share fewer"),
        (30, {"window": 16, "shared": 0}, "at least one"),
        (30, {"window": 16, "shared": 4, "reference": 30}, "frame 30"),
        (30, {"window": 16, "shared": 4, "references": (3, -1)}, "frame -1"),
    ],
)
def test_plans_that_cannot_be_are_refused_in_one_sentence(count: int, wanted: dict, said: str):
    with pytest.raises(InputError, match=said) as told:
        plan(count, **wanted)
    assert str(told.value).count(". ") == 0 and str(told.value).endswith(".")


def test_features_are_computed_once_and_only_what_is_needed_is_kept():
    windows = plan(300, window=16, shared=4)
    asked: list[int] = []

    def encode(frames: tuple[int, ...]) -> torch.Tensor:
        asked.extend(frames)
        return torch.tensor(frames, dtype=torch.float32)[:, None].repeat(1, 3)

    cache, most = FeatureCache(windows, encode), 0
    for number, window in enumerate(windows):
        assert cache.features(number)[:, 0].tolist() == list(window.frames)
        most = max(most, len(cache))
    assert sorted(asked) == list(range(300))
    assert most <= 16 and len(cache) == 0


def test_features_of_windows_that_are_left_out_are_not_missed():
    windows = plan(60, window=16, shared=4)
    cache = FeatureCache(windows, lambda frames: torch.tensor(frames)[:, None])
    assert cache.features(2)[:, 0].tolist() == list(windows[2].frames)


def camera_path(count: int) -> np.ndarray:
    """A walk that turns."""
    share = torch.linspace(0, 1, count, dtype=torch.float64)
    turn = torch.stack([0.1 * torch.sin(5 * share), 2 * share, 0.05 * torch.cos(3 * share)], -1)
    place = torch.stack([5 * torch.sin(2 * share), 0.2 * torch.sin(9 * share), 4 * share], -1)
    path = se3.from_rotation_translation(se3.so3_exp(turn), place)
    return (se3.inverse(path[:1]) @ path).numpy()


def depth_of(frame: int) -> np.ndarray:
    """Of a frame, along rays, in metres: the same for everyone who asks."""
    row, column = np.mgrid[: SIZE[0], : SIZE[1]] / 10
    return (4 + np.sin(row + frame / 7) + np.cos(column - frame / 5)).astype(np.float32)


def exact(windows: tuple[Window, ...], *, seed: int = 0, metric: bool = False) -> Iterator[Fragment]:
    """Windows without error, each with a gauge and a unit of its own."""
    random, path = np.random.default_rng(seed), camera_path(sum(len(w.own) for w in windows))
    for window in windows:
        unit = 1.0 if metric else float(np.exp(0.3 * random.normal()))
        gauge = se3.exp(torch.from_numpy(0.3 * random.normal(size=6))).numpy()
        window_from_cam = gauge @ np.linalg.inv(path[window.reference]) @ path[list(window.frames)]
        window_from_cam[:, :3, 3] *= unit
        depth = unit * np.stack([depth_of(f) for f in window.frames])
        yield Fragment(
            np.array(window.frames),
            depth_ray=depth.astype(np.float32),
            valid=depth > 0,
            world_from_cam=window_from_cam,
            scale=1.0 if metric else None,
        )


def joined(placed: list[Placed], places: list, windows: tuple[Window, ...]) -> np.ndarray:
    found = np.zeros((sum(len(w.own) for w in windows), 4, 4))
    for p, place, window in zip(placed, places, windows, strict=True):
        found[list(window.own)] = cameras(p.fragment, place)[window.own_views]
    return found


@pytest.mark.parametrize("reference", [0, 23, 59])
@pytest.mark.parametrize("shared", [1, 4])
def test_windows_without_error_become_the_true_path_in_the_unit_of_the_first(shared: int, reference: int):
    windows = plan(60, window=16, shared=shared, reference=reference)
    placed = list(join(exact(windows), windows))
    truth = camera_path(60)
    truth = np.linalg.inv(truth[reference]) @ truth
    for places in ([p.world_from_window for p in placed], settled([p.seam for p in placed])):
        found = joined(placed, places, windows)
        found[:, :3, 3] *= np.linalg.norm(truth[:, :3, 3]) / np.linalg.norm(found[:, :3, 3])
        np.testing.assert_allclose(found, truth, atol=2e-5)
        np.testing.assert_allclose(found[reference], np.eye(4), atol=1e-12)


def test_all_frames_of_a_window_lie_where_others_see_them():
    windows = plan(60, window=16, shared=4, references=(8, 40))
    placed = list(join(exact(windows, metric=True), windows))
    truth = camera_path(60)
    for p, window, place in zip(placed, windows, settled([p.seam for p in placed]), strict=True):
        np.testing.assert_allclose(p.world_from_cam, truth[list(window.frames)], atol=2e-5)
        np.testing.assert_allclose(cameras(p.fragment, place), truth[list(window.frames)], atol=2e-5)


def spoiled(fragments: Iterator[Fragment], number: int, frame: int) -> Iterator[Fragment]:
    """One frame of one window looks elsewhere and has wrong depth."""
    for n, fragment in enumerate(fragments):
        if n == number:
            view = fragment.frames.tolist().index(frame)
            assert fragment.world_from_cam is not None and fragment.depth_ray is not None
            world_from_cam, depth = fragment.world_from_cam.copy(), np.array(fragment.depth_ray)
            world_from_cam[view, :3, 3] += 0.5
            depth[view] *= 1.3
            fragment = replace(fragment, world_from_cam=world_from_cam, depth_ray=depth)
        yield fragment


def test_a_frame_that_disagrees_is_set_aside_and_named():
    windows = plan(60, window=16, shared=4)
    frame = windows[2].shared[1]
    placed = list(join(spoiled(exact(windows), 2, frame), windows))
    assert placed[2].seam.set_aside == (frame,)
    assert placed[2].seam.agreed < placed[2].seam.pixels
    assert all(not p.seam.set_aside for n, p in enumerate(placed) if n != 2 and frame not in windows[n].frames)
    found = joined(placed, settled([p.seam for p in placed]), windows)
    assert path_scores(found, camera_path(60)).ate_pct < 0.01


def test_two_shared_frames_are_enough_to_tell_the_wrong_one_when_metres_are_known():
    windows = plan(60, window=16, shared=2)
    placed = list(join(spoiled(exact(windows, metric=True), 2, windows[2].shared[1]), windows))
    found = joined(placed, settled([p.seam for p in placed]), windows)
    assert path_scores(found, camera_path(60), alignment="se3").ate_pct < 0.05


def test_nothing_of_a_window_stays_that_is_not_shared():
    windows = plan(60, window=16, shared=4)
    alive: list[weakref.ref] = []

    def fragments() -> Iterator[Fragment]:
        for fragment in exact(windows):
            alive.append(weakref.ref(fragment))
            yield fragment

    seams: list[Seam] = []
    for placed in join(fragments(), windows):
        seams.append(placed.seam)
    del placed
    gc.collect()
    assert len(alive) == len(windows) and not any(ref() is not None for ref in alive)


def test_windows_without_common_depth_cannot_be_joined():
    windows = plan(60, window=16, shared=4)

    def fragments() -> Iterator[Fragment]:
        for n, fragment in enumerate(exact(windows)):
            assert fragment.depth_ray is not None
            yield replace(fragment, depth_ray=np.full_like(fragment.depth_ray, np.nan)) if n == 3 else fragment

    with pytest.raises(SolveFailed, match="in common"):
        list(join(fragments(), windows))


def test_the_unit_of_the_whole_is_the_average_of_what_the_windows_measure():
    windows = plan(200, window=16, shared=4)
    unit = np.exp(0.03 * np.random.default_rng(4).normal(size=len(windows)))

    def fragments() -> Iterator[Fragment]:
        for fragment, wrong in zip(exact(windows, metric=True), unit, strict=True):
            assert fragment.world_from_cam is not None and fragment.depth_ray is not None
            cameras_off = fragment.world_from_cam.copy()
            cameras_off[:, :3, 3] *= wrong
            yield replace(fragment, world_from_cam=cameras_off, depth_ray=fragment.depth_ray * np.float32(wrong))

    placed = list(join(fragments(), windows))
    units = [float(place.scale) for place in settled([p.seam for p in placed])]
    np.testing.assert_allclose(units * unit, np.exp(np.log(unit).mean()), rtol=2e-3)


def test_depth_ratios_ignore_outliers_and_know_their_error():
    random = np.random.default_rng(0)
    windows = plan(4, window=4, shared=1)
    (plain,) = exact(windows)
    assert plain.depth_ray is not None
    errors, z = [], []
    for _ in range(20):
        smooth = np.kron(random.normal(size=(4, 3, 4)), np.ones((1, SIZE[0] // 3, SIZE[1] // 4)))
        noise = 0.02 * random.normal(size=plain.depth_ray.shape) + 0.03 * smooth
        noise += 0.7 * (random.random(noise.shape) < 0.1)
        other = replace(plain, depth_ray=(1.2 * plain.depth_ray * np.exp(noise)).astype(np.float32))
        for a, b in zip(sightings(other), sightings(plain), strict=True):
            ratio = depth_ratio(a, b)
            assert ratio is not None and ratio.pixels == SIZE[0] * SIZE[1] and ratio.agreed < ratio.pixels
            errors.append(ratio.log - np.log(1.2))
            z.append(errors[-1] / ratio.sigma)
    assert np.std(errors) < 0.03 and 0.3 < np.std(z) < 1.6


def test_depths_without_a_common_pixel_have_no_ratio():
    (plain,) = exact(plan(2, window=2, shared=1))
    left = np.zeros(SIZE, dtype=bool)
    left[:, : SIZE[1] // 2] = True
    a, b = (sightings(replace(plain, valid=np.stack([mask] * 2)))[0] for mask in (left, ~left))
    assert depth_ratio(a, b) is None


def test_derivatives_of_links_are_those_of_their_residuals():
    torch.manual_seed(0)

    def motions(size: float = 1.0) -> torch.Tensor:
        return se3.exp(size * torch.randn(5, 6, dtype=torch.float64))

    first, second, first_from_cam = motions(), motions(), motions()
    second_from_cam = se3.inverse(second) @ first @ first_from_cam @ motions(1e-6)
    logs = [0.1 * torch.randn(5, 1, dtype=torch.float64) for _ in range(2)]
    one, rows = torch.ones(5, dtype=torch.float64), torch.arange(5)
    measured = Measured(rows, rows, first_from_cam, second_from_cam, 0.1 * one, 0.5 * one, 0.3 * one, 0.7 * one, one)
    term, at = _links_term(measured, 8.0), [first, logs[0], second, logs[1]]
    assert term.jacobian is not None
    for own, reference in zip(term.jacobian(*at)[1], problem.forward_jacobian(term.residual, at)[1], strict=True):
        torch.testing.assert_close(own, reference, atol=2e-5, rtol=0)


def test_noisy_windows_drift_little():
    world = presets.build("outdoor", "orbit", frames=90, size=(36, 24), travel_m=6.0, with_movers=False)
    oracle, random = Oracle(world, WindowNoise.realistic()), np.random.default_rng(1)
    windows = plan(90, window=12, shared=4)
    placed = list(join((oracle.predicted(w.frames, random) for w in windows), windows))
    scores = path_scores(joined(placed, settled([p.seam for p in placed]), windows), world.world_from_cam)
    assert scores.ate_pct < 0.5 and abs(np.log(scores.alignment.scale)) < 0.03


def test_predictions_without_noise_are_the_truth_about_their_first_frame():
    world = presets.build("outdoor", "orbit", frames=6, size=(24, 16), with_movers=False)
    fragment = Oracle(world, WindowNoise()).predicted((2, 0, 4), np.random.default_rng(0))
    truth = np.linalg.inv(world.world_from_cam[2]) @ world.world_from_cam[[2, 0, 4]]
    np.testing.assert_allclose(fragment.world_from_cam, truth, atol=1e-12)
    assert fragment.depth_ray is not None and fragment.valid is not None
    assert (fragment.depth_ray[fragment.valid] > 0).all() and fragment.valid.any()
