"""Dense flow, patches and tracks: against warps and worlds whose motion is known exactly."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline import synthetic
from worldline.cues import followed, following, neighbour_motion, optical_flow, patches, seeds, several_steps
from worldline.cues.optical_flow import DenseFlow, dense_flow
from worldline.cues.tracks import flow as flow_tracks
from worldline.errors import InputError
from worldline.geometry import pixels
from worldline.scene.journal import Journal
from worldline.scene.observations import Observations, PixelTracks
from worldline.scene.video import Video

HEIGHT, WIDTH = 96, 128


def sparse() -> flow_tracks.Config:
    """Few tracks."""
    return flow_tracks.Config(seeding=seeds.Config(live=300))


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random grey image, contrast about 40 levels, float32."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    fine, coarse = cv2.GaussianBlur(noise, (0, 0), 1.5), cv2.GaussianBlur(noise, (0, 0), 6)
    return 128 + 25 * fine / fine.std() + 25 * coarse / coarse.std()


def view(image: np.ndarray, linear: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The image whose pixel at uv shows `image` at linear @ uv + offset."""
    uv = pixels.centres(HEIGHT, WIDTH).numpy().astype(np.float64)
    return optical_flow.sample(image, (uv @ linear.T + offset).astype(np.float32), cubic=True)


def turning_clip(frames: int = 24) -> tuple[Video, list[tuple[np.ndarray, np.ndarray]]]:
    """A plane seen by a camera that turns, approaches and slides, and world_from_frame maps as (linear, offset)."""
    wall = texture(HEIGHT + 80, WIDTH + 80)
    middle, maps, images = np.array([WIDTH, HEIGHT]) / 2, [], []
    for t in range(frames):
        turn, scale = np.radians(0.5 * t), 1.0 - 0.006 * t
        linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        offset = middle + 40 - linear @ middle + [0.9 * t - 0.02 * t**2, 0.35 * t]
        maps.append((linear, offset))
        images.append(view(wall, linear, offset))
    grey = np.clip(np.stack(images) + np.random.default_rng(1).normal(size=(frames, HEIGHT, WIDTH)), 0, 255)
    return Video(np.repeat(grey.round().astype(np.uint8)[..., None], 3, -1), np.arange(frames) / 25.0), maps


def carried(maps: list[tuple[np.ndarray, np.ndarray]], uv: np.ndarray, source: np.ndarray, target: int) -> np.ndarray:
    """Where points of their source frames are in the target frame."""
    linear, offset = (np.stack([m[i] for m in maps]) for i in (0, 1))
    wall = np.einsum("nij,nj->ni", linear[source], uv) + offset[source]
    return (wall - offset[target]) @ np.linalg.inv(linear[target]).T


@pytest.fixture(scope="module")
def turning() -> tuple[Video, list[tuple[np.ndarray, np.ndarray]], DenseFlow, PixelTracks]:
    video, maps = turning_clip()
    flow = dense_flow(video, Journal("turning"))
    return video, maps, flow, flow_tracks.track_grid(video, (flow,), sparse())


