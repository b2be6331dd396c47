"""Poses, masks, lengths and LiDAR points from files: which frame each belongs to, and what wrong ones are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from worldline.errors import FormatError, InputError
from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.io.formats.ply import write_points
from worldline.io.formats.tum import Trajectory, write_trajectory
from worldline.io.known.clip_frames import ClipFrames, match_files, name_numbers, nearest_in_time
from worldline.io.known.lengths import read_lengths
from worldline.io.known.lidar import read_lidar, read_point_file, sparse_depth
from worldline.io.known.masks import read_masks
from worldline.io.known.poses import PoseSettings, read_matrix, read_poses
from worldline.io.video_files import read_video, write_video
from worldline.scene.video import Video

WIDTH, HEIGHT = 64, 48


def images(folder: Path, names: list[str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", size, (number, 0, 0)).save(folder / name)
    return folder


def frames(count: int = 10, *, files: list[str] | None = None, **facts: object) -> Video:
    pixels = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    times_s = facts.pop("times_s", np.arange(count) / 10)
    said = {**facts, **({} if files is None else {"files": files})}
    return Video(
        pixels, times_s, "clip", original_from_stored=np.diag([2.0, 2, 1]), original_size=(128, 96), facts=said
    )


def path_of(times_s: np.ndarray) -> np.ndarray:
    """A camera that moves and turns evenly."""
    t = torch.from_numpy(np.asarray(times_s, dtype=np.float64))
    return se3.exp(t[:, None] * torch.tensor([0.3, -0.2, 0.5, 0.1, 0.4, -0.2], dtype=torch.float64)).numpy()


def screw(times_s: np.ndarray) -> np.ndarray:
    """The same turns, the centre on a straight line, so that interpolation is exact."""
    motion = path_of(times_s)
    motion[:, :3, 3] = np.asarray(times_s)[:, None] * np.array([0.3, -0.2, 0.5])
    return motion


def tum_file(path: Path, times_s: np.ndarray) -> Path:
    write_trajectory(path, Trajectory(np.asarray(times_s, dtype=np.float64), screw(times_s)))
    return path


# files and frames


def test_files_go_by_name_number_or_order(tmp_path):
    clip = ClipFrames.of(frames(3, files=["f1.png", "f2.png", "f3.png"], frame_numbers=[1, 2, 3], clip_frames=5))
    of = lambda *names: [f and f.name for f in match_files([Path(n) for n in names], clip, "masks").files]  # noqa: E731
    assert of("f1.png", "f3.png") == ["f1.png", None, "f3.png"]
    assert of("mask_2.png", "mask_9.png") == [None, "mask_2.png", None]
    assert of("a.png", "b.png", "c.png", "d.png", "e.png") == ["b.png", "c.png", "d.png"], "one for each of the input"
    assert of("x.png", "y.png", "z.png") == ["x.png", "y.png", "z.png"], "one for each frame in use"


def test_as_many_files_as_frames_that_count_from_elsewhere_go_in_order():
    clip = ClipFrames.of(frames(3, files=["1.png", "2.png", "3.png"], clip_frames=3))
    found = match_files([Path(f"{n}.png") for n in range(3)], clip, "masks")
    assert [f.name for f in found.files if f] == ["0.png", "1.png", "2.png"]


def test_files_that_belong_to_no_frame_are_told_with_both_ranges():
    clip = ClipFrames.of(frames(3, files=["1.png", "2.png", "3.png"], clip_frames=3))
    with pytest.raises(InputError, match=r"8\.png to 9\.png.*1\.png to 3\.png"):
        match_files([Path("8.png"), Path("9.png")], clip, "masks")
    with pytest.raises(InputError, match="more than one file"):
        match_files([Path("a_1.png"), Path("b_1.png")], clip, "masks")


@given(
    st.lists(st.integers(0, 9999), min_size=2, max_size=20, unique=True),
    st.sampled_from(["frame-{:06d}.color", "cam0_{}", "{:04d}_v2"]),
)
def test_the_number_in_a_name_is_the_one_that_tells_the_frames_apart(numbers, form):
    assert name_numbers([form.format(n) for n in numbers]) == numbers


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=20, unique=True),
    st.lists(st.floats(0, 10), min_size=1, max_size=20),
)
def test_the_nearest_in_time_is_near_and_used_once(wanted, given_s):
    wanted_s, at_s = np.sort(np.array(wanted)), np.array(given_s)
    found = nearest_in_time(wanted_s, at_s, 0.5)
    used = found[found >= 0]
    assert len(set(used)) == len(used)
    assert (np.abs(at_s[used] - wanted_s[found >= 0]) <= 0.5).all()


def test_the_reader_says_which_frames_of_a_video_were_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / "clip.mp4", pixels, 10.0)
    for options, numbers in (
        ({}, range(20)),
        ({"every": 3, "start_s": 0.5}, range(5, 20, 3)),
        ({"max_frames": 2}, range(2)),
    ):
        clip = ClipFrames.of(read_video(path, **options))
        assert clip.numbers.tolist() == list(numbers) and clip.clip_frames == 20 and not clip.stamped


def test_the_reader_says_which_images_were_read_and_whether_their_names_are_times(tmp_path):
    folder = images(tmp_path / "rgb", [f"{i}.png" for i in range(10)])
    clip = ClipFrames.of(read_video(folder, every=4))
    assert clip.files == ("0.png", "4.png", "8.png") and clip.numbers.tolist() == [0, 4, 8]
    assert clip.clip_frames == 10 and not clip.stamped and not clip.timed
    assert ClipFrames.of(read_video(images(tmp_path / "t", ["12.5.png", "12.6.png"]))).stamped


# poses


def test_poses_at_time_stamps_are_interpolated_and_never_extrapolated(tmp_path):
    at_s = 100 + np.arange(10) / 10
    video = frames(10, files=[f"{t:.6f}.png" for t in at_s], clock="names", times_s=at_s)
    known = read_poses(tum_file(tmp_path / "p.txt", 100.25 + np.arange(20) * 0.03), ClipFrames.of(video))
    assert known.valid.tolist() == [False] * 3 + [True] * 6 + [False]
    np.testing.assert_allclose(known.world_from_cam[known.valid], screw(at_s[3:9]), atol=1e-9)
    assert known.metric and (known.world_from_cam[~known.valid] == np.eye(4)).all()


def test_a_long_gap_between_poses_is_not_bridged(tmp_path):
    known = read_poses(tum_file(tmp_path / "p.txt", [0.0, 0.9]), ClipFrames.of(frames(10)))
    assert known.valid.tolist() == [True] + [False] * 8 + [True]
    np.testing.assert_allclose(known.world_from_cam[[0, 9]], screw([0.0, 0.9]), atol=1e-12)


def test_the_offset_is_added_to_the_times_of_the_poses(tmp_path):
    path = tum_file(tmp_path / "p.txt", np.arange(10) / 10 - 0.05)
    known = read_poses(path, ClipFrames.of(frames(10)), PoseSettings(offset_s=0.05))
    np.testing.assert_allclose(known.world_from_cam, screw(np.arange(10) / 10 - 0.05), atol=1e-12)


def test_absolute_poses_of_a_relative_video_count_from_their_first(tmp_path):
    known = read_poses(tum_file(tmp_path / "p.txt", 1e9 + np.arange(10) / 10), ClipFrames.of(frames(10)))
    assert known.valid.all() and any("from their first" in note for note in known.source.notes)


def test_an_offset_counts_also_from_the_first_pose(tmp_path):
    path = tum_file(tmp_path / "p.txt", 1e9 + np.arange(10) / 10)
    known = read_poses(path, ClipFrames.of(frames(10)), PoseSettings(offset_s=0.2))
    assert np.flatnonzero(known.valid).tolist() == list(range(2, 10))
    with pytest.raises(InputError, match="none has a pose near"):
        read_poses(path, ClipFrames.of(frames(10)), PoseSettings(offset_s=500.0))


def test_times_in_milliseconds_are_refused(tmp_path):
    with pytest.raises(InputError, match="only the first has a pose near.*seconds"):
        read_poses(tum_file(tmp_path / "p.txt", np.arange(10) * 100.5), ClipFrames.of(frames(10)))


def test_as_many_poses_as_images_without_times_go_in_order(tmp_path):
    images_only = frames(10, files=[f"f{n}.png" for n in range(10)], clock="assumed", times_s=np.arange(10) / 30)
    known = read_poses(tum_file(tmp_path / "p.txt", np.arange(10) / 10), ClipFrames.of(images_only))
    np.testing.assert_allclose(known.world_from_cam, screw(np.arange(10) / 10), atol=1e-9)
    assert known.valid.all() and any("in order" in note for note in known.source.notes)


def test_poses_in_millimetres_are_told_by_their_speed(tmp_path):
    motion = screw(np.arange(10) / 10)
    motion[:, :3, 3] *= 1000
    write_trajectory(tmp_path / "p.txt", Trajectory(np.arange(10) / 10, motion))
    notes = read_poses(tmp_path / "p.txt", ClipFrames.of(frames(10))).source.notes
    assert any("m/s" in note for note in notes)


def test_frame_numbers_in_place_of_times_are_understood_where_they_can_be_nothing_else(tmp_path):
    path = tum_file(tmp_path / "p.txt", [0, 9])
    known = read_poses(path, ClipFrames.of(frames(10)))
    assert np.flatnonzero(known.valid).tolist() == [0, 9] and any("frame numbers" in n for n in known.source.notes)
    named = frames(3, files=["f10.png", "f20.png", "f30.png"], clock="assumed")
    known = read_poses(tum_file(tmp_path / "q.txt", [10, 30]), ClipFrames.of(named))
    assert known.valid.tolist() == [True, False, True] and any("names" in n for n in known.source.notes)


def test_whole_seconds_within_a_video_are_times(tmp_path):
    video = frames(40, times_s=np.arange(40) / 10)
    known = read_poses(tum_file(tmp_path / "p.txt", [0, 1, 2, 3]), ClipFrames.of(video))
    assert np.flatnonzero(known.valid).tolist() == [0, 10, 20, 30]


def test_poses_of_another_time_are_told_with_both_ranges(tmp_path):
    video = frames(2, files=["100.0.png", "100.1.png"], clock="names", times_s=np.array([100.0, 100.1]))
    with pytest.raises(InputError, match=r"5 to 6 s.*100 to 100\.1 s"):
        read_poses(tum_file(tmp_path / "p.txt", [5.0, 6.0]), ClipFrames.of(video))


@pytest.mark.parametrize("columns", [12, 16])
def test_one_matrix_per_line_is_one_per_frame_of_the_input(tmp_path, columns):
    path, motion = tmp_path / "poses.txt", screw(np.arange(9) / 10)
    np.savetxt(path, motion.reshape(9, 16)[:, :columns])
    clip = ClipFrames.of(frames(3, frame_numbers=[0, 4, 8], clip_frames=9))
    np.testing.assert_allclose(read_poses(path, clip).world_from_cam, motion[[0, 4, 8]], atol=1e-12)
    with pytest.raises(InputError, match="9 poses.*7 frames"):
        read_poses(path, ClipFrames.of(frames(7)))


def test_a_lost_frame_is_one_of_numbers_that_are_not_finite(tmp_path):
    motion = screw(np.arange(3) / 10).reshape(3, 16)
    motion[1] = -np.inf
    np.savetxt(tmp_path / "poses.txt", motion)
    assert read_poses(tmp_path / "poses.txt", ClipFrames.of(frames(3))).valid.tolist() == [True, False, True]


def test_a_folder_of_matrices_belongs_to_the_frames_of_the_same_numbers(tmp_path):
    motion = screw(np.arange(3) / 10)
    for n in (0, 2):
        np.savetxt(tmp_path / f"frame-{n:06d}.pose.txt", motion[n])
    (tmp_path / "readme.txt").write_text("no pose")
    clip = ClipFrames.of(frames(3, files=[f"frame-{n:06d}.color.png" for n in range(3)]))
    known = read_poses(tmp_path, clip)
    assert known.valid.tolist() == [True, False, True]
    np.testing.assert_allclose(known.world_from_cam[[0, 2]], motion[[0, 2]], atol=1e-12)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 0 0 0\n0 2 0 0\n0 0 1 0\n0 0 0 1", "rotation"),
        ("1 0 0 0\n0 1 0 0\n0 0 -1 0\n0 0 0 1", "rotation"),
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n1 0 0 1", "0 0 0 1"),
        ("1 2 3", "3 numbers"),
        ("one", "no number"),
        ("nan 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1", "not finite"),
    ],
)
def test_what_is_no_rigid_motion_is_told(tmp_path, text, reason):
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(FormatError, match=reason):
        read_matrix(tmp_path / "m.txt")


@pytest.mark.parametrize("wrong", [{"offset_s": np.nan}, {"sigma_m": 0.0}, {"sigma_m": -1.0}, {"sigma_rad": np.inf}])
def test_impossible_pose_settings_are_refused(wrong):
    with pytest.raises(InputError):
        PoseSettings(**wrong)


# masks


def save_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def blob(value: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = value
    return mask


def test_masks_of_some_frames_leave_the_others_unknown(tmp_path):
    save_mask(tmp_path / "m" / "1.png", blob(255))
    masks = read_masks(tmp_path / "m", frames(3, files=["0.png", "1.png", "2.png"]))
    assert masks.known.tolist() == [False, True, False] and masks.partial
    np.testing.assert_array_equal(masks.ids[1], blob(1))


def test_object_numbers_stay_the_same_over_time(tmp_path):
    for n, value in enumerate((7, 9)):
        save_mask(tmp_path / "m" / f"{n}.png", blob(value))
    masks = read_masks(tmp_path / "m", frames(2))
    assert masks.known is None and masks.ids.max((1, 2)).tolist() == [1, 2]


def test_colours_are_objects_and_palettes_are_numbers(tmp_path):
    colour = np.stack([blob(128), blob(0), blob(64)], -1)
    save_mask(tmp_path / "c" / "0.png", colour)
    palette = Image.fromarray(blob(1)).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    (tmp_path / "p").mkdir()
    palette.save(tmp_path / "p" / "0.png")
    for folder in ("c", "p"):
        np.testing.assert_array_equal(read_masks(tmp_path / folder, frames(1)).ids[0], blob(1))


def test_a_lossy_mask_is_cut_at_half_brightness(tmp_path):
    (tmp_path / "m").mkdir()
    ramp = np.linspace(0, 255, WIDTH).astype(np.uint8)[None].repeat(HEIGHT, 0)
    Image.fromarray(ramp).save(tmp_path / "m" / "0.jpg")
    ids = read_masks(tmp_path / "m", frames(1)).ids[0]
    assert ids[:, :28].max() == 0 and ids[:, 36:].min() == 1


@pytest.mark.parametrize("factor", [0.5, 3])
def test_masks_of_another_size_cover_the_same_image(tmp_path, factor):
    width, height = int(WIDTH * factor), int(HEIGHT * factor)
    save_mask(tmp_path / "m" / "0.png", blob(255, width, height))
    ids = read_masks(tmp_path / "m", frames(1)).ids[0]
    np.testing.assert_array_equal(ids, blob(1, min(width, WIDTH), min(height, HEIGHT)))


def test_masks_that_cannot_be_used_are_told(tmp_path):
    save_mask(tmp_path / "m" / "0.png", blob(255, 48, 48))
    with pytest.raises(InputError, match="another shape"):
        read_masks(tmp_path / "m", frames(1))
    (tmp_path / "m" / "0.png").write_bytes(b"no image")
    with pytest.raises(FormatError, match="cannot be read"):
        read_masks(tmp_path / "m", frames(1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no files"):
        read_masks(tmp_path / "empty", frames(1))
    with pytest.raises(InputError, match="not a folder"):
        read_masks(tmp_path / "none", frames(1))


def test_masks_that_leave_nothing_or_little_static_are_told(tmp_path):
    save_mask(tmp_path / "m" / "0.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    with pytest.raises(InputError, match="nothing static.*invert"):
        read_masks(tmp_path / "m", frames(1))
    save_mask(tmp_path / "m" / "0.png", 255 - blob(255))
    assert any("invert them" in note for note in read_masks(tmp_path / "m", frames(1)).source.notes)


# lengths


def test_a_known_length_is_marked_in_pixels_of_the_original_image():
    lengths = read_lengths(
        ["4:10,20,110,20=0.5", "b.png:0,0,0,95=1"], frames(2, files=["a.png", "b.png"], frame_numbers=[4, 6])
    )
    assert lengths.frame.tolist() == [0, 1]
    np.testing.assert_allclose(lengths.uv[0], [[5.25, 10.25], [55.25, 10.25]])
    np.testing.assert_allclose(
        lengths.sigma_m, [0.5 * np.hypot(0.01, np.sqrt(2) / 100), np.hypot(0.01, np.sqrt(2) / 95)]
    )


NO_FORM = ["", "1", "0:1,2,3=1", "0:1,2,3,4", "0:1,2,3,x=1"]
NO_LENGTH = ["0:1,2,3,4=-1", "0:1,2,3,4=nan", "0:1,2,1,2=1", "0:1,2,300,4=1", "99:1,2,30,4=1", "x:1,2,30,4=1"]


@pytest.mark.parametrize("text", NO_FORM + NO_LENGTH)
def test_a_length_that_cannot_be_read_is_told(text):
    with pytest.raises(InputError) as refusal:
        read_lengths([text], frames(3))
    assert str(refusal.value).endswith(".")


# LiDAR

CAMERA = Camera(np.array([50.0, 50, 32, 24]), WIDTH, HEIGHT, (0.1, 0.02))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_the_nearest_point_of_a_pixel_wins(seed):
    generator = np.random.default_rng(seed)
    points = generator.uniform((-2, -2, -1), (2, 2, 5), (200, 3))
    pinhole = Camera(CAMERA.intrinsics, WIDTH, HEIGHT)
    depth_z = sparse_depth(points, np.eye(4), pinhole)
    truth = np.zeros_like(depth_z)
    for x, y, z in points[np.argsort(-points[:, 2])]:
        u, v = 50 * x / z + 32, 50 * y / z + 24
        if z > 0.1 and 0 <= u < WIDTH and 0 <= v < HEIGHT:
            truth[int(v), int(u)] = z
    np.testing.assert_array_equal(depth_z, truth)


def test_points_go_through_the_mount_and_the_lens():
    camera_from_lidar = np.array([[0.0, -1, 0, 0.1], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    depth_z = sparse_depth(np.array([[2.0, -0.9, 0.0]]), camera_from_lidar, CAMERA)
    assert np.argwhere(depth_z).tolist() == [[24, int(50 * 0.5 * (1 + 0.1 * 0.25 + 0.02 * 0.0625) + 32)]]


def test_every_kind_of_point_file_gives_the_same_points(tmp_path):
    points = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.save(tmp_path / "0.npy", np.column_stack([points, np.ones(20)]))
    np.savetxt(tmp_path / "0.xyz", points, fmt="%.9g")
    np.savetxt(tmp_path / "0.csv", points, delimiter=",", fmt="%.9g", header="x,y,z")
    np.column_stack([points, np.ones(20)]).astype("<f4").tofile(tmp_path / "0.bin")
    write_points(tmp_path / "0.ply", points, np.zeros((20, 3), np.uint8))
    for suffix in ("npy", "xyz", "csv", "bin", "ply"):
        np.testing.assert_allclose(read_point_file(tmp_path / f"0.{suffix}"), points, rtol=1e-6)


def test_lidar_of_some_frames_gives_sparse_metric_depth(tmp_path):
    np.save(tmp_path / "1.npy", np.array([[0.0, 0, 2], [np.nan, 0, 0]]))
    depth = read_lidar(tmp_path, frames(3, files=["0.png", "1.png", "2.png"]), CAMERA)
    assert depth.metric and depth.partial and np.argwhere(depth.depth_z).tolist() == [[1, 24, 32]]
    assert depth.sigma[1, 24, 32] == pytest.approx(np.hypot(0.01, 0.003))


@pytest.mark.parametrize("suffix", [".txt", ".bin", ".xyz"])
def test_an_empty_file_is_a_scan_without_points(tmp_path, suffix):
    (tmp_path / f"1{suffix}").touch()
    assert read_point_file(tmp_path / f"1{suffix}").shape == (0, 3)


def test_lidar_that_cannot_be_used_is_told(tmp_path):
    np.save(tmp_path / "0.npy", np.array([[0.0, 0, -2]]))
    with pytest.raises(InputError, match="in view"):
        read_lidar(tmp_path, frames(1), CAMERA)
    for name, content in (("a.bin", b"12345"), ("a.xyz", b"1 2\n"), ("a.npy", b"no"), ("a.ply", b"ply\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError):
            read_point_file(tmp_path / name)
