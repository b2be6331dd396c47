"""Output is whole or not there, and what somebody else put there is never taken away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldline.errors import OutputError
from worldline.geometry.camera import Camera
from worldline.io.encoded_video import write_video
from worldline.io.video_files import read_video
from worldline.scene.atomic import check_free, write_whole, written_whole
from worldline.scene.journal import Journal
from worldline.scene.scene import Scene
from worldline.scene.store import load, save


def scene(name: str = "small") -> Scene:
    maps = np.ones((2, 4, 6), np.float32)
    motions = np.broadcast_to(np.eye(4), (2, 4, 4)).copy()
    ids = np.zeros(maps.shape, np.uint8)
    return Scene(np.arange(2.0), Camera.from_focal(5.0, 6, 4), motions, maps, maps, maps > 0, ids, name=name)


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), ValueError("a bug"), KeyboardInterrupt()])
def test_whatever_stops_a_writer_leaves_the_old_file_alone(tmp_path: Path, stop: BaseException):
    target = write_whole(tmp_path / "a.txt", "old")
    with (
        pytest.raises((OutputError, ValueError, KeyboardInterrupt)),
        written_whole(target, overwrite=True) as temporary,
    ):
        temporary.write_text("half")
        raise stop
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_an_output_error_that_says_so(tmp_path: Path):
    with pytest.raises(OutputError, match="No space left on device"), written_whole(tmp_path / "a"):
        raise OSError(28, "No space left on device")


def test_what_exists_is_refused_before_the_work_and_replaced_on_demand(tmp_path: Path):
    target = write_whole(tmp_path / "deep" / "a.txt", "old")
    with pytest.raises(OutputError, match="already exists"):
        check_free(target)
    assert write_whole(target, b"new", overwrite=True).read_bytes() == b"new"


def test_a_file_does_not_replace_a_folder(tmp_path: Path):
    (tmp_path / "letters").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_whole(tmp_path / "letters", "new", overwrite=True)


def test_a_scene_replaces_a_scene_but_never_other_things(tmp_path: Path):
    save(scene("first"), tmp_path / "scene")
    save(scene("second"), tmp_path / "scene", overwrite=True)
    assert load(tmp_path / "scene").name == "second"
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("precious")
    with pytest.raises(OutputError, match="holds other things"):
        save(scene(), tmp_path / "letters", overwrite=True)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "precious"


def test_a_journal_on_a_full_disk_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        Journal("key", tmp_path).run("one", lambda: {"a": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    frames = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3), dtype=np.uint8)
    clip = write_video(tmp_path / "clip.mp4", frames, 10)
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        read_video(clip, cache=tmp_path / "cache")


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")
