"""Terms of the factored geometry: points in world and camera, depth, rays, poses, and the metric scale.

Every function returns one mean per view (V,), 0 where nothing is known; lengths are in the units of `normalisers`.
Source: Keetha et al., "MapAnything", 2025, section 3.3, with the values of its published recipe.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.engines.any4d.network import Prediction
from worldline.train.normalisers import Units
from worldline.train.regression import Penalty, log_space, mean_where
from worldline.train.truth import Truth

Pixels = Float[Tensor, "v b h w"]


def points_world_cost(units: Units, penalty: Penalty) -> Pixels:
    """Cost per pixel of the points in view 0's camera, in log space."""
    found = log_space(units.found_world / _per_pixel(units.predicted))
    return penalty(found, log_space(units.true_world / _per_pixel(units.true)))


def points_cam_cost(prediction: Prediction, truth: Truth, units: Units, penalty: Penalty) -> Pixels:
    """Cost per pixel of the points in their own camera, in log space."""
    found = prediction.rays * prediction.depth[..., None] / _per_pixel(prediction.scale * units.predicted)
    return penalty(log_space(found), log_space(truth.points_cam / _per_pixel(units.true)))


def depth_cost(prediction: Prediction, truth: Truth, units: Units, penalty: Penalty) -> Pixels:
    """Cost per pixel of the depth along the ray, in log space."""
    found = prediction.depth[..., None] / _per_pixel(prediction.scale * units.predicted)
    return penalty(log_space(found), log_space(truth.depth[..., None] / _per_pixel(units.true)))


def rays(prediction: Prediction, truth: Truth, penalty: Penalty) -> Float[Tensor, "v"]:
    """Of all pixels of views whose camera is known."""
    cost = penalty(prediction.rays, truth.rays)
    return mean_where(cost, truth.has_rays[..., None, None].expand_as(cost))


def quaternion(prediction: Prediction, truth: Truth, penalty: Penalty) -> Float[Tensor, "v"]:
    """The lesser cost against the true quaternion and its negative, which is the same rotation."""
    found, true = prediction.quaternion, truth.quaternion
    return mean_where(torch.minimum(penalty(found, true), penalty(found, -true)), truth.has_pose)


def translation(prediction: Prediction, truth: Truth, units: Units, penalty: Penalty) -> Float[Tensor, "v"]:
    """Of samples whose unit is known."""
    found = prediction.translation / (prediction.scale * units.predicted)[None, :, None]
    cost = penalty(found, truth.translation / units.true[None, :, None])
    return mean_where(cost, truth.has_pose & units.known)


def scale(prediction: Prediction, truth: Truth, units: Units, penalty: Penalty) -> Float[Tensor, ""]:
    """Mean distance in metres of metric samples, in log space; only the scale itself is moved by it."""
    found = units.predicted.detach() * prediction.scale
    cost = penalty(log_space(found[:, None]), log_space(units.true[:, None]))
    return mean_where(cost[None], (truth.metric & units.known)[None])[0]


def mask(logit: Pixels, solid: Bool[Tensor, "v b h w"], has_solid: Bool[Tensor, "v b"]) -> Float[Tensor, "v"]:
    """Binary cross entropy of whether there is geometry."""
    cost = torch.nn.functional.binary_cross_entropy_with_logits(logit, solid.to(logit.dtype), reduction="none")
    return mean_where(cost, has_solid[..., None, None].expand_as(cost))


def _per_pixel(lengths: Float[Tensor, "b"]) -> Float[Tensor, "1 b 1 1 1"]:
    return lengths[None, :, None, None, None]
