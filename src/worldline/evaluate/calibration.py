"""Calibration: whether sigma is true. Errors in standard deviations, and whether the sure pixels are the good ones.

Normal errors whose standard deviation is sigma have a median |error| / sigma of 0.67 (`PERFECT`). Above it sigma
promises too much, below it too little. Medians, so that a few gross errors do not decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from worldline.evaluate.alignment import align_poses
from worldline.geometry import se3
from worldline.scene.scene import CameraSigma

PERFECT = 0.6745
"""Median of |x| of a standard normal variable."""
PERFECT_LENGTH = 1.5382
"""Median length of a vector of three."""


@dataclass(frozen=True)
class DepthCalibration:
    """How depth errors compare with sigma; NaN where no pixel was compared.

    Attributes:
        static, moving: median |log error| / sigma of the pixels of each kind.
        halves: mean |log error| of the half of the pixels with the lower sigma over that of the other half.
        abs_rel_sure: mean |d - t| / t of the pixels whose sigma is at most the median.
    """

    static: float
    moving: float
    halves: float
    abs_rel_sure: float


@dataclass(frozen=True)
class CameraCalibration:
    """Errors of centres and rotations over sigma, after the alignment that sigma refers to.

    Medians of the length of the error vectors, as if they were one of three normal components with this sigma: errors
    along one axis (about the line that a camera goes, say) are neither hidden nor doubled by the other two.
    """

    centre: float
    rotation: float


def error_in_sigma(error: Float[np.ndarray, "*n"], sigma: Float[np.ndarray, "*#n"]) -> float:
    """Median |error| / sigma; NaN without errors. An error where sigma claims exactness counts as infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(error) / sigma
    known = ratio[~np.isnan(ratio)]
    return float(np.median(known)) if known.size else float("nan")


def is_sure(sigma: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """The half with the lower sigma: at most the median."""
    return sigma <= np.median(sigma) if sigma.size else np.zeros(0, dtype=bool)


def halves_ratio(error: Float[np.ndarray, "n"], sigma: Float[np.ndarray, "n"]) -> float:
    """Mean |error| of the sure half over that of the other; NaN where sigma tells no two halves apart."""
    sure = is_sure(sigma)
    if not sure.any() or sure.all():
        return float("nan")
    size = np.abs(error)
    low, high = float(size[sure].mean()), float(size[~sure].mean())
    return low / high if high > 0 else float("nan")


def depth_calibration(
    log_error: Float[np.ndarray, "n"], sigma: Float[np.ndarray, "n"], moving: Bool[np.ndarray, "n"]
) -> DepthCalibration:
    """Of pixels: log of aligned over true depth, the sigma of log depth, and whether the pixel truly moves."""
    sure = is_sure(sigma)
    return DepthCalibration(
        static=error_in_sigma(log_error[~moving], sigma[~moving]),
        moving=error_in_sigma(log_error[moving], sigma[moving]),
        halves=halves_ratio(log_error, sigma),
        abs_rel_sure=float(np.abs(np.expm1(log_error[sure])).mean()) if sure.any() else float("nan"),
    )


def camera_calibration(
    world_from_cam: Float[np.ndarray, "t 4 4"],
    truth: Float[np.ndarray, "t 4 4"],
    sigma: CameraSigma,
    *,
    metric: bool,
) -> CameraCalibration:
    """Of corresponding cameras, aligned by a similarity, or by a rigid motion if the estimate is metric."""
    found = align_poses(world_from_cam, truth, kind="se3" if metric else "sim3")
    aligned = found.apply_to_cameras(world_from_cam)
    centre = (aligned[:, :3, 3] - truth[:, :3, 3]) / found.scale
    turn = se3.so3_log(_tensor(truth[:, :3, :3]).transpose(-1, -2) @ _tensor(aligned[:, :3, :3])).numpy()
    return CameraCalibration(
        PERFECT / PERFECT_LENGTH * error_in_sigma(np.linalg.norm(centre, axis=-1), sigma.centre),
        PERFECT / PERFECT_LENGTH * error_in_sigma(np.linalg.norm(turn, axis=-1), sigma.rotation_rad),
    )


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))
