"""Camera paths: absolute and relative errors of a trajectory, defined for degenerate ones too.

ATE is the absolute pose error of the centres and RPE the relative pose error of Sturm et al., "A benchmark for the
evaluation of RGB-D SLAM systems", IROS 2012, section V, over all pairs (i, i + delta), both as root mean square.
The numbers agree with evo's `ape translation_part` and `rpe translation_part / rotation_angle_deg --all_pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from worldline.errors import InputError
from worldline.evaluate.alignment import Alignment, Kind, align_poses
from worldline.geometry import se3

_ORTHONORMAL = 1e-2
"""Largest error of R^T R of a pose that still counts as a rotation rounded in a text file."""


@dataclass(frozen=True, eq=False)
class PathScores:
    """Errors of one path. What a path cannot have (an RPE of one pose, a share of no motion) is NaN.

    Attributes:
        ate_m: root mean square distance of aligned centres. ate_pct: the same in % of the true path's length.
        rpe_t_m, rpe_r_deg: root mean square of relative translation and rotation errors over `delta` frames.
        path_length_m: length of the true path. poses: how many were compared.
        alignment: what was applied to the estimate first; its `name` tells of degenerate paths.
    """

    ate_m: float
    ate_pct: float
    rpe_t_m: float
    rpe_r_deg: float
    path_length_m: float
    poses: int
    alignment: Alignment


def path_scores(
    world_from_cam: Float[np.ndarray, "t 4 4"],
    truth: Float[np.ndarray, "t 4 4"],
    *,
    alignment: Kind = "sim3",
    delta: int = 1,
) -> PathScores:
    """Errors of corresponding poses (metres, OpenCV axes, camera to world).

    Raises:
        InputError: no poses, unequal counts, a pose that is not finite or not rigid, or delta below 1.
    """
    checked(world_from_cam, "the estimate")
    checked(truth, "the truth")
    if len(world_from_cam) != len(truth):
        raise InputError(f"{len(world_from_cam)} poses but {len(truth)} true ones; pair them with `associate` first.")
    found = align_poses(world_from_cam, truth, kind=alignment)
    aligned = found.apply_to_cameras(world_from_cam)
    ate = _rms(np.linalg.norm(aligned[:, :3, 3] - truth[:, :3, 3], axis=-1))
    length = path_length(truth)
    rpe_t, rpe_r = relative_errors(aligned, truth, delta=delta)
    share = 100 * ate / length if length > 0 else float("nan")
    return PathScores(ate, share, _rms(rpe_t), _rms(rpe_r), length, len(truth), found)


def relative_errors(
    world_from_cam: Float[np.ndarray, "t 4 4"], truth: Float[np.ndarray, "t 4 4"], *, delta: int = 1
) -> tuple[Float[np.ndarray, "p"], Float[np.ndarray, "p"]]:
    """Translation (metres) and rotation (degrees) errors of the motion from i to i + delta, for every i.

    They do not depend on the choice of world, only on the scale. Empty where there are not more than delta poses.
    """
    if delta < 1:
        raise InputError(f"delta must be at least one frame, not {delta}; give a positive number.")
    step, true_step = _steps(world_from_cam, delta), _steps(truth, delta)
    error = se3.inverse(true_step) @ step
    translation = torch.linalg.vector_norm(error[:, :3, 3], dim=-1)
    return translation.numpy(), torch.rad2deg(se3.angle_rad(error[:, :3, :3])).numpy()


def path_length(world_from_cam: Float[np.ndarray, "t 4 4"]) -> float:
    """Sum of the distances between consecutive centres (metres)."""
    return float(np.linalg.norm(np.diff(world_from_cam[:, :3, 3], axis=0), axis=-1).sum())


def associate(
    times_s: Float[np.ndarray, "a"], truth_times_s: Float[np.ndarray, "b"], *, max_gap_s: float
) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]:
    """Indices of stamps that are each other's nearest and at most `max_gap_s` apart; both rise.

    Raises:
        InputError: stamps that are not finite and strictly increasing.
    """
    for what, times in (("the estimate", times_s), ("the truth", truth_times_s)):
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise InputError(f"the time stamps of {what} must be finite and strictly increasing; sort them first.")
    if len(times_s) == 0 or len(truth_times_s) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    to_truth, to_estimate = _nearest(times_s, truth_times_s), _nearest(truth_times_s, times_s)
    index = np.arange(len(times_s))
    keep = (to_estimate[to_truth] == index) & (np.abs(times_s - truth_times_s[to_truth]) <= max_gap_s)
    return index[keep], to_truth[keep]


def at_times(
    times_s: Float[np.ndarray, "t"], world_from_cam: Float[np.ndarray, "t 4 4"], wanted_s: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n 4 4"]:
    """A path at other times: centres on straight lines, rotations on geodesics between its poses.

    Raises:
        InputError: a wanted time outside the path's first and last stamp.
    """
    if wanted_s.min() < times_s[0] or wanted_s.max() > times_s[-1]:
        raise InputError(f"the path covers {times_s[0]} to {times_s[-1]} s only; ask for times inside.")
    after = np.clip(np.searchsorted(times_s, wanted_s), 1, None)
    before = after - 1
    share = (wanted_s - times_s[before]) / (times_s[after] - times_s[before])
    motions = torch.from_numpy(np.ascontiguousarray(world_from_cam, dtype=np.float64))
    return se3.interpolate(motions[before], motions[after], torch.from_numpy(share)).numpy()


def checked(world_from_cam: Float[np.ndarray, "t 4 4"], what: str = "the path") -> None:
    """Raise InputError unless these are finite rigid poses, at least one."""
    if world_from_cam.ndim != 3 or world_from_cam.shape[1:] != (4, 4) or len(world_from_cam) == 0:
        raise InputError(
            f"{what} must be (T, 4, 4) with T > 0, not {world_from_cam.shape}; give camera-to-world poses."
        )
    finite = np.isfinite(world_from_cam).all((1, 2))
    if not finite.all():
        raise InputError(f"pose {int(finite.argmin())} of {what} is not finite; leave out frames without a pose.")
    rotation = world_from_cam[:, :3, :3]
    off = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max((1, 2))
    rigid = (off < _ORTHONORMAL) & (np.linalg.det(rotation) > 0)
    if not rigid.all():
        raise InputError(f"pose {int(rigid.argmin())} of {what} is not a rotation and a translation; check its order.")


def _steps(world_from_cam: np.ndarray, delta: int) -> torch.Tensor:
    motions = torch.from_numpy(np.ascontiguousarray(world_from_cam, dtype=np.float64))
    return se3.inverse(motions[:-delta]) @ motions[delta:]


def _nearest(times_s: np.ndarray, others_s: np.ndarray) -> np.ndarray:
    after = np.clip(np.searchsorted(others_s, times_s), 0, len(others_s) - 1)
    before = np.clip(after - 1, 0, None)
    return np.where(np.abs(others_s[before] - times_s) <= np.abs(others_s[after] - times_s), before, after)


def _rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2))) if errors.size else float("nan")
