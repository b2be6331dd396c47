"""The any4d engine around its network: what goes in, windows, masks, tracks, units and gauge, on worlds with truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

import worldline as wl
from any4d_oracle import Oracle
from worldline.engines.any4d import Config, asking, build
from worldline.engines.any4d.network import Any4D
from worldline.geometry.camera import Camera
from worldline.run import Request, reconstruct_into
from worldline.run.reconstruction import _config
from worldline.scene.journal import Journal
from worldline.scene.observations import CameraMotion, CameraPrior, DepthMaps, DopplerMaps, Observations, Source
from worldline.synthetic import truth
from worldline.synthetic.presets import tiny_world
from worldline.synthetic.rendering import Quality, render

SIZE = (112, 84)
GIVEN = Source("given")


@pytest.fixture(scope="module")
def rendered():
    return render(tiny_world(2, "slide", frames=12, width=144, height=108), Quality(sensor_noise=2.0))


@pytest.fixture
def oracle(rendered, monkeypatch):
    made = Oracle(rendered, SIZE)
    monkeypatch.setattr(asking, "load", lambda config, file: made)
    return made


def settings(**changes) -> Config:
    return replace(Config.tiny(), size=SIZE, tracks=800, edges=None, **changes)


def solve(rendered, config, observed=None):
    return build(config)(rendered.video, observed or Observations(), Journal("test"))


@dataclass
class Interrupted:
    """A network at which Ctrl-C is pressed."""

    network: Oracle
    after: int

    def features(self, views):
        return self.network.features(views)

    def __call__(self, views, features):
        if len(self.network.asked) == self.after:
            raise KeyboardInterrupt
        return self.network(views, features)


def true_maps(rendered, scene):
    """Depth and moving masks of the world at the scene's pixels."""
    oracle = Oracle(rendered, SIZE)
    depth, moving = [], []
    for frame in range(len(scene)):
        rays = oracle._rays([frame])[0]
        anchors = oracle._anchors(frame)
        depth.append((oracle._depth(frame, rays) * rays[..., 2]).numpy())
        part = anchors.part.clamp_min(0).numpy()
        moving.append(((rendered.world.moving[part] > 0) & (anchors.part.numpy() >= 0)).reshape(depth[-1].shape))
    return np.stack(depth), np.stack(moving)


@pytest.mark.parametrize("window", [12, 5])
def test_a_network_that_tells_the_truth_gives_the_true_scene(rendered, oracle, window):
    scene = solve(rendered, settings(window=window, shared=2))
    depth, moving = true_maps(rendered, scene)
    valid = scene.valid[:]
    assert valid.mean() > 0.99
    assert np.abs(scene.depth_z[:] / depth - 1)[valid].max() < 1e-4
    assert np.abs(scene.world_from_cam - rendered.scene.world_from_cam).max() < 1e-4
    assert np.allclose(scene.camera.intrinsics, oracle.fit.intrinsics(rendered.world.camera.intrinsics), rtol=1e-3)
    ours = scene.moving[:] > 0
    assert (ours & moving).sum() / (ours | moving).sum() > 0.85


@pytest.mark.parametrize("window", [12, 5])
def test_tracks_follow_their_points_also_from_window_to_window(rendered, oracle, window):
    scene = solve(rendered, settings(window=window, shared=2))
    tracks = scene.tracks
    start_uv = tracks.uv[tracks.query_frame, np.arange(len(tracks))]
    matrix = scene.original_from_stored
    uv = start_uv @ matrix[:2, :2].T + matrix[:2, 2]
    true = truth.world_tracks(rendered.world, uv.astype(np.float64), tracks.query_frame)
    assert true.points_world.shape == tracks.points_world.shape
    off = np.linalg.norm(tracks.points_world - true.points_world, axis=-1)
    assert np.nanmedian(off[:, tracks.moving]) < 0.03 and np.nanpercentile(off, 90) < 0.05
    seen = tracks.visible & true.visible
    assert seen.sum() / true.visible.sum() > 0.8 and seen.sum() / tracks.visible.sum() > 0.9
    if window == 5:
        long = np.isfinite(tracks.points_world[:, tracks.moving]).all(-1).sum(0)
        assert long.max() > 8, "moving tracks go on in the next window"


def test_dense_flow_of_one_window_moves_the_reference_to_every_time(rendered, oracle):
    scene = solve(rendered, settings(window=12, reference=3))
    assert scene.flow.reference == 3
    start = oracle._anchors(3)
    points = scene.points_world(3)
    for frame in (0, 7, 11):
        true = truth.points_world(rendered.world, start, frame).view(*points.shape).numpy()
        good = scene.flow.valid[frame] & np.isfinite(points).all(-1)
        off = np.linalg.norm(points + scene.flow.displacement[frame] - true, axis=-1)[good]
        assert np.percentile(off, 95) < 0.05 and np.median(off) < 5e-3


