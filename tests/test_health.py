"""Health: a fault in a frame lowers the trust in that frame and is named once; what all frames share is the clip's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest

from worldline import synthetic
from worldline.engines import uni4d
from worldline.engines.uni4d import health, symptoms
from worldline.scene.journal import Journal, pack
from worldline.scene.observations import CameraMotion, Observations, Source
from worldline.scene.scene import Scene
from worldline.synthetic.rendering import Rendered

BAD = 6
CERTAIN = {"centre": np.full(10, 0.1), "focal": np.array(0.01), "outcome": pack({"unmodelled": 0.0})}
UNSURE = {**CERTAIN, "focal": np.array(0.2), "outcome": pack({"unmodelled": 0.05})}


@cache
def world() -> tuple[Rendered, Observations]:
    rendered = synthetic.render(synthetic.tiny_world(seed=2, frames=13))
    return rendered, synthetic.observations(rendered, synthetic.NoiseModel.realistic(), seed=1, step_px=6, every=5)


def solved(change=lambda observed: observed, picture=lambda frames: None) -> Scene:
    """The scene of a clip of which something given, or a picture, is wrong in one frame."""
    rendered, observed = world()
    frames = rendered.video.frames.copy()
    picture(frames)
    video = replace(rendered.video, frames=frames)
    return uni4d.build(uni4d.Config.tiny())(video, change(observed), Journal("health"))


def sliding(observed: Observations) -> Observations:
    uv = observed.tracks.uv.copy()
    uv[BAD, uv[BAD, :, 0] < 50] += [6.0, 3.0]
    return replace(observed, tracks=replace(observed.tracks, uv=uv))


def hidden(observed: Observations) -> Observations:
    visible = observed.tracks.visible.copy()
    visible[BAD, :] &= np.arange(visible.shape[1]) % 60 == 0
    return replace(observed, tracks=replace(observed.tracks, visible=visible))


def masked(value: int):
    def change(observed: Observations) -> Observations:
        ids = observed.moving.ids.copy()
        ids[BAD] = value
        return replace(observed, moving=replace(observed.moving, ids=ids))

    return change


def scaled(observed: Observations) -> Observations:
    depth_z = observed.depth.depth_z.copy()
    depth_z[BAD] *= 1.6
    return replace(observed, depth=replace(observed.depth, depth_z=depth_z))


def accused(observed: Observations) -> Observations:
    """Poses that the cues have compared with the images already."""
    poses, off = world()[0].scene.world_from_cam, np.zeros(13)
    off[BAD] = 40.0
    given = off == 0
    return replace(
        observed,
        camera_motion=CameraMotion(poses, np.ones(13, bool), 0.01, 0.01, Source("test"), True, "", given, off),
    )


def blurred(frames: np.ndarray) -> None:
    frames[BAD] = cv2.GaussianBlur(frames[BAD], (0, 0), 3)


def black(frames: np.ndarray) -> None:
    frames[BAD] = 0


def white(frames: np.ndarray) -> None:
    frames[BAD] = np.minimum(frames[BAD].astype(int) * 4 + 60, 255)


def frozen(frames: np.ndarray) -> None:
    frames[BAD] = frames[BAD - 1]


def noisy(frames: np.ndarray) -> None:
    noise = np.random.default_rng(0).normal(0, 60, frames[BAD].shape)
    frames[BAD] = np.clip(frames[BAD] + noise, 0, 255)


def exchanged(frames: np.ndarray) -> None:
    other = synthetic.render(synthetic.tiny_world(seed=9, kind="outdoor", frames=2))
    frames[BAD] = other.video.frames[0]


def nothing(frames: np.ndarray) -> None:
    pass


def same(observed: Observations) -> Observations:
    return observed


FAULTS = {
    "tracks that slide": (sliding, nothing, "tracks that slide"),
    "tracks that are lost": (hidden, nothing, "tracks"),
    "a mask of everything": (masked(1), nothing, "mask of what moves|few static tracks"),
    "an empty mask": (masked(0), nothing, "mask of what moves"),
    "depth of another scale": (scaled, nothing, "depth map of another scale"),
    "a blurred picture": (same, blurred, "less sharp"),
    "a black picture": (same, black, "black or over-exposed"),
    "an over-exposed picture": (same, white, "black or over-exposed"),
    "a repeated picture": (same, frozen, "the picture of the frame before"),
    "a noisy picture": (same, noisy, "noisier"),
    "a picture of another clip": (same, exchanged, "unlike those before and after"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_lowers_the_trust_in_its_frame_and_is_named_once(fault: str) -> None:
    change, picture, words = FAULTS[fault]
    found = solved(change, picture)
    trust = np.asarray(found.health["trust"])
    assert trust[BAD] < min(np.delete(trust, BAD)) - 0.005
    named = [note for note in found.notes if note.startswith(f"frame {BAD} has ")]
    assert len(named) == 1 and any(part in named[0] for part in words.split("|")), found.notes


def test_a_pose_that_the_images_contradict_lowers_the_trust_in_its_frame() -> None:
    trust = np.asarray(solved(accused).health["trust"])
    assert trust[BAD] < min(np.delete(trust, BAD)) - 0.005


def test_in_a_clean_clip_nothing_is_distrusted() -> None:
    found = solved()
    assert (np.asarray(found.health["trust"]) > 0.9).all()
    assert not [note for note in found.notes if note.startswith(("frame", "most frames"))]


def test_more_of_any_symptom_never_makes_a_frame_better() -> None:
    none = {name: np.zeros(1) for name in health.WEIGHTS}
    for name in health.WEIGHTS:
        assert health.probability({**none, name: np.ones(1)}) < health.probability(none)
    assert health.probability(none) > 0.9


def test_a_doubt_that_all_frames_share_is_said_once_and_of_no_frame() -> None:
    checked = {name: np.zeros(10) for name in health.WEIGHTS} | {"trust": np.full(10, 0.95)}
    said = health.distrusted(checked, UNSURE)
    assert len(said) == 2 and "20 %" in said[0] and "5 %" in said[1]
    assert not health.distrusted(checked, CERTAIN)
    assert "more than 30 %" in health.distrusted(checked, {**UNSURE, "focal": np.array(2.0)})[0]


def test_a_focal_length_that_was_given_is_not_asked_for() -> None:
    checked = {name: np.zeros(10) for name in health.WEIGHTS} | {"trust": np.full(10, 0.95)}
    (focal, _) = health.distrusted(checked, UNSURE, given_focal_sigma=0.12)
    assert "although one was given" in focal and "12 %" in focal and "if you know it" not in focal


def test_frames_with_several_symptoms_are_named_for_one() -> None:
    checked = {name: np.zeros(10) for name in health.WEIGHTS} | {"trust": np.ones(10)}
    checked["few"], checked["lost"], checked["trust"] = np.zeros(10), np.zeros(10), np.ones(10)
    checked["few"][4:6] = checked["lost"][4:6] = 5.0
    checked["trust"][[4, 5, 8]] = 0.1
    assert health.distrusted(checked, CERTAIN) == (
        "frames 4 to 5 have few static tracks to tell the camera from.",
        "frame 8 has an uncertain camera.",
    )


def test_frames_are_named_by_their_runs() -> None:
    frames = np.zeros(100, dtype=bool)
    frames[[3, 40, 41, 42]] = True
    assert health.spans(frames) == "frames 3, 40 to 42"
    frames[[60, 61, 80, 81]] = True
    assert health.spans(frames) == "frames 40 to 42, 60 to 61, 80 to 81 and others"
    assert health.spans(np.ones(9, dtype=bool)) == "most frames"


def test_the_probability_of_a_small_error_is_that_of_normal_errors() -> None:
    errors = np.linalg.norm(np.random.default_rng(0).normal(size=(20_000, 3)) * 0.5, axis=1)
    assert symptoms.within(1.0, np.array([0.5]))[0] == pytest.approx((errors < 1).mean(), abs=0.01)
