"""IMU and radar files given beside a clip: their clock, mounts and key; poses of a body; what wrong ones are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import log_world
from worldline.cli import main
from worldline.errors import InputError
from worldline.geometry import se3
from worldline.io.known.clip_frames import ClipFrames
from worldline.io.known.poses import read_poses
from worldline.io.video_files import read_video
from worldline.run.known import Known, check, known_key, observations
from worldline.scene.observations import CameraMotion, Source
from worldline.scene.video import Video
from worldline.synthetic.presets import tiny_world
from worldline.synthetic.radar import CAM_FROM_RADAR, radar_returns, radial_speed

RATE = np.array([0.2, -0.4, 0.3])
START_S = 1000.0


def clip(*, count: int = 8, width: int = 48, height: int = 32, **facts: object) -> Video:
    times_s = START_S + np.arange(count) / 10
    said = {"clock": "names", "files": [f"{t:.6f}.png" for t in times_s], **facts}
    return Video(np.zeros((count, height, width, 3), np.uint8), times_s, "clip", facts=said)


def matrix_file(path: Path, motion: np.ndarray) -> Path:
    np.savetxt(path, motion)
    return path


def imu_file(path: Path, *, start: float = START_S - 1, seconds: float = 4.0, scale: float = 1.0) -> Path:
    """A device that turns at a steady rate about its own axes from one second on."""
    t = np.arange(0, seconds, 0.005)
    gyro = np.where((t >= 1.0)[:, None], RATE, 0.0)
    turn = se3.so3_exp(torch.from_numpy(np.maximum(t - 1.0, 0)[:, None] * RATE)).numpy()
    force = turn.transpose(0, 2, 1) @ [0, 0, 9.81]
    table = np.concatenate([(start + t)[:, None] * scale, gyro, force], 1)
    path.write_text(
        "time,gyro_x,gyro_y,gyro_z,accel_x,accel_y,accel_z\n"
        + "\n".join(",".join(f"{v:.15g}" for v in r) for r in table)
    )
    return path


def turned(motion: CameraMotion, mount: np.ndarray) -> np.ndarray:
    """Rotation vectors of the IMU's own axes from the first frame."""
    own = motion.world_from_cam[:, :3, :3] @ mount[:3, :3]
    return se3.so3_log(torch.from_numpy(own[0].T @ own)).numpy()


# IMU


def test_an_imu_gives_the_rotations_of_the_frames_at_their_own_times(tmp_path):
    mount = se3.exp(torch.tensor([0.1, 0, 0, 0.5, -1.0, 0.3], dtype=torch.float64)).numpy()
    known = Known(
        imu=imu_file(tmp_path / "imu.csv"),
        camera_from_imu=matrix_file(tmp_path / "m.txt", mount),
        imu_bias_radps=(0.0, 0.0, 0.0),
    )
    found = observations(known, clip())
    assert found is not None and found.camera_motion is not None
    motion = found.camera_motion
    expected = (np.arange(8) / 10)[:, None] * RATE
    np.testing.assert_allclose(turned(motion, mount), expected, atol=2e-3)
    assert motion.turned_frames.all() and any("imu.csv" in note for note in found.notes)
    shifted = observations(replace(known, imu_offset_s=0.25), clip())
    assert shifted is not None and shifted.camera_motion is not None
    late = np.maximum(np.arange(8) / 10 - 0.25, 0)[:, None] * RATE
    np.testing.assert_allclose(turned(shifted.camera_motion, mount), late, atol=2e-3)


def test_a_video_that_begins_at_0_counts_an_imu_from_its_first_sample(tmp_path):
    known = Known(
        imu=imu_file(tmp_path / "imu.csv", start=5e8, seconds=3.0),
        camera_from_imu=matrix_file(tmp_path / "m.txt", np.eye(4)),
    )
    video = Video(np.zeros((15, 32, 48, 3), np.uint8), np.arange(15) / 10, "clip")
    found = observations(known, video)
    assert found is not None and found.camera_motion is not None
    angle = np.linalg.norm(turned(found.camera_motion, np.eye(4)), axis=1)
    np.testing.assert_allclose(angle, np.maximum(np.arange(15) / 10 - 1, 0) * np.linalg.norm(RATE), atol=4e-3)
    assert any("counted from their first" in note for note in found.notes)


