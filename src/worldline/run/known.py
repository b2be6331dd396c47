"""What the user already knows about a clip, as files and numbers, turned into observations with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from worldline.errors import InputError
from worldline.geometry.camera import Camera
from worldline.io.known.clip_frames import ClipFrames
from worldline.io.known.depth_images import DepthSettings, SensorDepth, read_depth
from worldline.io.known.depth_noise import DepthNoise
from worldline.io.known.intrinsics import FILE_SIGMA, Calibration, camera_of, checked_distortion, read_calibration
from worldline.io.known.lengths import read_lengths
from worldline.io.known.lidar import read_lidar
from worldline.io.known.masks import read_masks
from worldline.io.known.poses import PoseSettings, read_matrix, read_poses
from worldline.io.known.rgbd_folders import DepthFiles, find_beside, find_depth
from worldline.io.sensors.log_files import is_log
from worldline.io.sensors.recordings import LogReadings, known_of
from worldline.run.devices import DeviceFile, Devices
from worldline.scene.journal import Journal, content_key, file_key
from worldline.scene.observations import CameraMotion, CameraPrior, DepthMaps, Observations, Source
from worldline.scene.video import Video

_UNLIKE = 0.03
_GIVEN = "given on the command line"


@dataclass(frozen=True)
class Known:
    """Everything that may be known before a reconstruction; all of it is optional and may be combined.

    Attributes:
        intrinsics: calibration file; distortion: (k1, k2, p1, p2[, k3]), in place of what the file says.
        focal_px: focal length in pixels of the original image; fov_deg: horizontal field of view.
        focal_sigma: relative standard deviation of the focal length; None: 0.005 for a file, 0 for a number.
        poses: trajectory file or folder of matrices; pose_offset_s is added to its times.
        pose_sigma_m, pose_sigma_deg: standard deviation of camera centres (metres) and rotations (degrees).
        camera_from_body: file with the 4x4 matrix from the axes of the body whose poses they are to the camera's.
        imu: readings of an IMU, text or a log; imu_offset_s is added to its times. camera_from_imu: file with the 4x4
            matrix from its axes to the camera's; imu_bias_radps: of its gyroscope, None: estimated.
        radar: returns with Doppler, text or a log; radar_offset_s is added to its times. camera_from_radar: file with
            the 4x4 matrix from its axes (x forward, y left, z up) to the camera's.
        masks: folder of images of what moves.
        depth: folder of depth images; depth_scale: values per metre; depth_noise: "kinect", "tof" or a share.
        depth_as_is: whether depth is taken to be in the colour camera's view, without a look at its edges.
        rgb_only: whether the depth beside the colour images is left alone.
        lidar: folder of point files; camera_from_lidar: file with the 4x4 matrix.
        lengths: texts `F:u1,v1,u2,v2=METRES`, pixels of the original image.
    """

    intrinsics: Path | None = None
    distortion: tuple[float, ...] | None = None
    focal_px: float | None = None
    focal_sigma: float | None = None
    fov_deg: float | None = None
    poses: Path | None = None
    pose_offset_s: float = 0.0
    pose_sigma_m: float = 0.01
    pose_sigma_deg: float = 0.5
    camera_from_body: Path | None = None
    imu: Path | None = None
    imu_offset_s: float = 0.0
    camera_from_imu: Path | None = None
    imu_bias_radps: tuple[float, ...] | None = None
    radar: Path | None = None
    radar_offset_s: float = 0.0
    camera_from_radar: Path | None = None
    masks: Path | None = None
    depth: Path | None = None
    depth_scale: float | None = None
    depth_noise: str = "kinect"
    depth_as_is: bool = False
    rgb_only: bool = False
    lidar: Path | None = None
    camera_from_lidar: Path | None = None
    lengths: tuple[str, ...] = ()


def observations(
    known: Known,
    video: Video,
    *,
    source: Path | None = None,
    topics: Sequence[str] = (),
    journal: Journal | None = None,
) -> Observations | None:
    """What is known of this clip, as observations of its stored frames; None where nothing is.

    Args:
        source: the video file, folder or log that `video` was read from; an RGB-D folder brings its depth, a log all
            that it holds besides. What is given in `known` takes the place of what the source has.
        topics: of a log, as in `read_video`.
        journal: told what was used and assumed.

    Raises:
        InputError, FormatError: something that was given cannot be used; one sentence says what to do.
    """
    check(known)
    log = _log(known, video, source, topics)
    camera = _camera(known, video) or (None if log is None else log.observed.camera)
    sensor = _depth(known, video, source, log)
    devices = _devices(known, video, log)
    poses = _poses(known, video, log)
    motion, still = (poses, ()) if poses is not None else devices.motion()
    doppler, silent = devices.doppler(None if camera is None else camera.camera)
    found = Observations(
        camera=_doubted(camera, sensor, known),
        camera_motion=motion,
        moving=None if known.masks is None else read_masks(known.masks, video),
        depth=_points(known, video, camera, log) if sensor is None else sensor.maps,
        lengths=read_lengths(known.lengths, video) if known.lengths else None,
        doppler=doppler,
    )
    items = [getattr(found, f.name) for f in fields(found) if f.name != "notes"]
    said = (*(note for item in items if item is not None for note in item.source.notes), *still, *silent)
    notes = tuple(dict.fromkeys((*said, *(() if log is None else log.unused))))
    if journal is not None:
        for note in notes:
            journal.progress.note(note)
    return None if all(item is None for item in items) else replace(found, notes=notes)


def known_key(known: Known, source: Path | None = None) -> str:
    """A key that changes with every number of `known` and with the content of every file it names.

    Args:
        source: as in `observations`; the depth images of an RGB-D folder are part of the key.

    Raises:
        InputError: a file or folder does not exist.
    """
    values = {f.name: getattr(known, f.name) for f in fields(known)}
    paths = {name: value for name, value in values.items() if isinstance(value, Path)}
    beside = _depth_beside(known, source)
    depth = [] if beside is None else [(file.name, file_key(file)) for file in beside.files if file.is_file()]
    content = {name: _content_key(path) for name, path in paths.items()}
    return content_key({name: value for name, value in values.items() if name not in paths}, content, depth)


def check(known: Known) -> None:
    """Refuse what cannot be, before anything is read.

    Raises:
        InputError: a number out of its range, or things that exclude each other.
    """
    cameras = [known.intrinsics is not None, known.focal_px is not None, known.fov_deg is not None]
    if known.focal_px is not None and known.fov_deg is not None:
        raise InputError("both a focal length and a field of view were given; give only one.")
    if sum(cameras) > 1:
        raise InputError("a calibration file was given beside a focal length or field of view; give only one.")
    if known.focal_px is not None and not 0 < known.focal_px < np.inf:
        raise InputError(f"the focal length must be positive, not {known.focal_px}; give it in pixels.")
    if known.fov_deg is not None and not 1 < known.fov_deg < 179:
        raise InputError(f"the field of view must lie between 1 and 179 degrees, not {known.fov_deg}; check --fov.")
    if known.focal_sigma is not None and not 0 <= known.focal_sigma < 1:
        raise InputError(f"the focal sigma is a share from 0 to 1, not {known.focal_sigma}; 0.01 means one per cent.")
    if (known.distortion is not None or known.focal_sigma is not None) and not any(cameras):
        raise InputError("distortion and focal sigma need a focal length; give --intrinsics, --focal or --fov too.")
    if known.lidar is not None and not any(cameras):
        raise InputError(
            "LiDAR points can be placed only with a known camera; give --intrinsics, --focal or --fov too."
        )
    if known.lidar is not None and known.depth is not None:
        raise InputError("both depth images and LiDAR points were given; give only one of them.")
    if known.camera_from_lidar is not None and known.lidar is None:
        raise InputError("a matrix from LiDAR to camera was given without LiDAR points; give --lidar too.")
    _check_devices(known)
    if known.depth is not None and known.rgb_only:
        raise InputError("--rgb-only leaves depth alone and --depth names some; give only one.")
    _depth_settings(known)
    if known.poses is None and _pose_settings(known) != PoseSettings():
        raise InputError("a time offset or uncertainty of poses was given without poses; give --poses too.")


def _check_devices(known: Known) -> None:
    """Of body, IMU and radar: what needs something else, and what excludes each other."""
    if known.camera_from_body is not None and known.poses is None:
        raise InputError("a matrix from a body to the camera was given without its poses; give --poses too.")
    if known.imu is not None and known.poses is not None:
        raise InputError("both poses and an IMU were given; give only one of them, the poses where they are whole.")
    if known.imu is not None and known.camera_from_imu is None and not is_log(known.imu):
        raise InputError(
            "readings of an IMU need its mount: give --camera-from-imu, a file with the 4x4 matrix from its axes to "
            "the camera's (x right, y down, z forward)."
        )
    if known.imu_bias_radps is not None and len(known.imu_bias_radps) != 3:
        raise InputError(f"the bias of a gyroscope is three numbers, not {len(known.imu_bias_radps)}; correct it.")
    for name, value in (("IMU", known.imu_offset_s), ("radar", known.radar_offset_s)):
        if not np.isfinite(value):
            raise InputError(f"the offset of the {name} must be a time in seconds, not {value}; correct it.")


def _camera(known: Known, video: Video) -> CameraPrior | None:
    calibration, what = _calibration(known, video)
    if calibration is None:
        return None
    if known.distortion is not None:
        calibration = replace(calibration, distortion=checked_distortion(known.distortion, "--distortion"))
    camera = camera_of(calibration, video, what)
    if not 1 < camera.fov_deg < 179:
        width = (video.original_size or (video.width, video.height))[0]
        raise InputError(
            f"a focal length of {calibration.intrinsics[0]:g} px would be a field of view of {camera.fov_deg:.3g} "
            f"degrees in images {width} pixels wide; give it in pixels of the original image."
        )
    sigma = known.focal_sigma if known.focal_sigma is not None else 0.0 if known.intrinsics is None else FILE_SIGMA
    return CameraPrior(
        camera, sigma, Source(what, notes=() if known.intrinsics is None else (_camera_note(camera, known),))
    )


def _camera_note(camera: Camera, known: Known) -> str:
    lens = f" and the distortion {', '.join(f'{d:g}' for d in camera.distortion)}" if camera.distortion else ""
    name = "the calibration" if known.intrinsics is None else known.intrinsics.name
    return f"the camera was taken from {name}: a focal length of {camera.focal:.1f} px of the frames used{lens}."


def _calibration(known: Known, video: Video) -> tuple[Calibration | None, str]:
    """What is known of the original images' camera, and where it comes from."""
    if known.intrinsics is not None:
        return read_calibration(known.intrinsics), known.intrinsics.name
    size = video.original_size or (video.width, video.height)
    if known.focal_px is not None:
        return Calibration(Camera.from_focal(known.focal_px, *size).intrinsics), _GIVEN
    if known.fov_deg is not None:
        return Calibration(Camera.from_fov_deg(known.fov_deg, *size).intrinsics), _GIVEN
    return None, ""


