"""What an IMU reads at rest: where it stands still, and the biases that make its readings agree with gravity.

A gyroscope's bias is up to several degrees per second and must be taken off before its rates are added up. Two things
tell it. Where the device stands still, the rates are the bias. And however it moves, its speed stays bounded, so over
some seconds the mean of the specific force, turned into one frame, is gravity: a bias turns that mean away more and
more. The second also follows a bias that differs between standing and moving, as vibration makes it.

Source: the observability of IMU biases from gravity is the usual one (Groves, "Principles of GNSS, inertial, and
multisensor integrated navigation systems", 2013, ch. 5 and 14); the least squares over a whole recording is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.geometry import se3
from worldline.scene.sensor_readings import ImuSamples
from worldline.solve.gyro_integration import rotations_at_samples

GRAVITY_MPS2 = 9.81


@dataclass(frozen=True)
class BiasSettings:
    """How biases are found; the defaults suit the MEMS sensors of cameras, phones and drones.

    Attributes:
        still_s: length of a window; it stands still where gyro and accelerometer vary by less than still_gyro_radps and
            still_accel_mps2 (norm of the standard deviations) and the mean rate is below largest_bias_radps.
        pan_radps, pan_rad: a steady rate above the first about an axis that is vertical within the second is a camera
            that pans; few biases are so large and lie so.
        change_radps: by how much the bias of moving may differ from that of standing still.
        unknown_radps: standard deviation of a bias about which nothing is known.
        accel_bias_mps2: standard deviation of the accelerometer's.
        longest_gap_s: between samples whose rates are added up.
        window_s: over which the mean force is compared with gravity; fewest_windows: below that it is not.
        force_mps2: the least standard deviation of that mean.
        correlated: by how much the formal sigma is too small, since errors of the mean force go with the heading.
    """

    still_s: float = 0.5
    still_gyro_radps: float = 0.04
    still_accel_mps2: float = 0.5
    largest_bias_radps: float = 0.15
    pan_radps: float = 0.02
    pan_rad: float = float(np.radians(8.0))
    change_radps: float = 1.5e-3
    unknown_radps: float = 0.05
    accel_bias_mps2: float = 0.1
    longest_gap_s: float = 0.1
    window_s: float = 5.0
    fewest_windows: int = 4
    force_mps2: float = 0.1
    correlated: float = 1.5


@dataclass(frozen=True, eq=False)
class ImuBias:
    """Readings at rest beyond what there is: gyro (3,) rad/s with its standard deviation per axis, accelerometer (3,)
    m/s^2, both on the axes of the IMU; `how` they are known, in words."""

    gyro_radps: Float[np.ndarray, "3"]
    sigma_radps: Float[np.ndarray, "3"]
    accel_mps2: Float[np.ndarray, "3"]
    how: str

    @classmethod
    def given(cls, gyro_radps: Float[np.ndarray, "3"], sigma_radps: float = 2e-4) -> ImuBias:
        """A gyro bias from a calibration."""
        return cls(np.asarray(gyro_radps, dtype=np.float64), np.full(3, sigma_radps), np.zeros(3), "was given")


def standing_still(samples: ImuSamples, settings: BiasSettings | None = None) -> Bool[np.ndarray, "n"]:
    """Which samples lie in a window in which nothing moves.

    A turn of constant rate looks the same to the gyroscope. Such windows are left out where it is about the vertical,
    and where most others disagree, because all that stand still read the same bias.
    """
    s = settings or BiasSettings()
    label = ((samples.times_s - samples.times_s[0]) / s.still_s).astype(np.int64)
    count, mean, spread = _per_window(np.concatenate([samples.gyro_radps, samples.accel_mps2], 1), label)
    full = count >= 0.8 * s.still_s * samples.rate_hz
    still = full & (np.linalg.norm(spread[:, :3], axis=1) < s.still_gyro_radps)
    still &= np.linalg.norm(spread[:, 3:], axis=1) < s.still_accel_mps2
    still &= np.linalg.norm(mean[:, :3], axis=1) < s.largest_bias_radps
    still &= ~_panning(mean, s)
    if still.any():
        usual = np.median(mean[still, :3], axis=0)
        still &= np.linalg.norm(mean[:, :3] - usual, axis=1) < s.still_gyro_radps / 4
    return still[label]


def _panning(mean: Float[np.ndarray, "w 6"], s: BiasSettings) -> Bool[np.ndarray, "w"]:
    """Windows whose mean rate is high and about the direction of the mean force."""
    rate, force = mean[:, :3], mean[:, 3:]
    upright = np.abs((rate * force).sum(1)) / np.maximum(np.linalg.norm(force, axis=1), 1e-9)
    size = np.linalg.norm(rate, axis=1)
    return (size > s.pan_radps) & (upright > np.cos(s.pan_rad) * size)


def estimate_bias(samples: ImuSamples, settings: BiasSettings | None = None) -> ImuBias:
    """Biases from standstill and from gravity, whichever the recording has; zero and uncertain without either."""
    s = settings or BiasSettings()
    still = standing_still(samples, s)
    seconds = float(still.sum()) / max(samples.rate_hz, 1e-9)
    if still.any():
        first = samples.gyro_radps[still].mean(0)
        prior = ImuBias(first, np.full(3, s.change_radps), np.zeros(3), f"comes from {seconds:.1f} s of standing still")
    else:
        prior = ImuBias(np.zeros(3), np.full(3, s.unknown_radps), np.zeros(3), "is unknown and was taken to be zero")
    whole = _without_gap(samples, s.longest_gap_s)
    windows = (whole.times_s[-1] - whole.times_s[0]) / s.window_s
    return _agreeing_with_gravity(whole, prior, s) if windows >= s.fewest_windows else prior


def _without_gap(samples: ImuSamples, longest_gap_s: float) -> ImuSamples:
    """The longest run of samples that has no gap."""
    run = np.cumsum(np.diff(samples.times_s, prepend=samples.times_s[0]) > longest_gap_s)
    part = run == np.bincount(run).argmax()
    return replace(
        samples, times_s=samples.times_s[part], gyro_radps=samples.gyro_radps[part], accel_mps2=samples.accel_mps2[part]
    )


def _per_window(
    values: Float[np.ndarray, "n c"], label: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "w"], Float[np.ndarray, "w c"], Float[np.ndarray, "w c"]]:
    """Count, mean and standard deviation of the samples of each window."""
    count = np.bincount(label)
    sums = [np.stack([np.bincount(label, column) for column in power.T], -1) for power in (values, values**2)]
    mean, square = (total / np.maximum(count, 1)[:, None] for total in sums)
    return count, mean, np.sqrt(np.maximum(square - mean**2, 0))


def _agreeing_with_gravity(samples: ImuSamples, prior: ImuBias, s: BiasSettings) -> ImuBias:
    """Biases by which the mean force of all windows is one gravity, over spans that grow as the bias gets known."""
    seconds = samples.times_s[-1] - samples.times_s[0]
    unknowns = np.concatenate([prior.gyro_radps, np.zeros(3), np.full(3, np.nan)])
    covariance = np.diag(np.r_[prior.sigma_radps**2, np.zeros(6)])
    span = s.fewest_windows * s.window_s
    while True:
        part = samples.times_s <= samples.times_s[0] + min(span, seconds)
        unknowns, covariance = _fitted(samples, part, unknowns, prior, s)
        if span >= seconds:
            break
        span *= 2
    sigma = np.minimum(s.correlated * np.sqrt(np.diag(covariance)[:3]), prior.sigma_radps)
    return ImuBias(unknowns[:3], sigma, unknowns[3:6], f"{prior.how}, corrected by the direction of gravity")


def _fitted(
    samples: ImuSamples, part: Bool[np.ndarray, "n"], start: Float[np.ndarray, "9"], prior: ImuBias, s: BiasSettings
) -> tuple[Float[np.ndarray, "9"], Float[np.ndarray, "9 9"]]:
    """Gyro bias, accelerometer bias and gravity by robust Gauss-Newton; and their covariance."""
    times_s = torch.from_numpy(samples.times_s[part])
    gyro, accel = torch.from_numpy(samples.gyro_radps[part]), torch.from_numpy(samples.accel_mps2[part])
    count = int((times_s[-1] - times_s[0]) / s.window_s)
    label = ((times_s - times_s[0]) / s.window_s).long().clamp(max=count - 1)
    x = torch.from_numpy(start.copy())
    for _ in range(8):
        residual, jacobian, gravity = _mean_forces(times_s, gyro - x[:3], accel - x[3:6], label, x[6:])
        x[6:] = gravity
        size = residual.norm(dim=1)
        spread = max(s.force_mps2, float(size.median()) / 1.54)
        weight = (1 / (1 + (size / (3 * spread)).square()) / spread**2).repeat_interleave(3)
        rows = jacobian.reshape(-1, 9)
        normal = rows.T @ (weight[:, None] * rows)
        right = rows.T @ (weight * residual.reshape(-1))
        _with_priors(normal, right, x, prior, s)
        covariance = torch.linalg.inv(normal)
        step = -covariance @ right
        x = x + step
        if float(step.abs().max()) < 1e-8:
            break
    return x.numpy(), covariance.numpy()


def _with_priors(normal: Tensor, right: Tensor, x: Tensor, prior: ImuBias, s: BiasSettings) -> None:
    """Add what is known beforehand to the normal equations: the biases, and the length of gravity."""
    sigma = torch.from_numpy(np.r_[prior.sigma_radps, np.full(3, s.accel_bias_mps2)])
    mean = torch.from_numpy(np.r_[prior.gyro_radps, np.zeros(3)])
    normal[range(6), range(6)] += sigma**-2
    right[:6] += (x[:6] - mean) / sigma**2
    length = x[6:].norm()
    along, sigma_g = x[6:] / length, 0.03
    normal[6:, 6:] += torch.outer(along, along) / sigma_g**2
    right[6:] += along * (length - GRAVITY_MPS2) / sigma_g**2


def _mean_forces(
    times_s: Float[Tensor, "n"],
    rate: Float[Tensor, "n 3"],
    force: Float[Tensor, "n 3"],
    label: Tensor,
    gravity: Float[Tensor, "3"],
) -> tuple[Float[Tensor, "w 3"], Float[Tensor, "w 3 9"], Float[Tensor, "3"]]:
    """Mean force of each window less gravity, and its derivatives by gyro bias, accelerometer bias and gravity.

    A change db of the gyro bias turns the later attitude by -(integral of R) db, R being that attitude. Of the force
    only gravity counts in this derivative: how accelerations of the device are turned tells nothing, as their mean is
    what is not known.
    """
    turn = rotations_at_samples(times_s, rate)
    turned = (turn @ force[..., None])[..., 0]
    step = torch.diff(times_s)[:, None, None]
    sum_of_turns = torch.cat([torch.zeros_like(turn[:1]), torch.cumsum(step * (turn[1:] + turn[:-1]) / 2, 0)])
    rows = torch.cat([sum_of_turns, -turn, turned[..., None]], -1)
    sums = torch.zeros(int(label[-1]) + 1, 3, 7, dtype=rows.dtype).index_add_(0, label, rows)
    mean = sums / torch.bincount(label)[:, None, None]
    gravity = mean[0, :, 6] if bool(gravity.isnan().any()) else gravity
    by_bias, minus = se3.hat(gravity) @ mean[..., :3], -torch.eye(3, dtype=rows.dtype).expand(len(mean), 3, 3)
    return mean[..., 6] - gravity, torch.cat([by_bias, mean[..., 3:6], minus], -1), gravity
