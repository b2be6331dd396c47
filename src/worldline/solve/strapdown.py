"""Camera motion from an inertial measurement unit fixed to the camera.

The gyroscope gives rotations between frames whose error grows with time; the accelerometer gives the direction of
gravity, and after standing still, for a few seconds, also where the camera goes (`solve/dead_reckoning.py`). The world
has its z axis up and its origin in the first known camera; its heading is arbitrary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.errors import InputError
from worldline.geometry import se3
from worldline.scene.observations import CameraMotion, Source
from worldline.scene.sensor_readings import ImuSamples
from worldline.solve.dead_reckoning import Reckoning, reckoned
from worldline.solve.gyro_bias import BiasSettings, ImuBias, estimate_bias, standing_still
from worldline.solve.gyro_integration import rotations_at, rotations_at_samples

LEAST_RATE_HZ = 20.0
"""Samples further apart than by this rate tell too little of how a camera turns in between."""


@dataclass(frozen=True)
class Strapdown:
    """Errors of the sensor, and how its readings meet frames.

    Attributes:
        gyro_noise: angle random walk, rad / s / sqrt(Hz). gyro_walk: of the bias, rad / s^2 / sqrt(Hz).
        gyro_scale: relative error of the rates.
        least_sigma_rad: of any frame's rotation: the mount is calibrated only so well.
        longest_gap_s: between samples that are integrated across; beyond a longer one nothing is known.
        around_s: how much of a longer recording before and after the frames tells the bias.
    """

    gyro_noise: float = 3e-4
    gyro_walk: float = 2e-5
    gyro_scale: float = 0.003
    least_sigma_rad: float = float(np.radians(0.1))
    longest_gap_s: float = 0.1
    around_s: float = 150.0
    bias: BiasSettings = field(default_factory=BiasSettings)
    reckoning: Reckoning = field(default_factory=Reckoning)

    @property
    def rest(self) -> BiasSettings:
        """When the device is taken to have no velocity at all, more strictly than for its bias."""
        reckoning = self.reckoning
        return replace(
            self.bias, still_gyro_radps=reckoning.rest_gyro_radps, still_accel_mps2=reckoning.rest_accel_mps2
        )


def imu_motion(
    samples: ImuSamples,
    times_s: Float[np.ndarray, "t"],
    *,
    bias: ImuBias | None = None,
    settings: Strapdown | None = None,
) -> CameraMotion:
    """world_from_cam at the times of frames, with sigmas that grow from the first known frame on.

    Args:
        samples: of the whole recording (biases are found around the frames); where `cam_from_imu` is None the motion
            is that of the IMU's own axes.
        times_s: of the frames, on the clock of the samples.
        bias: None: estimated.

    Returns:
        `valid` where samples reach a frame without a gap; the centre of a frame whose `frame_sigma_m` is infinite is
        not known.

    Raises:
        InputError: no frame lies within the samples, or there are too few of them.
    """
    s = settings or Strapdown()
    part, valid = _covered(samples, times_s, s)
    at_s = np.asarray(times_s, dtype=np.float64)[valid]
    part &= (samples.times_s > at_s[0] - s.around_s) & (samples.times_s < at_s[-1] + s.around_s)
    near = _cut(samples, part)
    bias = bias or estimate_bias(near, s.bias)
    run = _Run.of(near, bias, standing_still(near, s.bias))
    rotation = run.rotations(at_s)
    place, sigma_m = reckoned(run.samples, run.attitude, standing_still(near, s.rest), at_s, s.reckoning)
    sigma_rad = _rotation_sigma(rotation, at_s, bias, s)
    world_from_imu = se3.from_rotation_translation(rotation, torch.from_numpy(np.nan_to_num(place)))
    poses = _of_camera(world_from_imu, samples.cam_from_imu)
    known = np.isfinite(sigma_m)
    world_from_cam = np.tile(np.eye(4), (len(times_s), 1, 1))
    world_from_cam[valid] = _anchored(poses.numpy(), known)
    notes = _notes(samples, valid, bias, known, run.upright)
    return CameraMotion(
        world_from_cam, valid, float(sigma_m[known].max()) if known.any() else np.inf, float(np.median(sigma_rad)),
        Source(samples.source.name, notes=(*samples.source.notes, *notes)), metric=bool(known.any()),
        metric_source="accelerometer" if known.any() else "", frame_sigma_m=_spread_out(sigma_m, valid, np.inf),
        frame_sigma_rad=_spread_out(sigma_rad, valid, np.inf),
    )  # fmt: skip


def rates_at(
    samples: ImuSamples, times_s: Float[np.ndarray, "t"], *, bias: ImuBias | None = None
) -> Float[np.ndarray, "t 3"]:
    """Angular rate at some times on the camera's axes (the IMU's own without a mount), zero outside of the samples."""
    clean = samples.gyro_radps - (bias or estimate_bias(samples)).gyro_radps
    rate = np.stack([np.interp(times_s, samples.times_s, column, left=0, right=0) for column in clean.T], -1)
    return rate if samples.cam_from_imu is None else rate @ samples.cam_from_imu[:3, :3].T


@dataclass(frozen=True, eq=False)
class _Run:
    """Samples without a gap, biases taken off, and the attitude they give: world_from_imu, z up."""

    samples: ImuSamples
    attitude: Float[Tensor, "n 3 3"]
    upright: str

    @classmethod
    def of(cls, samples: ImuSamples, bias: ImuBias, still: Bool[np.ndarray, "n"]) -> _Run:
        clean = replace(
            samples, gyro_radps=samples.gyro_radps - bias.gyro_radps, accel_mps2=samples.accel_mps2 - bias.accel_mps2
        )
        turned = rotations_at_samples(torch.from_numpy(clean.times_s), torch.from_numpy(clean.gyro_radps))
        rest = _first_stretch(still)
        force = (turned.numpy()[rest] @ clean.accel_mps2[rest, :, None])[..., 0].mean(0)
        upright = "standing still" if still.any() else "the mean of all accelerations"
        return cls(clean, upward(torch.from_numpy(force)) @ turned, upright)

    def rotations(self, at_s: Float[np.ndarray, "m"]) -> Float[Tensor, "m 3 3"]:
        """world_from_imu at any times within the samples."""
        times_s, rate = torch.from_numpy(self.samples.times_s), torch.from_numpy(self.samples.gyro_radps)
        return self.attitude[0] @ rotations_at(times_s, rate, torch.from_numpy(at_s))


def _first_stretch(still: Bool[np.ndarray, "n"]) -> slice:
    """Where it stands still first, or everything if nowhere: attitude drifts, so later ones say less of gravity."""
    if not still.any():
        return slice(None)
    start = int(still.argmax())
    return slice(start, start + int((~still[start:]).argmax()) if not still[start:].all() else None)


def upward(force: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that takes a direction to the z axis."""
    along = force / force.norm()
    up = force.new_tensor([0.0, 0.0, 1.0])
    axis = torch.linalg.cross(along, up)
    sine, cosine = axis.norm(), along @ up
    if float(sine) < 1e-12:
        return torch.diag(force.new_tensor([1.0, 1.0, 1.0] if float(cosine) > 0 else [1.0, -1.0, -1.0]))
    return se3.so3_exp(axis / sine * torch.atan2(sine, cosine))


