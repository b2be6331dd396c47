"""Exports of all that a scene holds (npz), and of its depth maps as images: they read back, or say what is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export_world import export_scene
from worldline.errors import FormatError, InputError, OutputError
from worldline.io.formats import colmap, export, npz, png_depth
from worldline.scene.scene import Scene
from worldline.scene.store import load, save


@pytest.fixture(scope="module")
def scene() -> Scene:
    return export_scene()


@pytest.fixture(scope="module")
def stored(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The same scene with its maps still on disk."""
    return load(save(scene, tmp_path_factory.mktemp("stored") / "scene"))


def assert_same_camera_sigma(again: Scene, scene: Scene) -> None:
    assert again.camera_sigma is not None and scene.camera_sigma is not None
    for name, value in vars(scene.camera_sigma).items():
        np.testing.assert_array_equal(getattr(again.camera_sigma, name), value)


def test_the_uncertainty_of_the_cameras_is_stored(stored: Scene, scene: Scene) -> None:
    assert_same_camera_sigma(stored, scene)


# npz


def test_npz_holds_everything(scene: Scene, stored: Scene, tmp_path: Path) -> None:
    again = npz.read(export(stored, tmp_path / "a.npz"))
    for name in ("times_s", "world_from_cam", "depth_z", "depth_sigma", "valid", "moving", "image", "static_points"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scene, name))
    for name in ("metric", "metric_source", "name", "original_size", "notes", "history"):
        assert getattr(again, name) == getattr(scene, name)
    assert again.tracks is not None and scene.tracks is not None and again.flow is not None and scene.flow is not None
    for name, values in vars(scene.tracks).items():
        np.testing.assert_array_equal(getattr(again.tracks, name), values)
    np.testing.assert_array_equal(again.flow.displacement, scene.flow.displacement)
    np.testing.assert_array_equal(again.health["trust"], scene.health["trust"])
    assert_same_camera_sigma(again, scene)
    np.testing.assert_array_equal(again.camera.intrinsics, scene.camera.intrinsics)


def test_npz_without_the_optional_parts(scene: Scene, tmp_path: Path) -> None:
    bare = replace(
        scene, image=None, tracks=None, flow=None, static_points=None, static_colour=None, health={}, notes=()
    )
    again = npz.read(export(bare, tmp_path / "a.npz"))
    assert (again.image, again.tracks, again.flow, again.static_points, again.notes) == (None, None, None, None, ())


def test_damaged_npz_is_refused(scene: Scene, tmp_path: Path) -> None:
    path = export(scene, tmp_path / "a.npz")
    data = path.read_bytes()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for bad in (b"", data[: len(data) // 2], (tmp_path / "other.npz").read_bytes()):
        path.write_bytes(bad)
        with pytest.raises(FormatError):
            npz.read(path)
    with pytest.raises(InputError, match="does not exist"):
        npz.read(tmp_path / "none.npz")


# 16-bit depth


def test_png_depth_is_in_millimetres(scene: Scene, tmp_path: Path) -> None:
    folder = export(scene, tmp_path / "depth", format="png-depth")
    depth_z, said = png_depth.read(folder)
    assert (said["scale"], said["unit"]) == (1000.0, "metre")
    np.testing.assert_allclose(depth_z, scene.depth_z, atol=0.00051)
    raw = cv2.imread(str(folder / "000003.png"), cv2.IMREAD_UNCHANGED)
    assert raw is not None and raw.dtype == np.uint16
    assert (raw[~scene.valid[3]] == 0).all() and (raw[scene.valid[3]] > 0).all()


def test_png_depth_without_metres_states_its_scale(scene: Scene, tmp_path: Path) -> None:
    relative = replace(scene, metric=False, depth_z=scene.depth_z / 500)
    folder = export(relative, tmp_path / "depth", format="png-depth")
    depth_z, said = png_depth.read(folder)
    assert said["scale"] == 5_000_000
    assert "not metric" in json.loads((folder / "depth.json").read_text())["unit"]
    np.testing.assert_allclose(depth_z, relative.depth_z, atol=0.51 / said["scale"])


def test_depth_past_the_limit_names_a_scale_that_works(scene: Scene, tmp_path: Path) -> None:
    far = replace(scene, depth_z=scene.depth_z * 20)
    with pytest.raises(InputError, match=r"16 bits end at 65\.5 m with scale 1000; use scale=256 \(up to 256\.0 m\)"):
        export(far, tmp_path / "depth", format="png-depth")
    assert not list(tmp_path.iterdir())
    depth_z, _ = png_depth.read(export(far, tmp_path / "depth", format="png-depth", scale=256))
    np.testing.assert_allclose(depth_z, far.depth_z, atol=0.51 / 256)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1e6))
def test_the_chosen_scale_uses_the_range_and_fits(most: float) -> None:
    scale = png_depth._largest_scale(most)
    assert 65535 / 2.6 < scale * most <= 65535


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0, 1e-5])
def test_depth_that_16_bits_would_garble_is_refused(scene: Scene, tmp_path: Path, value: float) -> None:
    depth_z = scene.depth_z.copy()
    depth_z[2, 10, 10] = value
    with pytest.raises(InputError):
        export(replace(scene, depth_z=depth_z), tmp_path / "depth", format="png-depth")
    assert not list(tmp_path.iterdir())


def test_values_under_invalid_pixels_do_not_matter(scene: Scene, tmp_path: Path) -> None:
    odd = replace(scene, depth_z=np.where(scene.valid, scene.depth_z, np.nan))
    depth_z, _ = png_depth.read(export(odd, tmp_path / "depth", format="png-depth"))
    assert (depth_z[~scene.valid] == 0).all()


@pytest.mark.parametrize(("module", "name"), [(png_depth, "png-depth"), (colmap, "colmap")])
def test_an_image_that_cannot_be_written_is_an_error(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    with pytest.raises(OutputError, match="disk full"):
        export(scene, tmp_path / "out", format=name)
    assert not list(tmp_path.iterdir())
