"""Radar messages of all kinds give the same returns: axes, angles, the sign of the speed, and scans."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import log_world as world
from log_world import RADAR_POINTS, START_S, Recorder, Sent, drive, radial_speed
from worldline.errors import InputError
from worldline.io.sensors import clouds
from worldline.io.sensors.radar import forward_axis
from worldline.io.sensors.recordings import read_imu, read_radar
from worldline.scene.observations import Source
from worldline.scene.sensor_readings import ImuSamples, RadarReturns

CLOUD = "sensor_msgs/msg/PointCloud2"
REAL = Path(__file__).parents[1].parent / "shared" / "data" / "radar_ti_imu_40s" / "demo_ti_mmwave_rospkg_format.bag"


def test_returns_of_a_cloud_are_where_they_were_put_with_speeds_positive_away(tmp_path: Path):
    radar = read_radar(drive("mcap").write(tmp_path), need_speed=True)
    first = radar.scan == 0
    assert len(radar) == 4 * world.FRAMES and np.allclose(radar.points_radar[first], RADAR_POINTS, atol=1e-5)
    assert np.allclose(radar.speed_mps[first], radial_speed(RADAR_POINTS), atol=1e-6)
    assert (radar.speed_mps < 0).all()  # it drives towards what stands ahead
    assert np.allclose(radar.times_s, START_S + radar.scan / world.RATE_HZ, atol=1e-6)
    assert np.allclose(radar.azimuth_rad[first], np.arctan2(RADAR_POINTS[:, 1], RADAR_POINTS[:, 0]), atol=1e-6)
    assert radar.has_speed and np.allclose(radar.strength[first], [10, 11, 12, 13])


@pytest.mark.parametrize("name", ["Doppler", "v_doppler_mps", "radial_speed", "range_rate", "VRel", "velocity"])
def test_the_speed_is_found_by_the_names_that_drivers_give_it(name: str, tmp_path: Path):
    sent = [Sent("/points", CLOUD, START_S + t, world.cloud(t, names=("x", "y", "z", "rcs", name))) for t in range(2)]
    radar = read_radar(Recorder("mcap", sent).write(tmp_path), need_speed=True)
    assert np.allclose(radar.speed_mps[:4], radial_speed(RADAR_POINTS), atol=1e-6)


def test_big_endian_clouds_with_gaps_between_fields_are_read():
    said = SimpleNamespace(**world.cloud(0, big=True, gap=12))
    said.fields = [SimpleNamespace(**f) for f in said.fields]
    columns = clouds.columns(said)
    assert np.allclose(np.stack([columns[a] for a in "xyz"], -1), RADAR_POINTS, atol=1e-6)


def test_rows_of_an_organised_cloud_may_be_padded():
    said = world.cloud(0)
    row = np.concatenate([said["data"], np.full(8, 255, np.uint8)])
    message = SimpleNamespace(**{**said, "height": 2, "row_step": len(row), "data": np.tile(row, 2)})
    message.fields = [SimpleNamespace(**f) for f in said["fields"]]
    assert np.allclose(clouds.columns(message)["x"], np.tile(RADAR_POINTS[:, 0], 2), atol=1e-6)


def polar(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    far = np.linalg.norm(points, axis=1)
    return far, np.arctan2(points[:, 1], points[:, 0]), np.arcsin(points[:, 2] / far)


@pytest.mark.parametrize("kind", ["bag", "ros2", "mcap"])
def test_radar_scans_in_polar_coordinates_give_the_same_returns(kind: str, tmp_path: Path):
    names = ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
    rows = zip(*polar(RADAR_POINTS), radial_speed(RADAR_POINTS), np.ones(4), strict=True)
    returns = [dict(zip(names, row, strict=True)) for row in rows]
    sent = [Sent("/scan", "radar_msgs/msg/RadarScan", START_S + t, {"returns": returns}) for t in range(3)]
    radar = read_radar(Recorder(kind, sent).write(tmp_path), need_speed=True)
    assert np.allclose(radar.points_radar[:4], RADAR_POINTS, atol=1e-5) and list(np.unique(radar.scan)) == [0, 1, 2]
    assert np.allclose(radar.speed_mps[:4], radial_speed(RADAR_POINTS), atol=1e-6)


def test_messages_of_single_points_are_joined_to_scans(tmp_path: Path):
    sent = []
    for t in range(3):
        for i, (point, speed) in enumerate(zip(RADAR_POINTS, radial_speed(RADAR_POINTS), strict=True)):
            fields = dict(zip("xyz", point, strict=True), point_id=i, velocity=speed, intensity=9.0)
            sent.append(Sent("/ti/scan", "ti_mmwave_rospkg/msg/RadarScan", START_S + t + 1e-4 * i, fields))
    radar = read_radar(Recorder("bag", sent).write(tmp_path))
    assert list(radar.scan) == [0] * 4 + [1] * 4 + [2] * 4 and len(np.unique(radar.times_s)) == 3
    assert np.allclose(radar.points_radar[4:8], RADAR_POINTS, atol=1e-5)


@pytest.mark.parametrize("device", ["x right, y forward, z up", "x right, y down, z forward"])
def test_a_radar_that_looks_along_another_axis_is_turned(device: str):
    device_from_ros = {
        "x right, y forward, z up": np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
        "x right, y down, z forward": np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]),
    }[device]
    rotation, said = forward_axis(RADAR_POINTS @ device_from_ros.T)
    assert said == device and np.allclose(rotation @ device_from_ros, np.eye(3))


def test_returns_on_the_axes_of_a_vehicle_are_not_turned(tmp_path: Path):
    said = {**world.cloud(0), "frame_id": "base_link"}
    x, y = (f for f in said["fields"] if f["name"] in "xy")
    x["offset"], y["offset"] = y["offset"], x["offset"]  # all returns to the side
    sent = [Sent("/side_radar", CLOUD, START_S, said)]
    radar = read_radar(Recorder("mcap", sent).write(tmp_path))
    assert np.allclose(radar.points_radar[:, :2], RADAR_POINTS[:, 1::-1], atol=1e-5)


@given(st.lists(st.tuples(*[st.floats(-50, 50)] * 3).filter(lambda p: np.linalg.norm(p) > 0.1), min_size=1, max_size=8))
def test_directions_and_ranges_lead_back_to_the_points(points: list):
    xyz = np.array(points)
    far, azimuth, elevation = polar(xyz)
    zero = np.zeros(len(xyz))
    radar = RadarReturns(zero, zero.astype(int), azimuth, elevation, far, zero, zero, Source("test"))
    assert np.allclose(radar.points_radar, xyz, atol=1e-6)
    assert np.allclose(np.linalg.norm(radar.directions_radar, axis=1), 1)


def test_returns_without_range_are_left_out_and_counted(tmp_path: Path):
    said = world.cloud(0)
    table = said["data"].copy().reshape(4, -1)
    table[1, :12] = np.frombuffer(np.zeros(3, "<f4").tobytes(), np.uint8)
    table[2, :4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
    sent = [Sent("/radar", CLOUD, START_S, {**said, "data": table.ravel()})]
    radar = read_radar(Recorder("mcap", sent).write(tmp_path))
    assert len(radar) == 2 and any("2 returns of /radar had no range" in note for note in radar.source.notes)


def test_a_radar_without_stamps_takes_those_of_its_trigger(tmp_path: Path):
    sent = []
    for t in range(6):
        at = START_S + 0.1 * t
        sent.append(Sent("/trigger", "std_msgs/msg/Header", at, {"seq": 40 + t}, late_s=0.001))
        sent.append(Sent("/radar", CLOUD, at, {**world.cloud(t), "seq": 40 + t}, late_s=0.09, stamped=False))
        sent.append(Sent("/imu", "sensor_msgs/msg/Imu", at, world.imu(t), late_s=0.001))
    radar = read_radar(Recorder("bag", sent).write(tmp_path))
    assert np.abs(radar.times_s - START_S - 0.1 * radar.scan).max() < 1e-6
    assert any("trigger /trigger" in note and "89 ms later" in note for note in radar.source.notes)


def test_without_a_trigger_the_times_of_recording_are_used_and_said(tmp_path: Path):
    sent = [Sent("/radar", CLOUD, START_S + t, world.cloud(t), stamped=False) for t in range(3)]
    radar = read_radar(Recorder("mcap", sent).write(tmp_path))
    assert abs(radar.times_s[0] - START_S - world.LATE_S) < 1e-6 and "come late" in radar.source.notes[0]


def test_a_radar_without_doppler_is_refused_only_where_it_is_needed(tmp_path: Path):
    sent = [Sent("/radar", CLOUD, START_S + t, world.cloud(t, names=("x", "y", "z", "intensity"))) for t in range(3)]
    path = Recorder("mcap", sent).write(tmp_path)
    assert not read_radar(path).has_speed
    with pytest.raises(InputError, match="no radial speeds .it has x, y, z, intensity."):
        read_radar(path, need_speed=True)
    sent = [Sent("/points", CLOUD, START_S, world.cloud(0, names=("x", "y", "z", "w")))]
    points = Recorder("mcap", sent).write(tmp_path, "points")
    with pytest.raises(InputError, match="has no radar"):
        read_radar(points)
    assert len(read_radar(points, "/points")) == 4  # asked for, it is taken


def test_a_log_without_radar_or_imu_is_told(tmp_path: Path):
    path = Recorder("mcap", [Sent("/t", "std_msgs/msg/Header", START_S, {})]).write(tmp_path)
    with pytest.raises(InputError, match="has no radar .it has /t of std_msgs/msg/Header."):
        read_radar(path)
    with pytest.raises(InputError, match="has no IMU"):
        read_imu(path)
    with pytest.raises(InputError, match="not in the log"):
        read_radar(path, "/radar")


def test_times_of_a_sensor_that_go_backwards_are_refused(tmp_path: Path):
    log = drive("mcap")
    moved = [m for m in log.sent if m.topic == "/imu"][30]
    moved.time_s, moved.late_s = moved.time_s - 0.05, moved.late_s + 0.05
    with pytest.raises(InputError, match="times of /imu go backwards .message 30"):
        read_imu(log.write(tmp_path))


@pytest.mark.usefixtures("production")
def test_readings_that_cannot_be_are_refused():
    zero, none = np.zeros(2), Source("test")
    with pytest.raises(InputError, match="increase strictly"):
        ImuSamples(zero, np.zeros((2, 3)), np.zeros((2, 3)), none)
    with pytest.raises(InputError, match="positive range"):
        RadarReturns(zero, zero.astype(int), zero, zero, zero, zero, zero, none)
    with pytest.raises(InputError, match="not finite"):
        RadarReturns(zero, zero.astype(int), zero * np.nan, zero, zero + 1, zero, zero, none)


@pytest.mark.skipif(not REAL.exists(), reason="the recording radar_ti_imu_40s is not here")
def test_a_real_radar_and_imu_are_read_whole():
    radar, imu = read_radar(REAL, need_speed=True), read_imu(REAL)
    assert len(np.unique(radar.scan)) == 412 and np.isfinite(radar.speed_mps).all()
    assert len(imu) == 8270 and abs(imu.rate_hz - 204.75) < 0.5
    assert (np.abs(radar.azimuth_rad) < np.pi / 2).all() and radar.range_m.max() < 20
    assert abs(radar.times_s[0] - imu.times_s[0]) < 0.2  # one clock, though the radar has no stamps
