"""Similarities: a rigid motion and one scale, and the closed-form fit between point sets.

Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Sim3(NamedTuple):
    """`x_a = scale * rotation @ x_b + translation`; translation in units of frame a."""

    scale: Tensor
    rotation: Tensor
    translation: Tensor

    def apply(self, points_b: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Points of frame b in frame a."""
        return self.scale * points_b @ self.rotation.T + self.translation

    def apply_to_cameras(self, b_from_cam: Float[Tensor, "*n 4 4"]) -> Float[Tensor, "*n 4 4"]:
        """Camera-to-b poses as camera-to-a poses: centres scaled, rotations only rotated."""
        out = b_from_cam.clone()
        out[..., :3, :3] = self.rotation @ b_from_cam[..., :3, :3]
        out[..., :3, 3] = self.apply(b_from_cam[..., :3, 3])
        return out


def fit(
    points_a: Float[Tensor, "n 3"],
    points_b: Float[Tensor, "n 3"],
    *,
    weight: Float[Tensor, "n"] | None = None,
    with_scale: bool = True,
) -> Sim3:
    """The similarity a_from_b with the least weighted squared error (Umeyama 1991, eq. 34 to 43).

    Where the points do not determine the rotation (all equal, or on one line) the result is still a valid
    similarity with least error, but its rotation is one of many; `evaluate.alignment` decides what to do then.
    No branch depends on the data, so `torch.vmap` fits many sets of points at once.
    """
    w = torch.ones_like(points_a[:, 0]) if weight is None else weight
    w = w / w.sum()
    mean_a, mean_b = w @ points_a, w @ points_b
    da, db = points_a - mean_a, points_b - mean_b
    u, s, vt = torch.linalg.svd((w[:, None] * da).T @ db)
    sign = torch.ones_like(s)
    sign[2] = torch.where(torch.det(u @ vt) < 0, -1.0, 1.0)
    rotation = (u * sign) @ vt
    spread = (w[:, None] * db * db).sum()
    some = spread > 0
    scale = torch.ones_like(spread)
    if with_scale:
        scale = torch.where(some, (s * sign).sum() / torch.where(some, spread, scale), scale)
    return Sim3(scale, rotation, mean_a - scale * rotation @ mean_b)
