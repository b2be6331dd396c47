"""Logs of robots: every kind of file gives the same recording, and what cannot be used is told in one sentence."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import log_world as world
import worldline as wl
from log_world import KINDS, START_S, Recorder, Sent, drive
from worldline.cli import main
from worldline.errors import FormatError, InputError
from worldline.io.known.depth_images import DepthSettings
from worldline.io.known.depth_noise import DepthNoise
from worldline.io.sensors import images
from worldline.io.sensors.camera_calibration import calibration_of
from worldline.io.sensors.log_files import is_log
from worldline.io.sensors.recordings import known_of, open_recording, read_imu
from worldline.io.video_files import read_video, video_key, write_video

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def camera_only(kind: str = "mcap", topic: str = "/cam/image_raw", **changed) -> Recorder:
    """A log of three images; `changed` replaces the fields of all."""
    sent = [Sent(topic, IMAGE, START_S + 0.1 * t, {**world.image(world.picture(t)), **changed}) for t in range(3)]
    return Recorder(kind, sent)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_log_gives_the_same_frames_at_their_true_times(kind: str, tmp_path: Path):
    video = wl.read_video(drive(kind).write(tmp_path))
    expected = np.stack([world.picture(t) for t in range(world.FRAMES)])
    assert np.array_equal(video.frames, expected)
    assert np.abs(video.times_s - START_S - np.arange(world.FRAMES) / world.RATE_HZ).max() < 1e-6
    assert video.name == "drive" and video.facts["topic"] == "/cam0/image_raw"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_log_knows_the_same_camera_depth_poses_and_readings(kind: str, tmp_path: Path):
    path = drive(kind).write(tmp_path)
    video = read_video(path)
    found = known_of(path, video, depth=DepthSettings(noise=DepthNoise("relative", 0.02)))
    camera = found.observed.camera.camera
    assert np.allclose(camera.intrinsics, [30, 30, 16, 12]) and camera.distortion == world.DISTORTION
    expected = np.stack([world.depth_z(t) for t in range(world.FRAMES)])
    assert np.abs(found.observed.depth.depth_z - expected).max() < 1e-6 and found.observed.depth.metric
    motion = found.observed.camera_motion
    assert motion.valid.all() and motion.metric
    ahead = world.OPTICAL.copy()
    for t, world_from_cam in enumerate(motion.world_from_cam):
        ahead[0, 3] = 0.1 + t / world.RATE_HZ
        assert np.abs(world_from_cam - ahead).max() < 1e-5
    assert len(found.imu) == 20 * world.FRAMES and np.allclose(found.imu.gyro_radps[:, 2], 0.2)
    assert np.allclose(found.imu.cam_from_imu, np.linalg.inv(world.OPTICAL))
    assert np.allclose(found.radar.cam_from_radar, np.linalg.inv(world.OPTICAL))


def test_frames_are_chosen_as_of_any_video(tmp_path: Path):
    path = drive("mcap", frames=12).write(tmp_path)
    video = read_video(path, every=3, start_s=0.15, end_s=1.0, max_side=16)
    assert video.facts["frame_numbers"] == [2, 5, 8] and video.facts["clip_frames"] == 12
    assert (video.width, video.height, video.original_size) == (16, 12, (32, 24))
    found = known_of(path, video)
    assert np.allclose(found.observed.camera.camera.intrinsics, [15, 15, 8, 6])
    assert np.allclose(found.observed.depth.depth_z.max((1, 2)), [2.8, 2.5, 2.2])
    assert len(read_video(path, max_frames=2)) == 2


def test_frames_may_stay_on_disk_and_are_found_again(tmp_path: Path):
    path = drive("mcap").write(tmp_path)
    first = read_video(path, cache=tmp_path / "kept")
    again = read_video(path, cache=tmp_path / "kept")
    assert isinstance(again.frames, np.memmap) and np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.times_s, again.times_s) and first.notes == again.notes


@pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "mono8", "mono16", "yuv422", "yuv422_yuy2"])
def test_every_encoding_of_colour_is_read(encoding: str):
    rgb = world.picture(1)
    message = SimpleNamespace(is_bigendian=0, **world.image(rgb, encoding))
    grey = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, -1)
    expected = grey if "mono" in encoding else rgb
    off = np.abs(images.picture(message, "/cam").astype(int) - expected)
    assert off.max() <= (24 if "yuv" in encoding else 0) and np.median(off) <= 2


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_bayer_image_of_one_colour_has_that_colour(pattern: str):
    colour = {"r": 200, "g": 120, "b": 40}
    cell = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    message = SimpleNamespace(is_bigendian=0, **world.framed(np.tile(cell, (12, 16)), f"bayer_{pattern}8"))
    assert (images.picture(message, "/cam")[4:-4, 4:-4] == (200, 120, 40)).all()


def test_depth_is_metres_in_all_its_encodings():
    z = world.depth_z(0)
    for encoding in ("16UC1", "32FC1"):
        message = SimpleNamespace(is_bigendian=0, **world.depth(0, encoding))
        assert np.abs(images.depth_z_m(message, "/depth") - z).max() < 1e-6
    png = cv2.imencode(".png", np.round(z * 1000).astype(np.uint16))[1].ravel()
    said = SimpleNamespace(format="16UC1; compressedDepth png", data=np.concatenate([np.zeros(12, np.uint8), png]))
    assert np.abs(images.depth_z_m(said, "/depth") - z).max() < 1e-6
    said = SimpleNamespace(format="16UC1; png compressed", data=png)
    assert np.abs(images.depth_z_m(said, "/depth") - z).max() < 1e-6
    inverse = np.where(z > 0, np.round(1000 / np.maximum(z, 0.1) + 7), 0).astype(np.uint16)
    head = np.frombuffer(struct.pack("<iff", 0, 1000.0, 7.0), np.uint8)
    data = np.concatenate([head, cv2.imencode(".png", inverse)[1].ravel()])
    said = SimpleNamespace(format="32FC1; compressedDepth png", data=data)
    assert np.abs(images.depth_z_m(said, "/depth") - z).max() < 0.01


def test_a_compressed_topic_is_read_and_damaged_images_are_left_out_and_counted(tmp_path: Path):
    sent = [Sent("/cam/compressed", COMPRESSED, START_S + t, world.compressed(world.picture(t))) for t in range(4)]
    sent[2].fields["data"] = np.zeros(20, np.uint8)
    path = Recorder("mcap", sent).write(tmp_path)
    video = read_video(path)
    assert video.facts["frame_numbers"] == [0, 1, 3] and np.array_equal(video.frames[2], world.picture(3))
    assert any("1 images of /cam/compressed are damaged" in note for note in video.notes)
    with pytest.raises(FormatError, match="damaged"):
        read_video(path, strict=True)


def test_of_several_cameras_colour_with_a_calibration_is_chosen_and_another_on_request(tmp_path: Path):
    log = drive("mcap", encoding="mono8")
    for t in range(world.FRAMES):
        log.sent.append(Sent("/rgb/image_raw", IMAGE, START_S + 0.1 * t, world.image(255 - world.picture(t))))
        log.sent.append(Sent("/infra1/image", IMAGE, START_S + 0.1 * t, world.image(world.picture(0))))
    path = log.write(tmp_path)
    chosen = read_video(path)
    assert chosen.facts["topic"] == "/rgb/image_raw" and "of 3 for colour" in chosen.notes[0]
    assert known_of(path, chosen).observed.camera is None  # the calibration is of the other camera
    other = read_video(path, topics=("camera=/cam0/image_raw",))
    assert other.facts["topic"] == "/cam0/image_raw"
    assert video_key(path, 1) == video_key(path, 1) != video_key(path, 2)


def test_a_role_can_be_left_without_a_topic(tmp_path: Path):
    path = drive("mcap").write(tmp_path)
    left = ("depth=none", "pose=none", "camera_info=none", "imu=none", "radar=none")
    found = known_of(path, read_video(path), left)
    assert all(getattr(found.observed, name) is None for name in ("depth", "camera", "camera_motion"))
    assert found.imu is None and found.radar is None and not found.notes


def test_poses_of_a_body_whose_mount_is_unknown_are_left_aside_with_a_note(tmp_path: Path):
    log = drive("mcap")
    log.sent = [m for m in log.sent if m.topic != "/tf_static"]
    path = log.write(tmp_path)
    found = known_of(path, read_video(path))
    assert found.observed.camera_motion is None and any("base_link" in note for note in found.notes)
    assert found.imu is not None and found.imu.cam_from_imu is None


def test_a_rectified_topic_takes_the_rectified_calibration(tmp_path: Path):
    p = [28, 0, 15.5, 0, 0, 28, 11.5, 0, 0, 0, 1, 0]
    sent = [Sent("/cam/image_rect", IMAGE, START_S + t, world.image(world.picture(t))) for t in range(2)]
    sent.append(Sent("/cam/camera_info", "sensor_msgs/msg/CameraInfo", START_S, {**world.calibration(), "p": p}))
    path = Recorder("mcap", sent).write(tmp_path)
    camera = known_of(path, read_video(path)).observed.camera.camera
    assert np.allclose(camera.intrinsics, [28, 28, 16, 12]) and camera.distortion == ()


def test_a_rational_lens_is_followed_by_five_coefficients_where_they_can(tmp_path: Path):
    d = np.array([0.5187, -2.622, 0.00045, -0.00027, 1.4548, 0.4003, -2.4414, 1.3829])  # a depth camera of today
    k = np.array([[607.0, 0, 639.5], [0, 607, 359.5], [0, 0, 1]])
    said = SimpleNamespace(width=1280, height=720, distortion_model="rational_polynomial", k=k.ravel(), d=d, p=())
    found = calibration_of(said, "/camera_info", rectified=False)
    xyz = np.random.default_rng(0).uniform((-0.9, -0.5, 1), (0.9, 0.5, 1), (100, 3))
    there, here = (cv2.projectPoints(xyz, np.zeros(3), np.zeros(3), k, c)[0] for c in (d, np.array(found.distortion)))
    assert np.sqrt(np.mean((there - here) ** 2)) < 0.4
    said.d = np.array([0.52, -2.6, 0.0, 0.0, 1.45, 30.0, -2.4, 90.0])
    with pytest.raises(InputError, match="cannot follow"):
        calibration_of(said, "/camera_info", rectified=False)


def test_points_of_a_lidar_become_sparse_depth_through_the_mount(tmp_path: Path):
    log = drive("mcap")
    log.sent = [m for m in log.sent if m.topic not in ("/depth/image", "/radar/points")]
    for t in range(world.FRAMES):
        cloud = {**world.cloud(0, names=("x", "y", "z", "intensity")), "frame_id": "radar"}
        log.sent.append(Sent("/velodyne_points", "sensor_msgs/msg/PointCloud2", START_S + t / 10 + 0.02, cloud))
    path = log.write(tmp_path)
    found = known_of(path, read_video(path))
    depth = found.observed.depth
    ahead = np.unique(depth.depth_z[0][depth.depth_z[0] > 0])
    apart = np.abs(ahead[:, None] - (world.RADAR_POINTS[:, 0] - 0.1)).min(1)
    assert apart.max() < 1e-5 and len(ahead) >= 3


def test_stamps_of_another_clock_are_moved_to_the_cameras(tmp_path: Path):
    log = drive("mcap")
    for message in log.sent:
        if message.topic == "/imu":
            message.time_s, message.late_s = message.time_s - 1000.0, message.late_s + 1000.0
    imu = read_imu(log.write(tmp_path))
    assert abs(imu.times_s[0] - START_S) < 2 * world.LATE_S and "off those of /cam0/image_raw" in imu.source.notes[0]


def test_accelerations_in_units_of_gravity_are_understood(tmp_path: Path):
    log = drive("mcap")
    for message in log.sent:
        if message.topic == "/imu":
            message.fields["linear_acceleration"] = {"x": 0.0, "y": 0.0, "z": 1.0}
    imu = read_imu(log.write(tmp_path))
    assert np.allclose(imu.accel_mps2[:, 2], 9.80665) and "units of gravity" in imu.source.notes[0]


def test_rates_and_accelerations_on_two_topics_are_joined(tmp_path: Path):
    log, zero = drive("mcap"), {"x": 0.0, "y": 0.0, "z": 0.0}
    for i, message in enumerate([m for m in log.sent if m.topic == "/imu"]):
        message.topic = "/gyro" if i % 2 else "/accel"
        message.fields[("linear_acceleration", "angular_velocity")[1 - i % 2]] = zero
    imu = read_imu(log.write(tmp_path), "/gyro")
    assert len(imu) == 10 * world.FRAMES and np.allclose(imu.accel_mps2, (0, 0.1, 9.81))
    assert np.allclose(imu.gyro_radps[:, 2], 0.2) and "taken from /accel" in imu.source.notes[0]


def test_foxglove_messages_in_json_are_read(tmp_path: Path):
    path = world.foxglove_json(tmp_path)
    video = read_video(path)
    assert np.array_equal(video.frames[1], world.picture(1)) and abs(video.times_s[1] - START_S - 0.1) < 1e-6
    assert np.allclose(known_of(path, video).observed.camera.camera.intrinsics, [30, 30, 16, 12])


def test_foxglove_messages_in_protobuf_are_read(tmp_path: Path):
    path = world.foxglove_protobuf(tmp_path)
    video = read_video(path)
    assert np.array_equal(video.frames[2], world.picture(2)) and abs(video.times_s[2] - START_S - 0.2) < 1e-6


def test_inspect_prints_every_topic_and_the_role_of_those_that_are_used(tmp_path: Path, capsys):
    path = drive("bag").write(tmp_path)
    assert main(["inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    topics = ["/cam0/camera_info", "/cam0/image_raw", "/depth/image", "/imu", "/odom", "/radar/points", "/tf_static"]
    assert [line.split()[0] for line in lines[1:8]] == topics
    roles = {line.split()[0]: line for line in lines[lines.index("used as") + 1 : -1]}
    assert set(roles) == {"camera", "camera_info", "depth", "imu", "radar", "pose"}
    assert "6 scans" in roles["radar"] and "Doppler -1.00 to -0.90 m/s" in roles["radar"]
    assert main(["inspect", str(path), "--json", "--topic", "radar=none"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["messages"] == 152 and {role["role"] for role in facts["roles"]} == set(roles) - {"radar"}


def test_inspect_says_what_videos_and_folders_are(tmp_path: Path, capsys):
    from PIL import Image

    for t in range(3):
        Image.fromarray(world.picture(t)).save(tmp_path / f"{t}.png")
    assert main(["inspect", str(tmp_path)]) == 0
    assert "folder of images, 3 images of 32x24 (png)" in capsys.readouterr().out
    (tmp_path / "depth").mkdir()
    for t in range(3):
        Image.fromarray((world.depth_z(t) * 1000).astype(np.uint16)).save(tmp_path / "depth" / f"{t}.png")
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["depth_images"] == 3
    assert main(["inspect", str(tmp_path / "0.png")]) == 0
    assert "1 image of 32x24" in capsys.readouterr().out


def test_inspect_says_what_a_video_file_is(tmp_path: Path, capsys):
    write_video(tmp_path / "clip.mp4", [world.picture(t) for t in range(8)], 25)
    assert main(["inspect", str(tmp_path / "clip.mp4")]) == 0
    assert "video, h264 32x24, 25 frames per second, 0.32 s" in capsys.readouterr().out
    (tmp_path / "clip.mp4").write_text("text")
    assert main(["inspect", str(tmp_path / "clip.mp4")]) == 2
    assert "neither a log nor a video" in capsys.readouterr().err


def test_an_unindexed_bag_is_read_without_what_was_being_written(tmp_path: Path):
    path = drive("bag").write(tmp_path)
    whole = read_video(path)
    unended = without_index(path, tmp_path / "unended.bag")
    video = read_video(unended)
    assert np.array_equal(video.frames, whole.frames) and "has no index" in video.notes[0]
    assert len(read_imu(unended)) == len(read_imu(path))


@pytest.mark.parametrize("compression", ["LZ4", "BZ2"])
def test_compressed_bags_are_read_with_and_without_index(compression: str, tmp_path: Path):
    path = drive("bag").write(tmp_path, compression=compression)
    assert len(read_video(path)) == len(read_video(without_index(path, tmp_path / "unended.bag"))) == world.FRAMES


@pytest.mark.parametrize("kind", ["ros2", "ros2-mcap"])
@pytest.mark.parametrize("packed", ["MESSAGE", "FILE"])
def test_ros2_bags_whose_messages_or_files_are_packed_are_read(kind: str, packed: str, tmp_path: Path):
    path = drive(kind).write(tmp_path, packed=packed)
    assert is_log(path) and np.array_equal(read_video(path).frames[3], world.picture(3))


def test_a_log_in_parts_is_one_recording(tmp_path: Path):
    whole = drive("mcap")
    half_s = START_S + 0.25
    for number, wanted in enumerate((lambda m: m.time_s < half_s, lambda m: m.time_s >= half_s)):
        Recorder("mcap", [m for m in whole.sent if wanted(m)]).write(tmp_path, f"part_{number}")
    video = read_video(tmp_path)
    assert len(video) == world.FRAMES and np.array_equal(video.frames[5], world.picture(5))
    assert known_of(tmp_path, video).observed.camera_motion.valid.all()


def test_transforms_in_foxglove_messages_tell_where_sensors_sit(tmp_path: Path):
    path = world.foxglove_json(tmp_path)
    seat = known_of(path, read_video(path)).radar.cam_from_radar
    assert np.allclose(seat, np.linalg.inv(world.OPTICAL))


def test_an_mcap_file_without_chunks_is_read_in_its_own_order(tmp_path: Path):
    video = read_video(drive("mcap").write(tmp_path, indexed=False))
    assert len(video) == world.FRAMES


def without_index(bag: Path, to: Path) -> Path:
    """The bag as a recorder leaves it that is killed: no index, and the header still says so."""
    data = bag.read_bytes()
    at = data.index(b"index_pos=") + len(b"index_pos=")
    (index_pos,) = struct.unpack("<Q", data[at : at + 8])
    to.write_bytes(data[:at] + bytes(8) + data[at + 8 : index_pos] + b"\x20\x00\x00\x00cut")
    return to


@pytest.mark.parametrize("kind", ["bag", "mcap"])
def test_a_log_that_is_cut_off_is_told_in_one_sentence(kind: str, tmp_path: Path):
    path = drive(kind).write(tmp_path)
    data = path.read_bytes()
    for share in (0.999, 0.6, 0.2):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(FormatError, match="cut off"):
            read_video(path)


@pytest.mark.parametrize("kind", ["bag", "mcap", "ros2"])
def test_damaged_bytes_never_end_in_anything_but_a_sentence(kind: str, tmp_path: Path):
    path = drive(kind, frames=2).write(tmp_path)
    file = path if path.is_file() else next(path.glob("*.db3"))
    data, random = file.read_bytes(), np.random.default_rng(5)
    for _ in range(10):
        broken = bytearray(data)
        for at in random.integers(0, len(data), 20):
            broken[at] = random.integers(256)
        file.write_bytes(bytes(broken))
        try:
            known_of(path, read_video(path))
        except wl.WorldlineError as error:
            assert str(error).endswith(".") and "\n" not in str(error)


def refused(path: Path, match: str, **options) -> None:
    with pytest.raises(InputError, match=match) as caught:
        video = read_video(path, **options)
        known_of(path, video)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_what_is_no_log_is_told_in_one_sentence(tmp_path: Path):
    (tmp_path / "notes.mcap").write_text("not a log, a text")
    (tmp_path / "notes.bag").write_text("not a log either")
    (tmp_path / "notes.db3").write_text("nor is this one")
    (tmp_path / "empty.bag").write_bytes(b"")
    refused(tmp_path / "notes.mcap", "is not an MCAP file")
    refused(tmp_path / "notes.bag", "is not a ROS 1 bag")
    refused(tmp_path / "notes.db3", "damaged")
    refused(tmp_path / "empty.bag", "is empty")
    refused(tmp_path / "missing.bag", "does not exist")


def test_logs_that_cannot_be_reconstructed_are_told_why(tmp_path: Path):
    refused(drive("mcap", camera=False).write(tmp_path, "blind"), "has no camera")
    refused(Recorder("bag").write(tmp_path, "none"), "no messages")
    refused(camera_only(encoding="bayer_rgbw8").write(tmp_path, "odd"), "encoded as 'bayer_rgbw8'")
    refused(camera_only().write(tmp_path, "late"), "no image of /cam/image_raw lies in the chosen time", start_s=9.0)
    backwards = camera_only()
    backwards.sent[2].time_s -= 0.15
    backwards.sent[2].late_s += 0.15
    refused(backwards.write(tmp_path, "backwards"), "times of /cam/image_raw go backwards")
    sizes = camera_only()
    sizes.sent[1].fields = world.image(world.picture(0)[:20])
    refused(sizes.write(tmp_path, "sizes"), "change their size")


def test_depth_poses_and_points_that_do_not_fit_the_frames_are_told_why(tmp_path: Path):
    shape = drive("mcap")
    nothing = drive("mcap")
    apart = drive("mcap")
    for message in shape.sent + nothing.sent:
        if message.topic == "/depth/image":
            z = np.full((24, 24) if message in shape.sent else (24, 32), 2.0 if message in shape.sent else np.nan)
            message.fields = world.framed(z.astype(np.float32), "32FC1")
    for message in apart.sent:
        if message.topic == "/odom":
            message.time_s += 60.0
    refused(shape.write(tmp_path, "shape"), "of another shape")
    refused(nothing.write(tmp_path, "nothing"), "no depth image of /depth/image knows any depth")
    refused(apart.write(tmp_path, "apart"), "leave it out with --topic pose=none")


@pytest.mark.parametrize("name", ["cut", "blind", "text", "late"])
def test_the_command_line_refuses_in_one_sentence_and_writes_nothing(name: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = drive("mcap", camera=name != "blind").write(tmp_path, name)
    if name == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    if name == "text":
        path.write_text("frames: none")
    options = ["--start", "70"] if name == "late" else []
    assert main(["reconstruct", str(path), "--quiet", *options]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and told.err.startswith("worldline: ")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_log_becomes_a_scene_in_metres(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen: dict = {}

    def engine(video, observed=None, **options):
        seen.update(video=video, observed=observed)
        raise wl.WorldlineError("far enough.")

    monkeypatch.setattr("worldline.run.reconstruction.reconstruct", engine)
    path = drive("bag").write(tmp_path)
    assert main(["reconstruct", str(path), "--quiet", "--topic", "depth=none", "--every", "2"]) == 2
    observed = seen["observed"]
    assert len(seen["video"]) == 3 and observed.depth is None and observed.camera_motion.metric
    assert observed.camera.camera.distortion == world.DISTORTION and observed.doppler is not None


def test_a_choice_of_topics_that_cannot_be_is_told_in_one_sentence(tmp_path: Path):
    path = drive("mcap").write(tmp_path)
    refused(path, "is not ROLE=NAME", topics=("cam=/cam0/image_raw",))
    refused(path, "is not in the log; these can: /cam0/image_raw", topics=("camera=/cam7",))
    refused(path, "cannot serve as camera", topics=("camera=/imu",))
    (tmp_path / "images").mkdir()
    refused(tmp_path / "images", "is not a log, so it has no topics", topics=("camera=/cam0",))


def test_an_unsupported_lens_or_a_calibration_of_other_images_is_told(tmp_path: Path):
    for name, said, match in (
        ("fisheye", world.calibration("equidistant"), "lens of the model equidistant"),
        ("other", {**world.calibration(), "height": 48}, "of another shape"),
    ):
        log = camera_only()
        log.sent.append(Sent("/cam/camera_info", "sensor_msgs/msg/CameraInfo", START_S, said))
        path = log.write(tmp_path, name)
        refused(path, match)
        assert known_of(path, read_video(path), ("camera_info=none",)).observed.camera is None


def test_an_uncalibrated_camera_is_no_error(tmp_path: Path):
    log = camera_only()
    zero = {**world.calibration(), "k": [0.0] * 9}
    log.sent.append(Sent("/cam/camera_info", "sensor_msgs/msg/CameraInfo", START_S, zero))
    path = log.write(tmp_path)
    assert known_of(path, read_video(path)).observed.camera is None


def test_a_folder_is_a_log_only_with_a_bag_and_no_images_in_it(tmp_path: Path):
    path = drive("ros2").write(tmp_path)
    assert is_log(path)
    (path / "metadata.yaml").unlink()
    assert is_log(path) and len(read_video(path)) == world.FRAMES
    (path / "0001.png").write_bytes(b"")
    assert not is_log(path) and not is_log(tmp_path)


def test_a_folder_with_one_bag_stands_for_it(tmp_path: Path):
    path = drive("bag").write(tmp_path)
    assert is_log(path.parent) and len(read_video(path.parent)) == world.FRAMES
    (path.parent / "other.bag").write_bytes(path.read_bytes())
    assert not is_log(path.parent), "which of the two?"


def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path: Path, monkeypatch):
    path = drive("mcap").write(tmp_path)
    monkeypatch.setitem(sys.modules, "mcap.reader", None)
    with pytest.raises(InputError, match=r"pip install 'worldline\[robotics\]'"):
        read_video(path)


def test_repeated_stamps_are_spread_and_unset_ones_replaced_by_the_times_of_recording(tmp_path: Path):
    repeated = camera_only()
    repeated.sent[1].time_s = repeated.sent[0].time_s
    video = read_video(repeated.write(tmp_path, "repeated"))
    assert (np.diff(video.times_s) > 0).all() and any("repeated" in note for note in video.notes)
    unset = camera_only()
    for message in unset.sent:
        message.stamped = False
    video = read_video(unset.write(tmp_path, "unset"))
    assert np.abs(video.times_s - START_S - world.LATE_S - 0.1 * np.arange(3)).max() < 1e-6
    assert any("has no stamps" in note for note in video.notes)


def test_choices_say_why(tmp_path: Path):
    with open_recording(drive("mcap").write(tmp_path), ("imu=/imu",)) as recording:
        assert recording.choices["imu"].why == "as asked" and recording.choices["camera"].why == "the only one"
        assert recording.clock.topic == "/cam0/image_raw" and abs(recording.clock.ahead_s + world.LATE_S) < 1e-3