def _log(known: Known, video: Video, source: Path | None, topics: Sequence[str]) -> LogReadings | None:
    """What the log that the video was read from holds besides; what was given otherwise is not looked for in it."""
    if source is None or not is_log(source):
        return None
    depth = known.rgb_only or known.depth is not None or known.lidar is not None
    given = {
        "camera_info": known.intrinsics is not None or known.focal_px is not None or known.fov_deg is not None,
        "depth": depth,
        "lidar": depth,
        "pose": known.poses is not None or known.imu is not None,
        "imu": known.imu is not None,
        "radar": known.radar is not None,
    }
    left = tuple(f"{role}=none" for role, there in given.items() if there)
    return known_of(source, video, (*topics, *left), depth=_depth_settings(known), poses=_pose_settings(known))


def _of_log(log: LogReadings | None) -> tuple[str, ...]:
    """What the log itself has to say, besides what each of its items does."""
    if log is None:
        return ()
    seen = log.observed
    items = (seen.camera, seen.camera_motion, seen.depth, log.imu, log.radar)
    of_items = {note for item in items if item is not None for note in item.source.notes}
    return tuple(note for note in log.notes if note not in of_items)


def _devices(known: Known, video: Video, log: LogReadings | None) -> Devices:
    imu = DeviceFile(known.imu, known.imu_offset_s, known.camera_from_imu)
    radar = DeviceFile(known.radar, known.radar_offset_s, known.camera_from_radar)
    return Devices.read(video, imu, radar, log, known.imu_bias_radps)


