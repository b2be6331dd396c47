"""The published geometry losses under their published names, to compare this package's numbers with theirs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worldline.engines.any4d.network import Prediction
from worldline.geometry.se3 import product_xyzw, turned_xyzw
from worldline.train import geometry_terms
from worldline.train.losses import LossConfig, Losses, Weights, losses
from worldline.train.normalisers import units
from worldline.train.regression import Penalty, Robust, distance, mean_where
from worldline.train.truth import Truth

_PLAIN = {
    "pts3d": "points_world", "cam_pts3d": "points_cam", "depth_along_ray": "depth", "ray_directions": "rays",
    "pose_quats": "quaternion", "pose_trans": "translation",
}  # fmt: skip
_GEOMETRY = Weights(mask=0.0, flow=0.0)


def reference_losses(inputs: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Terms, averages and totals by their published names.

    Args:
        inputs: `gt/view{i}/...` and `pred/view{i}/...` in the published layout: truth with poses in any world, and
            predictions already in metres.
    """
    prediction, truth = _prediction(inputs), _truth(inputs)
    plain = "FactoredGeometryScaleRegr3D"
    full = f"{plain}PlusNormalGMLoss"
    every = losses(prediction, truth, LossConfig(weights=_GEOMETRY))
    return {
        "unit_weights_robust": _plain(prediction, truth, Robust(), Weights(*[1.0] * 11), plain),
        "unit_weights_l2": _plain(prediction, truth, distance, Weights(*[1.0] * 11), plain),
        "mapanything_v1_geometry": {
            **_by_view(f"{full}_pts3d_conf_loss", every.terms["points_world"]),
            **_by_view(f"{full}_cam_pts3d_bot95%_loss", 0.1 * every.terms["points_cam"]),
            **_by_view(f"{full}_depth_along_ray_bot95%_loss", 0.1 * every.terms["depth"]),
            **_plain(prediction, truth, Robust(), Weights(), full),
            **_by_view(f"{full}_normal", 0.3 * every.terms["normals"]),
            **_by_view(f"{full}_gradient_matching", 0.3 * every.terms["gradients"]),
            "TOTAL": float(every.total),
        },
        "mask_bce": _mask(every),
    }


def _plain(prediction: Prediction, truth: Truth, penalty: Penalty, weights: Weights, prefix: str) -> dict[str, float]:
    """Weighted means without confidence and without trimming."""
    truth = truth.cleaned()
    by = units(prediction, truth)

    terms = {
        "points_world": mean_where(geometry_terms.points_world_cost(by, penalty), by.placed),
        "points_cam": mean_where(geometry_terms.points_cam_cost(prediction, truth, by, penalty), by.placed),
        "depth": mean_where(geometry_terms.depth_cost(prediction, truth, by, penalty), by.placed),
        "rays": geometry_terms.rays(prediction, truth, penalty),
        "quaternion": geometry_terms.quaternion(prediction, truth, penalty),
        "translation": geometry_terms.translation(prediction, truth, by, penalty),
    }
    found: dict[str, float] = {}
    for published, name in _PLAIN.items():
        found |= _by_view(f"{prefix}_{published}", getattr(weights, name) * terms[name])
    scale = geometry_terms.scale(prediction, truth, by, penalty)
    return found | {f"{prefix}_scale": float(weights.scale * scale)}


def _by_view(name: str, term: Tensor) -> dict[str, float]:
    views = {f"{name}_view{k}": float(x) for k, x in enumerate(term, start=1)}
    return views | {f"{name}_avg": float(term.mean())}


def _mask(every: Losses) -> dict[str, float]:
    term = every.terms["mask"]
    return _by_view("NonAmbiguousMaskLoss_mask", term) | {"TOTAL": float(term.sum())}


def _stacked(inputs: Mapping[str, Tensor], side: str, name: str) -> Tensor:
    count = len({key.split("/")[1] for key in inputs if key.startswith(f"{side}/")})
    return torch.stack([inputs[f"{side}/view{k}/{name}"] for k in range(count)])


def _prediction(inputs: Mapping[str, Tensor]) -> Prediction:
    def of(name: str) -> Tensor:
        return _stacked(inputs, "pred", name)

    return Prediction(
        rays=of("ray_directions"), depth=of("depth_along_ray")[..., 0], quaternion=of("cam_quats"),
        translation=of("cam_trans"), flow=torch.zeros_like(of("ray_directions")),
        scale=of("metric_scaling_factor")[0, :, 0], confidence=of("conf"), mask_logit=of("non_ambiguous_mask_logits"),
    )  # fmt: skip


def _truth(inputs: Mapping[str, Tensor]) -> Truth:
    def of(name: str) -> Tensor:
        return _stacked(inputs, "gt", name)

    quaternion, rays = of("camera_pose_quats"), of("ray_directions_cam")
    back = (quaternion[:1] * quaternion.new_tensor([-1, -1, -1, 1])).expand_as(quaternion)
    everywhere = torch.ones(rays.shape[:2], dtype=torch.bool)
    moved = of("camera_pose_trans")
    return Truth(
        rays=rays, has_rays=everywhere, depth=of("depth_along_ray")[..., 0], valid=of("valid_mask"),
        solid=of("non_ambiguous_mask"), has_solid=everywhere, quaternion=product_xyzw(back, quaternion),
        translation=turned_xyzw(back, moved - moved[:1]), has_pose=everywhere, flow=torch.zeros_like(rays),
        has_flow=torch.zeros(rays.shape[:4], dtype=torch.bool), moving=torch.zeros(rays.shape[:4], dtype=torch.bool),
        has_moving=torch.zeros(rays.shape[1], dtype=torch.bool), metric=of("is_metric_scale")[0],
        synthetic=of("is_synthetic")[0],
    )  # fmt: skip
