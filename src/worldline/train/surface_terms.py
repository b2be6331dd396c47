"""Terms of the shape of surfaces, for rendered samples, whose outlines are exact: normals and depth gradients."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from worldline.train.regression import log_space

SMALLEST_RAD, LARGEST_RAD, KNEE_RAD = math.radians(1), math.radians(90), math.radians(3)
"""Angles between normals are clamped to the first two; below the third the cost is a parabola."""

STRIDES = (1, 2, 4, 8)
"""Of the pixels between which depth is compared."""

STEEPEST = 100.0


def normals(
    found: Float[Tensor, "v b h w 3"], true: Float[Tensor, "v b h w 3"], known: Bool[Tensor, "v b h w"]
) -> Float[Tensor, "v"]:
    """Angles between normals at the four corners of every cell of 2x2 pixels, over the count and the longer side.

    Source: Wang et al., "MoGe", CVPR 2025, supplement; MapAnything's recipe.
    """
    total, counted = found.new_zeros(len(found)), torch.zeros_like(known[..., 1:, 1:])
    for corner in range(4):
        inside = _corner_known(known, corner)
        cost = _knee(_angle_rad(_corner_normal(found, corner), _corner_normal(true, corner)))
        total = total + torch.where(inside, cost, 0).sum((1, 2, 3))
        counted = counted | inside
    longer = max(found.shape[2:4])
    return total / (counted.sum((1, 2, 3)).clamp_min(1) * 4 * longer)


def gradients(
    found_z: Float[Tensor, "v b h w"], true_z: Float[Tensor, "v b h w"], known: Bool[Tensor, "v b h w"]
) -> Float[Tensor, "v"]:
    """Differences of log(1 + depth) between neighbours at several strides; depths are in the units of `normalisers`.

    Source: Ranftl et al., "Towards robust monocular depth estimation", 2019, equation 11.
    """
    difference = log_space(found_z[..., None]) - log_space(true_z[..., None])
    error = torch.where(known, difference[..., 0], 0)
    return torch.stack([_steps(error[..., ::s, ::s], known[..., ::s, ::s]) for s in STRIDES]).sum(0)


def _steps(error: Float[Tensor, "v b h w"], known: Bool[Tensor, "v b h w"]) -> Float[Tensor, "v"]:
    total = error.new_zeros(len(error))
    for axis in (2, 3):
        both = known.narrow(axis, 1, known.shape[axis] - 1) & known.narrow(axis, 0, known.shape[axis] - 1)
        step = error.diff(dim=axis).abs().clamp_max(STEEPEST)
        total = total + torch.where(both, step, 0).sum((1, 2, 3))
    return total / known.sum((1, 2, 3)).clamp_min(1)


def _cell(x: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four pixels of every cell, around it: above left, above right, below right, below left."""
    up, down = x.narrow(axis, 0, x.shape[axis] - 1), x.narrow(axis, 1, x.shape[axis] - 1)

    def side(rows: Tensor, first: int) -> Tensor:
        return rows.narrow(axis + 1, first, rows.shape[axis + 1] - 1)

    return side(up, 0), side(up, 1), side(down, 1), side(down, 0)


def _corner_normal(points: Float[Tensor, "v b h w 3"], corner: int) -> Float[Tensor, "v b h1 w1 3"]:
    around = _cell(points, 2)
    here = around[corner]
    return torch.linalg.cross(around[corner - 1] - here, around[(corner + 1) % 4] - here)


def _corner_known(known: Bool[Tensor, "v b h w"], corner: int) -> Bool[Tensor, "v b h1 w1"]:
    around = _cell(known, 2)
    return around[corner] & around[corner - 1] & around[(corner + 1) % 4]


def _angle_rad(a: Float[Tensor, "*n 3"], b: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    """Between vectors; short ones are lengthened first, lest their squares vanish."""
    a, b = functional.normalize(a, dim=-1, eps=1e-8), functional.normalize(b, dim=-1, eps=1e-8)
    return torch.atan2(torch.linalg.cross(a, b).norm(dim=-1) + 1e-12, (a * b).sum(-1))


def _knee(angle: Tensor) -> Tensor:
    angle = angle.clamp(SMALLEST_RAD, LARGEST_RAD)
    return torch.where(angle < KNEE_RAD, 0.5 * angle.square() / KNEE_RAD, angle - 0.5 * KNEE_RAD)
