"""COLMAP models: they read back, in the original images' pixels, and agree with COLMAP's own reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from export_world import ORIGINAL, H, T, W, export_scene
from worldline.errors import FormatError
from worldline.geometry import camera as pinhole
from worldline.geometry.camera import Camera
from worldline.io.formats import colmap, export
from worldline.scene.scene import Scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return export_scene()


# COLMAP


def test_colmap_model_reads_back(scene: Scene, tmp_path: Path) -> None:
    model = colmap.model_of(scene)
    again = colmap.read_model(export(scene, tmp_path / "c", format="colmap") / "sparse" / "0")
    np.testing.assert_allclose(again.cam_from_world, np.linalg.inv(scene.world_from_cam), atol=1e-12)
    np.testing.assert_array_equal(again.points_world, model.points_world)
    np.testing.assert_array_equal(again.colour, model.colour)
    np.testing.assert_array_equal(again.observations, model.observations)
    np.testing.assert_allclose(again.uv, model.uv, atol=1e-4)
    assert (again.model, again.parameters, again.names) == (model.model, model.parameters, model.names)


def test_colmap_cameras_are_those_of_the_original_images(scene: Scene, tmp_path: Path) -> None:
    model = colmap.model_of(scene)
    assert model.parameters == ((120.0, 123.0, 46.5, 37.5),)
    np.testing.assert_array_equal(model.size, [ORIGINAL])
    folder = export(scene, tmp_path / "c", format="colmap")
    for kind, names in (("images", "{:06d}.jpg"), ("masks", "{:06d}.jpg.png")):
        files = [cv2.imread(str(folder / kind / names.format(t))) for t in range(T)]
        assert all(f is not None and f.shape == (*ORIGINAL[::-1], 3) for f in files)
    assert scene.image is not None
    shrunk = cv2.resize(cv2.imread(str(folder / "images" / "000001.jpg")), (W, H), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk[..., ::-1].astype(int) - scene.image[1]).mean() < 4
    mask = cv2.imread(str(folder / "masks" / "000001.jpg.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(mask == 0, np.kron(scene.moving[1], np.ones((3, 3))) > 0)


def test_a_static_point_that_is_also_a_track_is_exported_once(scene: Scene) -> None:
    tracked = colmap.model_of(replace(scene, static_points=None, static_colour=None))
    count = len(tracked.points_world)
    both = np.concatenate([tracked.points_world, tracked.points_world[:1] + 5]).astype(np.float32)
    again = colmap.model_of(replace(scene, static_points=both, static_colour=np.zeros((count + 1, 3), np.uint8)))
    assert count > 0 and len(again.points_world) == count + 1
    assert np.allclose(again.points_world[-1], both[-1])


def test_colmap_tracks_are_static_seen_twice_and_reproject(scene: Scene) -> None:
    model = colmap.model_of(scene)
    assert scene.tracks is not None and scene.static_points is not None
    tracked = len(model.points_world) - len(scene.static_points)
    image, point = model.observations.T
    assert 10 < tracked <= int((~scene.tracks.moving).sum())
    assert set(point) == set(range(tracked)) and np.bincount(point).min() >= 2
    points_cam = np.einsum("kij,kj->ki", model.cam_from_world[image, :3, :3], model.points_world[point])
    points_cam += model.cam_from_world[image, :3, 3]
    uv = pinhole.project(torch.from_numpy(points_cam), torch.tensor(model.parameters[0], dtype=torch.float64))
    np.testing.assert_allclose(uv.numpy(), model.uv, atol=1e-4)
    assert (model.error_px[:tracked] < 1e-4).all() and (model.error_px[tracked:] == -1).all()


@pytest.mark.parametrize("distortion", [(), (0.1, -0.02), (0.1, -0.02, 1e-3, 2e-3), (0.1, -0.02, 1e-3, 2e-3, 0.01)])
@pytest.mark.parametrize("per_frame", [False, True])
def test_colmap_agrees_with_pycolmap(
    scene: Scene, tmp_path: Path, distortion: tuple[float, ...], per_frame: bool
) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    k = scene.camera.frames(T) + np.arange(T)[:, None] if per_frame else scene.camera.intrinsics
    given_scene = replace(scene, camera=Camera(k, W, H, distortion))
    folder = export(given_scene, tmp_path / "c", format="colmap") / "sparse" / "0"
    theirs = pycolmap.Reconstruction(str(folder))
    assert (theirs.num_images(), theirs.num_cameras()) == (T, T if per_frame else 1)
    assert theirs.num_frames() == T and theirs.num_rigs() == theirs.num_cameras()
    assert theirs.num_points3D() == len(colmap.model_of(given_scene).points_world)
    for t in range(T):
        image = theirs.images[t + 1]
        ours = np.linalg.inv(scene.world_from_cam[t])[:3]
        np.testing.assert_allclose(image.cam_from_world().matrix(), ours, atol=1e-12)
        for seen in image.points2D:
            xyz = theirs.points3D[seen.point3D_id].xyz
            np.testing.assert_allclose(image.project_point(xyz), seen.xy, atol=1e-3)


def test_colmap_without_tracks_images_or_points(scene: Scene, tmp_path: Path) -> None:
    bare = replace(scene, image=None, tracks=None, static_points=None, static_colour=None)
    model = colmap.read_model(export(bare, tmp_path / "c", format="colmap") / "sparse" / "0")
    assert len(model.points_world) == len(model.observations) == 0
    assert model.cam_from_world.shape == (T, 4, 4)


def test_colmap_that_is_not_one_is_refused(scene: Scene, tmp_path: Path) -> None:
    folder = export(scene, tmp_path / "c", format="colmap") / "sparse" / "0"
    (folder / "cameras.txt").write_text("1 FISHEYE 10 10 1 2 3\n")
    with pytest.raises(FormatError, match="not a COLMAP text model"):
        colmap.read_model(folder)