def test_an_interrupted_run_goes_on_behind_its_last_window_to_the_same_bits(rendered, oracle, tmp_path, monkeypatch):
    config = settings(window=5, shared=2)
    whole = solve(rendered, config)
    asked = len(oracle.asked)
    oracle.asked.clear()

    monkeypatch.setattr(asking, "load", lambda config, file: Interrupted(oracle, after=2))
    with pytest.raises(KeyboardInterrupt):
        build(config)(rendered.video, Observations(), Journal("test", tmp_path))
    monkeypatch.setattr(asking, "load", lambda config, file: oracle)
    again = build(config)(rendered.video, Observations(), Journal("test", tmp_path))
    assert len(oracle.asked) == asked
    assert np.array_equal(again.depth_z[:], whole.depth_z[:])
    assert np.array_equal(again.tracks.points_world, whole.tracks.points_world, equal_nan=True)


def test_points_are_followed_from_further_references_where_none_is_followed_yet(rendered, oracle):
    one = solve(rendered, settings(window=12))
    more = solve(rendered, replace(settings(window=12, references=(11,)), tracks=1600))
    assert set(more.tracks.query_frame) == {0, 11} and more.flow is not None
    assert len(one.tracks) < len(more.tracks) < 1.5 * len(one.tracks)
    assert np.array_equal(more.depth_z[:], one.depth_z[:])


def test_features_of_an_image_are_computed_once(rendered, oracle):
    solve(rendered, settings(window=5, shared=2))
    assert sorted(oracle.encoded) == list(range(12))


def test_known_depth_corrects_the_unit_of_every_window(rendered, oracle):
    oracle.unit = lambda window: 1.4 if window % 2 else 0.8
    depth = DepthMaps(np.where(np.isfinite(rendered.scene.depth_z[:]), rendered.scene.depth_z[:], 0).astype(np.float32),
                      np.full(rendered.scene.depth_z.shape, 0.01, np.float32), GIVEN, metric=True)  # fmt: skip
    camera = CameraPrior(rendered.world.camera, 0.0, GIVEN)
    scene = solve(rendered, settings(window=5, shared=2), Observations(depth=depth, camera=camera))
    true, _ = true_maps(rendered, scene)
    ratio = (scene.depth_z[:] / true)[scene.valid[:]]
    assert abs(np.median(ratio) - 1) < 2e-3
    assert scene.metric_source == "depth: given"
    views = oracle.asked[-1]
    assert views.depth is not None and bool(views.metric.all()) and views.rays is not None


def test_depth_without_intrinsics_asks_the_network_for_the_rays_first(rendered, oracle):
    depth = DepthMaps(np.full(rendered.scene.depth_z.shape, 2.0, np.float32),
                      np.full(rendered.scene.depth_z.shape, 0.01, np.float32), GIVEN, metric=True)  # fmt: skip
    solve(rendered, settings(window=12), Observations(depth=depth))
    first, second = oracle.asked
    assert first.depth is None and second.depth is not None and second.rays is None


def test_known_poses_put_the_scene_into_their_world_and_unit(rendered, oracle):
    oracle.unit = lambda window: 0.7
    world = np.array([[0, 0, 1, 5], [-1, 0, 0, 2], [0, -1, 0, 1], [0, 0, 0, 1.0]])
    poses = world @ rendered.world.world_from_cam
    known = np.arange(12) % 3 == 1
    motion = CameraMotion(np.where(known[:, None, None], poses, np.nan), known, 0.01, 0.01, GIVEN, metric=True)
    scene = solve(rendered, settings(window=12), Observations(camera_motion=motion))
    assert np.abs(scene.world_from_cam - poses).max() < 5e-3
    assert scene.metric_source == "camera poses: given"
    views = oracle.asked[-1]
    assert views.has_pose[0, 0], "the reference is a frame whose pose is known"
    assert int(views.has_pose.sum()) == known.sum()


def test_rotations_alone_go_in_as_rotations(rendered, oracle):
    poses = rendered.world.world_from_cam.copy()
    poses[:, :3, 3] = 0
    motion = CameraMotion(poses, np.ones(12, bool), np.inf, 0.01, GIVEN)
    solve(rendered, settings(window=12), Observations(camera_motion=motion))
    views = oracle.asked[-1]
    assert bool(views.has_pose.all()) and not bool(views.has_translation.any())


def test_speeds_go_in_as_displacement_to_the_next_frame_away_from_the_camera(rendered, oracle):
    shape = rendered.scene.depth_z.shape
    speed = np.full(shape, np.nan, np.float32)
    speed[:, 50:60, 60:90] = 2.0
    doppler = DopplerMaps(speed, np.where(np.isfinite(speed), 3.0, np.nan).astype(np.float32), 0.1, GIVEN)
    camera = CameraPrior(rendered.world.camera, 0.0, GIVEN)
    solve(rendered, settings(window=12), Observations(doppler=doppler, camera=camera))
    views = oracle.asked[-1]
    there = views.radial.norm(dim=-1) > 0
    step = float(np.diff(rendered.video.times_s)[0])
    assert torch.allclose(views.radial[there].norm(dim=-1), torch.tensor(2.0 * step))
    assert bool((views.radial[there][:, 2] > 0).all()) and float(views.radial_unit[0]) == pytest.approx(3.0)


