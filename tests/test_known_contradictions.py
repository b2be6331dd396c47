"""What is right is not accused: a true calibration of a small clip whose movers nobody masked."""

from __future__ import annotations

import numpy as np

from worldline import cues, synthetic
from worldline.cues.rigid_scene import rigid_scene
from worldline.io.video_files import read_video, write_video
from worldline.scene.journal import Journal
from worldline.scene.observations import CameraPrior, KnownLengths, Observations, Source
from worldline.solve import contradictions


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


def _a_length() -> KnownLengths:
    ends = np.array([[[20.5, 100.5], [140.5, 100.5]]])
    return KnownLengths(np.array([0]), ends, np.array([2.775]), np.array([0.03]), Source("test"))
