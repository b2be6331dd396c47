"""IMU and radar readings from text: columns by name, units said or told by the values, wrong ones in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldline.errors import FormatError, InputError
from worldline.io.known.imu import read_imu
from worldline.io.known.radar_points import read_radar_points

EUROC = (
    "#timestamp [ns],w_RS_S_x [rad s^-1],w_RS_S_y [rad s^-1],w_RS_S_z [rad s^-1],"
    "a_RS_S_x [m s^-2],a_RS_S_y [m s^-2],a_RS_S_z [m s^-2]"
)
WITH_BLANKS = "time [us]\tgyro x [deg/s]\tgyro y [deg/s]\tgyro z [deg/s]\tacc x [g]\tacc y [g]\tacc z [g]"
ROS = ",".join(
    ["field.header.stamp", *(f"field.{v}.{a}" for v in ("angular_velocity", "linear_acceleration") for a in "xyz")]
)
GYRO, FORCE = np.array([0.1, -0.2, 0.3]), np.array([0.5, -0.4, 9.7])


def imu_file(path: Path, header: str | None, rows: np.ndarray, *, separator: str = ",") -> Path:
    lines = [separator.join(f"{v:.12g}" for v in row) for row in rows]
    path.write_text("\n".join(([header] if header else []) + lines))
    return path


def rows(*, step: float = 0.005, gyro: np.ndarray = GYRO, force: np.ndarray = FORCE, start: float = 0.0) -> np.ndarray:
    return np.array([[start + i * step, *gyro, *force] for i in range(10)])


def test_the_files_of_euroc_are_read_as_they_are(tmp_path):
    found = read_imu(imu_file(tmp_path / "data.csv", EUROC, rows(step=5e6, start=1.4e15)))
    np.testing.assert_allclose(np.diff(found.times_s), 0.005, atol=1e-6)
    np.testing.assert_allclose(found.gyro_radps[0], GYRO)
    np.testing.assert_allclose(found.accel_mps2[0], FORCE)
    assert not found.source.notes


@pytest.mark.parametrize(
    ("header", "separator", "step", "gyro", "force", "said"),
    [
        ("time_s,gyro_x_radps,gyro_y_radps,gyro_z_radps,accel_x_mps2,accel_y_mps2,accel_z_mps2", ",", 0.005, 1, 1, ()),
        ("t gx gy gz ax ay az", " ", 0.005, 1, 1, ("radians", "m/s^2")),
        ("timestamp_ms;wx_dps;wy_dps;wz_dps;ax_g;ay_g;az_g", ";", 5, 180 / np.pi, 1 / 9.80665, ()),
        ("t_s,gyro_x_rad_s,gyro_y_rad_s,gyro_z_rad_s,acc_x_m_s2,acc_y_m_s2,acc_z_m_s2", ",", 0.005, 1, 1, ()),
        ("timestamp_ns,omega_x,omega_y,omega_z,alpha_x,alpha_y,alpha_z", ",", 5e6, 1, 1, ("radians", "m/s^2")),
        (WITH_BLANKS, "\t", 5e3, 180 / np.pi, 1 / 9.80665, ()),
        (ROS, ",", 5e6, 1, 1, ("nanoseconds",)),
        ("time,gyroX,gyroY,gyroZ,accX,accY,accZ", ",", 5e6, 1, 1 / 9.80665, ("units of gravity", "nanoseconds")),
        (None, ",", 0.005, 1, 1, ("time, gyro, accelerometer",)),
    ],
)
def test_columns_are_found_by_name_and_their_units_are_known_or_told(
    tmp_path, header, separator, step, gyro, force, said
):
    table = rows(step=step, gyro=GYRO * gyro, force=FORCE * force)
    found = read_imu(imu_file(tmp_path / "imu.csv", header, table, separator=separator))
    np.testing.assert_allclose(np.diff(found.times_s), 0.005, rtol=1e-6)
    np.testing.assert_allclose(found.gyro_radps[3], GYRO, rtol=1e-6)
    np.testing.assert_allclose(found.accel_mps2[3], FORCE, rtol=1e-6)
    assert all(word in " ".join(found.source.notes) for word in said) and bool(said) == bool(found.source.notes)


def test_columns_may_come_in_any_order_among_others(tmp_path):
    header = "accel_z,temperature,time,gyro_z,gyro_y,gyro_x,accel_x,accel_y"
    table = np.array([[9.7, 40, i * 0.01, 0.3, -0.2, 0.1, 0.5, -0.4] for i in range(5)])
    found = read_imu(imu_file(tmp_path / "imu.csv", header, table))
    np.testing.assert_allclose(found.gyro_radps[0], GYRO)
    np.testing.assert_allclose(found.accel_mps2[0], FORCE)


def test_without_names_gravity_tells_which_columns_are_the_accelerometer(tmp_path):
    swapped = rows()[:, [0, 4, 5, 6, 1, 2, 3]]
    found = read_imu(imu_file(tmp_path / "imu.txt", None, swapped, separator=" "))
    np.testing.assert_allclose(found.gyro_radps[0], GYRO)


def test_rates_too_high_for_radians_are_degrees(tmp_path):
    table = rows(gyro=np.array([50.0, -20, 10]))
    found = read_imu(imu_file(tmp_path / "imu.csv", "time,gx,gy,gz,ax,ay,az", table))
    np.testing.assert_allclose(found.gyro_radps[0], np.radians([50, -20, 10]))
    assert "degrees" in found.source.notes[0]


def test_samples_that_repeat_or_are_not_finite_are_left_out(tmp_path):
    table = rows()
    table[3, 2], table[6, 0] = np.nan, table[5, 0]
    found = read_imu(imu_file(tmp_path / "imu.csv", "time,gx,gy,gz,ax,ay,az", table))
    assert len(found) == 8 and any("2 of its samples" in note for note in found.source.notes)


@pytest.mark.parametrize(
    ("header", "table", "reason"),
    [
        ("time,gx,gy,gz", rows()[:, :4], "accelerations x, y, z"),
        ("gx,gy,gz,ax,ay,az", rows()[:, 1:], "columns for time"),
        (None, rows()[:, :5], "5 columns without names"),
        ("time,gx,gy,gz,ax,ay,az", rows(force=FORCE - [0, 0, 9.6]), "with gravity"),
        ("time,gx,gy,gz,ax,ay,az", rows()[::-1], "fall"),
        ("time,gx,gy,gz,ax,ay,az", rows()[:0], "no rows of numbers"),
    ],
)
def test_what_is_no_imu_is_told_in_one_sentence(tmp_path, header, table, reason):
    with pytest.raises(InputError, match=reason) as told:
        read_imu(imu_file(tmp_path / "imu.csv", header, table))
    assert str(told.value).count(". ") == 0


# radar


def radar_file(path: Path, header: str, table: list[list[float]]) -> Path:
    path.write_text("\n".join([header, *(",".join(str(v) for v in row) for row in table)]))
    return path


RADAR = [[0.0, 10, 5, 4.0, -1.5], [0.0, -20, 0, 8.0, 0.5], [0.1, 0, 0, 2.0, 0.0]]


@pytest.mark.parametrize(
    ("header", "angle", "time"),
    [
        ("time_s,azimuth_deg,elevation_deg,range_m,speed_mps", 1, 1),
        ("timestamp_ns,azimuth_rad,elevation_rad,range,doppler", np.pi / 180, 1e9),
        ("time [ms],azimuth [deg],elevation [deg],range [m],velocity [m/s]", 1, 1e3),
        ("t,az,el,r,v", 1, 1),
        ("time_s,azimuth_deg,elevation_deg,radial_distance_m,range_rate_mps", 1, 1),
    ],
)
def test_radar_returns_come_with_their_units(tmp_path, header, angle, time):
    table = [[t * time, a * angle, e * angle, r, v] for t, a, e, r, v in RADAR]
    found = read_radar_points(radar_file(tmp_path / "radar.csv", header, table))
    np.testing.assert_allclose(found.azimuth_rad, np.radians([10, -20, 0]))
    np.testing.assert_allclose(found.elevation_rad, np.radians([5, 0, 0]))
    np.testing.assert_allclose(found.range_m, [4, 8, 2])
    np.testing.assert_allclose(found.speed_mps, [-1.5, 0.5, 0])
    np.testing.assert_allclose(found.times_s, [0, 0, 0.1])
    assert found.scan.tolist() == [0, 0, 1] and found.cam_from_radar is None


def test_a_range_rate_is_not_a_range(tmp_path):
    found = read_radar_points(radar_file(tmp_path / "r.csv", "time,range_rate,azimuth_rad,range", [[0, -1, 0.1, 5]]))
    assert found.range_m.tolist() == [5] and found.speed_mps.tolist() == [-1]


def test_points_in_place_of_angles_and_no_elevation_will_do(tmp_path):
    found = read_radar_points(radar_file(tmp_path / "a.csv", "time,x,y,z,doppler", [[0, 3, 4, 0, 1], [0, 0, 1, 1, 2]]))
    np.testing.assert_allclose(found.points_radar, [[3, 4, 0], [0, 1, 1]], atol=1e-12)
    flat = read_radar_points(radar_file(tmp_path / "b.csv", "time,azimuth_deg,range,speed", [[0, 90, 2, 1]]))
    np.testing.assert_allclose(flat.points_radar, [[0, 2, 0]], atol=1e-12)
    assert any("level" in note for note in flat.source.notes)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("time,azimuth,elevation,range", "no radial speeds"),
        ("azimuth,elevation,range,speed", "no named column of times"),
        ("time,azimuth,elevation,speed", "neither azimuth and range"),
    ],
)
def test_what_is_no_radar_with_doppler_is_told_in_one_sentence(tmp_path, header, reason):
    with pytest.raises(InputError, match=reason) as told:
        read_radar_points(radar_file(tmp_path / "radar.csv", header, [[0.0, 1, 2, 3][: header.count(",") + 1]]))
    assert str(told.value).count(". ") == 0


def test_a_radar_whose_speeds_are_all_missing_has_no_doppler(tmp_path):
    with pytest.raises(InputError, match="no radial speeds"):
        read_radar_points(radar_file(tmp_path / "r.csv", "time,azimuth,range,speed", [[0, 1, 2, "nan"]]))


def test_no_table_at_all_is_a_format_error(tmp_path):
    (tmp_path / "x.csv").write_text("hello\nworld\n")
    with pytest.raises(FormatError, match="no rows of numbers"):
        read_imu(tmp_path / "x.csv")
