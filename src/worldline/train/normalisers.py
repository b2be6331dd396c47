"""Units in which prediction and truth are compared: each divided by its own mean distance, so that scale drops out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.engines.any4d.network import Prediction
from worldline.train.truth import Truth, moved

_LEAST = 1e-8


def mean_length(vectors: Float[Tensor, "v b h w 3"], known: Bool[Tensor, "v b h w"]) -> Float[Tensor, "b"]:
    """Mean length over the known pixels of all views of a sample; 1e-8 at least, 1 where nothing is known."""
    lengths = torch.where(known, vectors.norm(dim=-1), 0).sum((0, 2, 3))
    count = known.sum((0, 2, 3))
    return torch.where(count > 0, (lengths / count.clamp_min(1)).clamp_min(_LEAST), 1)


@dataclass(frozen=True, eq=False)
class Units:
    """Lengths (B,) that divide those of the prediction (`scale` taken out) and of the truth.

    Attributes:
        predicted, true: mean distances to the origin, each over `placed`: pixels (V, B, H, W) whose points in the world
            are known. A sample without any has unit lengths, and is not `known`.
        found_world, true_world: the points, (V, B, H, W, 3), not yet divided; the found ones without their scale.
    """

    predicted: Float[Tensor, "b"]
    true: Float[Tensor, "b"]
    placed: Bool[Tensor, "v b h w"]
    found_world: Float[Tensor, "v b h w 3"]
    true_world: Float[Tensor, "v b h w 3"]

    @property
    def known(self) -> Bool[Tensor, "b"]:
        """Which samples have a unit."""
        return self.placed.any(0).flatten(1).any(1)


def units(prediction: Prediction, truth: Truth) -> Units:
    """Mean distances of world points to the origin, over the same pixels on both sides.

    Source: Keetha et al., "MapAnything", 2025, section 3.3. Only depths of views whose pose is known count.
    """
    placed = truth.valid & truth.has_pose[..., None, None]
    rays_at_depth = prediction.rays * prediction.depth[..., None]
    world = moved(rays_at_depth, prediction.quaternion, prediction.translation)
    found, true = world / prediction.scale[None, :, None, None, None], truth.points_world
    return Units(mean_length(found, placed), mean_length(true, placed), placed, found, true)
