"""Where rays meet: linear triangulation of points seen from several known cameras."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def nearest_points(
    centres: Float[Tensor, "t 3"],
    directions: Float[Tensor, "t n 3"],
    weight: Float[Tensor, "t n"],
    *,
    damping: float = 1e-9,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
    """The points closest to bundles of rays, and how well each is determined.

    Args:
        centres: camera centres (metres), directions: unit rays in the world, weight: 0 leaves a ray out.

    Returns:
        points, and the smallest eigenvalue of each normal matrix over its weight: about the mean squared sine of
        the angle between the rays, 0 for parallel ones.

    Source: the usual normal equations, sum w (I - d d^T) x = sum w (I - d d^T) c.
    """
    w = weight[..., None]
    wd = directions * w
    normal = torch.eye(3, dtype=w.dtype, device=w.device) * w.sum(0)[..., None] - torch.einsum(
        "tni,tnj->nij", wd, directions
    )
    along = (directions * centres[:, None]).sum(-1, keepdim=True)
    right = (w * centres[:, None] - wd * along).sum(0)
    eye = torch.eye(3, dtype=w.dtype, device=w.device)
    points = torch.linalg.solve(normal + damping * w.sum(0)[..., None].clamp_min(1e-12) * eye, right[..., None])[..., 0]
    spread = torch.linalg.eigvalsh(normal)[..., 0] / w.sum(0)[..., 0].clamp_min(1e-12)
    return points, spread
