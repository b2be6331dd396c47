"""Readers of datasets: what is written in their layout comes back, and what is not in it is refused in one sentence."""

import gzip
import io
import json
import pickle
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset_files import tapvid3d_arrays, write_dynamic_replica
from worldline.data import TrackTruth, dynamic_replica, read, tapvid3d, track_truth, worldtrack
from worldline.errors import FormatError, InputError, WorldlineError
from worldline.geometry import pixels
from worldline.synthetic import Quality, render, tiny_world

SPORT = "juggle_8"


@cache
def clip():
    """The truth about a rendered clip of five frames, its frames, its scene."""
    rendered = render(tiny_world(frames=5), Quality(antialias=False, track_step_px=16, track_every=2))
    return track_truth(rendered.scene), rendered.video.frames, rendered.scene


def write(folder, name=SPORT, **changes):
    truth, frames, _ = clip()
    arrays = {**tapvid3d_arrays(truth, frames), **changes}
    path = folder / f"{name}.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def one_sentence(error: WorldlineError) -> str:
    text = str(error)
    assert text.endswith(".") and "\n" not in text and len(text) < 300
    return text


def test_tapvid3d_comes_back(tmp_path):
    truth, frames, _ = clip()
    sequence = read(write(tmp_path))
    found = sequence.truth
    np.testing.assert_allclose(found.points_cam, truth.points_cam, atol=1e-5)
    np.testing.assert_array_equal(found.visible, truth.visible)
    np.testing.assert_array_equal(found.query_frame, truth.query_frame)
    np.testing.assert_allclose(found.query_uv, truth.query_uv, atol=1e-4)
    np.testing.assert_allclose(found.camera.at(0), truth.camera.at(0))
    assert np.abs(sequence.video.frames.astype(int) - frames).mean() < 6
    assert sequence.observed.camera.focal_sigma == 0 and found.depth_z is None


def test_queries_are_where_their_points_are_seen(tmp_path):
    found = read(write(tmp_path)).truth
    asked = found.query_frame == 2
    np.testing.assert_allclose(found.uv(2)[asked], found.query_uv[asked], atol=1e-3)


def test_images_may_be_pickled_bytes_but_nothing_else(tmp_path):
    truth, frames, _ = clip()
    data = np.empty(len(frames), dtype=object)
    data[:] = tapvid3d_arrays(truth, frames)["images_jpeg_bytes"].tolist()
    assert read(write(tmp_path, images_jpeg_bytes=data)).video.frames.shape == frames.shape

    class Harmful:
        def __reduce__(self):
            return (print, ("run",))

    data[0] = Harmful()
    with pytest.raises(FormatError, match="would run") as caught:
        read(write(tmp_path, images_jpeg_bytes=data))
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("boxes_22", "pstudio"),
        ("tapvid3d_9142545919543484617_86_000_106_000_2_5AKc-TYQochsSWXpv376cA", "drivetrack"),
        ("Lite_release_recognition_GreenDecorationTall_seq031_6", "adt"),
        ("Apartment_release_multiuser_party_seq134_7", "adt"),
        ("kitchen", "unknown"),
    ],
)
def test_the_name_of_a_file_tells_its_part(name, part):
    assert tapvid3d.part_of(name) == part


def test_still_cameras_have_poses_and_others_only_where_the_file_has_them(tmp_path):
    truth, frames, _ = clip()
    assert (read(write(tmp_path)).truth.world_from_cam == np.eye(4)).all()
    moving = read(write(tmp_path, "drive")).truth
    assert moving.world_from_cam is None
    with pytest.raises(InputError, match="no camera poses"):
        _ = moving.points_first
    with pytest.raises(InputError, match="no poses"):
        moving.as_scene()
    posed = read(write(tmp_path, "posed", extrinsics_w2c=np.linalg.inv(truth.world_from_cam))).truth
    np.testing.assert_allclose(posed.points_first, truth.points_first, atol=1e-5)
    np.testing.assert_allclose(posed.world_from_cam[0], np.eye(4), atol=1e-9)


def test_the_first_frames_hold_the_points_that_are_asked_for_in_them(tmp_path):
    truth, _, _ = clip()
    found = read(write(tmp_path), max_frames=2)
    assert len(found.video) == len(found.truth) == 2
    assert found.truth.points_cam.shape[1] == (truth.query_frame < 2).sum() < truth.points_cam.shape[1]
    np.testing.assert_allclose(truth.first(2).points_cam, found.truth.points_cam, atol=1e-5)
    assert truth.first(None) is truth


