"""The table of a lens says what its inverse says."""

from __future__ import annotations

import numpy as np
import pytest

from worldline.cues import lens_table
from worldline.geometry import camera as exact
from worldline.geometry.camera import Camera

W, H = 160, 120


def grid(count: int) -> np.ndarray:
    uv = np.stack(np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5), -1)
    return np.broadcast_to(uv, (count, H, W, 2)).astype(np.float32)


@pytest.mark.parametrize("distortion", [(), (-0.2, 0.05), (0.23, -0.78, -0.003, -0.0001, 0.9)])
def test_the_table_agrees_with_the_iteration(distortion):
    camera = Camera(np.array([150.0, 152.0, 82.0, 58.0]), W, H, distortion)
    reference = np.array([140.0, 140.0, 80.0, 60.0])
    uv = grid(2)
    wanted = exact.ideal_uv(uv.reshape(2, -1, 2).astype(np.float64), camera, reference).reshape(uv.shape)
    assert np.abs(lens_table.ideal_uv(uv, camera, reference) - wanted).max() < 2e-2


def test_a_lens_that_zooms_has_its_own_focal_length_in_every_frame():
    intrinsics = np.array([[150.0, 150.0, 80.0, 60.0], [190.0, 190.0, 80.0, 60.0]])
    camera = Camera(intrinsics, W, H, (-0.1, 0.02))
    reference = intrinsics[0]
    uv = grid(2)
    wanted = exact.ideal_uv(uv.reshape(2, -1, 2).astype(np.float64), camera, reference).reshape(uv.shape)
    assert np.abs(lens_table.ideal_uv(uv, camera, reference) - wanted).max() < 2e-2


def test_pixels_far_outside_stay_finite():
    camera = Camera(np.array([150.0, 150.0, 80.0, 60.0]), W, H, (-0.3, 0.1))
    far = np.array([[[[-900.0, 40.0], [1e5, -1e5]]]], np.float32)
    assert np.isfinite(lens_table.ideal_uv(far, camera, camera.intrinsics)).all()
