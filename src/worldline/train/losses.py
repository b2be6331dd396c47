"""The training loss: one term for each thing the network says, each counted where its truth is known.

Geometry terms and their weights are MapAnything's published recipe, which Any4D extends; the term of scene flow is
described in the paper (ten times the weight on what moves), its weight in the sum is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.engines.any4d.network import Prediction
from worldline.train import geometry_terms, motion_terms, surface_terms
from worldline.train.normalisers import Units, units
from worldline.train.regression import Penalty, Robust, mean_where, without_worst
from worldline.train.truth import Truth


@dataclass(frozen=True)
class Weights:
    """Of the terms in the sum; 0 leaves a term out of it. All but `flow` are published."""

    points_world: float = 1.0
    points_cam: float = 0.1
    depth: float = 0.1
    rays: float = 0.1
    quaternion: float = 0.1
    translation: float = 0.1
    scale: float = 0.1
    normals: float = 0.3
    gradients: float = 0.3
    mask: float = 0.03
    flow: float = 1.0


@dataclass(frozen=True)
class LossConfig:
    """Settings of the loss.

    Attributes:
        weights: of its terms. penalty: of all differences.
        doubt: reward for the logarithm of the confidence in world points. trimmed: share of the worst pixels of every
        real image that its camera points and depths are not judged by (published: 0.2 and 5 %).
        moving_weight: of pixels that move (published: 10) by more than `moving_m` metres, or by more than
        `moving_share` of the mean distance where there are no metres; ours.
    """

    weights: Weights = Weights()
    penalty: Penalty = Robust()
    doubt: float = 0.2
    trimmed: float = 0.05
    moving_weight: float = 10.0
    moving_m: float = 0.01
    moving_share: float = 0.005


@dataclass(frozen=True, eq=False)
class Losses:
    """Terms by name, before their weights: one number per view (V,), or one for the batch (of the scale)."""

    terms: dict[str, Float[Tensor, "*v"]]
    weights: Weights

    @property
    def total(self) -> Float[Tensor, ""]:
        """Sum over terms and views."""
        return torch.stack([getattr(self.weights, name) * term.sum() for name, term in self.terms.items()]).sum()

    def means(self) -> dict[str, float]:
        """Mean over views of every term."""
        return {name: float(term.detach().mean()) for name, term in self.terms.items()}


def losses(prediction: Prediction, truth: Truth, config: LossConfig | None = None) -> Losses:
    """All terms; one whose truth no sample knows is exactly zero, and so is its gradient."""
    config = config or LossConfig()
    truth = truth.cleaned()
    by = units(prediction, truth)
    terms = {
        **_geometry(prediction, truth, by, config),
        **_surfaces(prediction, truth, by),
        "mask": geometry_terms.mask(prediction.mask_logit, truth.solid, truth.has_solid),
        "flow": motion_terms.flow(
            prediction, truth, by, config.penalty,
            moving_weight=config.moving_weight, least_m=config.moving_m, least_share=config.moving_share,
        ),
    }  # fmt: skip
    assert set(terms) == {field.name for field in fields(Weights)}
    return Losses(terms, config.weights)


def _geometry(prediction: Prediction, truth: Truth, by: Units, config: LossConfig) -> dict[str, Tensor]:
    penalty = config.penalty
    world = geometry_terms.points_world_cost(by, penalty)
    doubted = world * prediction.confidence - config.doubt * prediction.confidence.log()
    return {
        "points_world": mean_where(doubted, by.placed),
        "points_cam": _trimmed(geometry_terms.points_cam_cost(prediction, truth, by, penalty), truth, by, config),
        "depth": _trimmed(geometry_terms.depth_cost(prediction, truth, by, penalty), truth, by, config),
        "rays": geometry_terms.rays(prediction, truth, penalty),
        "quaternion": geometry_terms.quaternion(prediction, truth, penalty),
        "translation": geometry_terms.translation(prediction, truth, by, penalty),
        "scale": geometry_terms.scale(prediction, truth, by, penalty),
    }


def _trimmed(cost: Float[Tensor, "v b h w"], truth: Truth, by: Units, config: LossConfig) -> Float[Tensor, "v"]:
    known = truth.valid & by.known[None, :, None, None]
    return mean_where(cost.flatten(2), without_worst(cost, known, config.trimmed, truth.synthetic))


def _surfaces(prediction: Prediction, truth: Truth, by: Units) -> dict[str, Tensor]:
    known = truth.valid & (truth.synthetic & by.known)[None, :, None, None]
    depth = prediction.depth / (prediction.scale * by.predicted)[None, :, None, None]
    found, true = prediction.rays * depth[..., None], truth.points_cam / by.true[None, :, None, None, None]
    return {
        "normals": surface_terms.normals(found, true, known),
        "gradients": surface_terms.gradients(found[..., 2], true[..., 2], known),
    }