def test_no_point_of_a_lidar_is_lost_on_the_way_into_the_network(rendered, oracle):
    rng = np.random.default_rng(0)
    sparse = np.zeros((12, 1080, 1440), np.float32)
    sparse[:, rng.integers(30, 1050, 60), rng.integers(30, 1410, 60)] = 4.0
    sparse[0, 500:502, 700:702] = [[2.0, 5.0], [5.0, 5.0]]
    depth = DepthMaps(sparse, np.full(sparse.shape, 0.01, np.float32), GIVEN, metric=True)
    camera = CameraPrior(rendered.world.camera, 0.0, GIVEN)
    solve(rendered, settings(window=12), Observations(depth=depth, camera=camera))
    views = oracle.asked[-1]
    assert int((views.depth > 0).sum()) > 12 * 55
    at = oracle.fit.width * 701 // 1440, oracle.fit.height * 501 // 1080
    seen = views.depth[0, 0, at[1], at[0]] * views.rays[0, 0, at[1], at[0], 2]
    assert float(seen) == pytest.approx(2.0), "the nearest one hides the others"


def test_one_frame_is_a_scene_too(rendered, oracle):
    one = replace(rendered.video, frames=rendered.video.frames[:1], times_s=rendered.video.times_s[:1])
    scene = build(settings())(one, Observations(), Journal("one"))
    assert len(scene) == 1 and scene.flow is None and np.allclose(scene.world_from_cam[0], np.eye(4), atol=1e-6)


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (80, 80), (30, 20), (200, 50)])
def test_any_shape_of_video_gives_a_scene_whose_pixels_lead_back_to_it(size):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (3, size[1], size[0], 3), dtype=np.uint8)
    video = wl.Video(frames, np.arange(3) / 10)
    scene = wl.reconstruct(
        video, engine="any4d", config=replace(Config.tiny(), size=None if size[0] < 50 else (56, 42))
    )
    corner = scene.original_from_stored @ [scene.width, scene.height, 1]
    assert (corner[:2] <= np.array(size) + 1e-9).all() and (corner[:2] > 0).all()
    assert scene.original_size == size and "mean nothing" in " ".join(scene.notes)


def test_mixed_precision_keeps_the_residual_stream_and_the_heads_in_single():
    network = asking.load(replace(Config.tiny(), precision="mixed"), None)
    assert isinstance(network, Any4D)
    assert network.info_sharing.self_attention_blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert network.dpt_regressor_head.conv1.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("observed", "sentence"),
    [
        ({"depth": DepthMaps(np.ones((3, 4, 4), np.float32), np.ones((3, 4, 4), np.float32), GIVEN)}, "3 frames"),
        ({"depth": DepthMaps(np.full((12, 4, 4), np.nan, np.float32), np.ones((12, 4, 4), np.float32), GIVEN)},
         "no pixel of the given depth"),
        ({"camera_motion": CameraMotion(np.full((12, 4, 4), np.nan), np.zeros(12, bool), 1, 1, GIVEN)}, "known pose"),
    ],
)  # fmt: skip
def test_what_does_not_belong_to_the_video_is_refused_in_one_sentence(rendered, oracle, observed, sentence):
    with pytest.raises(wl.WorldlineError, match=sentence):
        solve(rendered, settings(), Observations(**observed))


def test_a_lens_that_no_ray_fits_is_said():
    rays = np.full((2, 4), np.nan)
    conditions = asking.Conditions.of(wl.Video(np.zeros((2, 20, 30, 3), np.uint8), np.arange(2.0)), Observations())
    found = asking.camera_of(conditions, rays)
    assert isinstance(found.camera, Camera) and "no lens" in found.note


def test_weights_without_a_commercial_licence_are_refused_and_nothing_is_left(tmp_path, monkeypatch, rendered):
    monkeypatch.setenv("WORLDLINE_WEIGHTS", str(tmp_path / "weights"))
    source = tmp_path / "clip"
    source.mkdir()
    for i in range(2):
        Image.fromarray(rendered.video.frames[i]).save(source / f"{i}.png")
    with pytest.raises(wl.WorldlineError, match="licence of the weights any4d"):
        reconstruct_into(tmp_path / "out", Request(source, "any4d", commercial=True))
    with pytest.raises(wl.WorldlineError, match="not on this machine; worldline weights fetch any4d"):
        reconstruct_into(tmp_path / "out", Request(source, "any4d"))
    assert not (tmp_path / "out").exists()


def test_an_engine_without_weights_is_commercial_anyway(rendered, tmp_path):
    assert _config(Request(tmp_path, "uni4d", commercial=True)) == _config(Request(tmp_path, "uni4d"))
