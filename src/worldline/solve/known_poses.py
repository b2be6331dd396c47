"""Poses that are known: how a structure in its own gauge is brought into their world, and how far they are off."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.geometry import se3
from worldline.geometry.sim3 import Sim3
from worldline.scene.observations import CameraMotion
from worldline.solve import terms
from worldline.solve.problem import Term
from worldline.solve.robust import GemanMcClure

LEAST_SHARE = 1e-3
"""Poses that are stated as exact are taken to be off by this share of the scene's depth, and by as many radians."""

OFF_SIGMAS = 4.0
"""A pose that is off by more standard deviations than this contradicts the images."""


class KnownPoses(NamedTuple):
    """Poses of some frames: `world_from_cam` (T, 4, 4), identity where not `known` (T,); their sigmas; exactness."""

    world_from_cam: Float[Tensor, "t 4 4"]
    known: Bool[Tensor, "t"]
    sigma_m: float
    sigma_rad: float
    exact: bool
    metric: bool

    @classmethod
    def of(cls, motion: CameraMotion) -> KnownPoses:
        """The given frames of a camera motion; those that are not finite or no rigid motion are left out."""
        matrices = torch.from_numpy(np.array(motion.world_from_cam, dtype=np.float64))
        known = torch.from_numpy(np.array(motion.given_frames))
        eye = torch.eye(4, dtype=torch.float64).expand_as(matrices)
        clean = torch.where(known[:, None, None], matrices, eye).clone()
        clean[:, :3, :3] = se3.nearest_rotation(clean[:, :3, :3])
        return cls(
            clean, known, motion.sigma_m, motion.sigma_rad, motion.sigma_m == motion.sigma_rad == 0, motion.metric
        )

    def least(self, size: float) -> KnownPoses:
        """With sigmas that a solver can work with, for a scene of depth `size`."""
        return self._replace(sigma_m=max(self.sigma_m, LEAST_SHARE * size), sigma_rad=max(self.sigma_rad, LEAST_SHARE))

    def seen_from(self, local_from_world: Float[Tensor, "4 4"]) -> KnownPoses:
        """The same poses in another frame of the same scale."""
        return self._replace(world_from_cam=local_from_world @ self.world_from_cam)

    def tensors(self, like: Tensor) -> KnownPoses:
        """On the device and in the precision of `like`."""
        return self._replace(world_from_cam=self.world_from_cam.to(like), known=self.known.to(like.device))

    def resized(self, factor: float) -> KnownPoses:
        """The same poses in a world of another scale."""
        matrices = self.world_from_cam.clone()
        matrices[:, :3, 3] *= factor
        return self._replace(world_from_cam=matrices, sigma_m=self.sigma_m * factor)

    def off_by(self, world_from_cam: Float[Tensor, "t 4 4"]) -> Float[Tensor, "t"]:
        """How many standard deviations each known pose is from the one found (the worse of centre and rotation)."""
        centre = (world_from_cam[:, :3, 3] - self.world_from_cam[:, :3, 3]).norm(dim=-1) / 3**0.5 / self.sigma_m
        turn = self.world_from_cam[:, :3, :3].transpose(-1, -2) @ world_from_cam[:, :3, :3]
        worst = torch.maximum(centre, se3.angle_rad(turn) / 3**0.5 / self.sigma_rad)
        return torch.where(self.known, worst, torch.zeros_like(worst))

    @property
    def reach(self) -> float:
        """Largest distance between known centres."""
        centres = self.world_from_cam[self.known, :3, 3]
        return float(torch.cdist(centres, centres).max()) if len(centres) else 0.0


def about_rotations(motion: CameraMotion | None) -> tuple[str, ...]:
    """A sentence where rotations came in without places: what works with whole poses leaves them out."""
    if motion is None or motion.given_frames.any() or not motion.turned_frames.any():
        return ()
    return (
        f"the rotations from {motion.source.name} were set aside, as only whole poses are used here; an engine that "
        "takes rotations alone, such as any4d, uses them.",
    )