def _covered(
    samples: ImuSamples, times_s: Float[np.ndarray, "t"], s: Strapdown
) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "t"]]:
    """The longest run of samples, by frames, that has no gap; and the frames within it."""
    if len(samples) < 2 or samples.rate_hz < LEAST_RATE_HZ:
        raise InputError(
            f"{samples.source.name} has {len(samples)} samples at {samples.rate_hz:.3g} Hz; an IMU is useful from "
            f"{LEAST_RATE_HZ:g} Hz on, so leave it out."
        )
    stretch = np.cumsum(np.diff(samples.times_s, prepend=samples.times_s[0]) > s.longest_gap_s)
    first = samples.times_s[np.searchsorted(stretch, np.arange(stretch[-1] + 1))]
    last = samples.times_s[np.searchsorted(stretch, np.arange(stretch[-1] + 1), side="right") - 1]
    inside = (times_s >= first[:, None] - 1e-9) & (times_s <= last[:, None] + 1e-9) & (last > first)[:, None]
    best = int(inside.sum(1).argmax())
    if not inside[best].any():
        raise InputError(
            f"{samples.source.name} has samples from {samples.times_s[0]:.6g} to {samples.times_s[-1]:.6g} s but the "
            f"frames are at {times_s[0]:.6g} to {times_s[-1]:.6g} s; check the times, or shift them with a time offset."
        )
    return stretch == best, inside[best]


