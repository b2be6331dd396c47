"""A rendered world and its truth agree with each other, and the noise is what was asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from worldline import synthetic
from worldline.cues import cue_module
from worldline.errors import InputError, MissingObservation
from worldline.geometry import camera, pixels, se3
from worldline.scene.journal import Journal
from worldline.scene.observations import Observations
from worldline.synthetic import camera_paths, movers, presets, trace, truth
from worldline.synthetic.materials import Material

CASES = [("room", "handheld"), ("outdoor", "orbit")]
PLAIN = Material((0.3, 0.3, 0.3), (0.6, 0.6, 0.6), (0.5, 0.4, 0.3))


@cache
def rendered(kind: str = "room", path: str = "handheld") -> synthetic.Rendered:
    return synthetic.render(synthetic.tiny_world(1, path, kind))


def projected(scene, points_world, frame):
    """uv and depth_z of world points, by the scene's own camera alone."""
    cam_from_world = se3.inverse(torch.from_numpy(scene.world_from_cam[frame]))
    points_cam = se3.apply(cam_from_world, torch.as_tensor(points_world, dtype=torch.float64))
    return camera.project(points_cam, torch.from_numpy(scene.camera.at(frame).copy())).numpy(), points_cam[:, 2].numpy()


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_the_first_camera_is_the_world(kind, path):
    scene = rendered(kind, path).scene
    np.testing.assert_array_equal(scene.world_from_cam[0], np.eye(4))
    rotation = scene.world_from_cam[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (10, 1, 1)), atol=1e-12)


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_static_pixels_keep_their_depth_in_every_other_frame(kind, path):
    """A static pixel, carried by depth and camera alone, lands on the ray-traced depth of the other frame."""
    result = rendered(kind, path)
    scene, world = result.scene, result.world
    still = scene.valid[0] & (scene.moving[0] == 0)
    points = scene.points_world(0)[still]
    for frame in (3, 9):
        uv, depth = projected(scene, points, frame)
        anchored = truth.anchors(world, 0)
        there, seen = truth.project(world, anchored, frame)
        seen = seen.numpy().reshape(still.shape)[still]
        assert seen.mean() > 0.5
        np.testing.assert_allclose(uv[seen], there.numpy()[still.reshape(-1)][seen], atol=2e-4)
        hits = trace.trace(
            trace.view(world, frame, world.ground_from_cam[frame]), truth.rays(world, frame, torch.from_numpy(uv[seen]))
        )
        agree = np.abs(hits.depth_z.numpy() / depth[seen] - 1) < 1e-5
        assert agree.mean() > 0.995  # the rest: rays a rounding error away from an outline


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_visible_tracks_reproject_onto_the_depth_map_and_the_mask(kind, path):
    scene, world = rendered(kind, path).scene, rendered(kind, path).world
    tracks = synthetic.world_tracks(world, *truth.query_grid(world, 4, 5))
    checked = 0
    for frame in range(len(scene)):
        uv, depth = projected(scene, tracks.points_world[frame], frame)
        rows = tracks.visible[frame]
        row, column = (i.numpy() for i in pixels.indices(torch.from_numpy(uv[rows]), scene.height, scene.width))
        inverse = 1 / scene.depth_z[frame].clip(1e-3)
        smooth = _smooth(inverse)[row, column]
        sampled = 1 / pixels.sample(torch.from_numpy(inverse), torch.from_numpy(uv[rows])).numpy()
        np.testing.assert_allclose(sampled[smooth], depth[rows][smooth], rtol=0.01)
        moving = scene.moving[frame][row, column] > 0
        np.testing.assert_array_equal(moving[smooth], tracks.moving[rows][smooth])
        checked += smooth.sum()
    assert checked > 1000


