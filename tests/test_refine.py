"""What a finished scene becomes when more is known: metres, the right lens, the right world; and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from worldline import synthetic
from worldline.cli import main
from worldline.errors import InputError
from worldline.evaluate.correspondence import track_uv
from worldline.evaluate.report import evaluate
from worldline.geometry import se3, sim3
from worldline.run.refine import clip_of, refine
from worldline.run.refining.adjustment import Refining
from worldline.run.refining.similarity import moved
from worldline.scene.observations import (
    CameraMotion,
    CameraPrior,
    DepthMaps,
    KnownLengths,
    MovingMasks,
    Observations,
    Source,
)
from worldline.scene.scene import CameraSigma, Scene, Step
from worldline.scene.store import load, save

TOLD = Source("told")
SCALE = 0.4
FREE = Refining(worse=100.0)


@cache
def truth() -> Scene:
    """A small room with movers; its tracks know where they were seen, to a third of a pixel."""
    scene = synthetic.render(synthetic.build("room", "dolly", seed=4, frames=10, size=(160, 120), travel_m=1.2)).scene
    tracks = scene.tracks
    random = np.random.default_rng(0)
    uv = np.stack([track_uv(tracks, scene, t) for t in range(len(scene))])
    uv = np.where(tracks.visible[..., None], uv + 0.3 * random.normal(size=uv.shape), np.nan)
    return replace(scene, tracks=replace(tracks, uv=uv.astype(np.float32)), static_points=None, static_colour=None)


@cache
def unscaled() -> Scene:
    """The same room, right but for its unit, in a world of its own."""
    turn = se3.exp(torch.tensor([[0.3, -0.2, 0.1, 0.2, 0.3, -0.1]], dtype=torch.float64))[0]
    elsewhere = moved(truth(), sim3.Sim3(torch.tensor(SCALE, dtype=torch.float64), turn[:3, :3], turn[:3, 3]))
    return replace(elsewhere, metric=False, metric_source="unknown scale")


@cache
def misjudged() -> Scene:
    """The same room as a solver would have it that takes the focal length for a tenth too long."""
    given = Observations(camera=camera_prior(1.1))
    return replace(refine(unscaled(), given, settings=FREE), history=(), notes=())


def camera_prior(factor: float = 1.0) -> CameraPrior:
    camera = truth().camera
    return CameraPrior(replace(camera, intrinsics=camera.intrinsics * [factor, factor, 1, 1]), 0.0, TOLD)


def poses(frames: list[int], away_m: float = 0.0) -> CameraMotion:
    valid = np.isin(np.arange(len(truth())), frames)
    matrices = np.where(valid[:, None, None], truth().world_from_cam, np.nan)
    matrices[:, :3, 3] += away_m * np.random.default_rng(1).normal(size=(len(valid), 3))
    return CameraMotion(matrices, valid, 0.003, 0.002, TOLD, metric=True)


def lengths(*factors: float) -> KnownLengths:
    """True distances between pixels of one frame each, times a factor."""
    frames, ends, metres = [], [], []
    for k, factor in enumerate(factors):
        points = truth().points_world(k)
        a, b = np.array([20, 40 + 3 * k]), np.array([140, 60])
        frames.append(k)
        ends.append([a + 0.5, b + 0.5])
        metres.append(factor * np.linalg.norm(points[a[1], a[0]] - points[b[1], b[0]]))
    return KnownLengths(np.array(frames), np.array(ends), np.array(metres), 0.005 * np.array(metres), TOLD)


def sensor(share: float = 0.5) -> DepthMaps:
    known = np.random.default_rng(2).random(truth().depth_z.shape) < share
    depth_z = np.where(known & truth().valid, truth().depth_z, 0).astype(np.float32)
    return DepthMaps(depth_z, np.full(depth_z.shape, 0.005, np.float32), TOLD, metric=True, frame_scale_sigma=0.0)


def test_a_known_length_gives_metres_and_leaves_everything_else_alone():
    before = unscaled()
    after = refine(before, Observations(lengths=lengths(1.0)))
    assert after.metric and "told" in after.metric_source
    assert np.median(after.depth_z / before.depth_z) == pytest.approx(1 / SCALE, rel=0.02)
    for name in ("moving", "valid", "depth_sigma", "times_s"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    assert np.array_equal(after.world_from_cam[:, :3, :3], before.world_from_cam[:, :3, :3])
    assert np.array_equal(after.tracks.uv, before.tracks.uv, equal_nan=True)
    assert after.camera is before.camera
    assert after.history[-1].name == "refine similarity" and len(after.history) == len(before.history) + 1


def test_the_length_that_contradicts_the_others_is_named_and_does_not_count():
    after = refine(unscaled(), Observations(lengths=lengths(1.0, 1.0, 1.5, 1.0, 1.0)))
    assert np.median(after.depth_z / unscaled().depth_z) == pytest.approx(1 / SCALE, rel=0.03)
    assert any("frame 2" in note for note in after.notes)


def test_a_length_that_ends_where_nothing_is_known_is_refused():
    blind = replace(unscaled(), valid=np.zeros_like(unscaled().valid))
    with pytest.raises(InputError, match="no depth"):
        refine(blind, Observations(lengths=lengths(1.0)))
    outside = replace(lengths(1.0), uv=np.array([[[1.0, 1.0], [900.0, 1.0]]]))
    with pytest.raises(InputError, match="outside"):
        refine(unscaled(), Observations(lengths=outside))


@pytest.mark.parametrize("frames", [[0, 9], [2, 5, 8], list(range(10))], ids=["two", "three", "all"])
def test_some_poses_bring_the_scene_into_their_world_in_metres(frames):
    after = refine(unscaled(), Observations(camera_motion=poses(frames)))
    assert after.metric
    report = evaluate(after, truth(), protocol="metric").metrics
    assert report["ate_m"] < 0.006 and report["depth_abs_rel_static"] < 0.02
    assert after.history[-1].outcome["kept"] == "result"


def test_one_pose_gives_the_world_but_no_unit():
    after = refine(unscaled(), Observations(camera_motion=poses([4])))
    assert not after.metric
    assert np.allclose(after.world_from_cam[4], truth().world_from_cam[4], atol=0.02)


def test_one_pose_and_a_length_give_both():
    after = refine(unscaled(), Observations(camera_motion=poses([4]), lengths=lengths(1.0)))
    assert after.metric
    assert evaluate(after, truth(), protocol="metric").metrics["ate_m"] < 0.02


def test_poses_that_contradict_the_images_are_told():
    after = refine(unscaled(), Observations(camera_motion=poses(list(range(10)), away_m=0.1)))
    assert any("contradict" in note for note in after.notes)


def test_poses_of_another_convention_are_set_aside():
    inverse = replace(poses(list(range(10))), world_from_cam=np.linalg.inv(truth().world_from_cam))
    after = refine(unscaled(), Observations(camera_motion=inverse))
    assert not after.metric and np.array_equal(after.world_from_cam, unscaled().world_from_cam)
    assert any("set aside" in note and "camera-to-world" in note for note in after.notes)


def test_a_contradiction_is_told_once():
    given = Observations(camera_motion=poses(list(range(10))), lengths=lengths(2.0))
    after = refine(unscaled(), given)
    assert sum("2 m" in note or "times as large" in note or "known length" in note for note in after.notes) == 1


def test_the_right_focal_length_mends_what_the_wrong_one_bent():
    before = evaluate(misjudged(), truth()).metrics
    after = refine(misjudged(), Observations(camera=camera_prior()))
    now = evaluate(after, truth()).metrics
    assert before["focal_error_pct"] == pytest.approx(10) and now["focal_error_pct"] == pytest.approx(0)
    assert now["depth_abs_rel_static"] < 0.6 * before["depth_abs_rel_static"]
    assert now["track_epe_median_static_m"] < 0.8 * before["track_epe_median_static_m"]
    assert now["ate_m"] <= before["ate_m"]


def test_poses_move_a_focal_length_that_nobody_gave():
    after = refine(misjudged(), Observations(camera_motion=poses(list(range(10)))))
    assert abs(evaluate(after, truth()).metrics["focal_error_pct"]) < 5


def test_a_lens_that_no_track_fits_is_refused_and_nothing_moves():
    before = unscaled()
    after = refine(before, Observations(camera=camera_prior(0.4)))
    assert any("contradict the images" in note for note in after.notes)
    assert after.history[-1].outcome["kept"] == "start"
    assert after.camera is before.camera and np.array_equal(after.depth_z, before.depth_z)


def test_measured_depth_with_holes_gives_metres_and_better_depth():
    noise = np.exp(0.05 * np.random.default_rng(3).normal(size=truth().depth_z.shape))
    before = replace(
        unscaled(),
        depth_z=(unscaled().depth_z * noise).astype(np.float32),
        depth_sigma=np.full(noise.shape, 0.05, np.float32),
    )
    after = refine(before, Observations(depth=sensor()))
    measured = (sensor().depth_z > 0) & truth().valid
    off = np.abs(np.log(after.depth_z[measured] / truth().depth_z[measured]))
    assert after.metric and np.median(off) < 0.005
    assert (after.depth_sigma[measured] < 0.05).mean() > 0.99
    assert evaluate(after, truth(), protocol="metric").metrics["track_epe_median_static_m"] < 0.1


def test_depth_without_a_unit_is_brought_to_the_scene():
    before = unscaled()
    relative = replace(sensor(), depth_z=17 * sensor().depth_z, metric=False)
    after = refine(before, Observations(depth=relative))
    assert not after.metric
    known = before.valid & (before.moving == 0)
    assert np.median(after.depth_z[known] / before.depth_z[known]) == pytest.approx(1, abs=0.01)
    elsewhere = replace(relative, depth_z=np.zeros_like(relative.depth_z))
    assert any("no static pixel" in note for note in refine(before, Observations(depth=elsewhere)).notes)


def test_a_wrong_unit_of_depth_is_told_beside_poses():
    millimetres = replace(sensor(), depth_z=1000 * sensor().depth_z)
    after = refine(
        unscaled(), Observations(depth=millimetres, camera_motion=poses(list(range(10)))), stages="similarity"
    )
    assert any("check the units" in note for note in after.notes)


def test_masks_change_only_the_frames_that_are_given_and_keep_the_numbers_of_objects():
    before = unscaled()
    known = np.arange(len(before)) < 3
    ids = np.where(before.moving > 0, 1, 0).astype(np.uint8)
    ids[:, 50:60, 20:40] = 7
    after = refine(before, Observations(moving=MovingMasks(ids, TOLD, known=known)))
    assert np.array_equal(after.moving[3:], before.moving[3:])
    assert set(np.unique(after.moving)) <= {*np.unique(before.moving), before.moving.max() + 1}
    assert (after.moving[:3, 50:60, 20:40] > 0).all()
    assert np.array_equal(after.world_from_cam, before.world_from_cam) and after.depth_z is before.depth_z
    assert after.history[-1].outcome["frames"] == 3


def test_tracks_follow_new_masks():
    before = unscaled()
    ids = np.ones(before.moving.shape, np.uint8)
    ids[:, :, :80] = 0
    after = refine(before, Observations(moving=MovingMasks(ids, TOLD)))
    left = np.nanmean(before.tracks.uv[..., 0], axis=0) < 70
    right = np.nanmean(before.tracks.uv[..., 0], axis=0) > 90
    assert not after.tracks.moving[left].any() and after.tracks.moving[right].all()
    stops = left & before.tracks.moving
    assert np.nanmax(np.ptp(after.tracks.points_world[:, stops], axis=0), initial=0) == 0


def test_a_scene_without_sightings_is_scaled_and_says_what_it_lacks():
    blind = replace(unscaled(), tracks=replace(unscaled().tracks, uv=None))
    after = refine(blind, Observations(camera_motion=poses([0, 9])))
    assert after.metric and any("too few sightings" in note for note in after.notes)


def test_what_is_known_makes_cameras_surer():
    sigma = CameraSigma(np.full(10, 0.05), np.full(10, 0.01), 0.05)
    after = refine(replace(unscaled(), camera_sigma=sigma), Observations(camera_motion=poses([0, 9])))
    assert after.camera_sigma.centre[0] == pytest.approx(0.003)
    assert after.camera_sigma.centre[4] == pytest.approx(0.05 / SCALE, rel=0.05)


def test_nothing_new_and_other_counts_are_refused():
    with pytest.raises(InputError, match="nothing new"):
        refine(unscaled(), Observations())
    short = CameraMotion(np.eye(4)[None], np.ones(1, bool), 0.01, 0.01, TOLD)
    with pytest.raises(InputError, match="1 poses but 10 frames"):
        refine(unscaled(), Observations(camera_motion=short))
    wide = CameraPrior(truth().camera.resized(320, 240), 0.0, TOLD)
    with pytest.raises(InputError, match="another size"):
        refine(unscaled(), Observations(camera=wide))


def test_sightings_survive_the_disk_and_a_scene_without_them_too(tmp_path):
    save(unscaled(), tmp_path / "with")
    assert np.array_equal(load(tmp_path / "with").tracks.uv, unscaled().tracks.uv, equal_nan=True)
    save(replace(unscaled(), tracks=replace(unscaled().tracks, uv=None)), tmp_path / "without")
    assert load(tmp_path / "without").tracks.uv is None


def test_the_clip_of_a_scene_knows_which_files_its_frames_were():
    files = [f"{i:03d}.png" for i in range(10)]
    scene = replace(unscaled(), history=(Step("read", {}, {"files": files, "clock": "assumed"}),))
    clip = clip_of(scene)
    assert clip.facts["files"] == files and len(clip) == len(scene) and clip.name == scene.name


@pytest.fixture
def saved(tmp_path) -> Path:
    return save(unscaled(), tmp_path / "scene")


def call(capsys, *args) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    return code, *capsys.readouterr()


def test_the_verb_writes_a_whole_folder_and_finds_it_again(capsys, saved, tmp_path):
    length = f"0:20.5,40.5,140.5,60.5={lengths(1.0).length_m[0]:.4f}"
    args = ("refine", saved, "-o", tmp_path / "out", "--known-length", length, "--no-page", "--quiet", "--json")
    code, out, err = call(capsys, *args)
    assert code == 0 and err == "", err
    record = json.loads(out)
    assert record["scene"]["metric"] and not record["found"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"scene", "log.txt", "run.json"}
    assert load(tmp_path / "out").metric
    assert json.loads(call(capsys, *args)[1])["found"]


def test_a_page_is_not_found_in_a_result_that_was_made_without(capsys, saved, tmp_path):
    args = ("refine", saved, "-o", tmp_path / "out", "--fov", 60, "--quiet")
    assert call(capsys, *args, "--no-page")[0] == 0
    code, _, err = call(capsys, *args)
    assert code == 2 and "--overwrite" in err


def test_the_verb_refuses_a_folder_with_other_things(capsys, saved, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    code, out, err = call(capsys, "refine", saved, "-o", tmp_path / "out", "--fov", 60, "--no-page", "--quiet")
    assert code == 2 and err.startswith("worldline: ") and err.count("\n") == 1 and out == ""
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--focal", "-3"),
        ("--poses", "nowhere.txt"),
        ("--known-length", "99:1,1,5,5=2"),
        ("--intrinsics", "no.json"),
    ],
    ids=["nothing", "negative", "no file", "no frame", "no calibration"],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(capsys, saved, tmp_path, options):
    code, out, err = call(capsys, "refine", saved, "-o", tmp_path / "out", "--no-page", "--quiet", *options)
    assert code == 2 and err.startswith("worldline: ") and err.count("\n") == 1 and out == "", err
    assert not (tmp_path / "out").exists()


def test_a_scene_that_is_none_is_one_sentence(capsys, tmp_path):
    code, _, err = call(capsys, "refine", tmp_path / "nowhere", "--fov", 60)
    assert code == 2 and "does not exist" in err


def test_the_result_never_goes_into_the_scene_that_is_refined(capsys, saved):
    before = sorted(p.name for p in saved.iterdir())
    for out in (saved, saved / "better"):
        code, _, err = call(capsys, "refine", saved, "-o", out, "--fov", 60, "--no-page", "--quiet", "--overwrite")
        assert code == 2 and "inside the scene" in err
    assert sorted(p.name for p in saved.iterdir()) == before


def test_depth_around_a_pixel_is_that_of_its_neighbours_and_unknown_without_any():
    scene = unscaled()
    uv = np.array([20.5, 40.5])
    outlier = np.array(scene.depth_z)
    outlier[0, 40, 20] *= 3
    spiked = replace(scene, depth_z=outlier)
    assert spiked.depth_around(0, uv)[0] == pytest.approx(scene.depth_around(0, uv)[0], rel=0.02)
    hidden = replace(scene, valid=np.zeros_like(np.asarray(scene.valid)))
    assert np.isnan(hidden.depth_around(0, uv)).all()
