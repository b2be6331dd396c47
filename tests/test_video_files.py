"""Video in: right pixels at right times, or a sentence that says what was lost; never silently short."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip_world import COUNT, HEIGHT, WIDTH, close, folder, picture
from worldline.errors import FormatError, InputError, OutputError
from worldline.io.frame_store import DiskFrames
from worldline.io.selection import Selection, increasing
from worldline.io.video_files import read_video, video_key, write_video

DATA = Path(__file__).parents[1].parent / "shared" / "data"
QUARTER_TURN = (0, 65536, 0, -65536, 0, 0, HEIGHT * 65536, 0, 1 << 30)
MIRROR = (-65536, 0, 0, 0, 65536, 0, WIDTH * 65536, 0, 1 << 30)


def clip(path: Path, *, stamps_ms: list[int] | None = None, codec: str = "libx264", aspect: int = 1) -> Path:
    """An encoded clip of COUNT pictures in one group of pictures, its index before the data."""
    stamps_ms = [40 * t for t in range(COUNT)] if stamps_ms is None else stamps_ms
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "10", "g": "100", "bf": "0"}
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for t, stamp in enumerate(stamps_ms):
            frame = av.VideoFrame.from_ndarray(picture(t), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("clips") / "plain.mp4")


def turned(plain: Path, path: Path, matrix: tuple[int, ...]) -> Path:
    """The clip with another display matrix in its track header (ISO 14496-12, 8.3.2)."""
    data = bytearray(plain.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">i", data, at)[0] == 65536
    struct.pack_into(">9i", data, at, *matrix)
    path.write_bytes(data)
    return path


def test_frames_and_times_of_a_plain_clip(plain: Path) -> None:
    video = read_video(plain)
    assert video.frames.shape == (COUNT, HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(video.times_s, np.arange(COUNT) * 0.04, atol=1e-9)
    assert all(close(video.frames[t], picture(t)) for t in range(COUNT))
    assert video.facts is not None
    assert video.facts["fps"] == pytest.approx(25)
    assert (video.facts["lost_frames"], video.facts["corrupt_frames"], video.notes) == (0, 0, ())


def test_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    stamps = [7 * t * t + 20 * t for t in range(COUNT)]
    video = read_video(clip(tmp_path / "variable.mp4", stamps_ms=stamps))
    np.testing.assert_allclose(video.times_s * 1000, stamps, atol=0.1)
    assert video.notes == ()


def test_an_edited_clip_is_not_called_damaged(plain: Path, tmp_path: Path) -> None:
    data = bytearray(plain.read_bytes())
    at = data.index(b"elst") + 12
    length, start = struct.unpack_from(">Ii", data, at)
    assert (length, start) == (COUNT * 40, 0)
    struct.pack_into(">I", data, at, length // 2)
    (tmp_path / "trimmed.mp4").write_bytes(data)
    video = read_video(tmp_path / "trimmed.mp4")
    assert (len(video), video.notes) == (COUNT // 2, ())


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mov"])
def test_other_containers_are_read_whole(tmp_path: Path, suffix: str) -> None:
    video = read_video(clip(tmp_path / f"clip{suffix}"))
    assert len(video) == COUNT
    assert video.notes == ()


def test_a_frame_without_a_time_stamp_gets_one(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "clip.avi"))
    np.testing.assert_allclose(video.times_s, np.arange(COUNT) * 0.04, atol=2e-3)
    assert any("time stamps were missing" in note for note in video.notes)


def test_a_phone_clip_held_upright_is_turned(plain: Path, tmp_path: Path) -> None:
    video = read_video(turned(plain, tmp_path / "portrait.mp4", QUARTER_TURN))
    assert video.facts is not None and video.facts["rotation"] == -90
    assert close(video.frames[3], np.rot90(picture(3), k=-1))
    assert video.original_size == (HEIGHT, WIDTH)


def test_a_mirrored_clip_is_mirrored_back(plain: Path, tmp_path: Path) -> None:
    video = read_video(turned(plain, tmp_path / "selfie.mp4", MIRROR))
    assert close(video.frames[3], picture(3)[:, ::-1])


def test_resizing_keeps_the_way_back_to_original_pixels(plain: Path, tmp_path: Path) -> None:
    video = read_video(turned(plain, tmp_path / "portrait.mp4", QUARTER_TURN), max_side=48)
    assert (video.width, video.height) == (32, 48)
    np.testing.assert_allclose(video.original_from_stored, np.diag([2.0, 2.0, 1.0]))
    expected = cv2.resize(np.rot90(picture(3), k=-1), (32, 48), interpolation=cv2.INTER_AREA)
    assert close(video.frames[3], expected)


def test_small_clips_are_not_blown_up(plain: Path) -> None:
    assert read_video(plain, max_side=4000).width == WIDTH


def test_pixels_become_square(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "wide.mp4", aspect=2))
    assert (video.width, video.height) == (2 * WIDTH, HEIGHT)
    assert video.original_size == (WIDTH, HEIGHT)
    np.testing.assert_allclose(video.original_from_stored, np.diag([0.5, 1.0, 1.0]))
    assert "square" in video.notes[0]


def test_parts_of_a_clip(plain: Path) -> None:
    whole = read_video(plain)
    part = read_video(plain, start_s=0.4, end_s=1.2, every=3, max_frames=5)
    np.testing.assert_allclose(part.times_s, 0.4 + 0.12 * np.arange(5), atol=1e-9)
    np.testing.assert_array_equal(part.frames, whole.frames[10:25:3])
    assert part.notes == ()
    assert len(read_video(plain, every=7)) == 6


def test_a_truncated_clip_says_how_much_is_left(plain: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(plain.read_bytes()[: plain.stat().st_size // 2])
    video = read_video(cut)
    assert 3 < len(video) < COUNT - 5
    expected = f"{len(video)} of {COUNT} frames could be decoded; the rest of cut.mp4 is damaged or missing."
    assert expected in video.notes
    assert video.facts is not None
    assert video.facts["lost_frames"] == COUNT - len(video)
    assert all(close(video.frames[t], picture(t)) for t in range(len(video) - 1))
    with pytest.raises(FormatError, match=f"of {COUNT} frames"):
        read_video(cut, strict=True)


def test_a_truncated_matroska_clip_is_noticed_without_a_frame_count(tmp_path: Path) -> None:
    whole = clip(tmp_path / "whole.mkv")
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    video = read_video(cut)
    assert video.facts is not None
    assert video.facts["lost_frames"] == pytest.approx(COUNT - len(video), abs=1)
    assert "damaged or missing" in video.notes[0]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_no_cut_goes_unnoticed(tmp_path: Path, suffix: str) -> None:
    whole = clip(tmp_path / f"whole{suffix}")
    data, cut = whole.read_bytes(), tmp_path / f"cut{suffix}"
    for share in (0.55, 0.8, 0.9, 0.95, 0.97):
        cut.write_bytes(data[: int(share * len(data))])
        video = read_video(cut)
        assert video.facts is not None
        assert len(video) == COUNT or video.facts["lost_frames"] == pytest.approx(COUNT - len(video), abs=1)
        assert len(video) == COUNT or "damaged or missing" in video.notes[0]


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_are_noticed(plain: Path, tmp_path: Path, seed: int) -> None:
    data = bytearray(plain.read_bytes())
    start = data.index(b"mdat") + len(data) // 4
    for at in np.random.default_rng(seed).integers(start, len(data) - 1, 80):
        data[at] ^= 0x10
    (tmp_path / "flipped.mp4").write_bytes(data)
    video = read_video(tmp_path / "flipped.mp4")
    assert video.facts is not None
    assert video.facts["lost_frames"] + video.facts["corrupt_frames"] > 0
    assert len(video) + video.facts["lost_frames"] == COUNT
    assert any("damaged" in note for note in video.notes)


def test_no_damage_crashes_the_reader(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in (".mp4", ".mkv"):
        data, path = clip(tmp_path / f"good{suffix}").read_bytes(), tmp_path / f"bad{suffix}"
        for _ in range(12):
            bad = bytearray(data)
            for at in rng.integers(0, min(len(bad), 3000), 15):
                bad[at] = rng.integers(256)
            path.write_bytes(bad)
            try:
                assert len(read_video(path, max_side=32)) > 0
            except InputError as error:
                assert "\n" not in str(error)


def test_one_frame_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "one.mp4", stamps_ms=[0]))
    assert len(video) == 1
    assert video.times_s.tolist() == [0.0]
    assert video.notes == ()


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()


def without_index(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for t in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(t), format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().split(b"moov")[0])


BAD = {
    "unfinished.mp4": (without_index, FormatError, "lost its index"),
    "text.mp4": (lambda p: p.write_text("not a video\n" * 50), FormatError, "not a video"),
    "text.txt": (lambda p: p.write_text("not a video\n" * 50), FormatError, "text file"),
    "empty.mp4": (lambda p: p.write_bytes(b""), FormatError, "empty"),
    "sound.mp4": (sound_only, FormatError, "no video in it"),
    "no_frames.mp4": (no_frames, FormatError, "."),
    "missing.mp4": (lambda p: None, InputError, "does not exist"),
    "loop.mp4": (lambda p: p.symlink_to(p.name), InputError, "does not exist"),
    "long" * 80: (lambda p: None, InputError, "too long"),
    "pipe.mp4": (lambda p: os.mkfifo(p), InputError, "a pipe"),
    "bare": (lambda p: p.mkdir(), InputError, "no images"),
    "noise.png": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50), FormatError, "cannot be read as an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_typed_sentence(tmp_path: Path, name: str) -> None:
    make, kind, words = BAD[name]
    make(tmp_path / name)
    with pytest.raises(kind, match=words) as caught:
        read_video(tmp_path / name)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and name in sentence


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_path_without_permission_is_named(plain: Path, what: str) -> None:
    secret = plain.parent / f"secret_{what}"
    folder(secret, ["1.png"]) if what == "folder" else secret.write_bytes(plain.read_bytes())
    try:
        for parent in (plain.parent, plain.parent.parent, plain.parent.parent.parent):
            parent.chmod(0o755)
        secret.chmod(0)
        os.seteuid(65534)
        with pytest.raises(InputError, match="cannot be read.*ermission"):
            read_video(secret)
    finally:
        os.seteuid(0)


UNTIMED = ({"start_s": float("nan")}, {"start_s": float("inf")}, {"end_s": float("nan")})


def test_options_that_leave_nothing_are_refused(plain: Path) -> None:
    with pytest.raises(InputError, match=r"the clip lasts 1\.6"):
        read_video(plain, start_s=50)
    for options in ({"every": 0}, {"max_frames": 0}, {"max_side": 2}, {"start_s": 2.0, "end_s": 1.0}, *UNTIMED):
        with pytest.raises(InputError):
            read_video(plain, **options)


def test_a_name_that_cannot_be_printed_on_one_line_is_made_so(plain: Path, tmp_path: Path) -> None:
    odd = tmp_path / "two\nlines\udcff.mp4"
    odd.write_bytes(plain.read_bytes())
    assert read_video(odd, max_frames=2).name == "two_lines_"


def test_frames_on_disk_are_the_frames_in_memory_and_are_used_again(plain: Path, tmp_path: Path) -> None:
    held = read_video(plain, every=2)
    first = read_video(plain, every=2, cache=tmp_path)
    (stored,) = tmp_path.glob("*.npy")
    written = stored.stat().st_mtime_ns
    again = read_video(plain, every=2, cache=tmp_path)
    assert stored.stat().st_mtime_ns == written
    for video in (first, again):
        assert isinstance(video.frames, np.memmap)
        np.testing.assert_array_equal(video.frames, held.frames)
        np.testing.assert_array_equal(video.times_s, held.times_s)
        assert (video.facts, video.notes, video.original_size) == (held.facts, held.notes, held.original_size)
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_cache_is_read_anew(plain: Path, tmp_path: Path) -> None:
    held = read_video(plain, cache=tmp_path)
    expected = np.array(held.frames)
    (stored,) = tmp_path.glob("*.npy")
    stored.write_bytes(stored.read_bytes()[:-1000])
    np.testing.assert_array_equal(read_video(plain, cache=tmp_path).frames, expected)


def test_a_cache_that_cannot_be_written_is_an_output_error(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        read_video(plain, cache=tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_frames_that_a_full_disk_refuses_are_discarded_without_another_error(tmp_path: Path) -> None:
    store = DiskFrames(tmp_path / "frames.npy")
    store.add(np.zeros((2, 2, 3), np.uint8))
    assert store._file is not None
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), store._file.fileno())
    store.discard()
    assert not list(tmp_path.iterdir())


def test_the_key_follows_content_and_options(plain: Path, tmp_path: Path) -> None:
    images = folder(tmp_path / "a", ["1.png", "2.png"])
    before = video_key(images)
    (images / "notes.txt").write_text("does not matter")
    assert video_key(images) == before != video_key(images, {"every": 2}) != video_key(plain)
    Image.fromarray(picture(9)).save(images / "2.png")
    assert video_key(images) != before


def test_written_video_reads_back(tmp_path: Path) -> None:
    frames = [picture(t) for t in range(12)]
    video = read_video(write_video(tmp_path / "new" / "out.mp4", iter(frames), 29.97))
    assert np.abs(video.frames.astype(int) - np.stack(frames)).mean() < 2.0
    np.testing.assert_allclose(np.diff(video.times_s), 1 / 29.97, rtol=1e-3)
    assert video.facts is not None and video.facts["transfer"] == "BT.709"


@pytest.mark.parametrize("frames", [[], [np.zeros((5, 6, 3), np.uint8)]])
def test_video_that_cannot_be_written_leaves_nothing(tmp_path: Path, frames: list[np.ndarray]) -> None:
    with pytest.raises(InputError):
        write_video(tmp_path / "out.mp4", frames, 30)
    assert not list(tmp_path.iterdir())


# time stamps


@given(st.lists(st.one_of(st.none(), st.integers(0, 5000)), min_size=1, max_size=30))
def test_repaired_time_stamps_increase_and_good_ones_stay(stamps_ms: list[int | None]) -> None:
    raw = np.array([np.nan if s is None else s / 1000 for s in stamps_ms])
    fixed, changed = increasing(raw, 0.04)
    assert changed == int((fixed != raw).sum())
    assert np.isfinite(fixed).all()
    assert (np.diff(fixed) > 0).all()


def test_a_repeated_time_stamp_is_put_between_its_neighbours() -> None:
    fixed, changed = increasing(np.array([0.0, 1.0, 1.0, 3.0, 2.0]), 0.5)
    np.testing.assert_allclose(fixed, [0, 1, 2, 3, 3.5])
    assert changed == 2


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(16, 4000))
def test_the_longer_side_is_at_most_max_side(width: int, height: int, max_side: int) -> None:
    stored = Selection(max_side=max_side).stored_size(width, height)
    assert max(stored) == min(max_side, max(width, height))
    assert all(abs(s - w * max(stored) / max(width, height)) <= 1 for s, w in zip(stored, (width, height), strict=True))


# recordings


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the shared recordings are not on this machine")
@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [
        ("davis_dog", 60, (854, 480)),
        ("sevenscenes_redkitchen", 150, (640, 480)),
        ("sevenscenes_redkitchen/frames", 150, (640, 480)),
        ("tum_fr2desk_20frames", 20, (640, 480)),
        ("videos/pstudio.mp4", 150, (640, 360)),
        ("videos/climbing.mp4", 50, (480, 852)),
    ],
)
def test_public_recordings_are_read_whole(name: str, frames: int, size: tuple[int, int]) -> None:
    video = read_video(DATA / name, max_side=64)
    assert (len(video), video.original_size) == (frames, size)
    assert video.facts is not None and video.facts["lost_frames"] == 0


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (24, 40, 60, 3)).astype(np.uint8)
    frames = [cv2.resize(image, (480, 320), interpolation=cv2.INTER_CUBIC) for image in noise]
    contents = {write_video(tmp_path / f"{i}.mp4", frames, 20.0).read_bytes() for i in range(3)}
    assert len(contents) == 1