def _smooth(inverse_depth):
    """Where inverse depth is linear around a pixel, as on planes, so that bilinear sampling is exact."""
    bend = np.abs(cv2.Laplacian(inverse_depth, cv2.CV_32F)) / inverse_depth
    return cv2.dilate(bend, np.ones((3, 3))) < 0.01


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_hidden_tracks_lie_behind_something_or_outside(kind, path):
    scene = rendered(kind, path).scene
    for frame in range(len(scene)):
        rows = ~scene.tracks.visible[frame]
        uv, depth = projected(scene, scene.tracks.points_world[frame], frame)
        uv_t = torch.from_numpy(uv)
        hidden = rows & pixels.inside(uv_t, scene.height, scene.width).numpy() & (depth > 0)
        row, column = (i.numpy() for i in pixels.indices(uv_t[torch.from_numpy(hidden)], scene.height, scene.width))
        nearest = cv2.erode(np.where(scene.valid, scene.depth_z, np.inf)[frame], np.ones((3, 3)))[row, column]
        assert (nearest <= depth[hidden] * 1.001).all()


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_pixel_tracks_are_the_world_tracks_seen_by_the_camera(kind, path):
    result = rendered(kind, path)
    grid = truth.query_grid(result.world, 8, 4)
    pixel, world = synthetic.pixel_tracks(result.world, *grid), synthetic.world_tracks(result.world, *grid)
    on_something = pixel.visible[pixel.query_frame, np.arange(len(pixel.query_frame))]
    start = pixel.uv[pixel.query_frame, np.arange(len(pixel.query_frame))]
    np.testing.assert_allclose(start[on_something], grid[0][on_something], atol=1e-4)
    np.testing.assert_array_equal(pixel.visible[:, on_something], world.visible)
    uv, _ = projected(result.scene, world.points_world[5], 5)
    seen = world.visible[5]
    np.testing.assert_allclose(pixel.uv[5][on_something][seen], uv[seen], atol=1e-3)


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_optical_flow_carries_the_texture_to_the_other_frame(kind, path):
    world = synthetic.build(kind, path, seed=2, frames=6, size=(160, 112), fps=12)
    result = synthetic.render(world, synthetic.Quality(sensor_noise=0.0))
    first, last = (result.video.frames[t].astype(np.float32) for t in (0, 3))
    flow = synthetic.optical_flow(world, 0, 3)
    uv = pixels.centres(world.camera.height, world.camera.width).numpy() + flow.displacement_px
    xy = pixels.to_integer_centres(np.nan_to_num(uv)).astype(np.float32)
    warped = cv2.remap(last, xy[..., 0], xy[..., 1], cv2.INTER_LINEAR)
    error = np.abs(warped - first).mean(-1)[flow.visible]
    unmoved = np.abs(last - first).mean(-1)[flow.visible]
    assert flow.visible.mean() > 0.6
    assert np.median(error) < 4 and np.median(error) < 0.4 * np.median(unmoved)


def test_flow_there_and_back_returns_to_the_start():
    world = rendered().world
    flow = synthetic.optical_flow(world, 2, 7)
    uv = pixels.centres(world.camera.height, world.camera.width).numpy()
    there = (uv + flow.displacement_px)[flow.visible].astype(np.float64)
    back = synthetic.pixel_tracks(world, there, np.full(len(there), 7))
    offset = np.linalg.norm(back.uv[2] - uv[flow.visible], axis=-1)
    assert np.percentile(offset, 99) < 0.01


def test_movers_move_and_deform():
    scene = rendered().scene
    tracks = scene.tracks
    travelled = np.linalg.norm(tracks.points_world[-1] - tracks.points_world[0], axis=-1)
    assert (travelled[tracks.moving] > 0.02).mean() > 0.9
    assert travelled[~tracks.moving].max() < 1e-5
    walker = tracks.points_world[:, tracks.moving].astype(np.float64)
    pairs = np.linalg.norm(walker[:, :, None] - walker[:, None], axis=-1)
    assert np.ptp(pairs, axis=0).max() > 0.05