def test_what_is_wrong_with_an_imu_is_one_sentence(tmp_path):
    mount, imu = matrix_file(tmp_path / "m.txt", np.eye(4)), imu_file(tmp_path / "imu.csv")
    with pytest.raises(InputError, match="need its mount"):
        check(Known(imu=imu))
    with pytest.raises(InputError, match="both poses and an IMU"):
        check(Known(imu=imu, camera_from_imu=mount, poses=imu))
    with pytest.raises(InputError, match="given without its readings"):
        observations(Known(camera_from_imu=mount), clip())
    with pytest.raises(InputError, match="three numbers, not 2"):
        check(Known(imu=imu, camera_from_imu=mount, imu_bias_radps=(0.0, 1.0)))
    with pytest.raises(InputError, match=r"samples from 5 to 8\.995 s but the frames are at 1000 to 1000\.7 s"):
        observations(Known(imu=imu_file(tmp_path / "early.csv", start=5.0), camera_from_imu=mount), clip())
    with pytest.raises(InputError, match="carry no times"):
        observations(Known(imu=imu, camera_from_imu=mount), clip(clock="assumed"))


# radar


@pytest.fixture(scope="module")
def world():
    return tiny_world(seed=1, frames=4, width=48, height=32)


def radar_file(path: Path, world, *, speeds: bool = True) -> Path:
    found = radar_returns(world, per_scan=200)
    table = np.stack(
        [found.times_s, np.degrees(found.azimuth_rad), np.degrees(found.elevation_rad), found.range_m, found.speed_mps],
        -1,
    )
    header = "time_s,azimuth_deg,elevation_deg,range_m" + (",speed_mps" if speeds else "")
    rows = table if speeds else table[:, :4]
    path.write_text(header + "\n" + "\n".join(",".join(f"{v:.12g}" for v in row) for row in rows))
    return path


def test_a_radar_file_becomes_radial_speeds_of_the_frames(tmp_path, world):
    video = Video(np.zeros((4, 32, 48, 3), np.uint8), world.times_s, "clip")
    known = Known(
        radar=radar_file(tmp_path / "radar.csv", world),
        focal_px=world.camera.focal,
        camera_from_radar=matrix_file(tmp_path / "m.txt", CAM_FROM_RADAR),
    )
    found = observations(known, video)
    assert found is not None and found.doppler is not None
    got, true = found.doppler.speed_mps[1], radial_speed(world, 1)
    seen = np.isfinite(got)
    assert 150 < seen.sum() <= 200
    np.testing.assert_allclose(got[seen], true[seen], atol=1e-5)
    assert any("4 of 4 frames" in note for note in found.notes)


def test_what_is_wrong_with_a_radar_is_one_sentence(tmp_path, world):
    radar, mount = radar_file(tmp_path / "r.csv", world), matrix_file(tmp_path / "m.txt", np.eye(4))
    video = Video(np.zeros((4, 32, 48, 3), np.uint8), world.times_s, "clip")
    with pytest.raises(InputError, match="only with a known camera"):
        observations(Known(radar=radar), video)
    with pytest.raises(InputError, match="no radial speeds"):
        observations(Known(radar=radar_file(tmp_path / "q.csv", world, speeds=False), fov_deg=60), video)
    with pytest.raises(InputError, match="without its returns"):
        observations(Known(camera_from_radar=mount, fov_deg=60), video)
    with pytest.raises(InputError, match="scans from 100 to 100.3 s but the frames are at 0 to 0.3 s"):
        observations(Known(radar=radar, fov_deg=60, radar_offset_s=100.0), video)


# key


