"""One training sample as its source knows it, and mixtures of sources; real datasets join by the same call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from worldline.engines.any4d.observed import normalised_quaternions, unit_rays
from worldline.errors import InputError
from worldline.train.truth import Truth


class Wanted(NamedTuple):
    """What a batch needs of each of its samples: how many views, of which size."""

    views: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Sample:
    """V views of one scene, view 0 being the reference; whatever a source does not know is None.

    Attributes:
        images: (V, H, W, 3). times_s: (V,), in any order.
        intrinsics: (V, 4) fx fy cx cy, pixel centres at +0.5.
        world_from_cam: (V, 4, 4) in any world, view 0 among them if any; has_pose: (V,), None: all.
        depth_z: (V, H, W), 0 or NaN unknown. solid: (V, H, W) whether there is geometry at all (false: sky).
        flow: (V, H, W, 3) motion, in the axes of the world of the poses (of view 0's camera if there are none), of the
            point seen at this pixel of view 0, from view 0 to view v; NaN unknown. moving: (V, H, W) whether that
            point moves by itself.
        speed_mps: (V, H, W) rate at which the distance of the point at this pixel grows, the camera's own motion
            included: positive moves away; NaN unknown.
        metric: lengths are metres. synthetic: rendered, so that even outlines are exact.
    """

    images: UInt8[np.ndarray, "v h w 3"]
    times_s: Float[np.ndarray, "v"]
    intrinsics: Float[np.ndarray, "v 4"] | None = None
    world_from_cam: Float[np.ndarray, "v 4 4"] | None = None
    has_pose: Bool[np.ndarray, "v"] | None = None
    depth_z: Float[np.ndarray, "v h w"] | None = None
    solid: Bool[np.ndarray, "v h w"] | None = None
    flow: Float[np.ndarray, "v h w 3"] | None = None
    moving: Bool[np.ndarray, "v h w"] | None = None
    speed_mps: Float[np.ndarray, "v h w"] | None = None
    metric: bool = True
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def posed(self) -> Bool[np.ndarray, "v"]:
        """Which views have a pose; none counts where view 0 has none."""
        if self.world_from_cam is None:
            return np.arange(len(self)) == 0
        given = np.ones(len(self), dtype=bool) if self.has_pose is None else self.has_pose
        return given if given[0] else np.arange(len(self)) == 0

    @property
    def first_from_cam(self) -> Float[np.ndarray, "v 4 4"]:
        """Poses in view 0's camera; the identity where there is none."""
        if self.world_from_cam is None:
            return np.tile(np.eye(4), (len(self), 1, 1))
        moved = np.linalg.inv(self.world_from_cam[0]) @ self.world_from_cam
        return np.where(self.posed[:, None, None], moved, np.eye(4))

    def rescaled(self, factor: float) -> Sample:
        """The same at another scale, no longer in metres, as sources of unknown scale have it."""

        def grown(x: np.ndarray | None) -> np.ndarray | None:
            return None if x is None else x * factor

        poses = None if self.world_from_cam is None else self.world_from_cam.copy()
        if poses is not None:
            poses[:, :3, 3] *= factor
        return Sample(
            self.images, self.times_s, self.intrinsics, poses, self.has_pose, grown(self.depth_z), self.solid,
            grown(self.flow), self.moving, grown(self.speed_mps), metric=False, synthetic=self.synthetic,
        )  # fmt: skip


@runtime_checkable
class Source(Protocol):
    """Where samples come from. All that is drawn is drawn from `random`, so a step can be repeated exactly."""

    def __call__(self, random: np.random.Generator, wanted: Wanted) -> Sample:
        """One sample with the views and the size that are wanted."""


@dataclass(frozen=True)
class Mixture:
    """Several sources, each drawn from as often as its weight says."""

    sources: Sequence[Source]
    weights: Sequence[float] = field(default=())

    def __post_init__(self) -> None:
        weights = self.weights or (1.0,) * len(self.sources)
        if len(weights) != len(self.sources) or not self.sources or min(weights) < 0 or sum(weights) <= 0:
            raise InputError("a mixture needs sources and one weight for each, not all of them zero.")
        object.__setattr__(self, "weights", tuple(weights))

    def __call__(self, random: np.random.Generator, wanted: Wanted) -> Sample:
        """A sample of one of them."""
        share = np.asarray(self.weights) / sum(self.weights)
        return self.sources[int(random.choice(len(self.sources), p=share))](random, wanted)


def unit_rays_of(intrinsics: Float[np.ndarray, "v 4"], height: int, width: int) -> Float[np.ndarray, "v h w 3"]:
    """Unit vectors through the pixel centres of every view, in its camera."""
    return unit_rays(torch.from_numpy(np.asarray(intrinsics, dtype=np.float64)), height, width).numpy()


def truth_of(sample: Sample) -> Truth:
    """What a sample knows, as tensors of a batch of one."""
    v, height, width = sample.images.shape[:3]
    shape = (v, height, width)
    unknown = np.zeros(shape, dtype=bool)
    lens = np.ones((v, 4)) if sample.intrinsics is None else sample.intrinsics
    along = torch.from_numpy(unit_rays_of(lens, height, width))
    depth_z = np.zeros(shape) if sample.depth_z is None else np.nan_to_num(sample.depth_z, posinf=0, neginf=0)
    flow = np.full((*shape, 3), np.nan) if sample.flow is None else sample.flow
    if sample.world_from_cam is not None:
        flow = flow @ sample.world_from_cam[0, :3, :3]
    first_from_cam = sample.first_from_cam
    solid = unknown if sample.solid is None else sample.solid
    has_flow = np.isfinite(flow).all(-1)
    moving = unknown if sample.moving is None else sample.moving
    return Truth(
        rays=along.float()[:, None],
        has_rays=_flags(sample.intrinsics is not None, v),
        depth=(torch.from_numpy(depth_z) / along[..., 2]).float()[:, None],
        valid=torch.from_numpy(depth_z > 0)[:, None],
        solid=torch.from_numpy(np.ascontiguousarray(solid))[:, None],
        has_solid=_flags(sample.solid is not None, v),
        quaternion=normalised_quaternions(torch.from_numpy(first_from_cam[:, :3, :3])).float()[:, None],
        translation=torch.from_numpy(first_from_cam[:, :3, 3]).float()[:, None],
        has_pose=torch.from_numpy(sample.posed)[:, None],
        flow=torch.from_numpy(flow).float()[:, None],
        has_flow=torch.from_numpy(has_flow)[:, None],
        moving=torch.from_numpy(np.ascontiguousarray(moving))[:, None],
        has_moving=torch.tensor([sample.moving is not None]),
        metric=torch.tensor([sample.metric]),
        synthetic=torch.tensor([sample.synthetic]),
    )


def _flags(value: bool, views: int) -> Bool[Tensor, "v 1"]:
    return torch.full((views, 1), value)
