"""IMU and radar of a clip, from their own files or from the log it was read from, as observations of its frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from worldline.errors import InputError
from worldline.geometry.camera import Camera
from worldline.io.known.clip_frames import ClipFrames, on_the_clock
from worldline.io.known.imu import read_imu
from worldline.io.known.poses import read_matrix
from worldline.io.known.radar_points import read_radar_points
from worldline.io.sensors import recordings
from worldline.io.sensors.log_files import is_log
from worldline.scene.observations import CameraMotion, DopplerMaps, Source
from worldline.scene.sensor_readings import ImuSamples, RadarReturns
from worldline.scene.video import Video
from worldline.solve.gyro_bias import ImuBias
from worldline.solve.radar_maps import doppler_maps
from worldline.solve.strapdown import imu_motion, rates_at

Item = TypeVar("Item")


@dataclass(frozen=True)
class DeviceFile:
    """Where readings come from: a file (None: the log of the clip, if any), its time offset, the file of its mount."""

    path: Path | None
    offset_s: float
    mount: Path | None


@dataclass(frozen=True, eq=False)
class Devices:
    """Readings on the clock of the frames, and whether the user named them (so that what is wrong with them is an
    error) or the log had them (so that it is a note)."""

    video: Video
    imu: ImuSamples | None
    radar: RadarReturns | None
    imu_named: bool
    radar_named: bool
    bias: ImuBias | None = None

    @classmethod
    def read(
        cls,
        video: Video,
        imu: DeviceFile,
        radar: DeviceFile,
        log: recordings.LogReadings | None,
        bias_radps: tuple[float, ...] | None = None,
    ) -> Devices:
        """From files where they are named, else from the log.

        Raises:
            InputError, FormatError: a named file cannot be used; a mount or an offset is given for nothing.
        """
        samples, returns = _imu(imu, log, video), _radar(radar, log, video)
        if samples is None and (imu.mount is not None or imu.offset_s or bias_radps):
            raise InputError("a mount, time offset or bias of an IMU was given without its readings; give --imu too.")
        if returns is None and (radar.mount is not None or radar.offset_s):
            raise InputError("a mount or time offset of a radar was given without its returns; give --radar too.")
        bias = None if bias_radps is None else ImuBias.given(np.array(bias_radps))
        return cls(video, samples, returns, imu.path is not None, radar.path is not None, bias)

    def motion(self) -> tuple[CameraMotion | None, tuple[str, ...]]:
        """The camera's rotations (and places where they are known) from the IMU; or why not."""
        if self.imu is None:
            return None, ()
        imu, times_s = self.imu, self.video.times_s
        if imu.cam_from_imu is None:
            return _aside(imu.source, "its mount on the camera is not known; give --camera-from-imu", self.imu_named)
        return _or_aside(lambda: imu_motion(imu, times_s, bias=self.bias), imu.source, self.imu_named)

    def doppler(self, camera: Camera | None) -> tuple[DopplerMaps | None, tuple[str, ...]]:
        """Radial speeds in the camera's view from the radar; or why not."""
        if self.radar is None:
            return None, ()
        radar, times_s = self.radar, self.video.times_s
        if camera is None:
            reason = "radar returns can be placed only with a known camera; give --intrinsics, --focal or --fov too"
            return _aside(radar.source, reason, self.radar_named)
        if not radar.has_speed and not self.radar_named:
            return _aside(radar.source, "it has no radial speeds (Doppler)", named=False)
        rates = self._rates_cam()
        return _or_aside(lambda: doppler_maps(radar, times_s, camera, rate_radps=rates), radar.source, self.radar_named)

    def _rates_cam(self) -> Float[np.ndarray, "t 3"] | None:
        """Angular rate of the camera at the frames, zero outside of the IMU's samples; None without an IMU."""
        if self.imu is None or self.imu.cam_from_imu is None:
            return None
        return rates_at(self.imu, self.video.times_s, bias=self.bias)


def _imu(file: DeviceFile, log: recordings.LogReadings | None, video: Video) -> ImuSamples | None:
    if file.path is None:
        found = None if log is None else log.imu
    else:
        found = recordings.read_imu(file.path) if is_log(file.path) else read_imu(file.path)
        times_s, source = _on_clock(found.times_s, found.source, file.offset_s, video)
        found = replace(found, times_s=times_s, source=source)
    if found is None or file.mount is None:
        return found
    return replace(found, cam_from_imu=read_matrix(file.mount))


def _radar(file: DeviceFile, log: recordings.LogReadings | None, video: Video) -> RadarReturns | None:
    if file.path is None:
        found = None if log is None else log.radar
    else:
        in_log = is_log(file.path)
        found = recordings.read_radar(file.path, need_speed=True) if in_log else read_radar_points(file.path)
        times_s, source = _on_clock(found.times_s, found.source, file.offset_s, video)
        found = replace(found, times_s=times_s, source=source)
    if found is None or file.mount is None:
        return found
    return replace(found, cam_from_radar=read_matrix(file.mount))


def _on_clock(
    times_s: Float[np.ndarray, "n"], source: Source, offset_s: float, video: Video
) -> tuple[Float[np.ndarray, "n"], Source]:
    """Times of readings on the clock of the frames, and their source with what was assumed.

    Raises:
        InputError: the images carry no times.
    """
    clip = ClipFrames.of(video)
    if not clip.timed:
        raise InputError(
            f"the images of {video.name} carry no times, so readings of {source.name} belong to none of them; name "
            "the images after their time stamps in seconds or nanoseconds, or give a video."
        )
    moved_s, _, notes = on_the_clock(times_s, offset_s, source.name, clip)
    return moved_s, replace(source, notes=(*source.notes, *notes))


def _or_aside(make: Callable[[], Item], source: Source, named: bool) -> tuple[Item | None, tuple[str, ...]]:
    try:
        return make(), ()
    except InputError as error:
        if named:
            raise
        return _aside(source, str(error).removesuffix("."), named)


def _aside(source: Source, reason: str, named: bool) -> tuple[None, tuple[str, ...]]:
    if named:
        raise InputError(f"{source.name} cannot be used: {reason}.")
    return None, (f"{source.name} of the log was left aside: {reason}.",)