def test_readings_and_their_mounts_are_part_of_the_key(tmp_path, world):
    imu, radar = imu_file(tmp_path / "imu.csv"), radar_file(tmp_path / "r.csv", world)
    mount = matrix_file(tmp_path / "m.txt", np.eye(4))
    first = Known(imu=imu, camera_from_imu=mount, radar=radar, fov_deg=60)
    others = (
        replace(first, imu_offset_s=0.1), replace(first, imu_bias_radps=(0.0, 0.0, 0.1)),
        replace(first, radar_offset_s=0.1), replace(first, camera_from_radar=mount),
    )  # fmt: skip
    keys = [known_key(k) for k in (first, *others)]
    imu_file(imu, seconds=5.0)
    keys.append(known_key(first))
    assert len(set(keys)) == 6


# poses of a body, and tables of them


def test_poses_of_a_body_are_carried_to_the_camera(tmp_path):
    body_from_cam = se3.exp(torch.tensor([0.2, -0.1, 0.4, 0.5, 1.0, -0.3], dtype=torch.float64)).numpy()
    world_from_body = se3.exp(
        torch.linspace(0, 1, 8, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0, 0.5, 0.2, 0.3, 0])
    ).numpy()
    path = tmp_path / "body.txt"
    np.savetxt(path, world_from_body.reshape(8, 16))
    known = Known(poses=path, camera_from_body=matrix_file(tmp_path / "m.txt", np.linalg.inv(body_from_cam)))
    found = observations(known, clip(clip_frames=8))
    assert found is not None and found.camera_motion is not None
    np.testing.assert_allclose(found.camera_motion.world_from_cam, world_from_body @ body_from_cam, atol=1e-6)
    with pytest.raises(InputError, match="without its poses"):
        check(Known(camera_from_body=path))


