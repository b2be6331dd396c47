"""The options by which any verb is told what is already known about a clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from worldline.errors import InputError
from worldline.run.known import Known

_FILE = arg(metavar="FILE")
_FOLDER = arg(metavar="FOLDER")


@dataclass(frozen=True)
class KnownOptions:
    """What you already know; formats are in docs/known.md."""

    intrinsics: Annotated[Path | None, _FILE] = None
    """calibration: .json, .txt, .yaml, or COLMAP's cameras.txt"""
    distortion: Annotated[str | None, arg(metavar="K1,K2,P1,P2[,K3]")] = None
    """lens distortion, as OpenCV's"""
    focal: Annotated[float | None, arg(metavar="PX")] = None
    """known focal length in pixels of the original image"""
    focal_sigma: Annotated[float | None, arg(metavar="SHARE")] = None
    """its relative uncertainty (default: 0.005 for a file, 0 for --focal and --fov)"""
    fov: Annotated[float | None, arg(metavar="DEG")] = None
    """known horizontal field of view in degrees"""
    poses: Annotated[Path | None, arg(metavar="PATH")] = None
    """camera poses: TUM or KITTI file, or a folder of 4x4 matrices; may be of some frames only"""
    pose_offset: Annotated[float, arg(metavar="S")] = 0.0
    """seconds to add to the times of the poses"""
    pose_sigma: Annotated[float, arg(metavar="M")] = Known.pose_sigma_m
    """uncertainty of their centres in metres"""
    pose_sigma_deg: Annotated[float, arg(metavar="DEG")] = Known.pose_sigma_deg
    """uncertainty of their rotations in degrees"""
    camera_from_body: Annotated[Path | None, _FILE] = None
    """4x4 matrix from the body whose poses are given to the camera's axes (default: poses are the camera's)"""
    imu: Annotated[Path | None, _FILE] = None
    """readings of an IMU: .csv or .txt with named columns, EuRoC's data.csv, or a log"""
    camera_from_imu: Annotated[Path | None, _FILE] = None
    """4x4 matrix from the IMU's axes to the camera's"""
    imu_offset: Annotated[float, arg(metavar="S")] = 0.0
    """seconds to add to the times of the IMU"""
    imu_bias: Annotated[str | None, arg(metavar="X,Y,Z")] = None
    """bias of its gyroscope in rad/s (default: found where it stands still, and by gravity)"""
    radar: Annotated[Path | None, _FILE] = None
    """radar returns with Doppler: .csv with columns time, azimuth, elevation, range, speed, or a log"""
    camera_from_radar: Annotated[Path | None, _FILE] = None
    """4x4 matrix from the radar's axes (x forward, y left, z up) to the camera's"""
    radar_offset: Annotated[float, arg(metavar="S")] = 0.0
    """seconds to add to the times of the radar"""
    masks: Annotated[Path | None, _FOLDER] = None
    """images of what moves: 0 static, else moving; may be of some frames only"""
    depth: Annotated[Path | None, _FOLDER] = None
    """16-bit depth images (an RGB-D folder as INPUT brings its own)"""
    depth_scale: Annotated[float | None, arg(metavar="N")] = None
    """values of the depth images per metre"""
    depth_noise: Annotated[str, arg(metavar="NAME")] = Known.depth_noise
    """noise of the depth sensor: kinect, tof, or a relative one such as 0.02"""
    depth_as_is: bool = False
    """do not look whether depth must be moved into the colour camera's view"""
    rgb_only: bool = False
    """leave the depth of an RGB-D folder alone"""
    lidar: Annotated[Path | None, _FOLDER] = None
    """points of a LiDAR, one file per frame (.npy .bin .ply .xyz .txt .csv)"""
    camera_from_lidar: Annotated[Path | None, _FILE] = None
    """4x4 matrix from LiDAR to camera axes (default: the points are in camera axes)"""
    known_length: UseAppendAction[tuple[Annotated[str, arg(metavar="F:U1,V1,U2,V2=M")], ...]] = ()
    """a distance in metres between two static pixels of frame F; may be repeated"""


NOTHING_KNOWN = KnownOptions()


def known_of(options: KnownOptions) -> Known:
    """What the options say.

    Raises:
        InputError: the distortion or the bias is no list of numbers.
    """
    return Known(
        intrinsics=options.intrinsics,
        distortion=_numbers("--distortion", "k1,k2,p1,p2 or k1,k2,p1,p2,k3", options.distortion),
        focal_px=options.focal,
        focal_sigma=options.focal_sigma,
        fov_deg=options.fov,
        poses=options.poses,
        pose_offset_s=options.pose_offset,
        pose_sigma_m=options.pose_sigma,
        pose_sigma_deg=options.pose_sigma_deg,
        camera_from_body=options.camera_from_body,
        imu=options.imu,
        imu_offset_s=options.imu_offset,
        camera_from_imu=options.camera_from_imu,
        imu_bias_radps=_numbers("--imu-bias", "three numbers x,y,z in radians per second", options.imu_bias),
        radar=options.radar,
        radar_offset_s=options.radar_offset,
        camera_from_radar=options.camera_from_radar,
        masks=options.masks,
        depth=options.depth,
        depth_scale=options.depth_scale,
        depth_noise=options.depth_noise,
        depth_as_is=options.depth_as_is,
        rgb_only=options.rgb_only,
        lidar=options.lidar,
        camera_from_lidar=options.camera_from_lidar,
        lengths=options.known_length,
    )


def _numbers(option: str, form: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text} is no list of numbers; write {form}.") from None
