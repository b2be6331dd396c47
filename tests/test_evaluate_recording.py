"""The folder of a recording as the truth: what it knows is compared, what it does not know is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from test_evaluate_report import elsewhere, true_scene
from worldline.cli.evaluate import compare
from worldline.errors import InputError
from worldline.io.formats import tum
from worldline.run.recorded_truth import recorded_truth
from worldline.scene.scene import Scene
from worldline.scene.store import save


def seven_scenes(folder: Path, scene: Scene, *, depth: bool = True, lens: bool = True) -> Path:
    """A recording of the scene: a pose and a depth image in millimetres beside every frame."""
    folder.mkdir()
    for t in range(len(scene)):
        np.savetxt(folder / f"frame-{t:06d}.pose.txt", scene.world_from_cam[t])
        if depth:
            millimetres = np.where(scene.valid[t], 1000 * scene.depth_z[t], 0).round().astype(np.uint16)
            cv2.imwrite(str(folder / f"frame-{t:06d}.depth.png"), millimetres)
    if lens:
        np.savetxt(folder / "camera-intrinsics.txt", scene.camera.matrix() - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    return folder


@pytest.fixture
def estimate(tmp_path) -> Path:
    scene = elsewhere(true_scene(), 0.5)
    longer = replace(scene.camera, intrinsics=scene.camera.intrinsics * [1.05, 1.05, 1, 1])
    return save(replace(scene, camera=longer), tmp_path / "estimate")


def test_a_folder_with_poses_and_depth_images_is_the_truth(tmp_path, estimate):
    metrics = compare(estimate, seven_scenes(tmp_path / "recording", true_scene())).metrics
    assert metrics["ate_m"] < 1e-6 and metrics["depth_abs_rel_static"] < 1e-3
    assert metrics["focal_error_pct"] == pytest.approx(5, abs=0.01)


def test_what_a_recording_does_not_know_is_left_out(tmp_path, estimate):
    report = compare(estimate, seven_scenes(tmp_path / "recording", true_scene(), depth=False, lens=False))
    assert "ate_m" in report.metrics
    assert not [name for name in report.metrics if name.startswith(("depth", "focal", "mask")) or "moving" in name]


def test_frames_without_a_pose_are_not_compared(tmp_path, estimate):
    folder = seven_scenes(tmp_path / "recording", true_scene())
    np.savetxt(folder / "frame-000002.pose.txt", np.full((4, 4), np.nan))
    assert compare(estimate, folder).frames == (0, 1, 3, 4, 5)


def test_a_trajectory_in_the_folder_is_found(tmp_path, estimate):
    folder = tmp_path / "recording"
    folder.mkdir()
    tum.write(true_scene(), folder / "groundtruth.txt")
    assert compare(estimate, folder).metrics["ate_m"] < 1e-6


def test_a_folder_of_anything_else_is_told_what_would_do(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match="groundtruth"):
        recorded_truth(tmp_path / "pictures", true_scene())
