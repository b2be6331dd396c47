"""In which convention known poses were written: as OpenCV camera-to-world, or as one of the others that are common.

A structure from the images alone tells: under one of the readings all poses fit its path, under the others they do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.geometry import se3
from worldline.solve.known_poses import KnownPoses, world_from_structure

FITS = 1.0
"""Mean square of what poses are off, in standard deviations and drift of a path, up to which a reading fits."""

BETTER = 0.25
"""The mean square that another reading must fall below, as a share of that of the poses as they are."""

BOUND = 6.0
"""A pose counts as at most so many standard deviations off."""

DRIFT = 0.01
"""How far a path from images drifts: its centres (as a share of its reach) and its rotations (radians)."""


class Reading(NamedTuple):
    """A convention, in words, and what makes OpenCV camera-to-world poses of it."""

    name: str
    advice: str
    world_from_cam: Callable[[Tensor], Tensor]


def _turned_over(matrices: Float[Tensor, "t 4 4"]) -> Float[Tensor, "t 4 4"]:
    """The same cameras with their y and z axes the other way."""
    return matrices * matrices.new_tensor([1.0, -1.0, -1.0, 1.0])


READINGS = (
    Reading("OpenGL axes (y up, z backward)", "turn the cameras' y and z axes round", _turned_over),
    Reading("world-to-camera", "invert them", se3.inverse),
    Reading(
        "world-to-camera in OpenGL axes (y up, z backward)", "invert them and turn the cameras' y and z axes round",
        lambda matrices: _turned_over(se3.inverse(matrices)),
    ),
)  # fmt: skip


def as_meant(
    poses: KnownPoses, cameras: Float[Tensor, "t 4 4"], solved: Bool[Tensor, "t"]
) -> tuple[KnownPoses, tuple[str, ...]]:
    """The poses in the reading under which they fit the path of a structure, and a sentence if it is another.

    Args:
        cameras: of a structure from the images, in any world and scale; solved: which of them count.
    """
    as_given = misfit(poses, cameras, solved)
    if as_given <= FITS:
        return poses, ()
    read = [poses._replace(world_from_cam=_kept(poses, r.world_from_cam(poses.world_from_cam))) for r in READINGS]
    other = [misfit(p, cameras, solved) for p in read]
    best = int(np.argmin(other))
    if not other[best] < min(FITS, BETTER * as_given):
        return poses, ()
    name, advice, _ = READINGS[best]
    return read[best], (
        f"the given poses contradict the images as OpenCV camera-to-world poses but fit them as {name}, and were read "
        f"so; {advice} in the file to be sure.",
    )


def misfit(poses: KnownPoses, cameras: Float[Tensor, "t 4 4"], solved: Bool[Tensor, "t"]) -> float:
    """Mean square of how far known poses are off a path, bounded; 0 where two poses are not known."""
    use = poses.known & solved
    if int(use.sum()) < 2:
        return 0.0
    wide = poses._replace(
        sigma_m=float(np.hypot(poses.sigma_m, DRIFT * poses.reach)), sigma_rad=float(np.hypot(poses.sigma_rad, DRIFT))
    )
    sizing = poses.reach > BOUND * poses.sigma_m
    found = world_from_structure(wide, cameras, solved, with_scale=sizing)
    if found is None:
        return 0.0
    off = wide.off_by(found.apply_to_cameras(cameras))[use]
    return float(off.clamp_max(BOUND).square().mean())


def _kept(poses: KnownPoses, matrices: Float[Tensor, "t 4 4"]) -> Float[Tensor, "t 4 4"]:
    """The new matrices of the frames that are known."""
    return torch.where(poses.known[:, None, None], matrices, poses.world_from_cam)
