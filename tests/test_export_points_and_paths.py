"""Exports of points and paths (PLY, TUM): they read back exactly, here and in the tools they are written for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export_world import T, export_scene, random_poses
from worldline.errors import FormatError, InputError
from worldline.geometry import se3
from worldline.io.formats import export, ply, tum
from worldline.scene.scene import Scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return export_scene()


# PLY


def test_ply_of_the_static_structure(scene: Scene, tmp_path: Path) -> None:
    points, colours = ply.read_points(export(scene, tmp_path / "a.ply"))
    np.testing.assert_array_equal(points, scene.static_points)
    np.testing.assert_array_equal(colours, scene.static_colour)


def test_ply_of_one_frame_and_of_all_frames(scene: Scene, tmp_path: Path) -> None:
    points, colours = ply.read_points(export(scene, tmp_path / "a.ply", frame=2))
    assert scene.image is not None
    np.testing.assert_array_equal(points, scene.points_world(2)[scene.valid[2]])
    np.testing.assert_array_equal(colours, scene.image[2][scene.valid[2]])
    folder = export(scene, tmp_path / "all", format="ply")
    assert sorted(p.name for p in folder.iterdir()) == [*(f"frame_{t:05d}.ply" for t in range(T)), "static.ply"]
    np.testing.assert_array_equal(ply.read_points(folder / "frame_00002.ply")[0], points)
    with pytest.raises(InputError, match="no frame 9"):
        export(scene, tmp_path / "b.ply", frame=9)


def test_ply_without_structure_takes_the_static_pixels(scene: Scene, tmp_path: Path) -> None:
    bare = replace(scene, static_points=None, static_colour=None)
    points, _ = ply.read_points(export(bare, tmp_path / "a.ply"))
    assert len(points) == int((scene.valid & (scene.moving == 0)).sum())
    empty = replace(bare, valid=np.zeros_like(scene.valid))
    with pytest.raises(InputError, match="no valid static point"):
        export(empty, tmp_path / "b.ply")


def test_ply_in_independent_readers(scene: Scene, tmp_path: Path) -> None:
    plyfile = pytest.importorskip("plyfile", reason="plyfile is not installed")
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    path = export(scene, tmp_path / "a.ply")
    vertices = plyfile.PlyData.read(path)["vertex"]
    np.testing.assert_array_equal(np.stack([vertices[a] for a in "xyz"], -1), scene.static_points)
    np.testing.assert_array_equal(np.stack([vertices[c] for c in ("red", "green", "blue")], -1), scene.static_colour)
    np.testing.assert_allclose(trimesh.load(path).vertices, scene.static_points)


def test_ply_that_is_not_one_is_refused(scene: Scene, tmp_path: Path) -> None:
    path = export(scene, tmp_path / "a.ply")
    data = path.read_bytes()
    for bad in (b"", b"ply\nformat ascii 1.0\n", data[:-7], data.replace(b"property float z\n", b"")):
        path.write_bytes(bad)
        with pytest.raises(FormatError):
            ply.read_points(path)


def test_points_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not finite"):
        ply.write_points(tmp_path / "a.ply", np.full((1, 3), np.nan, np.float32), np.zeros((1, 3), np.uint8))


# TUM


def test_tum_reads_back_exactly(scene: Scene, tmp_path: Path) -> None:
    trajectory = tum.read(export(scene, tmp_path / "a.tum"))
    np.testing.assert_array_equal(trajectory.times_s, scene.times_s)
    np.testing.assert_allclose(trajectory.world_from_cam, scene.world_from_cam, atol=1e-14)
    assert trajectory.notes == ()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 3.0))
def test_any_rotation_survives_tum(tmp_path_factory: pytest.TempPathFactory, seed: int, step: float) -> None:
    poses = random_poses(6, seed, step)[1:]
    path = tmp_path_factory.getbasetemp() / "any.tum"
    tum.write_trajectory(path, tum.Trajectory(np.arange(5.0), poses))
    np.testing.assert_allclose(tum.read(path).world_from_cam, poses, atol=1e-12)


def test_tum_in_evo(scene: Scene, tmp_path: Path) -> None:
    pytest.importorskip("evo", reason="evo is not installed")
    from evo.tools import file_interface

    path = export(scene, tmp_path / "a.txt")
    trajectory = file_interface.read_tum_trajectory_file(str(path))
    np.testing.assert_allclose(np.stack(trajectory.poses_se3), scene.world_from_cam, atol=1e-12)
    np.testing.assert_array_equal(trajectory.timestamps, scene.times_s)


def scalar_first(path: Path) -> Path:
    rows = [line.split() for line in path.read_text().splitlines()[1:]]
    path.write_text("\n".join(" ".join([*r[:4], r[7], *r[4:7]]) for r in rows))
    return path


def test_scalar_first_files_are_recognised_and_said(scene: Scene, tmp_path: Path) -> None:
    path = scalar_first(export(scene, tmp_path / "a.tum"))
    trajectory = tum.read(path)
    np.testing.assert_allclose(trajectory.world_from_cam, scene.world_from_cam, atol=1e-12)
    assert "scalar first" in trajectory.notes[0]
    assert not np.allclose(tum.read(path, order="xyzw").world_from_cam, scene.world_from_cam)


def test_the_quaternion_order_can_be_given(tmp_path: Path) -> None:
    poses = random_poses(6)[1:]
    tum.write_trajectory(tmp_path / "a.tum", tum.Trajectory(np.arange(5.0), poses))
    path = scalar_first(tmp_path / "a.tum")
    np.testing.assert_allclose(tum.read(path, order="wxyz").world_from_cam, poses, atol=1e-12)


def test_smoothness_cannot_tell_the_quaternion_order() -> None:
    rotation = torch.from_numpy(random_poses(30, seed=3)[:, :3, :3])
    misread = se3.rotation_from_wxyz(se3.xyzw_from_wxyz(se3.quaternion_wxyz(rotation)))
    turns = [se3.so3_log(r[:-1].mT @ r[1:]).diff(dim=0).norm(dim=-1) for r in (rotation, misread)]
    assert not torch.allclose(rotation, misread, atol=0.1)
    world_turns = se3.so3_log(rotation[1:] @ rotation[:-1].mT).diff(dim=0).norm(dim=-1)
    torch.testing.assert_close(turns[1], world_turns)


@pytest.mark.parametrize(
    "text", ["", "# only\n", "1 2 3\n", "0 0 0 0 0 0 0 0\n", "0 0 0 0 0 0 0 nan\n", "a b c d e f g h"]
)
def test_tum_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.tum").write_text(text)
    with pytest.raises(FormatError, match=r"a\.tum"):
        tum.read(tmp_path / "a.tum")


def test_a_trajectory_out_of_order_is_sorted_and_says_so(tmp_path):
    file = tmp_path / "recorded.txt"
    file.write_text("2 2 0 0 0 0 0 1\n1 1 0 0 0 0 0 1\n2 9 0 0 0 0 0 1\n3 3 0 0 0 0 0 1\n")
    found = tum.read(file)
    assert found.times_s.tolist() == [1, 2, 3] and found.world_from_cam[:, 0, 3].tolist() == [1, 2, 3]
    assert "sorted and 1 with a repeated time left out" in found.notes[0]
