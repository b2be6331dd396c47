"""Alignments: the similarity that brings an estimate into the frame of the truth, and the name of how it was found.

Two trajectories or point sets in different frames are compared after one motion of the whole estimate. Where the
data do not determine that motion (a static camera, a straight line) a documented part of it is used and the
alignment's `name` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from worldline.errors import InputError
from worldline.geometry import se3, sim3

Kind = Literal["none", "se3", "sim3"]
KINDS: tuple[Kind, ...] = ("none", "se3", "sim3")

_STATIC = 1e-9
"""Centres closer together than this share of their largest coordinate count as one point."""
_LINE = 1e-6
"""Below this ratio of the second to the first singular value of the cross-covariance, centres count as a line."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """`x_truth = scale * rotation @ x_estimate + translation`, and in words how it was found."""

    name: str
    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]

    def apply(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Points of the estimate in the frame of the truth."""
        return self.scale * points @ self.rotation.T + self.translation

    def apply_to_cameras(self, world_from_cam: Float[np.ndarray, "t 4 4"]) -> Float[np.ndarray, "t 4 4"]:
        """Poses of the estimate in the world of the truth: centres scaled, rotations only rotated."""
        out = world_from_cam.copy()
        out[:, :3, :3] = self.rotation @ world_from_cam[:, :3, :3]
        out[:, :3, 3] = self.apply(world_from_cam[:, :3, 3])
        return out


IDENTITY = Alignment("none", 1.0, np.eye(3), np.zeros(3))


def align_points(
    points: Float[np.ndarray, "n 3"], truth: Float[np.ndarray, "n 3"], *, kind: Kind = "sim3"
) -> Alignment:
    """Least-squares alignment of corresponding points (Umeyama 1991); `kind` says which unknowns it has."""
    if kind == "none":
        return IDENTITY
    if len(points) == 0 or points.shape != truth.shape:
        raise InputError(f"cannot align {points.shape} to {truth.shape} points; give pairs, at least one.")
    fitted = sim3.fit(_tensor(truth), _tensor(points), with_scale=kind == "sim3")
    return Alignment(kind, float(fitted.scale), fitted.rotation.numpy(), fitted.translation.numpy())


def align_points_trimmed(
    points: Float[np.ndarray, "n 3"],
    truth: Float[np.ndarray, "n 3"],
    *,
    kind: Kind = "sim3",
    rounds: int = 6,
    cut: float = 2.5,
) -> Alignment:
    """Alignment of the points that agree: a robust start, then fit to residuals up to `cut` times their median.

    Deterministic. It bears about a quarter of wrong pairs of any size.
    """
    if kind == "none":
        return IDENTITY
    best = align_points(points, truth, kind=kind) if len(points) < 3 else _median_alignment(points, truth, kind)
    for _ in range(rounds):
        residual = np.linalg.norm(best.apply(points) - truth, axis=-1)
        keep = residual <= cut * np.median(residual)
        best = align_points(points[keep], truth[keep], kind=kind)
    return replace(best, name=f"trimmed {kind}")


def align_points_ransac(
    points: Float[np.ndarray, "n 3"],
    truth: Float[np.ndarray, "n 3"],
    *,
    seed: int,
    rounds: int = 1000,
    inlier_m: float = 0.05,
    at_most: int = 16_384,
) -> Alignment:
    """The similarity that most points agree with, among those of `rounds` random triples, fitted again to these points.

    With more than `at_most` points a random choice of them decides. The same seed gives the same result. Fewer than
    three points, or fewer that agree, leave the least-squares fit; the name says so.
    """
    if len(points) < 3:
        return replace(align_points(points, truth, kind="sim3"), name="sim3 (too few points for RANSAC)")
    rng = np.random.default_rng(seed)
    if len(points) > at_most:
        chosen = rng.choice(len(points), at_most, replace=False)
        points, truth = points[chosen], truth[chosen]
    points, truth = points.astype(np.float64), truth.astype(np.float64)
    triples = _triples(rng, rounds, len(points))
    fits = torch.vmap(sim3.fit)(_tensor(truth[triples]), _tensor(points[triples]))
    linear = (fits.scale[:, None, None] * fits.rotation).numpy()
    shift = fits.translation.numpy()
    counts = np.concatenate(
        [
            (_squared_errors(linear[i : i + 128], shift[i : i + 128], points, truth) < inlier_m**2).sum(1)
            for i in range(0, rounds, 128)
        ]
    )
    best = int(counts.argmax())
    agree = _squared_errors(linear[best : best + 1], shift[best : best + 1], points, truth)[0] < inlier_m**2
    if agree.sum() < 3:
        return replace(align_points(points, truth, kind="sim3"), name="sim3 (no three points agreed in RANSAC)")
    return replace(align_points(points[agree], truth[agree], kind="sim3"), name=f"sim3 by RANSAC, seed {seed}")


