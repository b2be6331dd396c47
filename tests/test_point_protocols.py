"""Scenes under the protocols of benchmarks: the truth is perfect, errors count, frames and queries fit."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import worldline as wl
from dataset_files import tapvid3d_arrays, write_dynamic_replica
from worldline.cli import main
from worldline.data import track_truth
from worldline.errors import InputError
from worldline.evaluate.protocols import PROTOCOLS, PointProtocol
from worldline.evaluate.report import evaluate, evaluate_path
from worldline.scene.motion import Flow
from worldline.scene.store import save
from worldline.synthetic import Quality, render, tiny_world
from worldline.synthetic.truth import anchors, points_world

POINTS = [name for name, rules in PROTOCOLS.items() if isinstance(rules, PointProtocol)]
FRAMES = 5


@cache
def world():
    rendered = render(tiny_world(frames=FRAMES), Quality(antialias=False, track_step_px=5, track_every=2))
    return rendered.world, rendered.scene


def true_scene():
    return world()[1]


def flow_scene():
    """The true scene with dense flow from its first frame instead of tracks."""
    made, scene = world()
    held = anchors(made, 0)
    paths = np.stack([points_world(made, held, t).numpy() for t in range(FRAMES)]).reshape(FRAMES, scene.height, -1, 3)
    moved = (paths - paths[:1]).astype(np.float32)
    return replace(scene, tracks=None, flow=Flow(0, np.nan_to_num(moved), np.isfinite(moved).all(-1)))


def starting_in_the_first_frame(truth):
    return replace(
        truth,
        **{n: getattr(truth, n)[:, truth.query_frame == 0] for n in ("points_cam", "visible")},
        **{n: getattr(truth, n)[truth.query_frame == 0] for n in ("query_frame", "query_uv")},
    )


def shares_of(metrics):
    """Metrics whose best value is one."""
    best = ("average_jaccard", "apd", "occlusion_accuracy", "inlier", "coverage", "answered", "jaccard", "within")
    return {k: v for k, v in metrics.items() if k.startswith(best)}


@pytest.mark.parametrize("name", POINTS)
def test_the_truth_scores_one_under_every_protocol(name):
    metrics = evaluate(true_scene(), true_scene(), protocol=name).metrics
    assert shares_of(metrics) == pytest.approx(dict.fromkeys(shares_of(metrics), 1.0))
    assert all(v < 1e-5 for k, v in metrics.items() if k.startswith(("epe", "outlier", "scale_error")))


@pytest.mark.parametrize("name", POINTS)
def test_dense_flow_answers_what_starts_in_its_frame(name):
    truth = starting_in_the_first_frame(track_truth(true_scene()))
    metrics = evaluate(flow_scene(), truth, protocol=name).metrics
    assert metrics["answered"] == 1
    errors = {k: v for k, v in metrics.items() if k in ("epe_m", "epe_moving_m")}
    assert all(v < 1e-5 for v in errors.values())
    assert metrics.get("apd", 1) == metrics.get("inlier", 1) == pytest.approx(1)
    assert (
        metrics.get("occlusion_accuracy", 1) > 0.97
    )  # what lies on outlines is hidden in one pixel and not in the next


def test_what_dense_flow_does_not_answer_is_missed():
    report = evaluate(flow_scene(), track_truth(true_scene()), protocol="tapvid3d-none")
    asked = track_truth(true_scene()).query_frame
    assert report.metrics["answered"] == pytest.approx((asked == 0).mean()) and report.metrics["apd"] < 0.9
    assert f"{(asked == 0).sum()} of {len(asked)} queries were answered by dense flow" in report.notes[0]


def test_a_scene_of_another_scale_is_perfect_where_scale_is_removed_and_far_off_where_not():
    scene = true_scene()
    poses = scene.world_from_cam.copy()
    poses[:, :3, 3] *= 3
    tracks = replace(scene.tracks, points_world=3 * scene.tracks.points_world)
    large = replace(scene, world_from_cam=poses, tracks=tracks, depth_z=3 * np.asarray(scene.depth_z))
    for name in POINTS:
        metrics = evaluate(large, scene, protocol=name).metrics
        good = metrics.get("apd", metrics.get("inlier"))
        assert good < 0.2 if PROTOCOLS[name].alignment == "none" else good == pytest.approx(1), name
    metrics = evaluate(large, scene, protocol="allocentric-none").metrics
    assert metrics["scale_error"] == pytest.approx(2) and metrics["outlier"] == 1


def test_errors_of_moving_points_show_in_their_own_numbers():
    scene = true_scene()
    points = scene.tracks.points_world.copy()
    points[1:, scene.tracks.moving] += [0.4, 0, 0]
    report = evaluate(
        replace(scene, tracks=replace(scene.tracks, points_world=points)), scene, protocol="worldtrack-none"
    )
    share = (FRAMES - 1) / FRAMES
    assert report.metrics["epe_moving_m"] == pytest.approx(0.4 * share, abs=1e-4)
    assert report.metrics["apd_moving"] == pytest.approx(1 - share / 2, abs=1e-6)
    assert report.metrics["apd"] > report.metrics["apd_moving"]
    assert report.alignment == {"points": "none"} and report.frames == tuple(range(FRAMES))


def test_a_scene_cut_out_of_the_image_is_asked_at_the_right_pixels():
    scene, full = flow_scene(), true_scene()
    left, top = 16, 8
    cut = np.s_[:, top:, left:]
    offset = np.eye(3)
    offset[:2, 2] = left, top
    intrinsics = scene.camera.intrinsics - [0, 0, left, top]
    camera = replace(scene.camera, intrinsics=intrinsics, width=scene.width - left, height=scene.height - top)
    small = replace(
        scene, camera=camera, original_from_stored=offset, original_size=(scene.width, scene.height),
        image=None, flow=Flow(0, scene.flow.displacement[cut], scene.flow.valid[cut]),
        **{n: np.asarray(getattr(scene, n))[cut] for n in ("depth_z", "depth_sigma", "valid", "moving")},
    )  # fmt: skip
    truth = starting_in_the_first_frame(track_truth(full))
    report = evaluate(small, truth, protocol="worldtrack-none")
    inside = (truth.query_uv >= [left, top]).all(-1)
    assert report.metrics["answered"] == pytest.approx(inside.mean())
    assert report.metrics["epe_m"] < 1e-5


def test_a_track_answers_only_within_its_radius():
    scene = true_scene()
    rules = PROTOCOLS["worldtrack-none"]
    away = replace(scene.tracks, points_world=scene.tracks.points_world + np.float32([0.2, 0, 0]))
    moved = replace(scene, tracks=away)
    near, far = (
        evaluate(moved, scene, protocol=replace(rules, match_px=px)).metrics["answered"] for px in (1.0, 1000.0)
    )
    assert near < 0.5 and far == 1


def test_points_behind_the_depth_map_are_not_visible():
    scene = flow_scene()
    closer = replace(scene, depth_z=np.asarray(scene.depth_z) * 1.0)
    closer.depth_z[1:] *= 0.5
    truth = starting_in_the_first_frame(track_truth(true_scene()))
    hidden = evaluate(closer, truth, protocol="tapvid3d-none").metrics
    assert hidden["average_jaccard"] < 0.4 < hidden["apd"]


def test_frames_must_be_those_of_the_benchmark():
    truth = track_truth(true_scene())
    scene = true_scene()
    few = replace(
        scene, times_s=scene.times_s[:3], world_from_cam=scene.world_from_cam[:3], tracks=None, image=None,
        **{n: np.asarray(getattr(scene, n))[:3] for n in ("depth_z", "depth_sigma", "valid", "moving")},
    )  # fmt: skip
    with pytest.raises(InputError, match="3 frames but 5 are judged"):
        evaluate(few, truth, protocol="worldtrack-none")
    slow = replace(scene, times_s=10 * scene.times_s)
    assert evaluate(slow, truth, protocol="worldtrack-none").metrics["apd"] == 1  # as many frames: the same ones
    with pytest.raises(InputError, match="not those of the benchmark"):
        evaluate(slow, truth.first(3), protocol="worldtrack-none")


def test_without_points_to_ask_for_nothing_is_measured():
    truth = track_truth(true_scene())
    with pytest.raises(InputError, match="no points to ask for"):
        evaluate(true_scene(), replace(truth, visible=truth.visible & False), protocol="worldtrack-none")
    with pytest.raises(InputError, match="needs true points"):
        evaluate_path(true_scene(), true_scene().times_s, true_scene().world_from_cam, protocol="worldtrack-none")


def test_a_scene_with_neither_flow_nor_tracks_answers_nothing():
    report = evaluate(replace(true_scene(), tracks=None), true_scene(), protocol="tapvid3d-median")
    assert report.metrics["answered"] == 0 and report.metrics["average_jaccard"] == 0
    json.dumps(report.as_json(), allow_nan=False)


def test_a_report_keeps_every_choice_of_its_protocol():
    report = evaluate(true_scene(), true_scene(), protocol="worldtrack-sim3-ransac")
    kept = json.loads(json.dumps(report.as_json()))["protocol"]
    assert kept["seed"] == 0 and kept["thresholds"] == [0.1, 0.3, 0.5, 1.0] and kept["max_frames"] == 64
    assert kept["queries"] == "first frame" and kept["alignment"] == "sim3_ransac" and kept["match_px"] == 8
    assert "RANSAC, seed 0" in report.alignment["points"]


def test_pixels_of_thresholds_are_those_of_an_image_of_256():
    """At 2 m, an error of 1 cm is a threshold of one pixel if 200 pixels of focal length are left at 256."""
    scene = true_scene()
    size = min(scene.width, scene.height)
    depth_z = scene.tracks.points_world[0] @ np.linalg.inv(scene.world_from_cam[0])[2, :3]
    assert depth_z.min() > 0
    truth = starting_in_the_first_frame(track_truth(scene))
    focal = truth.camera.focal * 256 / size
    rules = replace(PROTOCOLS["tapvid3d-none"], thresholds=(1.0,))
    for factor, expected in ((0.99, 1.0), (1.01, 0.0)):
        aside = truth.points_cam[..., 2:] / focal * factor * [1, 0, 0]
        off = replace(truth, points_cam=truth.points_cam - aside)
        assert evaluate(scene, off, protocol=rules).metrics["apd"] == expected


def test_the_command_line_takes_files_of_datasets_as_the_truth(tmp_path, capsys):
    scene = true_scene()
    truth = track_truth(scene)
    np.savez(tmp_path / "drive.npz", **tapvid3d_arrays(truth, scene.image, poses=True))
    left = write_dynamic_replica(tmp_path / "valid", "a", truth, np.asarray(scene.image))
    folder = str(save(scene, tmp_path / "scene"))
    for path, protocol in ((tmp_path / "drive.npz", "tapvid3d-median"), (left, "worldtrack-median")):
        assert main(["evaluate", folder, str(path), "--protocol", protocol, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["metrics"]["apd"] == pytest.approx(1)
    assert main(["evaluate", folder, str(left), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert found["depth_abs_rel"] < 1e-3 and found["ate_m"] < 1e-5
    assert main(["evaluate", folder, str(tmp_path / "drive.npz")]) == 2
    assert "tapvid3d-median" in capsys.readouterr().err
    assert main(["evaluate", folder, str(left), "--protocol", "tapvid"]) == 2
    assert "worldtrack-median" in capsys.readouterr().err


def test_the_truth_of_a_dataset_goes_into_the_public_verb():
    assert wl.evaluate(true_scene(), track_truth(true_scene())).metrics["ate_m"] < 1e-9


@pytest.mark.parametrize("name", POINTS)
def test_every_protocol_is_explained(name):
    page = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text()
    measure, _, rest = name.partition("-")
    for part in (f"**`{measure}-*`**", f"`{rest.removesuffix('-first').removesuffix('-fixed')}`"):
        assert part in page
