"""Where a predicted surface is torn: depth that jumps and normals that turn at once, as at the border of an object.

There a network smears points from the front to the back; the published post-processing takes them out, and so do we.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

NOISE_SIGMAS = 4.0
_NONZERO = 1e-12


@dataclass(frozen=True)
class Edges:
    """What counts as an edge: depth within 3x3 pixels varies by more than a share, normals by more than an angle.

    Attributes:
        as_published: also what the published code does by mistake, for comparison: it looks up whether a neighbour is
            valid with its row and column swapped, and a pixel where any cosine rounds to more than one says nothing.
    """

    depth_share: float = 0.03
    normal_deg: float = 5.0
    as_published: bool = False


def trusted(
    points: Float[Tensor, "b h w 3"],
    depth_z: Float[Tensor, "b h w"],
    valid: Bool[Tensor, "b h w"],
    edges: Edges | None = Edges(),  # noqa: B008 - frozen
    *,
    doubt: Float[Tensor, "b h w"] | None = None,
    confidence: Float[Tensor, "b h w"] | None = None,
    least_confident: float = 0.1,
) -> Bool[Tensor, "b h w"]:
    """Pixels whose geometry is to be used: valid, not on an edge, not among the least confident of their image.

    Args:
        doubt: sigma of log depth; jumps within four sigma are noise. None: as published, any beyond the share count.
    """
    if confidence is not None:
        bound = torch.quantile(confidence.flatten(1).float(), least_confident, dim=1)
        valid = valid & (confidence > bound[:, None, None])
    if edges is None:
        return valid
    normals, has_normal = surface_normals(points, valid)
    share = torch.full_like(depth_z, edges.depth_share)
    share = share if doubt is None else torch.maximum(share, NOISE_SIGMAS * doubt)
    jumps = depth_edges(depth_z, valid, share)
    turns = normal_edges(normals, has_normal, edges.normal_deg, as_published=edges.as_published)
    return valid & ~(jumps & turns)


def depth_edges(
    depth_z: Float[Tensor, "b h w"], valid: Bool[Tensor, "b h w"], share: Float[Tensor, "b h w"]
) -> Bool[Tensor, "b h w"]:
    """Whether the valid depths within 3x3 pixels span more than a share of the depth in the middle."""
    low = depth_z.new_tensor(-torch.inf)
    span = _largest(torch.where(valid, depth_z, low)) + _largest(torch.where(valid, -depth_z, low))
    return span / depth_z > share


def surface_normals(
    points: Float[Tensor, "b h w 3"], valid: Bool[Tensor, "b h w"]
) -> tuple[Float[Tensor, "b h w 3"], Bool[Tensor, "b h w"]]:
    """Unit normals from the four triangles between a point and its valid neighbours; where there is at least one."""
    padded = functional.pad(points, (0, 0, 1, 1, 1, 1))
    known = functional.pad(valid, (1, 1, 1, 1))
    inner = slice(1, -1)
    around = [(slice(None, -2), inner), (inner, slice(None, -2)), (slice(2, None), inner), (inner, slice(2, None))]
    arms = torch.stack([padded[:, r, c] - points for r, c in around])
    there = torch.stack([known[:, r, c] & valid for r, c in around])
    normals = _unit(torch.linalg.cross(arms, arms.roll(-1, 0)))
    usable = there & there.roll(-1, 0)
    first, second, third, fourth = normals * usable[..., None]
    return _unit(first + second + third + fourth), usable.any(0)


def normal_edges(
    normals: Float[Tensor, "b h w 3"], valid: Bool[Tensor, "b h w"], degrees: float, *, as_published: bool = False
) -> Bool[Tensor, "b h w"]:
    """Whether within 3x3 pixels a normal differs from one of its valid 3x3 neighbours by more than an angle."""
    height, width = normals.shape[1:3]
    unit = _unit(normals)
    padded = functional.pad(unit.movedim(-1, 1), (1, 1, 1, 1), mode="replicate").movedim(1, -1)
    known = functional.pad(valid[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0] > 0
    turn = normals.new_zeros(normals.shape[:3])
    beyond = torch.zeros_like(valid)
    for row, column in product(range(3), range(3)):
        asked = (column, row) if as_published else (row, column)
        there = known[:, asked[0] : asked[0] + height, asked[1] : asked[1] + width]
        cosine = _dot(unit, padded[:, row : row + height, column : column + width])
        beyond = beyond | (there & (cosine > 1))
        turn = torch.maximum(turn, torch.where(there, cosine.clamp(-1, 1).acos(), 0))
    if as_published:
        turn = turn.masked_fill(beyond, 0)
    return _largest(turn) > torch.deg2rad(turn.new_tensor(degrees))


def _dot(a: Float[Tensor, "*n 3"], b: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    """Summed in one order on every machine: whether a cosine rounds above one depends on it."""
    (ax, ay, az), (bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return ax * bx + ay * by + az * bz


def _unit(x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Of length one; the root in float64, because float32 roots of some machines are not rounded correctly."""
    return x / (_dot(x, x).double().sqrt().to(x.dtype) + _NONZERO)[..., None]


def _largest(x: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Within 3x3 pixels."""
    return functional.max_pool2d(x[:, None], 3, stride=1, padding=1)[:, 0]
