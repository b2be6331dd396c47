"""Folders of images and single ones: in the right order, upright, with the times and focal length they carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from clip_world import HEIGHT, WIDTH, close, folder, picture
from worldline.errors import FormatError, InputError
from worldline.io import image_folders
from worldline.io.focal_length import focal_px_from_exif
from worldline.io.video_files import read_video


def test_images_come_in_natural_order_at_an_assumed_rate(tmp_path: Path) -> None:
    video = read_video(folder(tmp_path / "clip", ["f1.png", "f2.png", "f10.png", "f11.png"]))
    np.testing.assert_array_equal(video.frames, [picture(t) for t in range(4)])
    np.testing.assert_allclose(video.times_s, np.arange(4) / 30)
    assert any("30 frames per second" in note for note in video.notes)
    assert video.name == "clip"


@given(st.lists(st.integers(0, 10**6), min_size=2, unique=True))
def test_natural_order_is_numeric_order(numbers: list[int]) -> None:
    names = sorted((f"img_{n}.png" for n in numbers), key=image_folders.natural_key)
    assert names == [f"img_{n}.png" for n in sorted(numbers)]


def test_time_stamps_in_file_names_are_seconds(tmp_path: Path) -> None:
    names = ["1311868164.363181.png", "1311868164.399026.png", "1311868164.430940.png"]
    video = read_video(folder(tmp_path / "rgb", names), start_s=0.03)
    np.testing.assert_allclose(video.times_s, [1311868164.399026, 1311868164.430940], atol=1e-6)


def test_exif_turns_the_image_and_gives_the_focal_length(tmp_path: Path) -> None:
    path = tmp_path / "photos"
    path.mkdir()
    for name in ("a.png", "b.png"):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 26
        Image.fromarray(picture(0)).save(path / name, exif=exif)
    video = read_video(path, max_side=48)
    assert (video.width, video.height) == (32, 48)
    whole = read_video(path)
    np.testing.assert_array_equal(whole.frames[0], np.rot90(picture(0), k=-1))
    assert whole.facts is not None and video.facts is not None
    assert whole.facts["focal_px"] == pytest.approx(26 * np.hypot(WIDTH, HEIGHT) / np.hypot(36, 24))
    assert video.facts["focal_px"] == pytest.approx(whole.facts["focal_px"] / 2)


def test_focal_length_from_the_density_of_the_focal_plane() -> None:
    exif = Image.Exif()
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    tags[ExifTags.Base.FocalLength] = 50.0
    tags[ExifTags.Base.FocalPlaneXResolution] = 4000.0
    tags[ExifTags.Base.FocalPlaneResolutionUnit] = 3
    tags[ExifTags.Base.ExifImageWidth], tags[ExifTags.Base.ExifImageHeight] = 6000, 4000
    assert focal_px_from_exif(exif, 3000, 2000) == pytest.approx(50 * 400 / 2)
    assert focal_px_from_exif(Image.Exif(), 3000, 2000) is None


def test_depth_beside_colour_is_left_out(tmp_path: Path) -> None:
    path = folder(tmp_path / "scan", ["frame-000300.color.png", "frame-000302.color.png"])
    for n in (300, 302):
        Image.fromarray(np.full((HEIGHT, WIDTH), 1000, np.uint16)).save(path / f"frame-000{n}.depth.png")
        (path / f"frame-000{n}.pose.txt").write_text("1 0 0 0")
    video = read_video(path)
    np.testing.assert_array_equal(video.frames, [picture(0), picture(1)])
    assert any("left out" in note for note in video.notes)


@pytest.mark.parametrize("inner", ["rgb", "images", "color", "frames"])
def test_the_colour_subfolder_is_found(tmp_path: Path, inner: str) -> None:
    folder(tmp_path / "walk" / "depth", ["0.png"])
    folder(tmp_path / "walk" / inner, ["0.png", "1.png"])
    video = read_video(tmp_path / "walk")
    assert (len(video), video.name) == (2, "walk")
    assert any(inner in note for note in video.notes)


def test_the_odd_size_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "clip", ["1.png", "2.png", "3.png"])
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(path / "2.png")
    with pytest.raises(InputError, match=r"2\.png is 20x10 but most images are 96x64"):
        read_video(path)


def test_an_unreadable_image_is_named_and_never_skipped(tmp_path: Path) -> None:
    path = folder(tmp_path / "clip", ["1.jpg", "2.jpg", "3.jpg"])
    (path / "2.jpg").write_bytes((path / "2.jpg").read_bytes()[:-300])
    with pytest.raises(FormatError, match=r"2\.jpg cannot be read"):
        read_video(path)


def test_grey_sixteen_bit_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    grey = picture(0)[..., 0]
    images = {
        "grey": Image.fromarray(grey),
        "deep": Image.fromarray(grey.astype(np.uint16) * 257),
        "clear": Image.fromarray(np.dstack([picture(0), grey])),
        "palette": Image.fromarray(picture(0)).quantize(64),
    }
    for name, image in images.items():
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.png")
    frames = {name: read_video(tmp_path / name) for name in images}
    np.testing.assert_array_equal(frames["grey"].frames[0], np.dstack([grey] * 3))
    np.testing.assert_array_equal(frames["deep"].frames[0], np.dstack([grey] * 3))
    np.testing.assert_array_equal(frames["clear"].frames[0], picture(0))
    assert any("16 bits" in note for note in frames["deep"].notes)
    assert any("transparency" in note for note in frames["clear"].notes)
    assert close(frames["palette"].frames[0], picture(0))


def test_a_single_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    video = read_video(folder(tmp_path, ["photo.png"]) / "photo.png")
    assert (len(video), video.name) == (1, "photo")