def errors(tracks: PixelTracks, maps: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Distance to the truth (T, N) in pixels, NaN where not visible."""
    start = tracks.uv[tracks.query_frame, np.arange(tracks.uv.shape[1])].astype(np.float64)
    truth = np.stack([carried(maps, start, tracks.query_frame, t) for t in range(len(maps))])
    return np.where(tracks.visible, np.linalg.norm(tracks.uv - truth, axis=-1), np.nan)


def test_flow_is_right_to_a_tenth_of_a_pixel_in_both_directions(turning):
    video, maps, flow, _ = turning
    uv = pixels.centres(HEIGHT, WIDTH).numpy()[12:-12, 12:-12].reshape(-1, 2).astype(np.float64)
    for source, target in ((4, 5), (5, 4)):
        found = flow.between(source, target)[12:-12, 12:-12].reshape(-1, 2)
        true = carried(maps, uv, np.full(len(uv), source), target) - uv
        assert np.median(np.linalg.norm(found - true, axis=-1)) < 0.1


def test_flow_that_leaves_the_image_disagrees_infinitely():
    there = np.full((20, 30, 2), (4.0, 0.0), np.float32)
    gap = optical_flow.disagreement_px(there, -there)
    assert np.isinf(gap[:, -4:]).all()
    np.testing.assert_allclose(gap[:, :-4], 0.0, atol=1e-5)


def test_flow_into_a_hidden_place_disagrees():
    there, back = np.zeros((20, 30, 2), np.float32), np.zeros((20, 30, 2), np.float32)
    back[:, 15:, 0] = 3.0
    np.testing.assert_allclose(optical_flow.disagreement_px(there, back)[:, [5, 25]], [[0.0, 3.0]] * 20, atol=1e-5)


def test_flow_is_computed_once_per_journal(turning):
    video = Video(turning[0].frames[:3], np.arange(3.0))
    journal = Journal("once")
    first, again = (dense_flow(video, journal) for _ in range(2))
    assert [t.resumed for t in journal.times] == [False, True]
    assert np.array_equal(first.forward, again.forward)


def test_flow_of_a_long_image_is_stored_smaller_but_told_in_its_pixels(turning):
    video, maps, full, _ = turning
    small = dense_flow(Video(video.frames[:2], np.arange(2.0)), Journal("s"), config=optical_flow.Config(max_side=64))
    assert small.forward.shape == (1, 48, 64, 2)
    gap = small.between(0, 1) - full.between(0, 1)
    assert np.median(np.linalg.norm(gap, axis=-1)[12:-12, 12:-12]) < 0.25


def test_flow_of_a_long_clip_keeps_to_its_memory_and_its_meaning(turning):
    video, _, full, _ = turning
    config = optical_flow.Config(stored_bytes=23 * HEIGHT * WIDTH * 8 // 4)
    small = dense_flow(video, Journal("long"), config=config)
    assert small.forward.nbytes + small.backward.nbytes <= config.stored_bytes
    gap = small.between(11, 10) - full.between(11, 10)
    assert np.median(np.linalg.norm(gap, axis=-1)) < 0.05


@pytest.mark.parametrize("pair", [(0, 2), (3, 3), (-1, 0), (23, 24)])
def test_flow_between_other_frames_is_refused(turning, pair):
    with pytest.raises(InputError, match="no flow from frame"):
        turning[2].between(*pair)


@pytest.mark.parametrize(("shape", "said"), [((1, 40, 40, 3), "none 1 apart"), ((3, 8, 40, 3), "too small")])
def test_clips_without_flow_are_refused(shape, said):
    with pytest.raises(InputError, match=said):
        dense_flow(Video(np.zeros(shape, np.uint8), np.arange(float(shape[0]))), Journal("short"))


@settings(max_examples=25, deadline=None)
@given(
    shift=st.tuples(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)),
    turn=st.floats(-0.15, 0.15),
    scale=st.floats(0.88, 1.12),
    gain=st.floats(0.7, 1.4),
    bias=st.floats(-20, 20),
)
def test_patches_are_found_again_despite_turn_scale_gain_and_bias(shift, turn, scale, gain, bias):
    config = patches.Config()
    wall = texture(HEIGHT, WIDTH, seed=3)
    middle = np.array([WIDTH, HEIGHT]) / 2
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    seen = gain * view(wall, linear, middle - linear @ (middle + shift)) + bias
    start = (middle + np.random.default_rng(0).uniform(-12, 12, (20, 2))).astype(np.float32)
    true = (start - middle) @ np.linalg.inv(linear).T + middle + shift
    templates = patches.cut(patches.smoothed(wall, config), start, config)
    turned = np.tile(np.linalg.inv(linear), (20, 1, 1))
    found = patches.align(patches.smoothed(seen, config), templates, (true - shift), turned, config)
    assert np.quantile(np.linalg.norm(found.uv - true, axis=-1), 0.8) < 0.08
    assert np.median(found.likeness) > 0.98


def test_a_patch_without_texture_knows_that_it_is_lost():
    image = np.full((40, 40), 100.0, np.float32)
    image[:, 20:] = 200.0
    spots = np.array([[8.0, 20.0], [20.0, 20.0]], np.float32)
    flat, edge = patches.texture_sigma_px(patches.cut(image, spots, patches.Config()), noise=2.0)
    assert flat > 5
    assert edge > 5


def test_tracks_do_not_drift(turning):
    _, maps, _, tracks = turning
    away = np.abs(np.arange(len(maps))[:, None] - tracks.query_frame)
    e = errors(tracks, maps)
    assert np.nanmedian(e[(away >= 15)]) < 0.1
    assert np.nanquantile(e[away > 0], 0.95) < 0.4


def test_the_template_beats_the_chain_it_corrects(turning):
    video, maps, flow, tracks = turning
    chain_only = replace(sparse(), following=following.Config(trusted_likeness=2.0, patience=1000))
    chained = flow_tracks.track_grid(video, (flow,), chain_only)

    def far(t: PixelTracks) -> float:
        away = np.abs(np.arange(len(maps))[:, None] - t.query_frame)
        return float(np.nanmedian(errors(t, maps)[away >= 15]))

    assert far(tracks) < 0.5 * far(chained)


def test_sigmas_match_the_errors(turning):
    _, maps, _, tracks = turning
    away = np.abs(np.arange(len(maps))[:, None] - tracks.query_frame)
    used = tracks.visible & (away > 0)
    per_axis = np.median(errors(tracks, maps)[used] / tracks.sigma_px[used]) / 1.177
    assert 0.4 < per_axis < 2.0


def test_tracks_run_both_ways_and_new_ground_is_seeded(turning):
    _, _, _, tracks = turning
    assert set(tracks.query_frame) == {0, 10, 20, 23}
    late = tracks.query_frame == 20
    assert tracks.visible[:20, late].any(0).mean() > 0.5
    assert tracks.visible[tracks.query_frame, np.arange(tracks.visible.shape[1])].all()
    assert (tracks.query_frame == 0).sum() > 2 * late.sum()


def test_tracks_stay_in_the_image(turning):
    _, _, _, tracks = turning
    inside = (tracks.uv >= 0) & (tracks.uv <= [WIDTH, HEIGHT])
    assert inside.all(-1)[tracks.visible].all()


def test_tracks_end_behind_an_occluder():
    wall, card = texture(HEIGHT, WIDTH, 5), texture(60, 30, 6) + 20
    frames = np.repeat(wall[None], 16, 0)
    for t in range(16):
        frames[t, 20:80, 5 + 4 * t : 35 + 4 * t] = card
    video = Video(np.repeat(frames.clip(0, 255).astype(np.uint8)[..., None], 3, -1), np.arange(16.0))
    flow = dense_flow(video, Journal("card"))
    rows, columns = np.mgrid[28:72:6, 62:92:6]
    uv = np.stack([columns.ravel(), rows.ravel()], -1) + 0.5
    tracks = flow_tracks.track_points(video, (flow,), uv, np.zeros(len(uv), int))
    covered = uv[:, 0] < 35 + 4 * np.arange(16)[:, None] - 1
    assert tracks.visible[0].all()
    assert tracks.visible[covered].mean() < 0.1
    still = ~covered & (uv[:, 0] > 35 + 4 * np.arange(16)[:, None] + 6)
    assert tracks.visible[still].mean() > 0.9


def passing_card(frames: int = 16) -> tuple[Video, np.ndarray, np.ndarray]:
    """A narrow card passing before a wall that slides; uv of points of the wall; where it hides them (T, N)."""
    wall, card = texture(HEIGHT, WIDTH + 40, 5), texture(60, 12, 6) + 20
    images, rows, columns = [], *np.mgrid[28:72:6, 60:90:6]
    uv = np.stack([columns.ravel(), rows.ravel()], -1) + 0.5
    hidden = np.zeros((frames, len(uv)), bool)
    for t in range(frames):
        image = wall[:, t : t + WIDTH].copy()
        image[20:80, 30 + 5 * t : 42 + 5 * t] = card
        images.append(image)
        at = uv[:, 0] - t
        hidden[t] = (at > 30 + 5 * t) & (at < 42 + 5 * t)
    grey = np.stack(images).clip(0, 255).astype(np.uint8)
    return Video(np.repeat(grey[..., None], 3, -1), np.arange(float(frames))), uv, hidden


def test_points_are_found_again_behind_what_passes_before_them():
    video, uv, hidden = passing_card()
    tracks = flow_tracks.track_points(video, (dense_flow(video, Journal("pass")),), uv, np.zeros(len(uv), int))
    away = np.linalg.norm(tracks.uv - (uv - np.arange(16)[:, None, None] * [1, 0]), axis=-1)
    behind = ~hidden[-1] & hidden.any(0) & (uv[:, 0] - 15 < 30 + 75 - 8)
    assert behind.sum() > 20
    assert tracks.visible[-1, behind].mean() > 0.6
    assert np.median(away[-1, behind]) < 0.1
    assert tracks.visible[hidden].mean() < 0.1
    assert np.median(away[hidden]) < 1.5
    assert np.median(tracks.sigma_px[hidden]) > np.median(tracks.sigma_px[tracks.visible & (tracks.sigma_px > 0)])


def blinded_clip(frames: int = 12, dark: range = range(4, 9)) -> tuple[Video, np.ndarray]:
    """A wall that slides by a pixel a frame, all of it covered by something else for a while; uv of points of it."""
    wall = texture(HEIGHT, WIDTH + 40, 5)
    grey = np.stack([texture(HEIGHT, WIDTH, 50 + t) if t in dark else wall[:, t : t + WIDTH] for t in range(frames)])
    rows, columns = np.mgrid[28:72:6, 40:100:6]
    uv = np.stack([columns.ravel(), rows.ravel()], -1) + 0.5
    return Video(np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, -1), np.arange(float(frames))), uv


def test_longer_steps_lead_over_frames_in_which_nothing_is_seen():
    video, uv = blinded_clip()
    near = flow_tracks.Config(longer_steps=())
    unsearched = replace(following.Config(), reappearance=replace(following.Config().reappearance, search_px=1))
    settings = [replace(near, following=unsearched), replace(near, following=unsearched, longer_steps=(6,))]
    after = np.arange(9, 12)
    found = []
    for config in settings:
        flows = flow_tracks.flows_of(video, Journal("dark"), config)
        tracks = flow_tracks.track_points(video, flows, uv, np.zeros(len(uv), int), config)
        right = np.linalg.norm(tracks.uv[after] - (uv - after[:, None, None] * [1, 0]), axis=-1) < 0.5
        found.append((tracks.visible[after] & right).mean())
        assert tracks.visible[4:9].mean() < 0.1
    assert found[1] > 0.8
    assert found[0] < 0.5 * found[1]


def started_points(image: np.ndarray, past: int) -> followed.Followed:
    uv = np.array([[40.0, 40.0], [60.0, 50.0]], np.float32)
    config = patches.Config()
    return followed.started(image, 0, uv, np.arange(2), config, neighbour_motion.Config(), past)


def test_places_of_the_past_move_on_by_a_frame_and_hidden_ones_are_none():
    points = started_points(texture(HEIGHT, WIDTH), past=2)
    once = followed.remembering(replace(points, hidden=np.array([0, 1])))
    twice = followed.remembering(replace(once, uv=once.uv + 1, hidden=np.array([0, 0])))
    np.testing.assert_array_equal(twice.past_uv[:, 1], points.uv)
    np.testing.assert_array_equal(twice.past_uv[:, 0], points.uv + 1)
    assert np.isfinite(twice.past_sigma_px).tolist() == [[True, True], [True, False]]


def test_of_two_ways_to_a_frame_the_one_that_returns_and_looks_right_is_taken():
    image = patches.smoothed(texture(HEIGHT, WIDTH), patches.Config())
    points = followed.remembering(followed.remembering(started_points(image, past=2)))
    still, right = np.zeros((HEIGHT, WIDTH, 2), np.float32), np.full((HEIGHT, WIDTH, 2), (0.6, 0.0), np.float32)
    settings = several_steps.Config(), patches.Config()
    returns, misses = several_steps.Step(2, still, still), several_steps.Step(1, right, still)
    chosen = several_steps.most_certain(points, image, (misses, returns), *settings)
    np.testing.assert_allclose(chosen.uv, points.uv)
    wrong_but_sure = several_steps.Step(1, right, -right)
    chosen = several_steps.most_certain(points, image, (wrong_but_sure, returns), *settings)
    np.testing.assert_allclose(chosen.uv, points.uv)


def test_no_way_leads_from_where_a_point_was_not_seen():
    image = texture(HEIGHT, WIDTH)
    points = followed.remembering(started_points(image, past=2))
    still = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    ways = [several_steps.ahead(points, several_steps.Step(k, still, still), several_steps.Config()) for k in (1, 2)]
    assert [w.consistent.all() for w in ways] == [True, False]


def test_a_misfit_is_about_the_shift_that_causes_it():
    config = patches.Config()
    image = patches.smoothed(texture(HEIGHT, WIDTH, 3), config)
    uv = np.random.default_rng(0).uniform(20, 70, (50, 2)).astype(np.float32)
    templates, linear = patches.cut(image, uv, config), np.tile(np.eye(2, dtype=np.float32), (50, 1, 1))
    at = [patches.misfit_px(image, templates, uv + [d, 0], linear, config) for d in (0.0, 0.5)]
    assert at[0].max() == 0
    assert np.median(at[1]) > 0.3


def test_no_track_starts_without_texture_or_at_a_jump_of_the_flow():
    image = texture(HEIGHT, WIDTH, 2)
    image[:, :64] = 100.0
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[48:, :, 0] = 5.0
    config = seeds.Config(live=200, start_sigma_px=0.1)
    uv = seeds.grid_seeds(image, flow, np.zeros((0, 2), np.float32), config, patches.Config())
    assert len(uv) > 40
    assert (uv[:, 0] > 60).all()
    assert (np.abs(uv[:, 1] - 48) < 3).mean() < 0.02


def test_covered_cells_get_no_second_track():
    image, flow = texture(HEIGHT, WIDTH, 2), np.zeros((HEIGHT, WIDTH, 2), np.float32)
    settings = seeds.Config(live=200), patches.Config()
    first = seeds.grid_seeds(image, flow, np.zeros((0, 2), np.float32), *settings)
    assert len(seeds.grid_seeds(image, flow, first, *settings)) == 0
    right = first[first[:, 0] > 64]
    again = seeds.grid_seeds(image, flow, right, *settings)
    assert len(again) == len(first) - len(right)


def test_too_many_tracks_are_thinned_from_the_short_end_everywhere(turning):
    video, _, flow, full = turning
    few = flow_tracks.track_grid(video, (flow,), replace(sparse(), most=100))
    assert 80 <= few.visible.shape[1] <= 104
    assert set(few.query_frame) >= {0, 10, 20}
    assert few.visible.sum(0).mean() > full.visible.sum(0).mean()
    assert full.visible.sum(0).min() >= flow_tracks.Config().shortest


@pytest.mark.parametrize("kind", ["room", "outdoor"])
def test_tracks_in_a_world_with_movers_are_where_the_truth_is(kind):
    world = synthetic.tiny_world(1, kind=kind, frames=8, width=160, height=112)
    cue = flow_tracks.build(sparse())
    tracks = cue(synthetic.render(world).video, Observations(), Journal("world"))
    start = tracks.uv[tracks.query_frame, np.arange(tracks.uv.shape[1])].astype(np.float64)
    truth = synthetic.pixel_tracks(world, start, tracks.query_frame)
    both = tracks.visible & truth.visible
    both[tracks.query_frame, np.arange(len(start))] = False
    gap = np.linalg.norm(tracks.uv - truth.uv, axis=-1)[both]
    assert both.sum() > 500
    assert np.median(gap) < 0.15
    assert (gap > 3).mean() < 0.04


def test_a_cut_is_said_where_it_is_and_a_whole_clip_has_none(turning):
    whole, *_ = turning
    other = np.random.default_rng(3).integers(0, 255, (1, HEIGHT, WIDTH, 3)).astype(np.uint8)
    cut = Video(np.concatenate([whole.frames[:8], np.repeat(other, 8, 0)]), np.arange(16) / 25.0)
    cue = flow_tracks.build(flow_tracks.Config())
    assert cue(whole, Observations(), Journal("whole")).source.notes == ()
    notes = cue(cut, Observations(), Journal("cut")).source.notes
    assert len(notes) == 1 and "from 0.28 s to 0.32 s" in notes[0]