def _squared_errors(
    linear: Float[np.ndarray, "m 3 3"],
    shift: Float[np.ndarray, "m 3"],
    points: Float[np.ndarray, "n 3"],
    truth: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, "m n"]:
    """|linear @ point + shift - truth|^2 of every point under every map, as one product of matrices."""
    centre, true_centre = points.mean(0), truth.mean(0)
    x = np.concatenate([points - centre, truth - true_centre, np.ones((len(points), 1))], -1)
    to_error = np.concatenate([linear, -np.tile(np.eye(3), (len(linear), 1, 1)), np.zeros((len(linear), 3, 1))], -1)
    to_error[:, :, 6] = linear @ centre + shift - true_centre
    return np.square(to_error.reshape(-1, 7) @ x.T).reshape(len(linear), 3, -1).sum(1)


def align_poses(
    world_from_cam: Float[np.ndarray, "t 4 4"], truth: Float[np.ndarray, "t 4 4"], *, kind: Kind = "sim3"
) -> Alignment:
    """Alignment of trajectories on their camera centres, defined for degenerate ones too.

    All centres equal in the estimate or in the truth (a static camera, one pose): the rotation is the mean of
    the orientations' differences, the means of the centres are put on each other, and the scale stays 1
    (least squares would shrink any estimate onto a static truth and report no error).
    All centres on one line: least squares, with the rotation about the line from the orientations.
    The name says which of these was used.
    """
    if kind not in KINDS:
        raise InputError(f"there is no path alignment {kind!r}; choose one of {', '.join(KINDS)}.")
    if kind == "none":
        return IDENTITY
    centres, truth_centres = world_from_cam[:, :3, 3], truth[:, :3, 3]
    if _is_one_point(centres) or _is_one_point(truth_centres):
        return _from_orientations(world_from_cam, truth, kind)
    best = align_points(centres, truth_centres, kind=kind)
    along, singular, _ = np.linalg.svd((truth_centres - truth_centres.mean(0)).T @ (centres - centres.mean(0)))
    if singular[1] > _LINE * singular[0]:
        return best
    rotation = _roll_from_orientations(along[:, 0], best.rotation @ world_from_cam[:, :3, :3], truth) @ best.rotation
    translation = truth_centres.mean(0) - best.scale * rotation @ centres.mean(0)
    return Alignment(f"{kind} (straight line: rotation about it from orientations)", best.scale, rotation, translation)


def _triples(rng: np.random.Generator, rounds: int, count: int) -> np.ndarray:
    """(rounds, 3) indices below count, the three of a row different."""
    a, b, c = (rng.integers(count - k, size=rounds) for k in range(3))
    b += b >= a
    low, high = np.minimum(a, b), np.maximum(a, b)
    c += c >= low
    c += c >= high
    return np.stack([a, b, c], -1)


def _median_alignment(points: np.ndarray, truth: np.ndarray, kind: Kind) -> Alignment:
    """From differences of a fixed random pairing: median length ratio, rotation of unit vectors, median shift.

    Least squares is no start: far wrong points make the estimate wide, so it is shrunk until nothing stands out.
    """
    other = np.random.default_rng(0).permutation(len(points))
    d, t = points - points[other], truth - truth[other]
    length, true_length = np.linalg.norm(d, axis=-1), np.linalg.norm(t, axis=-1)
    apart = (length > 0) & (true_length > 0)
    if not apart.any():
        return align_points(points, truth, kind=kind)
    scale = float(np.median(true_length[apart] / length[apart])) if kind == "sim3" else 1.0
    units, true_units = d[apart] / length[apart, None], t[apart] / true_length[apart, None]
    rotation = se3.nearest_rotation(_tensor(true_units.T @ units)).numpy()
    return Alignment(kind, scale, rotation, np.median(truth - scale * points @ rotation.T, axis=0))


def _is_one_point(centres: np.ndarray) -> bool:
    return bool(np.ptp(centres, axis=0).max() <= _STATIC * np.abs(centres).max())


def _from_orientations(world_from_cam: np.ndarray, truth: np.ndarray, kind: Kind) -> Alignment:
    """The rotation nearest to all `truth @ estimate^T` (chordal mean), scale 1."""
    together = np.einsum("tij,tkj->ik", truth[:, :3, :3], world_from_cam[:, :3, :3])
    rotation = se3.nearest_rotation(_tensor(together)).numpy()
    translation = truth[:, :3, 3].mean(0) - rotation @ world_from_cam[:, :3, 3].mean(0)
    what = "one pose" if len(truth) == 1 else "static"
    return Alignment(f"{kind} ({what}: rotation from orientations, scale 1)", 1.0, rotation, translation)


def _roll_from_orientations(axis: np.ndarray, rotations: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The rotation about `axis` (unit) that brings `rotations` closest to those of `truth` (closed form)."""
    m = np.einsum("tij,tkj->ik", rotations, truth[:, :3, :3])
    skew = se3.hat(_tensor(axis)).numpy()
    angle = np.arctan2(np.sum(skew * m.T), np.trace(m) - axis @ m @ axis)
    return se3.so3_exp(_tensor(angle * axis)).numpy()


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))
