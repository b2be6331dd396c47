"""A scene made consistent with its own images: better where it can be, never worse, and told what was undone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline import synthetic
from worldline.cli import main
from worldline.errors import InputError
from worldline.evaluate.correspondence import paired_frames, static_alignment
from worldline.evaluate.paths import path_scores
from worldline.evaluate.report import evaluate
from worldline.run.refine import refine
from worldline.run.refining.depth_fields import FieldSettings, fit_field
from worldline.run.refining.joint_cameras import CameraSettings, Solved, in_gauge
from worldline.run.refining.judging import compared
from worldline.run.refining.sightings import gathered, projected
from worldline.scene.observations import Observations, PixelTracks
from worldline.scene.scene import Scene
from worldline.scene.store import load, save
from worldline.scene.video import Video
from worldline.synthetic.network_scene import NetworkNoise, network_scene
from worldline.synthetic.rendering import Rendered

FRAMES, SIZE = 12, (160, 120)
SCALE = 1.3
GOOD = replace(NetworkNoise.good(), scale=SCALE)
"""A good network that is wrong about how long a metre is."""


@cache
def rendered(path: str = "handheld", kind: str = "room") -> Rendered:
    world = synthetic.build(kind, path, seed=1, frames=FRAMES, size=SIZE, travel_m=0.8)
    return synthetic.render(world, synthetic.Quality(antialias=False, track_step_px=10))


@cache
def seen(path: str = "handheld", kind: str = "room") -> PixelTracks:
    noise = synthetic.NoiseModel(track_px=0.25, track_drift_px=0.03, track_outliers=0.02)
    tracks = synthetic.observations(rendered(path, kind), noise, step_px=8).tracks
    assert tracks is not None
    return tracks


@cache
def start(noise: NetworkNoise, path: str = "handheld", kind: str = "room") -> Scene:
    return network_scene(rendered(path, kind), noise)


@cache
def better(noise: NetworkNoise, path: str = "handheld", kind: str = "room") -> Scene:
    return refine(start(noise, path, kind), Observations(tracks=seen(path, kind)))


def slipping(px_per_frame: float, *, movers_only: bool) -> PixelTracks:
    """Tracks that all slide alike over what they are on."""
    tracks, scene = seen(), rendered().scene
    uv = np.clip(tracks.uv[tracks.query_frame, np.arange(tracks.uv.shape[1])], 0, np.array(SIZE) - 1).astype(int)
    moves = scene.moving[tracks.query_frame, uv[:, 1], uv[:, 0]] > 0
    age = np.arange(FRAMES)[:, None] - tracks.query_frame
    slip = px_per_frame * age * (moves if movers_only else 1)
    return replace(tracks, uv=(tracks.uv + slip[..., None] * np.array([0.8, 0.6])).astype(np.float32))


def ate(scene: Scene) -> float:
    return path_scores(scene.world_from_cam, rendered().scene.world_from_cam).ate_m


def depth_error(scene: Scene) -> float:
    return evaluate(scene, rendered().scene).metrics["depth_abs_rel"]


def point_error(scene: Scene, *, moving: bool) -> float:
    true = rendered().scene
    found = static_alignment(scene, true, paired_frames(scene.times_s, true.times_s), kind="sim3")
    off = np.linalg.norm(found.apply(scene.tracks.points_world.astype(float)) - true.tracks.points_world, axis=-1)
    return float(off[true.tracks.visible & (true.tracks.moving == moving)].mean())


def outcome(scene: Scene, name: str) -> dict:
    """What the last step of that name came to."""
    return dict([step for step in scene.history if step.name == name][-1].outcome)


def same_bits(a: Scene, b: Scene) -> bool:
    arrays = [(a.world_from_cam, b.world_from_cam), (a.depth_z, b.depth_z), (a.depth_sigma, b.depth_sigma)]
    arrays.append((a.tracks.points_world, b.tracks.points_world))
    return all(np.array_equal(x, y, equal_nan=True) for x, y in arrays) and a.camera is b.camera


def test_a_perfect_scene_keeps_every_bit_and_says_why():
    after = better(NetworkNoise())
    assert same_bits(after, start(NetworkNoise()))
    steps = [step for step in after.history if step.name.startswith("refine ") and step.name != "refine jointly"]
    assert len(steps) >= 4
    assert all(step.outcome["kept"] == "start" and step.outcome["why"] for step in steps)


def test_a_network_s_scene_gets_better_cameras_depth_and_tracks():
    before, after = start(GOOD), better(GOOD)
    assert ate(after) < 0.3 * ate(before)
    assert depth_error(after) < 0.7 * depth_error(before)
    assert point_error(after, moving=True) < 0.9 * point_error(before, moving=True)
    assert point_error(after, moving=False) < 0.8 * point_error(before, moving=False)
    assert outcome(after, "refine cameras")["kept"] == "result"
    assert after.camera_sigma is not None and np.median(after.camera_sigma.centre) < 0.02


def test_good_cameras_are_left_alone_under_bad_depth():
    noise = NetworkNoise(depth_smooth=0.08, depth_window=0.05)
    after = better(noise)
    assert np.array_equal(after.world_from_cam, start(noise).world_from_cam)
    assert outcome(after, "refine cameras")["kept"] == "start"
    assert depth_error(after) < 0.5 * depth_error(start(noise))


def test_good_depth_is_left_alone_under_bad_cameras():
    noise = NetworkNoise(centre=0.015, rotation_rad=0.008)
    after = better(noise)
    assert ate(after) < 0.2 * ate(start(noise))
    assert np.array_equal(after.depth_z, start(noise).depth_z) and outcome(after, "refine depth")["kept"] == "start"


def test_one_bad_frame_is_mended_and_the_others_keep_their_cameras():
    noise = NetworkNoise(centre=0.0006, rotation_rad=0.0002, bad_frame=30.0)
    before, after = start(noise), better(noise)
    changed = np.flatnonzero((before.world_from_cam != after.world_from_cam).any((1, 2)))
    assert outcome(after, "refine cameras")["frames"] == changed.tolist() and len(changed) == 1
    assert ate(after) < 0.5 * ate(before)


def test_a_camera_that_only_turns_tells_nothing_of_depth():
    before, after = start(GOOD, "rotate"), better(GOOD, "rotate")
    assert np.array_equal(after.depth_z, before.depth_z) and outcome(after, "refine depth")["kept"] == "start"
    assert np.ptp(after.centres_world, axis=0).max() < 0.3 * np.ptp(before.centres_world, axis=0).max()


def test_tracks_that_slip_over_movers_are_undone_and_recorded():
    before = start(NetworkNoise())
    after = refine(before, Observations(tracks=slipping(0.5, movers_only=True)))
    assert same_bits(before, after)
    told = outcome(after, "refine moving tracks")
    assert told["kept"] == "start" and told["why"]


def test_tracks_that_slip_everywhere_are_set_aside_and_told():
    before = start(NetworkNoise())
    after = refine(before, Observations(tracks=slipping(0.15, movers_only=False)))
    first = next(step for step in after.history if step.name == "refine jointly")
    assert first.outcome["kept"] == "start" and first.outcome["slip_px"] > 0.45
    assert any("slide over the images" in note for note in after.notes)
    assert same_bits(before, after)


def test_a_wrong_metric_scale_is_nothing_that_images_can_change():
    before, after = start(GOOD), better(GOOD)
    assert after.metric and after.metric_source == before.metric_source
    assert np.median(np.asarray(after.depth_z) / before.depth_z) == pytest.approx(1, abs=0.01)
    reach = [np.linalg.norm(np.ptp(s.centres_world, axis=0)) for s in (after, rendered().scene)]
    assert reach[0] / reach[1] == pytest.approx(SCALE, rel=0.08)


def test_without_images_and_sightings_the_scene_is_as_it_was_and_says_what_it_lacks():
    before = replace(start(GOOD), image=None)
    after = refine(before)
    assert same_bits(before, after) and any("give its video" in note for note in after.notes)


def test_tracks_that_are_only_the_scene_s_own_are_no_evidence():
    before = replace(start(GOOD), image=None)
    own = np.where(before.tracks.visible[..., None], 0, np.nan)
    uv = (projected(before, before.tracks)[0] + own).astype(np.float32)
    blind = replace(before, tracks=replace(before.tracks, uv=uv))
    assert gathered(blind, None, None) is None
    assert gathered(replace(blind, tracks=replace(blind.tracks, uv=uv + 0.5)), None, None) is not None


def test_a_video_of_another_length_is_refused():
    frames = rendered().video.frames
    with pytest.raises(InputError, match="11 frames, the scene 12"):
        refine(start(NetworkNoise()), video=Video(frames[1:], rendered().video.times_s[1:]))


def test_the_images_of_the_scene_are_enough_for_the_verb(capsys, tmp_path):
    folder = save(start(GOOD), tmp_path / "scene")
    code = main(["refine", str(folder), "-o", str(tmp_path / "out"), "--by-itself", "--no-page", "--quiet"])
    assert code == 0 and capsys.readouterr().err == ""
    after = load(tmp_path / "out")
    assert outcome(after, "refine jointly")["sightings"] == "tracks/flow"
    assert ate(after) < 0.6 * ate(start(GOOD)) and depth_error(after) < 1.02 * depth_error(start(GOOD))


@given(st.integers(0, 10_000), st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_noise_alone_is_not_called_better(seed: int, size: float):
    random = np.random.default_rng(seed)
    block = np.repeat(np.arange(24), 20)
    before = size * np.abs(random.normal(size=480))
    after = (
        random.permutation(before.reshape(24, 20).T).T.ravel() if seed % 2 else size * np.abs(random.normal(size=480))
    )
    assert not compared(before, after, block).better(sigmas=5.0)


@given(st.integers(0, 10_000), st.floats(0.2, 0.8))
@settings(max_examples=30, deadline=None)
def test_what_helps_everywhere_is_called_better_and_the_reverse_worse(seed: int, factor: float):
    random = np.random.default_rng(seed)
    before, block = 0.5 + random.random(480), np.repeat(np.arange(24), 20)
    assert compared(before, factor * before, block).better() and compared(factor * before, before, block).worse()


def test_one_block_that_gains_a_lot_does_not_speak_for_all():
    before, block = np.ones(480), np.repeat(np.arange(24), 20)
    after = np.where(block == 3, 0.0, 1.001)
    assert after.mean() < before.mean() and not compared(before, after, block).better()


def test_a_field_is_found_where_points_are_and_not_trusted_elsewhere():
    random = np.random.default_rng(0)
    frame, place = random.integers(0, 8, 4000), random.random((4000, 2)) * [0.5, 1.0]
    true = 0.05 * np.cos(2 * np.pi * place[:, 1]) + 0.03
    field = fit_field(frame, place, true + 0.01 * random.normal(size=4000), np.full(4000, 0.01), 8, FieldSettings())
    assert np.abs(field.at(frame, place) - true).max() < 0.02
    trust = field.trust(4, 60, 80)
    assert trust[:, 2:38].min() > 0.95 and trust[:, 70:].mean() < 0.7


def test_the_gauge_is_that_of_the_start_even_if_a_frame_of_it_is_bad():
    true = rendered().scene.world_from_cam
    bent = true.copy()
    bent[5, :3, 3] += 0.5
    half = true.copy()
    half[:, :3, 3] = 0.9 * true[:, :3, 3] + [1.0, 2.0, 3.0]
    solved = Solved(half, 100.0, np.arange(1), np.zeros((1, 3)), np.zeros(1))
    fitted = in_gauge(bent, solved, CameraSettings()).world_from_cam
    off = np.linalg.norm(fitted[:, :3, 3] - true[:, :3, 3], axis=1)
    assert off.max() < 0.06
