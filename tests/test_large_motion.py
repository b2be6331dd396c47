"""Flow between frames that are far apart: two shots of a thing that moved by half its size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from worldline.cues import optical_flow
from worldline.cues.optical_flow import consistent_share, dense_flow
from worldline.scene.journal import Journal
from worldline.scene.video import Video

SHIFT = 130


@pytest.fixture(scope="module")
def pair() -> Video:
    """A finely textured square before a pale wall, in two frames, `SHIFT` pixels apart."""
    rng = np.random.default_rng(0)
    cloth = cv2.GaussianBlur(rng.normal(0, 1, (240, 240)).astype(np.float32), (0, 0), 1.5)
    cloth = 90 + 12 * cloth / cloth.std()
    frames = np.full((2, 360, 480), 200, np.float32) + rng.normal(0, 1, (2, 360, 480))
    for frame, left in zip(frames, (200, 200 - SHIFT), strict=True):
        frame[60:300, left : left + 240] = cloth
    return Video(np.repeat(frames.clip(0, 255).astype(np.uint8)[..., None], 3, -1), np.arange(2.0))


def error_px(video: Video) -> float:
    found = dense_flow(video, Journal("a pair")).between(0, 1)
    return float(np.median(np.linalg.norm(found[80:280, 220:420] - [-SHIFT, 0], axis=-1)))


def test_a_pair_that_does_not_agree_is_matched_again_with_patience(pair, monkeypatch):
    assert error_px(pair) < 1.0
    monkeypatch.setattr(optical_flow, "RESCUED_SHARE", 0.0)
    assert error_px(pair) > 10.0


def test_flow_and_its_inverse_are_consistent_and_noise_is_not():
    there = np.full((64, 64, 2), 3.0, np.float32)
    assert consistent_share(there, -there) == 1.0
    assert consistent_share(there, there) == 0.0
    assert consistent_share(there + 1e4, -there) == 0.0