def test_the_truth_of_euroc_is_read_by_the_names_of_its_columns(tmp_path):
    motion = se3.exp(torch.arange(20, dtype=torch.float64)[:, None] * torch.tensor([0.1, 0, 0.05, 0.02, 0.03, 0]))
    quaternion = se3.quaternion_wxyz(motion[:, :3, :3]).numpy()
    ns = np.round((START_S + np.arange(20) * 0.05) * 1e9)
    rows = [
        ",".join(map(str, [int(t), *p, *q, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
        for t, p, q in zip(ns, motion[:, :3, 3].numpy(), quaternion, strict=True)
    ]
    header = (
        "#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z [], "
        + ", ".join(f"v{i}" for i in range(9))
    )
    (tmp_path / "data.csv").write_text("\n".join([header, *rows]))
    found = read_poses(tmp_path / "data.csv", ClipFrames.of(clip()))
    assert found.valid.all()
    np.testing.assert_allclose(found.world_from_cam, motion[:16:2].numpy(), atol=1e-6)


# what rotations alone mean to others


def test_rotations_alone_are_no_whole_poses():
    frames, sigma = np.tile(np.eye(4), (5, 1, 1)), np.array([0.01, 0.02, np.inf, np.inf, np.inf])
    alone = CameraMotion(frames, np.ones(5, bool), np.inf, 0.01, Source("imu"))
    assert not alone.given_frames.any() and alone.turned_frames.all() and alone.partial
    some = replace(alone, frame_sigma_m=sigma, sigma_m=0.02)
    assert some.given_frames.tolist() == [True, True, False, False, False] and some.partial
    whole = CameraMotion(frames, np.ones(5, bool), 0.01, 0.01, Source("poses"))
    assert whole.given_frames.all() and not whole.partial


# what a log brings along


def test_a_log_brings_all_that_it_holds_and_what_is_given_takes_its_place(tmp_path):
    path = log_world.drive("mcap").write(tmp_path)
    video = read_video(path)
    found = observations(Known(), video, source=path)
    assert found is not None and found.camera is not None and found.depth is not None and found.doppler is not None
    assert found.camera_motion is not None and found.camera_motion.given_frames.all()
    known_speeds = found.doppler.speed_mps[np.isfinite(found.doppler.speed_mps)]
    assert (known_speeds < 0).all(), "it drives ahead, so all comes closer"
    less = observations(Known(rgb_only=True, focal_px=40.0), video, source=path, topics=("radar=none",))
    assert less is not None and less.camera is not None and less.depth is None and less.doppler is None
    assert less.camera.camera.focal == 40


def test_a_log_without_poses_gives_the_rotations_of_its_imu_or_says_why_not(tmp_path):
    log = log_world.drive("mcap")
    path = log.write(tmp_path)
    found = observations(Known(), read_video(path), source=path, topics=("pose=none",))
    assert found is not None and found.camera_motion is not None and found.camera_motion.turned_frames.all()
    log.sent = [m for m in log.sent if m.topic != "/tf_static"]
    (tmp_path / "bare").mkdir()
    bare = log.write(tmp_path / "bare")
    video = read_video(bare)
    found = observations(Known(), video, source=bare)
    assert found is not None and found.camera_motion is None
    assert any("/imu of the log was left aside: its mount" in note for note in found.notes)
    mounted = Known(camera_from_imu=matrix_file(tmp_path / "m.txt", np.eye(4)))
    found = observations(mounted, video, source=bare)
    assert found is not None and found.camera_motion is not None and found.camera_motion.turned_frames.all()


# the command line


def images(folder: Path, world) -> Path:
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    for time_s in START_S + world.times_s:
        Image.fromarray(picture).save(folder / f"{time_s:.6f}.png")
    return folder


def depth_maps(folder: Path, world, depth_z: np.ndarray) -> Path:
    folder.mkdir()
    for time_s in START_S + world.times_s:
        np.save(folder / f"{time_s:.6f}.npy", depth_z.astype(np.float32))
    return folder


def refused(capsys, tmp_path: Path, *options: object) -> str:
    """What is said to be wrong: one sentence, exit code 2, and nothing written."""
    before = set(tmp_path.iterdir())
    code = main(["reconstruct", str(tmp_path / "street"), "-o", str(tmp_path / "out"), *map(str, options)])
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if line.startswith("worldline: ")]
    assert code == 2 and len(told) == 1 and out == "" and "Traceback" not in err, err
    assert set(tmp_path.iterdir()) == before and told[0].endswith(".") and told[0].count(". ") == 0
    return told[0]


def test_files_that_cannot_be_used_are_one_sentence_and_nothing_is_written(capsys, tmp_path, world):
    images(tmp_path / "street", world)
    nothing = depth_maps(tmp_path / "nan", world, np.full((32, 48), np.nan))
    square = depth_maps(tmp_path / "square", world, np.full((32, 32), 2.0))
    poses = tmp_path / "poses.txt"
    np.savetxt(poses, [[5 + t / 10, 0, 0, t / 10, 0, 0, 0, 1] for t in range(4)])
    imu, mount = imu_file(tmp_path / "imu.csv", start=5.0), matrix_file(tmp_path / "m.txt", np.eye(4))
    silent = radar_file(tmp_path / "silent.csv", world, speeds=False)
    early = radar_file(tmp_path / "early.csv", world)
    cases: dict[str, tuple[object, ...]] = {
        "without a pixel that is finite": ("--depth", nothing),
        "32x32 but the frames of street are 48x32": ("--depth", square),
        "knows 5 to 5.3 s but the frames of street are at 1000 to 1000.3 s": ("--poses", poses),
        "has samples from 5 to": ("--imu", imu, "--camera-from-imu", mount),
        "need its mount": ("--imu", imu),
        "no radial speeds": ("--radar", silent, "--fov", 60),
        "has scans from 0 to 0.3 s": ("--radar", early, "--fov", 60),
        "only with a known camera": ("--radar", early),
        "is no list of numbers": ("--imu", imu, "--camera-from-imu", mount, "--imu-bias", "much"),
    }
    for said, options in cases.items():
        assert said in refused(capsys, tmp_path, *options)
