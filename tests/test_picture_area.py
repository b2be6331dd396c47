"""Where the frames show the world: bars and rims do not, dark things do."""

from __future__ import annotations

import numpy as np

from worldline.cues.picture_area import picture_area
from worldline.cues.tracks import flow as flow_tracks
from worldline.scene.journal import Journal
from worldline.scene.observations import Observations
from worldline.scene.video import Video

H, W, FRAMES = 96, 128, 6


def clip(bar: int) -> Video:
    """Noise that drifts by two pixels per frame, under black bars; a black thing passes in the middle."""
    rng = np.random.default_rng(0)
    wide = rng.integers(60, 255, (H // 4, W, 3)).astype(np.uint8).repeat(4, 0).repeat(2, 1)
    frames = np.stack([wide[:, 2 * t : 2 * t + W] for t in range(FRAMES)])
    frames[:, 40:50, 50:60] = 0
    if bar:
        frames[:, :bar] = rng.integers(0, 6, (FRAMES, bar, W, 3))
        frames[:, -bar:] = 0
    return Video(frames, np.arange(FRAMES) / 25.0)


def test_bars_are_left_out_with_their_margin_and_dark_things_are_not():
    shows = picture_area(clip(12), 3)
    assert not shows[:15].any()
    assert not shows[-15:].any()
    assert shows[15:-15].all()


def test_a_clip_without_bars_shows_the_world_everywhere():
    assert picture_area(clip(0), 3).all()


def test_a_scene_that_goes_dark_for_a_while_has_no_rim():
    video = clip(0)
    video.frames[2] = 0
    assert picture_area(video, 3).all()


def test_no_track_follows_the_edge_of_a_bar():
    tracks = flow_tracks.build(flow_tracks.Config())(clip(16), Observations(), Journal("bars"))
    rows = tracks.uv[..., 1][tracks.visible]
    assert len(rows) > 50
    assert rows.min() > 18
    assert rows.max() < H - 18