def _poses(known: Known, video: Video, log: LogReadings | None) -> CameraMotion | None:
    if known.poses is None:
        return None if log is None or known.imu is not None else log.observed.camera_motion
    motion = read_poses(known.poses, ClipFrames.of(video), _pose_settings(known))
    if known.camera_from_body is None:
        return motion
    body_from_cam = np.linalg.inv(read_matrix(known.camera_from_body))
    carried = np.where(motion.valid[:, None, None], motion.world_from_cam @ body_from_cam, motion.world_from_cam)
    return replace(motion, world_from_cam=carried)


def _pose_settings(known: Known) -> PoseSettings:
    return PoseSettings(known.pose_offset_s, known.pose_sigma_m, float(np.radians(known.pose_sigma_deg)))


def _depth_settings(known: Known) -> DepthSettings:
    return DepthSettings(known.depth_scale, DepthNoise.named(known.depth_noise), known.depth_as_is)


def _doubted(camera: CameraPrior | None, sensor: SensorDepth | None, known: Known) -> CameraPrior | None:
    """The camera with less certainty where two unlike cameras took colour and depth: whose calibration is it?"""
    unlike = 0.0 if sensor is None or sensor.alignment is None else abs(float(np.log(sensor.alignment.scale)))
    if camera is None or known.focal_sigma is not None or unlike < _UNLIKE:
        return camera
    note = (
        f"colour and depth were taken by cameras of unlike focal lengths, and that of {camera.camera.focal:.0f} px may "
        f"belong to either: it is held to {100 * unlike:.0f} % (give the focal sigma if it is sure to be of colour)."
    )
    notes = (*camera.source.notes, note)
    return replace(camera, focal_sigma=max(camera.focal_sigma, unlike), source=replace(camera.source, notes=notes))