def _cut(samples: ImuSamples, part: Bool[np.ndarray, "n"]) -> ImuSamples:
    return replace(
        samples, times_s=samples.times_s[part], gyro_radps=samples.gyro_radps[part], accel_mps2=samples.accel_mps2[part]
    )


def _of_camera(
    world_from_imu: Float[Tensor, "m 4 4"], cam_from_imu: Float[np.ndarray, "4 4"] | None
) -> Float[Tensor, "m 4 4"]:
    return world_from_imu if cam_from_imu is None else world_from_imu @ se3.inverse(torch.from_numpy(cam_from_imu))


def _anchored(world_from_cam: Float[np.ndarray, "m 4 4"], known: Bool[np.ndarray, "m"]) -> Float[np.ndarray, "m 4 4"]:
    """The origin in the first known centre; centres that are not known there too."""
    poses = world_from_cam.copy()
    if known.any():
        poses[:, :3, 3] -= poses[known][0, :3, 3]
    poses[~known, :3, 3] = 0
    return poses


def _rotation_sigma(
    rotation: Float[Tensor, "m 3 3"], at_s: Float[np.ndarray, "m"], bias: ImuBias, s: Strapdown
) -> Float[np.ndarray, "m"]:
    """Standard deviation per axis of the rotation from the first frame to each: noise, bias and its walk, scale."""
    passed = at_s - at_s[0]
    of_bias = float(np.sqrt(np.mean(bias.sigma_radps**2)))
    turned = se3.angle_rad(rotation[0].mT @ rotation).numpy()
    parts = (
        s.gyro_noise * np.sqrt(passed), of_bias * passed, s.gyro_walk * np.sqrt(passed**3 / 3),
        s.gyro_scale * turned, np.full(len(passed), s.least_sigma_rad),
    )  # fmt: skip
    return np.sqrt(sum(part**2 for part in parts))


def _spread_out(
    values: Float[np.ndarray, "m"], valid: Bool[np.ndarray, "t"], elsewhere: float
) -> Float[np.ndarray, "t"]:
    out = np.full(len(valid), elsewhere)
    out[valid] = values
    return out


def _notes(
    samples: ImuSamples, valid: Bool[np.ndarray, "t"], bias: ImuBias, known: Bool[np.ndarray, "m"], upright: str
) -> tuple[str, ...]:
    size = float(np.degrees(np.linalg.norm(bias.gyro_radps)))
    doubt = float(np.degrees(np.sqrt(np.mean(bias.sigma_radps**2))))
    centres = (
        f"also the places of {int(known.sum())} of them, since it rested shortly before"
        if known.any()
        else "the accelerometer alone does not tell places here"
    )
    return (
        f"the rotations of {int(valid.sum())} of {len(valid)} frames were integrated from {samples.source.name} "
        f"({len(samples)} samples at {samples.rate_hz:.0f} Hz); {centres}.",
        f"the bias of the gyroscope {bias.how}: {size:.3g} degrees per second, known to {doubt:.2g}; up is from "
        f"{upright}.",
    )
