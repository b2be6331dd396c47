"""Exports, whatever the format: what is on disk is like what is in memory, and nothing old is lost to a failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export_world import W, export_scene, written
from worldline.errors import FormatError, InputError, OutputError
from worldline.io.formats import colmap, export, formats, npz, ply, png_depth, tum
from worldline.scene.scene import Scene
from worldline.scene.store import load, save


@pytest.fixture(scope="module")
def scene() -> Scene:
    return export_scene()


@pytest.fixture(scope="module")
def stored(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The same scene with its maps still on disk."""
    return load(save(scene, tmp_path_factory.mktemp("stored") / "scene"))


ONE_OF_EACH = {"colmap": "out", "npz": "out.npz", "ply": "out.ply", "png-depth": "out", "tum": "out.tum"}


def test_every_format_is_tested_here() -> None:
    assert formats() == sorted(ONE_OF_EACH)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_scene_on_disk_exports_like_one_in_memory(scene: Scene, stored: Scene, tmp_path: Path, name: str) -> None:
    a = export(scene, tmp_path / "memory" / ONE_OF_EACH[name], format=name)
    b = export(stored, tmp_path / "disk" / ONE_OF_EACH[name], format=name)
    if name != "npz":  # its archive holds the time of writing
        assert written(a) == written(b)
    assert [p.name for p in a.parent.iterdir()] == [a.name]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_existing_output_is_kept_unless_asked(scene: Scene, tmp_path: Path, name: str) -> None:
    target = export(scene, tmp_path / ONE_OF_EACH[name], format=name)
    before = written(target)
    other = replace(
        scene,
        depth_z=scene.depth_z * 0.9,
        times_s=scene.times_s + 1,
        static_points=scene.points_world(0)[3],
        static_colour=np.zeros((W, 3), np.uint8),
    )
    with pytest.raises(OutputError, match="already exists"):
        export(other, target, format=name)
    assert written(target) == before
    export(other, target, format=name, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    assert written(target) != before


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_overwriting_never_takes_what_is_not_an_export(scene: Scene, tmp_path: Path, name: str) -> None:
    files = name not in ("colmap", "png-depth")
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("precious")
    (tmp_path / "letter").write_text("precious")
    with pytest.raises(OutputError, match="choose another name"):
        export(scene, tmp_path / "holiday", format=name, overwrite=True)
    if not files:
        with pytest.raises(OutputError, match="is a file"):
            export(scene, tmp_path / "letter", format=name, overwrite=True)
    assert set(written(tmp_path).values()) == {b"precious"}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_output_that_cannot_be_written_is_an_output_error(scene: Scene, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        export(scene, tmp_path / "file" / ONE_OF_EACH[name], format=name)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_export_that_fails_leaves_the_old_output(
    scene: Scene, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    target = export(scene, tmp_path / ONE_OF_EACH[name], format=name)
    before = written(target)
    monkeypatch.setattr("worldline.scene.atomic.replace_path", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        export(scene, target, format=name, overwrite=True)
    assert written(target) == before
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


def test_the_suffix_chooses_and_an_unknown_one_lists_what_exists(scene: Scene, tmp_path: Path) -> None:
    for suffix in (".ply", ".tum", ".txt", ".npz"):
        assert export(scene, tmp_path / f"a{suffix}").is_file()
    for name in ("scene.xyz", "folder"):
        with pytest.raises(InputError, match=r"\.npz, \.ply, \.tum, \.txt, or name the format colmap or png-depth"):
            export(scene, tmp_path / name)
    with pytest.raises(InputError, match="no format 'usd'; choose one of colmap, npz, ply, png-depth, tum"):
        export(scene, tmp_path / "a.usd", format="usd")
    with pytest.raises(InputError, match="no option 'scale'"):
        export(scene, tmp_path / "b.ply", scale=3)


READERS = {
    "a.ply": ("a.ply", ply.read_points),
    "a.tum": ("a.tum", tum.read),
    "a.npz": ("a.npz", npz.read),
    "depth/000001.png": ("depth", png_depth.read),
    "depth/depth.json": ("depth", png_depth.read),
    "colmap/sparse/0/cameras.txt": ("colmap/sparse/0", colmap.read_model),
    "colmap/sparse/0/images.txt": ("colmap/sparse/0", colmap.read_model),
    "colmap/sparse/0/points3D.txt": ("colmap/sparse/0", colmap.read_model),
}


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_but_never_crash(scene: Scene, tmp_path: Path, name: str) -> None:
    export(scene, tmp_path / "depth", format="png-depth")
    export(scene, tmp_path / "colmap", format="colmap")
    for suffix in ("ply", "tum", "npz"):
        export(scene, tmp_path / f"a.{suffix}")
    rng = np.random.default_rng(0)
    good, (what, read) = (tmp_path / name).read_bytes(), READERS[name]
    refused = 0
    for _ in range(40):
        bad = bytearray(good[: rng.integers(1, len(good) + 1)])
        for at in rng.integers(0, min(len(bad), 1500), rng.integers(0, 8)):
            bad[at] = rng.integers(256)
        (tmp_path / name).write_bytes(bad)
        try:
            read(tmp_path / what)
        except FormatError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 10
