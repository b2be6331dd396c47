"""Two scenes side by side: equal ones do not differ, worlds and units do not count, the frame that differs is found."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from test_evaluate_report import elsewhere, true_scene
from worldline.cli import main
from worldline.errors import InputError
from worldline.evaluate.calibration import PERFECT
from worldline.run.compare import compare
from worldline.scene.store import save

DIFFERENCES = (
    "path_ate_pct",
    "rpe_r_deg",
    "focal_difference_pct",
    "depth_difference_pct",
    "track_difference_static_pct",
)


def test_a_scene_does_not_differ_from_itself():
    found = compare(true_scene(), true_scene()).metrics
    assert found["mask_j"] == 1 and found["path_scale"] == pytest.approx(1) and found["depth_scale"] == pytest.approx(1)
    for name in DIFFERENCES:
        assert abs(found[name]) < 1e-3, name


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_another_world_and_unit_do_not_count_but_are_told(scale):
    found = compare(elsewhere(true_scene(), scale), true_scene())
    assert found.metrics["path_scale"] == pytest.approx(1 / scale)
    assert found.metrics["depth_scale"] == pytest.approx(1 / scale)
    for name in DIFFERENCES:
        assert abs(found.metrics[name]) < 1e-3, name
    assert any("only B is metric" in note for note in found.notes)


def test_depth_differences_are_symmetric_and_told_in_sigmas_of_both():
    a, noise = true_scene(), np.random.default_rng(0)
    b = replace(a, depth_z=(a.depth_z * np.exp(0.03 * noise.normal(size=a.depth_z.shape))).astype(np.float32))
    a = replace(a, depth_sigma=np.full(a.depth_z.shape, 0.03 / 2**0.5, np.float32))
    b = replace(b, depth_sigma=a.depth_sigma)
    forth, back = compare(a, b).metrics, compare(b, a).metrics
    assert forth["depth_difference_pct"] == pytest.approx(3 * PERFECT, rel=0.05)
    assert forth["depth_difference_sigmas"] == pytest.approx(PERFECT, rel=0.05)
    assert back["depth_difference_pct"] == pytest.approx(forth["depth_difference_pct"], rel=1e-3)


def test_the_frame_that_differs_is_listed_first():
    a = true_scene()
    depth_z, moving = a.depth_z.copy(), a.moving.copy()
    depth_z[4, :, :20] *= 1.5
    depth_z[4, :, 20:] *= 0.7
    moving[4] = 0
    found = compare(a, replace(a, depth_z=depth_z, moving=moving))
    assert found.frames.worst()[0] == 4
    assert found.frames.mask_j[4] == 0 and found.frames.mask_j[3] == 1
    assert "frames that differ most" in found.as_text()


def test_a_straight_path_does_not_turn_cameras_that_agree():
    a, count = true_scene(), len(true_scene())
    line = a.world_from_cam.copy()
    line[:, :3, 3] = np.linspace(0, 1, count)[:, None] * [1.0, 0.2, 0.1]
    noisy = line.copy()
    noisy[:, :3, 3] += 1e-4 * np.random.default_rng(0).normal(size=(count, 3))
    found = compare(replace(a, world_from_cam=noisy), replace(a, world_from_cam=line))
    assert found.frames.turn_deg.max() < 1e-6


def test_other_sizes_and_fewer_frames_are_brought_together():
    a = true_scene()
    part = slice(1, 5)
    b = replace(
        a, times_s=a.times_s[part], world_from_cam=a.world_from_cam[part], tracks=None,
        camera=a.camera.resized(80, 60),
        **{n: getattr(a, n)[part].repeat(2, 1).repeat(2, 2) for n in ("depth_z", "depth_sigma", "valid", "moving")},
        original_size=a.original_size, original_from_stored=np.diag([0.5, 0.5, 1]),
    )  # fmt: skip
    found = compare(a, b)
    assert found.frames.first.tolist() == [1, 2, 3, 4]
    assert found.metrics["depth_difference_pct"] < 1e-3 and found.metrics["mask_j"] == 1
    assert found.metrics["focal_a_px"] == pytest.approx(found.metrics["focal_b_px"])


def test_scenes_without_a_common_frame_are_refused():
    a = true_scene()
    with pytest.raises(InputError, match="no frame in common"):
        compare(a, replace(a, times_s=a.times_s + 100))
    with pytest.raises(InputError, match="no frame in common"):
        compare(a, replace(a, times_s=a.times_s * 1e-6 + 0.05))


def test_notes_that_only_one_has_and_other_pictures_are_told():
    shape = (*true_scene().depth_z.shape, 3)
    a = replace(true_scene(), notes=("both", "mine"), image=np.zeros(shape, np.uint8))
    found = compare(a, replace(a, notes=("both", "yours"), image=np.full(shape, 200, np.uint8)))
    assert found.only_first == ("mine",) and found.only_second == ("yours",)
    assert any("same clip" in note for note in found.notes)


def test_a_scene_without_depth_is_compared_in_all_else():
    a = true_scene()
    found = compare(a, replace(a, valid=np.zeros_like(a.valid)))
    assert np.isnan(found.metrics["depth_difference_pct"]) and found.metrics["path_ate_pct"] < 1e-6
    assert json.loads(json.dumps(found.as_json()))["metrics"]["depth_difference_pct"] is None
    assert found.as_text()


def test_the_verb_prints_a_table_or_json(capsys, tmp_path):
    save(true_scene(), tmp_path / "a")
    save(elsewhere(true_scene(), 0.5), tmp_path / "b")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "depth_difference_pct" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["frames"]["centre"]) == len(true_scene())
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