def test_worldtrack_without_queries_asks_where_points_are_seen_first(tmp_path):
    truth, frames, _ = clip()
    path = write(tmp_path, "world", queries_xyt=None, extrinsics_w2c=np.linalg.inv(truth.world_from_cam))
    found = worldtrack.read(path).truth
    seen = found.visible.any(0)
    assert found.visible[found.query_frame, np.arange(len(seen))][seen].all()
    with pytest.raises(FormatError, match="extrinsics_w2c"):
        worldtrack.read(write(tmp_path))


def test_dense_worldtrack_has_a_track_for_every_pixel_of_the_first_frame(tmp_path):
    truth, frames, scene = clip()
    points_world = np.stack([scene.points_world(0)] * 5)
    path = write(
        tmp_path, "dense", queries_xyt=None, extrinsics_w2c=np.linalg.inv(scene.world_from_cam),
        tracks_XYZ=points_world, visibility=np.isfinite(points_world).all(-1),
    )  # fmt: skip
    found = read(path).truth
    known = found.visible[0]
    np.testing.assert_allclose(found.query_uv, pixels.centres(scene.height, scene.width).reshape(-1, 2))
    np.testing.assert_allclose(found.uv(0)[known], found.query_uv[known], atol=1e-3)
    flat = points_world[3].reshape(-1, 3)[known]
    np.testing.assert_allclose(found.points_world[3][known], flat, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tracks_XYZ": None}, "no tracks_XYZ"),
        ({"tracks_XYZ": np.zeros((5, 3), np.float32)}, r"shape \(5, 3\)"),
        ({"visibility": np.zeros((4, 2), bool)}, "visibility"),
        ({"queries_xyt": np.full((1, 3), 0.0)}, "queries_xyt"),
        ({"fx_fy_cx_cy": np.zeros(4)}, "focal length"),
        ({"extrinsics_w2c": np.full((5, 4, 4), np.nan)}, "not finite"),
        ({"images_jpeg_bytes": np.array([b"no picture"] * 5)}, "images"),
        ({"images_jpeg_bytes": np.array([b""] * 5)[:2]}, "images"),
    ],
)
def test_files_that_are_not_tapvid3d_are_refused(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        read(write(tmp_path, **changes))
    one_sentence(caught.value)


def test_too_few_images_are_refused(tmp_path):
    truth, frames, _ = clip()
    few = tapvid3d_arrays(truth, frames)["images_jpeg_bytes"][:3]
    with pytest.raises(FormatError, match="3 images but 5 frames"):
        read(write(tmp_path, images_jpeg_bytes=few))


def test_paths_that_are_no_dataset_are_refused(tmp_path):
    (tmp_path / "half.npz").write_bytes(write(tmp_path).read_bytes()[:2000])
    (tmp_path / "text.npz").write_text("hello")
    for path in (tmp_path / "half.npz", tmp_path / "text.npz", tmp_path / "absent.npz", tmp_path, tmp_path / "x"):
        with pytest.raises(InputError) as caught:
            read(path)
        one_sentence(caught.value)
    with pytest.raises(InputError, match="does not exist"):
        tapvid3d.load(tmp_path / "absent.npz")


@pytest.mark.parametrize("zipped", [True, False])
def test_dynamic_replica_comes_back(tmp_path, zipped):
    truth, frames, scene = clip()
    sequence = read(write_dynamic_replica(tmp_path / "valid", "e0ff8f-3_obj", truth, frames, zipped=zipped))
    found = sequence.truth
    np.testing.assert_array_equal(sequence.video.frames, frames)
    np.testing.assert_allclose(found.times_s, truth.times_s)
    np.testing.assert_allclose(found.camera.at(3), truth.camera.at(3), atol=1e-9)
    np.testing.assert_allclose(found.world_from_cam, truth.world_from_cam, atol=1e-9)
    np.testing.assert_allclose(found.depth_z, truth.depth_z, rtol=1e-3)
    np.testing.assert_array_equal(found.moving > 0, truth.moving > 0)
    np.testing.assert_allclose(found.points_cam, truth.points_cam, atol=1e-5)
    assert sequence.observed.depth.metric and sequence.observed.camera_motion.metric
    as_scene = found.as_scene()
    assert as_scene.metric and as_scene.tracks.moving.any() and not as_scene.tracks.moving.all()


def test_projected_trajectories_of_dynamic_replica_lie_on_the_depth_map(tmp_path):
    truth, frames, _ = clip()
    found = read(write_dynamic_replica(tmp_path / "test", "a", truth, frames)).truth
    uv, seen = found.uv(4), found.visible[4]
    column, row = np.floor(uv[seen]).astype(int).T
    assert np.median(np.abs(found.depth_z[4][row, column] / found.points_cam[4, seen, 2] - 1)) < 0.02


def test_the_right_camera_of_dynamic_replica_has_depth_but_no_points(tmp_path):
    truth, frames, _ = clip()
    left = write_dynamic_replica(tmp_path / "valid", "a", truth, frames)
    right = read(left.with_name("a_source_right"), max_frames=2)
    assert right.truth.points_cam.shape == (2, 0, 3) and right.truth.depth_z is not None


def test_a_split_of_dynamic_replica_with_several_clips_asks_for_one(tmp_path):
    truth, frames, _ = clip()
    left = write_dynamic_replica(tmp_path / "valid", "a", truth, frames)
    with pytest.raises(InputError, match="2 clips .a_source_left, a_source_right"):
        read(left.parent)
    (left.parent / "other").mkdir()
    with pytest.raises(InputError, match="knows no frame in other"):
        read(left.parent / "other")
    with pytest.raises(InputError, match="frame_annotations"):
        dynamic_replica.read(tmp_path)


def _spoilt_annotations(file):
    file.write_bytes(b"not zipped")


def _annotations_of_another_kind(file):
    file.write_bytes(gzip.compress(json.dumps([{"a": 1}]).encode()))


def _no_pose(file):
    entries = json.loads(gzip.decompress(file.read_bytes()))
    del entries[0]["viewpoint"]["R"]
    file.write_bytes(gzip.compress(json.dumps(entries[:1]).encode()))


def _unknown_intrinsics(file):
    entries = json.loads(gzip.decompress(file.read_bytes()))
    entries[0]["viewpoint"]["intrinsics_format"] = "pixels"
    file.write_bytes(gzip.compress(json.dumps(entries[:1]).encode()))


def _no_viewpoint(file):
    entries = json.loads(gzip.decompress(file.read_bytes()))
    entries[0]["viewpoint"] = None
    file.write_bytes(gzip.compress(json.dumps(entries[:1]).encode()))


def _images_of_two_sizes(file):
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(next(file.parent.glob("*left/images/*")))


def _small_masks(file):
    for path in file.parent.glob("*left/masks/*"):
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)


