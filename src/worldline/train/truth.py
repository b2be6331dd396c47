"""What is known to be true of a batch: every item has its own mask, so that a sample may know only some of them.

All tensors are view-major, (V, B, ...), as the network's are; the world is view 0's camera, and lengths are metres
where a sample is metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.geometry.se3 import turned_xyzw


@dataclass(frozen=True, eq=False)
class Truth:
    """The truth about V views of B scenes. What a mask leaves out may hold anything, NaN too.

    Attributes:
        rays: (V, B, H, W, 3) unit vectors in the camera; has_rays: (V, B).
        depth: (V, B, H, W) along those rays; valid: where it is known. solid: whether there is geometry at all (false:
            sky); has_solid: (V, B).
        quaternion: (V, B, 4) x y z w; translation: (V, B, 3) of world_from_cam; has_pose: (V, B).
        flow: (V, B, H, W, 3) motion, in world axes, of the point seen at this pixel of view 0, from view 0 to view v;
            has_flow: (V, B, H, W). moving: (V, B, H, W) where that point moves by itself; has_moving: (B,), false: its
            flow tells.
        metric: (B,) lengths are metres. synthetic: (B,) rendered, so that even outlines are true.
    """

    rays: Float[Tensor, "v b h w 3"]
    has_rays: Bool[Tensor, "v b"]
    depth: Float[Tensor, "v b h w"]
    valid: Bool[Tensor, "v b h w"]
    solid: Bool[Tensor, "v b h w"]
    has_solid: Bool[Tensor, "v b"]
    quaternion: Float[Tensor, "v b 4"]
    translation: Float[Tensor, "v b 3"]
    has_pose: Bool[Tensor, "v b"]
    flow: Float[Tensor, "v b h w 3"]
    has_flow: Bool[Tensor, "v b h w"]
    moving: Bool[Tensor, "v b h w"]
    has_moving: Bool[Tensor, "b"]
    metric: Bool[Tensor, "b"]
    synthetic: Bool[Tensor, "b"]

    def __len__(self) -> int:
        return len(self.rays)

    def cleaned(self) -> Truth:
        """The same with harmless numbers wherever nothing is known, so that no NaN can reach a gradient."""
        ahead = self.rays.new_tensor([0, 0, 1])
        upright = self.quaternion.new_tensor([0, 0, 0, 1])
        known = self.valid & self.has_rays[..., None, None] & (self.depth > 0)
        return replace(
            self,
            rays=torch.where(self.has_rays[..., None, None, None], self.rays, ahead),
            depth=torch.where(known, self.depth, 1),
            valid=known,
            quaternion=torch.where(self.has_pose[..., None], self.quaternion, upright),
            translation=torch.where(self.has_pose[..., None], self.translation, 0),
            flow=torch.where(self.has_flow[..., None], self.flow, 0),
        )

    @property
    def points_cam(self) -> Float[Tensor, "v b h w 3"]:
        """Of every pixel, in its own camera."""
        return self.rays * self.depth[..., None]

    @property
    def points_world(self) -> Float[Tensor, "v b h w 3"]:
        """Of every pixel, in view 0's camera."""
        return moved(self.points_cam, self.quaternion, self.translation)

    def to(self, device: str | torch.device) -> Truth:
        """The same on another device."""
        return Truth(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


def moved(
    points_cam: Float[Tensor, "v b h w 3"], quaternion: Float[Tensor, "v b 4"], translation: Float[Tensor, "v b 3"]
) -> Float[Tensor, "v b h w 3"]:
    """Points of each view in the world: turned by its quaternion (x y z w), then shifted."""
    axes = torch.eye(3, dtype=points_cam.dtype, device=points_cam.device)
    columns = turned_xyzw(
        quaternion[..., None, :].expand(*quaternion.shape[:2], 3, 4), axes.expand(*quaternion.shape[:2], 3, 3)
    )
    return (points_cam.flatten(2, 3) @ columns).unflatten(2, points_cam.shape[2:4]) + translation[:, :, None, None]


PER_SAMPLE = ("has_moving", "metric", "synthetic")
"""Fields without views."""


def joined(samples: Sequence[Truth]) -> Truth:
    """Samples of equal views and sizes as one batch."""

    def along(name: str) -> Tensor:
        return torch.cat([getattr(sample, name) for sample in samples], dim=0 if name in PER_SAMPLE else 1)

    return Truth(**{f.name: along(f.name) for f in fields(Truth)})
