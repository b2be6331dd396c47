"""The uni4d engine on worlds with truth: what it recovers, what it survives, and that stages resume bit by bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldline import synthetic
from worldline.engines import engine_module, engines, uni4d
from worldline.engines.uni4d import evidence
from worldline.engines.uni4d import ratios as fusion
from worldline.errors import InputError, MissingObservation
from worldline.evaluate.paths import path_scores
from worldline.scene.journal import Journal
from worldline.scene.observations import CameraMotion, MovingMasks, PixelTracks, Source
from worldline.solve import nonrigid


@pytest.fixture(scope="module")
def world():
    rendered = synthetic.render(synthetic.tiny_world(seed=2, frames=10))
    return rendered, synthetic.observations(rendered, synthetic.NoiseModel.realistic(), seed=1, step_px=6, every=5)


@pytest.fixture(scope="module")
def scene(world):
    rendered, observed = world
    return uni4d.build(uni4d.Config.tiny())(rendered.video, observed, Journal("test"))


def test_the_folder_is_the_registration():
    assert "uni4d" in engines()
    assert engine_module("uni4d").build().needs == ("camera", "tracks", "moving", "depth")


def test_an_unknown_engine_is_named_with_the_ones_there_are():
    with pytest.raises(InputError, match="uni4d"):
        engine_module("nonesuch")


def test_cameras_are_better_than_two_per_cent_of_the_path(world, scene):
    truth = world[0].scene
    scores = path_scores(scene.world_from_cam, truth.world_from_cam, alignment="sim3")
    path = np.linalg.norm(np.diff(truth.centres_world, axis=0), axis=1).sum()
    assert scores.ate_m < 0.02 * path


def test_fused_depth_is_better_than_the_cue(world, scene):
    rendered, observed = world
    truth = rendered.scene

    def error(depth_z):
        use = truth.valid & (truth.moving == 0) & (depth_z > 0)
        ratio = truth.depth_z[use] / depth_z[use]
        return np.median(np.abs(depth_z[use] * np.median(ratio) / truth.depth_z[use] - 1))

    assert error(scene.depth_z) < 0.8 * error(observed.depth.depth_z)


def test_moving_points_are_followed_and_static_ones_stand_still(scene):
    tracks = scene.tracks
    assert tracks.moving.any() and (~tracks.moving).any()
    spread = np.ptp(tracks.points_world[:, ~tracks.moving], axis=0)
    assert spread.max() == 0
    assert np.nanmax(np.ptp(tracks.points_world[:, tracks.moving], axis=0)) > 0.01


def test_history_names_every_stage_and_every_source(scene):
    names = [step.name for step in scene.history]
    assert names[-5:] == ["observe", "cameras", "bundle", "motion", "fusion"]
    assert scene.history[-4].outcome["from"]
    assert set(scene.health) >= {"trust", "fitting_share", "depth_scale"}


def test_a_resumed_run_gives_the_same_bits(world, tmp_path):
    rendered, observed = world
    engine = uni4d.build(uni4d.Config.tiny())
    whole = engine(rendered.video, observed, Journal("same", tmp_path / "a"))
    engine(rendered.video, observed, Journal("same", tmp_path / "b"))
    for late in ("motion", "fusion"):
        for kept in (tmp_path / "b").glob(f"{late}-*"):
            kept.rename(tmp_path / kept.name)
    journal = Journal("same", tmp_path / "b")
    resumed = engine(rendered.video, observed, journal)
    assert [t.resumed for t in journal.times] == [True] * 6 + [False] * 2
    for name in ("depth_z", "depth_sigma", "world_from_cam"):
        assert np.array_equal(getattr(whole, name), getattr(resumed, name))
    assert np.array_equal(whole.tracks.points_world, resumed.tracks.points_world, equal_nan=True)


def test_a_world_without_movers_is_reconstructed(world):
    rendered, observed = world
    still = replace(observed, moving=MovingMasks(np.zeros_like(observed.moving.ids), Source("test")))
    scene = uni4d.build(uni4d.Config.tiny())(rendered.video, still, Journal("still"))
    assert not scene.tracks.moving.any()


def test_a_camera_that_only_turns_stays_where_it_is():
    rendered = synthetic.render(synthetic.tiny_world(seed=4, path="rotate", frames=8))
    observed = synthetic.observations(rendered, synthetic.NoiseModel.realistic(), seed=1, step_px=6, every=4)
    truth = rendered.scene.world_from_cam
    turning = CameraMotion(truth, np.ones(8, bool), 0.01, 0.01, Source("test"))
    scene = uni4d.build(uni4d.Config.tiny())(rendered.video, replace(observed, camera_motion=turning), Journal("turn"))
    assert np.linalg.norm(scene.centres_world, axis=1).max() < 1e-3
    outcome = next(step.outcome for step in scene.history if step.name == "bundle")
    assert outcome["centres"] == "held"


def test_known_poses_give_the_scale_whatever_that_of_a_first_guess_and_its_depth(world):
    rendered, observed = world
    truth = rendered.scene.world_from_cam
    ends = np.zeros(len(truth), bool)
    ends[[0, -1]] = True
    guess = truth.copy()
    guess[~ends, :3, 3] *= 0.9
    known = CameraMotion(guess, np.ones(len(truth), bool), 0.01, 0.01, Source("test"), metric=True, given=ends)
    cue = replace(observed.depth, depth_z=1.045 * observed.depth.depth_z, metric=False, frame_scale_sigma=0.001)
    scene = uni4d.build(uni4d.Config.tiny())(
        rendered.video, replace(observed, camera_motion=known, depth=cue), Journal("sized")
    )
    reach = [np.linalg.norm(m[-1, :3, 3] - m[0, :3, 3]) for m in (scene.world_from_cam, truth)]
    assert abs(reach[0] / reach[1] - 1) < 0.01
    still = (rendered.scene.moving == 0) & rendered.scene.valid & scene.valid
    assert abs(np.median(scene.depth_z[still] / rendered.scene.depth_z[still]) - 1) < 0.02


def test_one_frame_and_missing_cues_are_refused_in_one_sentence(world):
    rendered, observed = world
    with pytest.raises(MissingObservation, match="depth"):
        uni4d.build()(rendered.video, replace(observed, depth=None), Journal("x"))
    single = replace(rendered.video, frames=rendered.video.frames[:1], times_s=rendered.video.times_s[:1])
    with pytest.raises(InputError, match="at least two frames"):
        uni4d.build()(single, observed, Journal("x"))


def test_a_track_is_static_moving_or_neither_by_where_its_sightings_lie():
    ids = np.zeros((10, 40, 60), np.uint8)
    ids[:, 10:30, 20:40] = 3
    uv = np.zeros((10, 3, 2), np.float32)
    uv[:, 0], uv[:, 1] = (5, 5), (30, 20)
    uv[:5, 2], uv[5:, 2] = (5, 5), (30, 20)
    visible = np.ones((10, 3), bool)
    tracks = PixelTracks(uv, visible, np.ones((10, 3), np.float32), np.zeros(3, int), Source("test"))
    found = evidence.collect(tracks, MovingMasks(ids, Source("test")), 60, 40, evidence.Labelling())
    assert found.group.tolist() == [0, 3, -1]
    assert found.static[:, 0].all() and found.moving[:, 1].all() and not found.static[:, 2].any()


def test_a_lone_sighting_of_a_moving_point_does_not_count():
    seen = np.zeros((12, 1), bool)
    seen[[0, 1, 2, 8]] = True
    assert (seen & evidence._has_company(seen))[:, 0].nonzero()[0].tolist() == [0, 1, 2]


def test_gaps_are_interpolated_linearly_and_ends_are_held():
    known = torch.tensor([[False, True, False, False, True, False]])
    values = torch.tensor([[9.0, 1, 9, 9, 4, 9]])
    assert nonrigid.interpolate_gaps(values, known).tolist() == [[1, 1, 2, 3, 4, 4]]


def test_the_banded_solver_equals_a_dense_one():
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 9, 7, generator=g, dtype=torch.float64)
    dense = torch.zeros(5, 9, 9, dtype=torch.float64)
    for i in range(7):
        part = rows[:, :3, i]
        dense[:, i : i + 3, i : i + 3] += part[:, :, None] * part[:, None]
    dense += 2 * torch.eye(9)
    diagonal, one, two = (torch.zeros(5, 9, dtype=torch.float64) for _ in range(3))
    diagonal[:] = dense.diagonal(dim1=1, dim2=2)
    one[:, :-1], two[:, :-2] = dense.diagonal(1, 1, 2), dense.diagonal(2, 1, 2)
    right = torch.randn(5, 9, generator=g, dtype=torch.float64)
    found = nonrigid._Penta.factorise(diagonal, one, two).solve(right)
    torch.testing.assert_close(found, torch.linalg.solve(dense, right[..., None])[..., 0])


def test_motion_solving_lowers_its_objective_and_the_error_of_noisy_depth():
    g = torch.Generator().manual_seed(1)
    count, times = 60, 24
    body = torch.rand(count, 3, generator=g) * 0.6
    t = torch.arange(times) / times
    path = torch.stack([t, 0.2 * t, 3 + 0.3 * t], -1)
    truth = (body[:, None] + path).permute(2, 0, 1).contiguous()
    rays = truth / truth[2]
    noise = 0.02 * torch.randn(count, times, generator=g)
    samples = nonrigid.MovingSamples(
        rays, torch.zeros(3, times), torch.eye(3)[0][:, None].expand(3, times).contiguous(),
        torch.eye(3)[1][:, None].expand(3, times).contiguous(), 400.0, truth[2] * noise.exp(),
        torch.full((count, times), 0.02), torch.ones(count, times, dtype=torch.bool),
        torch.ones(count, times, dtype=torch.bool), torch.ones(count, dtype=torch.long),
    )  # fmt: skip
    solved = nonrigid.solve_points(samples, nonrigid.Weights())
    before = (truth[2] * noise.exp() - truth[2]).abs().mean()
    after = (solved.points_world - truth).norm(dim=0).mean()
    assert solved.costs[-1] < solved.costs[0]
    assert after < 0.4 * before


def test_a_ratio_field_reproduces_a_constant_and_ignores_outliers():
    g = torch.Generator().manual_seed(2)
    place = torch.rand(500, 2, generator=g)
    ratio = torch.full((500,), 0.2)
    ratio[::25] = 3.0
    points = fusion.ControlPoints(
        torch.zeros(500, dtype=torch.long), place, ratio, torch.ones(500), torch.full((500,), 1e-4)
    )
    field = fusion.ratio_field(points, 2, 0.75, fusion.Fusing())
    near = fusion.sample_field(field.value, torch.zeros(500, dtype=torch.long), place)
    assert (near - 0.2).abs().median() < 0.01
    assert field.value[1].abs().max() == 0 and field.support[1].max() == 0
