"""What the network is given, and the codes of everything that is not an image.

Every modality has a mask that says for which view and which sample of the batch it is there. All tensors are
view-major: (V, B, ...). Normalisation as published (MapAnything, section 3.1): depth by its own mean and logarithm,
translations by their mean length in view 0's frame, and both means as codes of their own where they are metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.geometry import se3

TINY = 1e-8


@dataclass(frozen=True, eq=False)
class Views:
    """V views of B scenes. A modality is None, or a tensor with a mask `has_...` (V, B).

    Attributes:
        image: (V, B, 3, H, W), normalised; image_shown: (B,) false hides the images of a sample.
        rays: (V, B, H, W, 3) unit vectors in the camera (OpenCV axes).
        depth: (V, B, H, W) along those rays, 0 where unknown.
        quaternion: (V, B, 4) x y z w; translation: (V, B, 3) of world_from_cam. has_translation: where `has_pose` is of
        the rotation alone, as from an IMU (in training, both were there or neither).
        metric: (V, B) whether depth and translation are metres.
        radial: (V, B, H, W, 3) part of the motion in the camera's frame along the ray; radial_unit: (B,) what it is
        divided by: the mean distance of the points of view 0.
    """

    image: Float[Tensor, "v b 3 h w"]
    image_shown: Bool[Tensor, "b"] | None = None
    rays: Float[Tensor, "v b h w 3"] | None = None
    has_rays: Bool[Tensor, "v b"] | None = None
    depth: Float[Tensor, "v b h w"] | None = None
    has_depth: Bool[Tensor, "v b"] | None = None
    quaternion: Float[Tensor, "v b 4"] | None = None
    translation: Float[Tensor, "v b 3"] | None = None
    has_pose: Bool[Tensor, "v b"] | None = None
    has_translation: Bool[Tensor, "v b"] | None = None
    metric: Bool[Tensor, "v b"] | None = None
    radial: Float[Tensor, "v b h w 3"] | None = None
    radial_unit: Float[Tensor, "b"] | None = None
    has_radial: Bool[Tensor, "v b"] | None = None

    def __len__(self) -> int:
        return len(self.image)

    def available(self, name: str) -> Bool[Tensor, "v b"] | None:
        """The mask of a modality; None if nobody has it."""
        if getattr(self, {"pose": "quaternion"}.get(name, name)) is None:
            return None
        mask = getattr(self, f"has_{name}")
        full = torch.ones(self.image.shape[:2], dtype=torch.bool, device=self.image.device)
        mask = full if mask is None else mask
        return mask if bool(mask.any()) else None

    @property
    def is_metric(self) -> Bool[Tensor, "v b"]:
        """`metric`, true where nothing is said."""
        full = torch.ones(self.image.shape[:2], dtype=torch.bool, device=self.image.device)
        return full if self.metric is None else self.metric


def mean_depth(depth: Float[Tensor, "v b h w"]) -> Float[Tensor, "v b"]:
    """Of the pixels that have one, at least 1e-8."""
    known = depth > 0
    return (torch.where(known, depth, 0).sum((2, 3)) / (known.sum((2, 3)) + TINY)).clamp_min(TINY)


def depth_codes(
    depth: Float[Tensor, "v b h w"],
) -> tuple[Float[Tensor, "v b 1 h w"], Float[Tensor, "v b 1"]]:
    """log(1 + depth / mean), 0 where there is none; and the log of the mean."""
    mean = mean_depth(depth)
    return torch.log1p(depth / mean[..., None, None])[:, :, None], torch.log(mean + TINY)[..., None]


def pose_codes(
    quaternion: Float[Tensor, "v b 4"],
    translation: Float[Tensor, "v b 3"],
    has_pose: Bool[Tensor, "v b"],
    has_translation: Bool[Tensor, "v b"],
) -> tuple[Float[Tensor, "v b 4"], Float[Tensor, "v b 3"], Float[Tensor, "v b 1"]]:
    """Poses in view 0, translations over their mean length, and the log of that length."""
    identity = quaternion.new_tensor([0, 0, 0, 1])
    first = quaternion[:1] * quaternion.new_tensor([-1, -1, -1, 1])
    turn = torch.where(has_pose[..., None], se3.product_xyzw(first.expand_as(quaternion), quaternion), identity)
    shift = se3.turned_xyzw(first.expand_as(quaternion), translation - translation[:1])
    shift = torch.where(has_translation[..., None], shift, torch.zeros_like(shift))
    length = shift.norm(dim=-1)
    mean = (length.sum(0) / ((length > 0).sum(0) + TINY)).clamp_min(TINY)
    log_mean = torch.log(mean + TINY)[None, :, None].expand(len(shift), -1, 1)
    return turn, shift / mean[None, :, None], log_mean