def test_a_tumbling_box_rests_on_the_floor_and_stays_rigid():
    times = np.linspace(0, 2, 50)
    (box,) = movers.tumbling_box(times, PLAIN, (0.3, 1.0, 0.0), 40.0)
    corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), -1).reshape(-1, 3)
    placed = corners @ box.ground_from_object[:, :3, :3].transpose(0, 2, 1) + box.ground_from_object[:, None, :3, 3]
    np.testing.assert_allclose(placed[..., 2].min(1), 0, atol=1e-9)
    edges = np.linalg.norm(placed[:, :, None] - placed[:, None], axis=-1)
    np.testing.assert_allclose(edges, np.broadcast_to(edges[0], edges.shape), atol=1e-9)
    lowest = placed[np.arange(50), placed[..., 2].argmin(1)]
    assert np.linalg.norm(np.diff(lowest, axis=0), axis=-1).max() < 0.52  # rolls over its edges, without sliding


def test_a_ball_keeps_its_volume_and_the_floor():
    times = np.linspace(0, 2, 40)
    (ball,) = movers.ball(times, PLAIN, (0.0, 0.0, 0.0), (0.3, 0.4), radius_m=0.2)
    linear = ball.ground_from_object[:, :3, :3]
    np.testing.assert_allclose(np.linalg.det(linear), 0.2**3, rtol=1e-9)
    lowest = ball.ground_from_object[:, 2, 3] - np.linalg.norm(linear[:, 2], axis=-1)
    assert lowest.min() > -1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(list(synthetic.Shape)))
def test_a_hit_lies_on_the_canonical_surface_and_is_the_nearest(seed, shape):
    random = torch.Generator().manual_seed(seed)
    origin = 3 * torch.randn(3, generator=random, dtype=torch.float64)
    assume((origin.abs().max() - 1).abs() > 0.05)  # what is nearer than a viewer's near plane is not hit
    direction = torch.randn(3, 64, generator=random, dtype=torch.float64) - origin[:, None]
    t = trace.intersect(shape, origin, direction)
    points = (origin[:, None] + t * direction)[:, torch.isfinite(t)]
    size = points.norm(dim=0) if shape == synthetic.Shape.SPHERE else points.abs().amax(0)
    if shape == synthetic.Shape.QUAD:
        torch.testing.assert_close(points[2], torch.zeros_like(points[2]), atol=1e-12, rtol=0)
        assert (size <= 1 + 1e-12).all()
    else:
        torch.testing.assert_close(size, torch.ones_like(size), atol=1e-9, rtol=0)
        before = origin[:, None] + torch.linspace(0.02, 0.98, 20, dtype=torch.float64)[:, None, None] * (t * direction)
        outside = before.norm(dim=1) if shape == synthetic.Shape.SPHERE else before.abs().amax(1)
        inside = origin.norm() < 1 if shape == synthetic.Shape.SPHERE else origin.abs().max() < 1
        assert inside or (outside[:, torch.isfinite(t)] > 1 - 1e-9).all()


def test_culling_changes_nothing():
    world = rendered().world
    seen = trace.view(world, 4, world.ground_from_cam[4])
    everywhere = seen._replace(
        low=torch.full_like(seen.low, -torch.inf),
        high=torch.full_like(seen.high, torch.inf),
        ahead=torch.ones_like(seen.ahead),
    )
    xy = truth.rays(world, 4)
    culled, plain = trace.trace(seen, xy), trace.trace(everywhere, xy)
    assert torch.equal(culled.part, plain.part) and torch.equal(culled.depth_z, plain.depth_z)


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others():
    again = synthetic.render(synthetic.tiny_world(1))
    np.testing.assert_array_equal(rendered().video.frames, again.video.frames)
    other = synthetic.render(synthetic.tiny_world(2))
    assert (rendered().video.frames != other.video.frames).mean() > 0.5


@pytest.mark.parametrize("path", camera_paths.PATHS)
def test_each_path_moves_the_camera_as_its_name_says(path):
    world = synthetic.tiny_world(0, path)
    steps = np.linalg.norm(np.diff(world.world_from_cam[:, :3, 3], axis=0), axis=-1)
    turns = se3.angle_rad(torch.from_numpy(world.world_from_cam[:, :3, :3])).numpy()
    assert (steps.sum() > 0.3) == (
        path in ("handheld", "dolly", "orbit", "pause", "return", "slide", "forward", "backward")
    )
    assert (turns.max() > 0.01) == (path not in ("static", "zoom", "slide", "forward", "backward"))
    assert world.camera.per_frame == (path == "zoom")


