"""What is right is not accused: a true calibration of a small clip whose movers nobody masked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldline import cues, synthetic
from worldline.cues.rigid_scene import rigid_scene
from worldline.io.video_files import read_video, write_video
from worldline.scene.journal import Journal
from worldline.scene.observations import CameraPrior, KnownLengths, Observations, Source
from worldline.solve import contradictions
from worldline.solve.known_lengths import LengthScale, scale_from


def test_a_true_focal_length_is_not_said_to_contradict_the_images(tmp_path):
    world = synthetic.build("room", "handheld", seed=1, frames=10, size=(160, 120), fps=10.0, travel_m=0.5)
    rendered = synthetic.render(world)
    write_video(tmp_path / "clip.mp4", rendered.video.frames, fps=10.0)
    video = read_video(tmp_path / "clip.mp4")
    camera = CameraPrior(rendered.scene.camera, 0.005, Source("test"))
    given = Observations(camera=camera, lengths=_a_length())
    observed = cues.observe(video, needs=("tracks",), given=given, quality="fast", journal=Journal("in memory"))
    scene = rigid_scene(video, observed, Journal("in memory"))
    assert not any("focal length" in note for note in scene.notes), scene.notes


def test_a_length_that_the_scene_will_measure_again_is_not_told_twice():
    told = ("the known length of 3 m in frame 0 measures 2 m by the other lengths; check it.", "another thing.")
    assert contradictions.but_lengths(told) == ("another thing.",)


def _measured(*metres: float) -> tuple[KnownLengths, LengthScale]:
    """Lengths of what truly is 1 m each, in a scene that is to be doubled."""
    count = len(metres)
    lengths = KnownLengths(
        np.arange(count), np.zeros((count, 2, 2)), np.array(metres), np.full(count, 0.01), Source("test")
    )
    uv = np.tile(np.array([[[0.0, 50.0], [50.0, 50.0]]]), (count, 1, 1))
    scale = scale_from(lengths, uv, np.ones((count, 2)), np.full((count, 2), 0.005), np.array([100.0, 100, 50, 50]))
    assert scale is not None
    return lengths, scale


def test_of_several_lengths_the_odd_one_is_named_and_does_not_count():
    lengths, scale = _measured(1.0, 1.01, 1.5, 0.99)
    (note,) = contradictions.about_lengths(lengths, scale)
    assert "1.5 m in frame 2 measures 1 m by the other lengths" in note
    assert np.exp(scale.log_scale) == pytest.approx(2.0, rel=0.01)


def test_of_two_lengths_that_contradict_each_other_none_is_called_the_odd_one():
    (note,) = contradictions.about_lengths(*_measured(1.0, 1.4))
    assert "contradict each other" in note and "by the first the second measures 1 m" in note
    assert not contradictions.about_lengths(*_measured(1.0, 1.01))


def test_a_length_counts_by_its_uncertainty():
    lengths, _ = _measured(1.0, 1.05)
    uv = np.tile(np.array([[[0.0, 50.0], [50.0, 50.0]]]), (2, 1, 1))
    unsure = replace(lengths, sigma_m=np.array([0.001, 0.1]))
    scale = scale_from(unsure, uv, np.ones((2, 2)), np.full((2, 2), 0.001), np.array([100.0, 100, 50, 50]))
    assert scale is not None and np.exp(scale.log_scale) == pytest.approx(2.0, rel=0.002)
    assert not contradictions.about_lengths(unsure, scale)


def _a_length() -> KnownLengths:
    ends = np.array([[[20.5, 100.5], [140.5, 100.5]]])
    return KnownLengths(np.array([0]), ends, np.array([2.775]), np.array([0.03]), Source("test"))
