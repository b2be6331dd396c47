"""The term of scene flow: every pixel of view 0, its motion to every view, with those that move weighing more."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.engines.any4d.network import Prediction
from worldline.train.normalisers import Units, mean_length
from worldline.train.regression import Penalty, log_space
from worldline.train.truth import Truth


def flow(
    prediction: Prediction,
    truth: Truth,
    units: Units,
    penalty: Penalty,
    *,
    moving_weight: float,
    least_m: float,
    least_share: float,
) -> Float[Tensor, "v"]:
    """Weighted mean per view of the cost in log space.

    The unit is that of the geometry; of a sample that knows motion but no geometry, the mean length of its own flow
    where it moves, on both sides, and such a sample without any motion counts for nothing. Weights as
    `moves` has them. The weighting of moving pixels is published (Any4D, section 3.3); the fallback is ours.
    """
    moving = moves(truth, units, least_m=least_m, least_share=least_share)
    by_geometry = units.known[None, :, None, None]
    known = truth.has_flow & (by_geometry | moving.any(0).flatten(1).any(1)[None, :, None, None])
    own = torch.where(units.known, units.predicted, mean_length(prediction.flow, moving & known) / prediction.scale)
    true = torch.where(units.known, units.true, mean_length(truth.flow, moving & known))
    found = prediction.flow / _per_pixel(prediction.scale * own)
    cost = penalty(log_space(found), log_space(truth.flow / _per_pixel(true)))
    weight = torch.where(moving, moving_weight, 1.0) * known
    return torch.where(known, cost * weight, 0).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)


def moves(truth: Truth, units: Units, *, least_m: float, least_share: float) -> Bool[Tensor, "v b h w"]:
    """Pixels that move: as the truth says; else by more than `least_m` metres, or `least_share` of the mean distance.

    A sample that is neither metric nor has geometry has no other measure than its own longest flow.
    """
    length = torch.where(truth.has_flow, truth.flow.norm(dim=-1), 0)
    longest = length.amax((0, 2, 3))
    least = torch.where(truth.metric, least_m, least_share * torch.where(units.known, units.true, longest))
    by_flow = length > least[None, :, None, None].clamp_min(1e-8)
    return torch.where(truth.has_moving[None, :, None, None], truth.moving, by_flow) & truth.has_flow


def _per_pixel(lengths: Float[Tensor, "b"]) -> Float[Tensor, "1 b 1 1 1"]:
    return lengths[None, :, None, None, None]
