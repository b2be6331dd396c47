"""RGB-D folders: which depth belongs to which frame, what its values mean, how wrong they are; and all together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from worldline.errors import FormatError, InputError
from worldline.io.known.depth_alignment import Alignment, aligned, find_alignment
from worldline.io.known.depth_images import DepthSettings, read_depth
from worldline.io.known.depth_noise import DepthNoise, relative_sigma
from worldline.io.known.rgbd_folders import find_beside, find_depth
from worldline.io.video_files import read_video
from worldline.run.known import Known, known_key, observations
from worldline.scene.observations import DepthMaps

DATA = Path(__file__).parents[1].parent / "shared" / "data"
WIDTH, HEIGHT = 64, 48
real = pytest.mark.skipif(not DATA.is_dir(), reason="the shared recordings are not on this machine")


def colour(path: Path, brightness: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (brightness, 0, 0)).save(path)


def depth(path: Path, value: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full(size[::-1], value, np.uint16))


def seven_scenes(folder: Path, count: int = 4) -> Path:
    for n in range(count):
        colour(folder / f"frame-{n:06d}.color.png", n)
        depth(folder / f"frame-{n:06d}.depth.png", 1000 + n)
    return folder


def tum_folder(folder: Path, *, lists: bool = True, late_s: float = 0.008) -> Path:
    """Depth comes a little later than colour, and of the third frame not at all."""
    stamps = [f"{1000 + n / 30:.6f}" for n in range(5)]
    rows = []
    for n, stamp in enumerate(stamps):
        colour(folder / "rgb" / f"{stamp}.png", n)
        if n != 2:
            later = f"{float(stamp) + late_s:.6f}"
            depth(folder / "depth" / f"{later}.png", 5000 + 5 * n)
            rows.append(f"{later} depth/{later}.png")
    if lists:
        (folder / "depth.txt").write_text("# depth maps\n" + "\n".join(rows))
        (folder / "rgb.txt").write_text("\n".join(f"{s} rgb/{s}.png" for s in stamps))
    return folder


def read(folder: Path, settings: DepthSettings | None = None, **reading: int) -> DepthMaps:
    found = find_beside(folder)
    assert found is not None
    return read_depth(found, read_video(folder, **reading), settings).maps


def first_values(maps: DepthMaps) -> list[float]:
    return [round(float(z), 4) for z in maps.depth_z[:, 20, 20]]


def test_depth_beside_the_colour_images_of_a_subfolder_is_found_from_above(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(3):
        Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(frames / f"frame-{i:06d}.color.png")
        Image.fromarray(np.full((8, 10), 1500, np.uint16)).save(frames / f"frame-{i:06d}.depth.png")
    found = find_beside(tmp_path)
    assert found is not None and found.folder == frames and len(found.files) == 3


def test_the_seven_scenes_layout_is_in_millimetres_and_65535_is_nothing(tmp_path):
    seven_scenes(tmp_path)
    depth(tmp_path / "frame-000003.depth.png", 65535)
    maps = read(tmp_path)
    assert first_values(maps) == [1.0, 1.001, 1.002, 0.0] and maps.metric
    assert any("millimetres" in note for note in maps.source.notes)


@pytest.mark.parametrize("lists", [True, False])
def test_the_tum_layout_goes_by_time_stamps_and_5000_values_per_metre(tmp_path, lists):
    maps = read(tum_folder(tmp_path, lists=lists))
    assert first_values(maps) == [1.0, 1.001, 0.0, 1.003, 1.004]
    assert any("4 of 5 frames" in note for note in maps.source.notes)


def test_depth_of_another_time_is_not_of_this_frame(tmp_path):
    with pytest.raises(InputError, match="none of the 4 files"):
        read(tum_folder(tmp_path, late_s=5.0))


def test_two_folders_of_equal_names(tmp_path):
    for n in (0, 110):
        colour(tmp_path / "color" / f"{n:06d}.jpg")
        depth(tmp_path / "depth" / f"{n:06d}.png", 1000 + n)
    assert first_values(read(tmp_path)) == [1.0, 1.11]


def test_values_too_far_for_millimetres_are_fifths(tmp_path):
    for n in range(2):
        colour(tmp_path / "rgb" / f"{n}.png")
        depth(tmp_path / "depth" / f"{n}.png", 15000)
    assert first_values(read(tmp_path)) == [3.0, 3.0]


def test_the_scale_can_be_given(tmp_path):
    assert first_values(read(seven_scenes(tmp_path), DepthSettings(scale=100.0)))[0] == 10.0
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(InputError):
            DepthSettings(scale=wrong)


def test_depth_follows_the_choice_of_frames_and_their_size(tmp_path):
    maps = read(seven_scenes(tmp_path, 8), every=3, max_frames=2, max_side=32)
    assert maps.depth_z.shape == (2, 24, 32)
    assert first_values(maps) == [1.0, 1.003]


def test_floating_point_depth_is_in_metres(tmp_path):
    colour(tmp_path / "rgb" / "0.png")
    (tmp_path / "depth").mkdir()
    values = np.full((HEIGHT, WIDTH), 2.5, np.float32)
    values[:5] = np.nan
    np.save(tmp_path / "depth" / "0.npy", values)
    maps = read(tmp_path)
    assert maps.depth_z[0, 20, 20] == 2.5 and not maps.depth_z[0, :5].any()


def test_depth_in_a_unit_that_cannot_be_is_refused(tmp_path):
    colour(tmp_path / "rgb" / "0.png")
    depth(tmp_path / "depth" / "0.png", 3)  # metres, stored as whole numbers
    with pytest.raises(InputError, match="0.003 m in the median.*--depth-scale"):
        read(tmp_path)
    assert first_values(read(tmp_path, DepthSettings(scale=1.0))) == [3.0]
    (tmp_path / "depth" / "0.png").unlink()
    np.save(tmp_path / "depth" / "0.npy", np.full((HEIGHT, WIDTH), 2500, np.float32))  # millimetres
    with pytest.raises(InputError, match="2.5e\\+03 m in the median"):
        read(tmp_path)


def test_our_own_export_says_its_scale(tmp_path):
    colour(tmp_path / "rgb" / "0.png")
    depth(tmp_path / "depth" / "000000.png", 500)
    (tmp_path / "depth" / "depth.json").write_text(json.dumps({"scale": 200.0}))
    assert first_values(read(tmp_path)) == [2.5]


def test_a_folder_of_colour_alone_and_a_file_have_no_depth_beside(tmp_path):
    colour(tmp_path / "rgb" / "0.png")
    assert find_beside(tmp_path) is None and find_beside(tmp_path / "rgb" / "0.png") is None
    with pytest.raises(InputError, match="not a folder"):
        find_depth(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="16-bit"):
        find_depth(tmp_path / "empty")


def test_pictures_of_depth_are_not_taken_for_depth(tmp_path):
    colour(tmp_path / "rgb" / "0.png")
    colour(tmp_path / "depth" / "0.png")
    assert find_beside(tmp_path) is None


def wrong_depth(kind: str, folder: Path) -> None:
    file = folder / "frame-000001.depth.png"
    if kind == "eight bits":
        cv2.imwrite(str(file), np.ones((HEIGHT, WIDTH), np.uint8))
    elif kind == "colour":
        cv2.imwrite(str(file), np.ones((HEIGHT, WIDTH, 3), np.uint8))
    elif kind == "damaged":
        file.write_bytes(b"\x89PNG")
    elif kind == "other shape":
        depth(file, 1000, (48, 48))
    elif kind == "other size":
        depth(file, 1000, (32, 24))
    elif kind == "empty":
        for path in folder.glob("*.depth.png"):
            depth(path, 0)


@pytest.mark.parametrize("kind", ["eight bits", "colour", "damaged", "other shape", "other size", "empty"])
def test_depth_that_cannot_be_used_is_told(tmp_path, kind):
    wrong_depth(kind, seven_scenes(tmp_path))
    with pytest.raises((InputError, FormatError)) as refusal:
        read(tmp_path)
    assert str(refusal.value).endswith(".")


# two cameras side by side

APART = Alignment(0.9, np.array([3.0, -5.0]), np.array([-14.0, 4.0]))


def boxes(seed: int, alignment: Alignment, size: tuple[int, int] = (240, 180)) -> tuple[np.ndarray, np.ndarray]:
    """Depth of boxes before a wall, and their colour image as a camera beside sees it."""
    generator = np.random.default_rng(seed)
    width, height = size
    depth_z, image = np.full((height, width), 4.0, np.float32), np.full((height, width, 3), 90, np.uint8)
    for z in np.sort(generator.uniform(0.8, 3, 12))[::-1]:
        first = generator.uniform((0, 0), (width - 40, height - 40))
        corners = np.stack([first, first + generator.uniform(20, 70, 2)]).round()
        cv2.rectangle(depth_z, *corners.astype(int).tolist(), float(z), -1)
        there = alignment.moved(corners, np.full(2, z), np.array(size) / 2).round().astype(int)
        cv2.rectangle(image, *there.tolist(), generator.integers(0, 255, 3).tolist(), -1)
    return depth_z, image


def scene_of_boxes(folder: Path, alignment: Alignment) -> Path:
    for n in range(8):
        depth_z, image = boxes(n, alignment)
        cv2.imwrite(str(folder / f"frame-{n:06d}.color.png"), image)
        cv2.imwrite(str(folder / f"frame-{n:06d}.depth.png"), (depth_z * 1000).astype(np.uint16))
    return folder


def test_edges_tell_how_two_cameras_lie_to_each_other():
    pairs = [boxes(n, APART) for n in range(8)]
    found = find_alignment(*zip(*pairs, strict=True))
    uv, z = np.random.default_rng(0).uniform((0, 0), (240, 180), (500, 2)), np.linspace(0.8, 4, 500)
    middle = np.array([120.0, 90.0])
    off_px = np.linalg.norm(found.moved(uv, z, middle) - APART.moved(uv, z, middle), axis=1)
    assert np.median(off_px) < 1.5 and found.better > 1.3


def test_depth_of_another_camera_is_moved_into_the_view_of_colour(tmp_path):
    maps = read(scene_of_boxes(tmp_path, APART))
    assert any("moved" in note and "0.9" in note for note in maps.source.notes)
    truth = Alignment(1.0, np.zeros(2), np.zeros(2))
    for n in range(8):
        depth_z, _ = boxes(n, truth)
        there = aligned(APART, depth_z, depth_z)[0]
        both = (there > 0) & (maps.depth_z[n] > 0)
        assert np.mean(np.abs(there[both] - maps.depth_z[n][both]) > 0.05) < 0.06
    kept = read_depth(find_beside(tmp_path), read_video(tmp_path), DepthSettings(as_is=True)).maps
    assert kept.depth_z[0, 0, 0] == 4.0 and len(kept.source.notes) < len(maps.source.notes)


def test_depth_in_the_view_of_colour_stays_as_it_is(tmp_path):
    maps = read(scene_of_boxes(tmp_path, Alignment(1.0, np.array([2.0, -1.0]), np.zeros(2))))
    np.testing.assert_allclose(maps.depth_z[3], boxes(3, APART)[0], atol=1e-3)


def test_without_edges_nothing_is_said_about_the_alignment():
    flat = np.full((120, 160), 2.0, np.float32)
    black = [np.zeros((180, 240, 3), np.uint8)] * 8
    assert find_alignment([flat] * 8, [image[:120, :160] for image in black]) is None
    assert find_alignment([boxes(n, APART)[0] for n in range(8)], black) is None


def test_the_nearest_surface_hides_what_is_behind_it():
    depth_z = np.full((40, 60), 4.0, np.float32)
    depth_z[10:30, 20:40] = 1.0
    there, _ = aligned(Alignment(1.0, np.zeros(2), np.array([-8.0, 0.0])), depth_z, depth_z * 0.01)
    assert (there[12:28, 14:30] == 1.0).all() and (there[12:28, 34:37] == 0).all(), "what was hidden is unknown"
    assert (there[:8, :56] == 4.0).all()


# noise


@given(st.floats(0.4, 8), st.floats(0.4, 8), st.sampled_from(["kinect", "tof", "0.02"]))
def test_what_is_farther_is_less_certain_in_metres(near, far, name):
    noise = DepthNoise.named(name)
    sigma = [float(noise.axial(np.full((1, 1), z))[0, 0]) * z for z in sorted((near, far))]
    assert 0 < sigma[0] <= sigma[1] + 1e-12


def test_the_noise_of_a_kinect_is_the_published_one_and_a_floor():
    sigma = relative_sigma(np.full((9, 9), 3.0), DepthNoise("kinect", relative=0.0))
    assert sigma[4, 4] * 3 == pytest.approx(1.425e-3 * 9, rel=1e-5)
    assert relative_sigma(np.full((9, 9), 0.5), DepthNoise())[4, 4] == pytest.approx(0.01, rel=0.01)


def test_edges_and_the_rims_of_holes_are_uncertain():
    depth_z = np.full((20, 20), 2.0)
    depth_z[:, 10:], depth_z[:5, :5] = 3.0, 0.0
    sigma = relative_sigma(depth_z, DepthNoise())
    assert sigma[15, 9] == pytest.approx(np.log(1.5) / 2, rel=0.01) == sigma[15, 10]
    assert sigma[15, 5] < 0.012 < 0.03 < sigma[5, 2]


@pytest.mark.parametrize("name", ["lidar", "-1", "0", "2", "nan", ""])
def test_an_unknown_noise_is_refused(name):
    with pytest.raises(InputError, match="kinect, tof"):
        DepthNoise.named(name)


# all that is known


def everything(folder: Path) -> tuple[Path, Known]:
    seven_scenes(folder / "clip")
    (folder / "k.txt").write_text("50 50 31.5 23.5")
    np.savetxt(folder / "poses.txt", np.tile(np.eye(4).reshape(1, 16), (4, 1)))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:20, 10:20] = 255
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / "2.png")
    known = Known(
        intrinsics=folder / "k.txt",
        poses=folder / "poses.txt",
        masks=folder / "masks",
        lengths=("0:1,1,50,1=1.5",),
    )
    return folder / "clip", known


def test_all_that_is_known_comes_together_and_is_said(tmp_path):
    source, known = everything(tmp_path)
    observed = observations(known, read_video(source), source=source)
    assert observed is not None and observed.camera is not None and observed.depth is not None
    assert observed.camera.focal_sigma == 0.005 and observed.camera.camera.at(0).tolist() == [50, 50, 32, 24]
    assert observed.camera_motion.valid.all() and observed.moving.known.sum() == 1 and len(observed.lengths.frame) == 1
    for name in ("k.txt", "poses.txt", "masks", "clip", "length"):
        assert any(name in note for note in observed.notes), name


def test_depth_that_was_found_but_cannot_be_used_can_be_left_alone(tmp_path):
    source = seven_scenes(tmp_path)
    wrong_depth("damaged", source)
    with pytest.raises(FormatError, match="--rgb-only"):
        observations(Known(), read_video(source), source=source)
    assert observations(Known(rgb_only=True), read_video(source), source=source) is None


def test_nothing_known_is_none_and_recorded_poses_are_not_used_unasked(tmp_path):
    source, _ = everything(tmp_path)
    np.savetxt(source / "frame-000000.pose.txt", np.eye(4))
    observed = observations(Known(), read_video(source), source=source)
    assert observed.camera_motion is None and observed.depth is not None
    assert observations(Known(rgb_only=True), read_video(source), source=source) is None


def test_the_key_changes_with_the_content_of_every_file_and_every_number(tmp_path):
    source, known = everything(tmp_path)
    keys = {known_key(known, source), known_key(replace(known, pose_sigma_m=0.02), source), known_key(Known(), source)}
    assert known_key(known, source) in keys
    (tmp_path / "k.txt").write_text("51 51 31.5 23.5")
    keys.add(known_key(known, source))
    np.savetxt(tmp_path / "poses.txt", np.zeros((4, 16)))
    keys.add(known_key(known, source))
    depth(source / "frame-000002.depth.png", 7)
    keys.add(known_key(known, source))
    assert len(keys) == 6


def test_the_key_does_not_change_with_the_place_of_a_file(tmp_path):
    source, known = everything(tmp_path)
    before = known_key(known, source)
    (tmp_path / "k.txt").rename(tmp_path / "moved.txt")
    assert known_key(replace(known, intrinsics=tmp_path / "moved.txt"), source) == before
    with pytest.raises(InputError, match="does not exist"):
        known_key(known, source)


CONTRADICTIONS = [
    {"focal_px": 500.0, "fov_deg": 60.0},
    {"focal_px": 500.0, "intrinsics": Path("k.txt")},
    {"focal_px": 500.0, "focal_sigma": -0.1},
    {"focal_sigma": 0.1},
    {"distortion": (0.1, 0.2)},
    {"lidar": Path("points")},
    {"lidar": Path("points"), "depth": Path("depth"), "focal_px": 500.0},
    {"camera_from_lidar": Path("m.txt")},
    {"depth": Path("depth"), "rgb_only": True},
    {"pose_sigma_m": 0.0},
    {"pose_offset_s": float("nan")},
    {"pose_offset_s": 0.5},
    {"pose_sigma_m": 0.1},
    {"depth_noise": "loud"},
    {"depth_noise": "tof"},
    {"depth_scale": -1.0},
    {"depth_scale": 1000.0},
]


@pytest.mark.parametrize("wrong", CONTRADICTIONS, ids=lambda w: "+".join(w))
def test_what_cannot_be_is_refused_before_anything_is_read(tmp_path, wrong):
    colour(tmp_path / "0.png")
    with pytest.raises(InputError) as refusal:
        observations(Known(**wrong), read_video(tmp_path))
    assert str(refusal.value).endswith(".")


# real recordings


@real
def test_the_kitchen_is_an_rgbd_folder_with_its_calibration_and_poses():
    folder = DATA / "sevenscenes_redkitchen"
    video = read_video(folder / "frames", every=40)
    known = Known(intrinsics=folder / "camera-intrinsics.txt", poses=folder / "frames")
    observed = observations(known, video, source=folder / "frames")
    assert observed.depth.depth_z.shape == (4, 480, 640) and 0.65 < np.mean(observed.depth.depth_z > 0) < 0.95
    assert 1 < np.median(observed.depth.depth_z[observed.depth.depth_z > 0]) < 3
    truth = np.loadtxt(folder / "frames" / "frame-000460.pose.txt")  # every second of 1000 frames, from 300 on
    np.testing.assert_allclose(observed.camera_motion.world_from_cam[2], truth, atol=1e-3)
    np.testing.assert_allclose(observed.camera.camera.at(0), [585, 585, 320.5, 240.5])
    assert observed.camera.focal_sigma == pytest.approx(0.1, abs=0.02), "585 is the depth camera's, colour has 525"


@real
def test_tum_frames_without_stamps_have_their_depth_by_name_and_its_custom_scale():
    observed = observations(Known(), read_video(DATA / "tum_fr1_10frames", every=4), source=DATA / "tum_fr1_10frames")
    assert observed.depth.depth_z.shape == (3, 480, 640)
    assert 0.8 < np.median(observed.depth.depth_z[observed.depth.depth_z > 0]) < 1.6


@real
def test_tum_time_stamps_find_their_motion_capture_poses():
    folder = DATA / "tum_fr2desk_20frames"
    observed = observations(Known(poses=folder / "fr2_desk_groundtruth.txt"), read_video(folder), source=folder)
    assert observed.camera_motion.valid.sum() == 20 and observed.depth is None
    step = np.linalg.norm(np.diff(observed.camera_motion.world_from_cam[:, :3, 3], axis=0), axis=1)
    assert 0.001 < step.mean() < 0.1


@real
def test_the_shirt_pair_has_both_depth_images_and_the_mask_of_its_first_frame():
    folder = DATA / "deepdeform_shirt_pair"
    known = Known(intrinsics=folder / "intrinsics.txt", masks=folder / "mask")
    observed = observations(known, read_video(folder), source=folder)
    assert (observed.depth.depth_z > 0).mean((1, 2)).min() > 0.85
    assert observed.moving.known.tolist() == [True, False]
    np.testing.assert_allclose(observed.camera.camera.at(0), [575.548, 577.46, 323.672, 236.917])