def test_forward_is_the_way_that_the_camera_looks_and_backward_the_same_way_back():
    there, back = (synthetic.tiny_world(0, path).world_from_cam[:, :3, 3] for path in ("forward", "backward"))
    np.testing.assert_allclose(there[-1, :2], 0, atol=1e-9)
    assert there[-1, 2] > 0.3
    np.testing.assert_allclose(back, there[::-1] - there[-1], atol=1e-9)


def test_a_zoom_takes_the_share_of_the_clip_that_it_is_told():
    world = presets.build("room", "forward", frames=11, zoom=1.5, zoom_from=0.2, zoom_until=0.6)
    factor = world.camera.frames(11)[:, 0] / world.camera.frames(11)[0, 0]
    np.testing.assert_allclose(factor[[0, 2, 4, 6, 10]], [1, 1, 1.25, 1.5, 1.5])


def test_a_hand_shakes_about_the_path_that_it_is_to_follow():
    steady, shaken = (presets.build("room", "forward", hand=hand).world_from_cam for hand in (False, True))
    away = np.linalg.norm(shaken[:, :3, 3] - steady[:, :3, 3], axis=-1)
    turned = se3.angle_rad(torch.from_numpy(shaken[:, :3, :3])).numpy()
    assert 0.002 < away.max() < 0.1
    assert 0.002 < turned.max() < 0.1


@pytest.mark.parametrize("wrong", [{"path": "teleport"}, {"kind": "moon"}])
def test_an_unknown_name_says_what_there_is(wrong):
    with pytest.raises(InputError, match="choose one of"):
        synthetic.tiny_world(**wrong)


def test_the_sky_has_no_depth_and_no_tracks():
    scene = rendered("outdoor", "orbit").scene
    sky = ~scene.valid
    assert 0.02 < sky.mean() < 0.6
    assert (scene.depth_z[sky] == 0).all() and (scene.moving[sky] == 0).all()
    world = rendered("outdoor", "orbit").world
    v, u = np.argwhere(sky[0])[0]
    track = synthetic.pixel_tracks(world, np.array([[u + 0.5, v + 0.5]]), np.array([0]))
    assert not track.visible.any() and np.isfinite(track.uv).all()


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_everything_can_be_tracked(kind, path):
    """Nearly every patch of the demo's size has gradients in two directions."""
    result = synthetic.render(synthetic.build(kind, path, seed=4, frames=1, size=(480, 320)))
    frame, solid = result.video.grey()[0].astype(np.float32), result.scene.valid[0]
    weakest = cv2.cornerMinEigenVal(cv2.GaussianBlur(frame, (0, 0), 1.0), 15, 3)
    noise = np.random.default_rng(0).normal(128, 1.2, frame.shape).astype(np.float32)
    floor = np.median(cv2.cornerMinEigenVal(cv2.GaussianBlur(noise, (0, 0), 1.0), 15, 3))
    assert (weakest[solid] > 10 * floor).mean() > 0.97


def test_observations_without_noise_are_the_truth():
    result = rendered()
    observed = synthetic.observations(result)
    np.testing.assert_array_equal(observed.depth.depth_z, result.scene.depth_z)
    np.testing.assert_array_equal(observed.moving.ids, result.scene.moving)
    np.testing.assert_array_equal(observed.camera.camera.intrinsics, result.world.camera.intrinsics)
    exact = synthetic.pixel_tracks(result.world, *truth.query_grid(result.world, 8, 10))
    np.testing.assert_array_equal(observed.tracks.uv, exact.uv)
    np.testing.assert_array_equal(observed.tracks.visible, exact.visible)
    assert observed.depth.metric and observed.camera.focal_sigma == 0 and observed.depth.frame_scale_sigma == 0