def _depth(known: Known, video: Video, source: Path | None, log: LogReadings | None) -> SensorDepth | None:
    if known.depth is not None:
        return read_depth(find_depth(known.depth), video, _depth_settings(known))
    if log is not None:
        return None if known.rgb_only or known.lidar is not None else log.sensor_depth
    found = _depth_beside(known, source)
    if found is None and _depth_settings(known) != DepthSettings():
        raise InputError("a scale or noise of depth was given, but there are no depth images; give --depth too.")
    try:
        return None if found is None else read_depth(found, video, _depth_settings(known))
    except InputError as error:
        sentence = f"{str(error).removesuffix('.')}; or leave the depth of this folder alone with --rgb-only."
        raise type(error)(sentence) from error


def _depth_beside(known: Known, source: Path | None) -> DepthFiles | None:
    """Depth images of an RGB-D folder, unless other depth is given or none is wanted."""
    unwanted = known.rgb_only or known.depth is not None or known.lidar is not None
    return None if unwanted or source is None or is_log(source) else find_beside(source)


def _points(known: Known, video: Video, camera: CameraPrior | None, log: LogReadings | None) -> DepthMaps | None:
    """Sparse depth from the points of a LiDAR, given or in the log."""
    if known.lidar is None:
        return None if log is None or known.rgb_only else log.observed.depth
    if camera is None:
        return None
    motion = None if known.camera_from_lidar is None else read_matrix(known.camera_from_lidar)
    return read_lidar(known.lidar, video, camera.camera, motion)


def _content_key(path: Path) -> str:
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path.")
    try:
        return file_key(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
