"""A scene against its truth: perfect is zero, other worlds and scales do not matter, and nothing common is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldline.errors import InputError
from worldline.evaluate.correspondence import nearest_frame, paired_frames, track_coverage, track_uv
from worldline.evaluate.protocols import PROTOCOLS, Protocol
from worldline.evaluate.report import Report, evaluate, evaluate_path
from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.scene.motion import WorldTracks
from worldline.scene.scene import Scene

FRAMES, HEIGHT, WIDTH = 6, 30, 40


def true_scene() -> Scene:
    """A slanted wall with a moving patch of tracks, seen by a camera that moves and turns a little."""
    xi = 0.1 * torch.randn(FRAMES, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    world_from_cam = se3.exp(xi).numpy()
    camera = Camera.from_focal(50.0, WIDTH, HEIGHT)
    rng = np.random.default_rng(0)
    depth_z = (3 + rng.random((FRAMES, HEIGHT, WIDTH))).astype(np.float32)
    moving = np.zeros((FRAMES, HEIGHT, WIDTH), dtype=np.uint8)
    moving[:, 5:15, 10:20] = 1
    shape = FRAMES, HEIGHT, WIDTH
    scene = Scene(
        times_s=np.arange(FRAMES) / 10,
        camera=camera,
        world_from_cam=world_from_cam,
        depth_z=depth_z,
        depth_sigma=np.full(shape, 0.01, np.float32),
        valid=np.ones(shape, bool),
        moving=moving,
        name="truth",
        metric=True,
    )
    return replace(scene, tracks=true_tracks(scene))


def true_tracks(scene: Scene) -> WorldTracks:
    first = scene.points_world(0)[2:28:4, 2:38:4].reshape(-1, 3)
    moving = np.asarray(scene.moving[0])[2:28:4, 2:38:4].reshape(-1) > 0
    steps = np.arange(FRAMES)[:, None, None] * np.array([0.05, 0.02, 0.0])
    points = (first + steps * moving[:, None]).astype(np.float32)
    count = len(first)
    return WorldTracks(
        points_world=points,
        visible=np.ones((FRAMES, count), bool),
        sigma=np.full((FRAMES, count), 0.01, np.float32),
        colour=np.zeros((count, 3), np.uint8),
        moving=moving,
        query_frame=np.zeros(count, int),
    )


def elsewhere(scene: Scene, scale: float = 1.0) -> Scene:
    """The same scene in another world and unit."""
    motion = se3.exp(torch.tensor([[1.0, -2, 3, 0.4, 0.5, -0.6]], dtype=torch.float64))[0].numpy()
    poses = motion @ scene.world_from_cam
    poses[:, :3, 3] *= scale
    points = scale * (scene.tracks.points_world @ motion[:3, :3].T + motion[:3, 3])
    tracks = replace(scene.tracks, points_world=points.astype(np.float32))
    depth_z = (scale * scene.depth_z).astype(np.float32)
    return replace(scene, world_from_cam=poses, depth_z=depth_z, tracks=tracks, metric=scale == 1.0, name="estimate")


ERRORS = ("ate_m", "rpe_t_m", "rpe_r_deg", "focal_error_pct", "depth_abs_rel_static", "depth_abs_rel_moving")
TRACK_ERRORS = ("track_epe_static_m", "track_epe_moving_m", "track_flow_epe_moving_m")


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_perfect_scene_in_another_world_and_scale_has_no_error(scale):
    report = evaluate(elsewhere(true_scene(), scale), true_scene())
    for name in (*ERRORS, *TRACK_ERRORS):
        assert report.metrics[name] == pytest.approx(0, abs=2e-5), name
    for name in ("mask_j", "track_coverage_moving", "track_apd_moving", "track_matched", "depth_delta_1"):
        assert report.metrics[name] == 1, name
    assert report.frames == tuple(range(FRAMES)) and report.alignment["path"] == "sim3"


def test_the_metric_protocol_keeps_the_scale():
    report = evaluate(elsewhere(true_scene(), 0.9), true_scene(), protocol="metric")
    assert report.metrics["depth_abs_rel"] == pytest.approx(0.1, abs=1e-5)
    assert report.metrics["ate_m"] > 1e-3 and report.protocol == PROTOCOLS["metric"]


def test_a_metric_scene_also_tells_its_scale_error():
    scene = replace(elsewhere(true_scene(), 1.1), metric=True)
    report = evaluate(scene, true_scene())
    assert report.metrics["scale_error_pct"] == pytest.approx(10)
    assert report.metrics["depth_abs_rel_unaligned"] == pytest.approx(0.1, abs=1e-5)
    assert report.metrics["ate_se3_m"] > report.metrics["ate_m"]


def test_errors_land_on_the_part_they_were_made_in():
    truth = true_scene()
    moves = np.asarray(truth.moving) > 0
    points = truth.tracks.points_world.copy()
    points[1:, truth.tracks.moving] += [0.2, 0, 0]
    scene = replace(
        truth,
        depth_z=np.where(moves, 1.5 * truth.depth_z, truth.depth_z),
        tracks=replace(truth.tracks, points_world=points),
    )
    metrics = evaluate(scene, truth).metrics
    assert metrics["depth_abs_rel_static"] < 1e-6 and metrics["depth_abs_rel_moving"] == pytest.approx(0.5)
    assert metrics["track_epe_static_m"] < 1e-5
    assert metrics["track_epe_moving_m"] == pytest.approx(0.2 * (FRAMES - 1) / FRAMES, abs=1e-5)
    assert metrics["track_flow_epe_moving_m"] == pytest.approx(0.2 / (FRAMES - 1), abs=1e-5)


def test_a_truth_of_another_size_is_brought_to_the_grid_of_the_scene():
    truth = true_scene()
    big = {
        n: np.asarray(getattr(truth, n)).repeat(2, 1).repeat(2, 2)
        for n in ("depth_z", "depth_sigma", "valid", "moving")
    }
    bigger = replace(truth, camera=truth.camera.resized(2 * WIDTH, 2 * HEIGHT), original_size=(1, 1), **big)
    metrics = evaluate(truth, bigger).metrics
    assert metrics["depth_abs_rel"] < 1e-6 and metrics["mask_j"] == 1 and metrics["focal_error_pct"] == pytest.approx(0)
    assert metrics["track_matched"] == 1


def test_frames_are_paired_by_time_and_by_count_only_where_no_stamp_agrees():
    truth = true_scene()
    half = replace(
        truth,
        times_s=truth.times_s[::2],
        world_from_cam=truth.world_from_cam[::2],
        **{n: getattr(truth, n)[::2] for n in ("depth_z", "depth_sigma", "valid", "moving")},
        tracks=None,
    )
    assert evaluate(half, truth).metrics["ate_m"] < 1e-9
    late = replace(truth, times_s=truth.times_s + 1000)
    report = evaluate(late, truth)
    assert report.metrics["ate_m"] < 1e-9 and "by count" in report.notes[0]
    with pytest.raises(InputError, match="same clock"):
        evaluate(half, late)
    assert len(paired_frames(np.array([0.0, 0.1]), np.array([0.0, 0.16]), max_gap_s=0.01)) == 1


def test_missing_depth_and_tracks_lower_coverage():
    truth = true_scene()
    valid = np.asarray(truth.valid).copy()
    valid[:, :, WIDTH // 2 :] = False
    points = truth.tracks.points_world.copy()
    points[3:] = np.nan
    scene = replace(truth, valid=valid, tracks=replace(truth.tracks, points_world=points))
    metrics = evaluate(scene, truth).metrics
    assert metrics["depth_coverage"] == 0.5 and metrics["track_coverage_moving"] == 0.5
    assert metrics["track_epe_moving_m"] < 1e-5 and metrics["track_apd_moving"] == 0.5


def test_what_cannot_be_compared_is_said():
    truth = true_scene()
    blind = replace(truth, valid=np.zeros_like(truth.valid))
    report = evaluate(blind, truth)
    assert "depth_abs_rel" not in report.metrics and any("depth is not compared" in n for n in report.notes)
    far = replace(truth, tracks=replace(truth.tracks, query_frame=truth.tracks.query_frame + 99))
    assert any("tracks are not compared" in n for n in evaluate(far, truth).notes)


def test_a_path_alone_is_a_truth():
    truth = true_scene()
    report = evaluate_path(elsewhere(truth, 2.0), truth.times_s, truth.world_from_cam, truth_name="mocap")
    assert report.metrics["ate_m"] < 1e-9 and report.truth == "mocap" and "depth_abs_rel" not in report.metrics
    with pytest.raises(InputError, match="not finite"):
        evaluate_path(truth, truth.times_s, truth.world_from_cam * np.nan)


def test_a_report_is_json_and_text():
    scene = replace(true_scene(), tracks=None)
    still = replace(scene, world_from_cam=np.tile(np.eye(4), (FRAMES, 1, 1)))
    report = evaluate(scene, still)
    read = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert read["metrics"]["ate_pct"] is None and read["protocol"]["depth_alignment"] == "median"
    assert "static" in read["alignment"]["path"] and "static" in report.as_text()
    assert f"{report.metrics['ate_m']:.4g}" in report.as_text()
    assert Report("a", "b", {}, Protocol("p")).as_text().startswith("a against b")


def test_protocols_have_names_and_unknown_ones_are_refused():
    assert all(name == p.name for name, p in PROTOCOLS.items())
    truth = true_scene()
    own = Protocol("mine", depth_alignment="scale", depth_fit_on="all", depth_cap_m=3.5)
    assert evaluate(truth, truth, protocol=own).alignment["depth"] == "scale, found on all pixels"
    with pytest.raises(InputError, match="choose one of default, metric"):
        evaluate(truth, truth, protocol="sintel")


def test_projected_tracks_hit_their_query_pixels():
    truth = true_scene()
    uv = track_uv(truth.tracks, truth, 0)
    np.testing.assert_allclose(uv[0], [2.5, 2.5], atol=1e-4)


def test_the_nearest_pixel_is_the_one_that_holds_the_centre():
    image = np.arange(16).reshape(4, 4)
    np.testing.assert_array_equal(nearest_frame(image, 2, 2), [[5, 7], [13, 15]])
    np.testing.assert_array_equal(nearest_frame(image, 8, 8), image.repeat(2, 0).repeat(2, 1))


def test_coverage_does_not_depend_on_where_tracks_were_seeded_but_on_their_label():
    truth = true_scene()
    near = truth.tracks.points_world + np.float32(0.1)  # a few pixels aside, so none of them matches
    report = evaluate(replace(truth, tracks=replace(truth.tracks, points_world=near)), truth)
    assert any("tracks are not compared" in n for n in report.notes)
    pairs = paired_frames(truth.times_s, truth.times_s)
    for label, expected in ((truth.tracks.moving, 1.0), (np.zeros_like(truth.tracks.moving), 0.0)):
        scene = replace(truth, tracks=replace(truth.tracks, points_world=near, moving=label))
        assert track_coverage(scene, truth, pairs, moving=True, cover_px=6.0) == pytest.approx(expected, abs=0.05)
        assert track_coverage(scene, truth, pairs, moving=True, cover_px=0.1) == pytest.approx(0, abs=0.05)