def test_depth_noise_has_the_sigma_it_claims():
    result = rendered()
    noise = synthetic.NoiseModel(depth_frame_scale=0.05, depth_bias=0.03, depth_pixel=0.02)
    observed = synthetic.observations(result, noise, seed=5).depth
    log_error = np.log(observed.depth_z / result.scene.depth_z)
    within = log_error - log_error.mean((1, 2), keepdims=True)
    assert within.std() == pytest.approx(float(observed.sigma.mean()), rel=0.25)
    assert log_error.mean((1, 2)).std() == pytest.approx(0.05, rel=0.7)
    assert observed.frame_scale_sigma == 0.05 and not observed.metric


def test_track_noise_has_the_sigma_it_claims():
    result = rendered()
    noise = synthetic.NoiseModel(track_px=0.5, track_drift_px=0.2)
    observed, exact = (synthetic.observations(result, n, step_px=4).tracks for n in (noise, None))
    away = exact.visible & (np.arange(10)[:, None] != exact.query_frame)
    scaled = (observed.uv - exact.uv)[away] / observed.sigma_px[away][:, None]
    assert scaled.std() == pytest.approx(1.0, rel=0.1)
    np.testing.assert_array_equal(observed.uv[0], exact.uv[0])  # the query itself is chosen, not measured


def test_visibility_noise_has_the_shares_it_claims():
    result = rendered()
    noise = synthetic.NoiseModel(track_missed=0.2, track_false=0.3, track_outliers=0.25)
    observed, exact = (synthetic.observations(result, n, step_px=4).tracks for n in (noise, None))
    later = np.arange(10)[:, None] != exact.query_frame
    assert 1 - observed.visible[exact.visible & later].mean() == pytest.approx(0.2, abs=0.03)
    assert 0.02 < observed.visible[~exact.visible].mean() <= 0.4
    runaway = np.linalg.norm(observed.uv - exact.uv, axis=-1).max(0) > 1
    assert runaway.mean() == pytest.approx(0.25, abs=0.08)


def test_mask_and_focal_noise():
    result = rendered()
    noise = synthetic.NoiseModel(mask_boundary_px=1.0, mask_missed=0.4, focal_error=-0.1)
    observed = synthetic.observations(result, noise, seed=1)
    truth_mask, mask = result.scene.moving > 0, observed.moving.ids > 0
    shares = mask.sum((1, 2)) / truth_mask.sum((1, 2))
    assert shares.min() < 0.8 and 0.7 < shares.max() < 1.4
    assert observed.camera.camera.focal == pytest.approx(0.9 * result.world.camera.focal)
    assert observed.camera.focal_sigma == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["depth", "tracks", "moving", "camera"])
def test_an_oracle_hands_out_its_truth_and_says_when_it_has_none(kind):
    result = rendered()
    observed = synthetic.observations(result, synthetic.NoiseModel.realistic())
    oracle = cue_module(kind, "oracle")
    journal = Journal("test")
    item = oracle.build(oracle.Config(observations=observed))(result.video, Observations(), journal)
    assert item.source.name == "synthetic truth with noise"
    assert (
        oracle.build(oracle.Config(scene=result.scene))(result.video, Observations(), journal).source.name == "oracle"
    )
    with pytest.raises(MissingObservation, match="was given no truth; pass Config"):
        oracle.build(oracle.Config())(result.video, Observations(), journal)


def test_an_oracle_refuses_another_clip():
    oracle = cue_module("depth", "oracle")
    shorter = replace(rendered().video, frames=rendered().video.frames[:4], times_s=rendered().video.times_s[:4])
    with pytest.raises(InputError, match="give its clip"):
        oracle.build(oracle.Config(scene=rendered().scene))(shorter, Observations(), Journal("test"))


def test_oracle_tracks_of_a_scene_are_the_exact_ones():
    result = rendered()
    oracle = cue_module("tracks", "oracle")
    item = oracle.build(oracle.Config(scene=result.scene))(result.video, Observations(), Journal("test"))
    exact = synthetic.observations(result).tracks
    np.testing.assert_array_equal(item.visible, exact.visible)
    np.testing.assert_allclose(item.uv[item.visible], exact.uv[exact.visible], atol=1e-3)