def _damaged_depth(file):
    next(file.parent.glob("*left/depths/*")).write_bytes(b"png?")


def _missing_image(file):
    next(file.parent.glob("*left/images/*")).unlink()


def _harmful_trajectory(file):
    next(file.parent.glob("*left/trajectories/*")).write_bytes(pickle.dumps({"traj_3d_world": print}, protocol=2))


@pytest.mark.parametrize(
    "spoil",
    [
        _spoilt_annotations, _annotations_of_another_kind, _no_pose, _unknown_intrinsics, _damaged_depth,
        _no_viewpoint, _images_of_two_sizes, _small_masks,
        _missing_image, _harmful_trajectory,
    ],
)  # fmt: skip
def test_damaged_dynamic_replica_is_refused(tmp_path, spoil):
    truth, frames, _ = clip()
    left = write_dynamic_replica(tmp_path / "valid", "a", truth, frames)
    spoil(tmp_path / "valid" / "frame_annotations_valid.jgz")
    with pytest.raises(FormatError) as caught:
        read(left)
    one_sentence(caught.value)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), compressed=st.booleans())
def test_files_with_flipped_or_missing_bytes_are_read_or_refused_but_nothing_else(seed, compressed):
    rng = np.random.default_rng(seed)
    data = bytearray(file_bytes(compressed))
    if rng.random() < 0.3:
        data = data[: rng.integers(1, len(data))]
    for place in rng.integers(len(data), size=rng.integers(1, 6)):
        data[place] = rng.integers(256)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drive.npz"
        path.write_bytes(data)
        try:
            read(path)
        except InputError as error:
            one_sentence(error)


@cache
def file_bytes(compressed: bool) -> bytes:
    truth, frames, _ = clip()
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **tapvid3d_arrays(truth.first(2), frames[:2], poses=True))
    return buffer.getvalue()


def test_a_scene_without_tracks_is_no_truth_about_points():
    with pytest.raises(InputError, match="no tracks"):
        track_truth(replace(clip()[2], tracks=None))
    assert isinstance(clip()[0], TrackTruth)