def pose_prior(poses: KnownPoses, share: float) -> Term:
    """Cameras near the known poses; one that contradicts the rest is let go.

    Args:
        share: by how much the sigmas are smaller for a solver that takes all sightings for independent.
    """
    rows = torch.nonzero(poses.known)[:, 0]
    loss = GemanMcClure(3**0.5 * OFF_SIGMAS / share)
    return terms.motion_prior(poses.world_from_cam, rows, poses.sigma_m * share, poses.sigma_rad * share, loss)


def world_from_structure(
    poses: KnownPoses, cameras: Float[Tensor, "t 4 4"], solved: Bool[Tensor, "t"], *, with_scale: bool, rounds: int = 30
) -> Sim3 | None:
    """The similarity that brings the cameras of a structure onto the known ones, by a robust fit; None without any.

    Rotations fix the rotation together with the directions between centres; the centres fix scale and translation.
    """
    at = torch.nonzero(poses.known & solved)[:, 0]
    if len(at) == 0:
        return None
    known, own = poses.world_from_cam[at], cameras[at]
    scale = _start_scale(known, own) if with_scale else known.new_tensor(1.0)
    rotation = _mean_rotation(known[:, :3, :3] @ own[:, :3, :3].transpose(-1, -2))
    translation = (known[:, :3, 3] - scale * own[:, :3, 3] @ rotation.T).median(0).values
    for _ in range(rounds):
        away = known[:, :3, 3] - (scale * own[:, :3, 3] @ rotation.T + translation)
        spread = max(float(away.norm(dim=-1).median()), poses.sigma_m, 1e-12)
        turn = se3.angle_rad(known[:, :3, :3].transpose(-1, -2) @ rotation @ own[:, :3, :3])
        weight = 1 / (1 + away.square().sum(-1) / (2 * spread) ** 2)
        weight = weight / (1 + (turn / (2 * max(float(turn.median()), poses.sigma_rad, 1e-6))) ** 2)
        scale, rotation, translation = _fit(known, own, weight, poses, scale, rotation, with_scale)
    return Sim3(scale, rotation, translation)


def _start_scale(known: Tensor, own: Tensor) -> Tensor:
    distance = [torch.cdist(m[:, :3, 3], m[:, :3, 3]).flatten() for m in (known, own)]
    far = distance[1] > 0.3 * distance[1].max().clamp_min(1e-12)
    ratio = (distance[0][far] / distance[1][far]).median() if bool(far.any()) else known.new_tensor(1.0)
    return ratio if float(ratio) > 0 else known.new_tensor(1.0)


def _mean_rotation(rotations: Float[Tensor, "k 3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation with the least sum of angles to the others, of those that there are."""
    angle = se3.angle_rad(rotations[:, None].transpose(-1, -2) @ rotations[None])
    return rotations[angle.sum(1).argmin()]


def _fit(
    known: Tensor, own: Tensor, weight: Tensor, poses: KnownPoses, scale: Tensor, rotation: Tensor, with_scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One weighted step: rotation from orientations and centres, each by its precision, then scale, translation."""
    share = weight / weight.sum()
    a, b = known[:, :3, 3] - share @ known[:, :3, 3], own[:, :3, 3] - share @ own[:, :3, 3]
    centres = (weight[:, None] * a).T @ (scale * b) / max(poses.sigma_m, 1e-9) ** 2
    turns = known[:, :3, :3] @ own[:, :3, :3].transpose(-1, -2)
    orientations = (weight[:, None, None] * turns).sum(0) / max(poses.sigma_rad, 1e-9) ** 2
    rotation = se3.nearest_rotation(centres + orientations)
    spread = (weight[:, None] * b * b).sum()
    if with_scale and float(spread) > 0:
        scale = ((weight[:, None] * a * (b @ rotation.T)).sum() / spread).clamp_min(1e-9)
    translation = share @ (known[:, :3, 3] - scale * own[:, :3, 3] @ rotation.T)
    return scale, rotation, translation
