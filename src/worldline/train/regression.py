"""How far one vector is from another: the robust penalty, the logarithmic space, and means over what is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_SHORT = 1e-4


@runtime_checkable
class Penalty(Protocol):
    """A cost of the difference of vectors, one number per vector."""

    def __call__(self, a: Float[Tensor, "*n c"], b: Float[Tensor, "*n c"]) -> Float[Tensor, "*n"]:
        """The cost of every pair."""


@dataclass(frozen=True)
class Robust:
    """The general robust penalty of the length of the difference: a parabola up to about `scale`, flatter beyond.

    Source: Barron, "A general and adaptive robust loss function", CVPR 2019, equation 8; `shape` (alpha) and `scale`
    (c) as in MapAnything's recipe.
    """

    shape: float = 0.5
    scale: float = 0.05

    def __call__(self, a: Float[Tensor, "*n c"], b: Float[Tensor, "*n c"]) -> Float[Tensor, "*n"]:
        """The cost of every pair."""
        spread = abs(self.shape - 2)
        squared = ((a - b) / self.scale).square().sum(-1)
        return spread / self.shape * ((squared / spread + 1) ** (self.shape / 2) - 1)


def distance(a: Float[Tensor, "*n c"], b: Float[Tensor, "*n c"]) -> Float[Tensor, "*n"]:
    """The Euclidean length of the difference."""
    return (a - b).norm(dim=-1)


def log_space(x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
    """Vectors of length n shortened to log(1 + n); its derivative at zero is the identity.

    Source: Keetha et al., "MapAnything", 2025, section 3.3.
    """
    length = x.norm(dim=-1, keepdim=True)
    safe = length.clamp_min(_SHORT)
    return x * torch.where(length < _SHORT, 1 - length / 2, torch.log1p(safe) / safe)


def mean_where(values: Float[Tensor, "v *n"], known: Bool[Tensor, "v *n"]) -> Float[Tensor, "v"]:
    """Mean over what is known of every view; 0, and no gradient, where nothing is."""
    known = known.flatten(1)
    total = torch.where(known, values.flatten(1), 0).sum(1)
    return total / known.sum(1).clamp_min(1)


def without_worst(
    values: Float[Tensor, "v b *n"], known: Bool[Tensor, "v b *n"], share: float, spared: Bool[Tensor, "b"]
) -> Bool[Tensor, "v b n"]:
    """`known`, flattened, less the `share` of largest values of every image; nothing is dropped of `spared` samples."""
    values, known = values.detach().flatten(2), known.flatten(2)
    if bool(spared.all()):
        return known
    kept = (known.sum(2) * (100 - 100 * share) / 100).long()
    rank = torch.where(known, values, torch.inf).argsort(2).argsort(2)
    return known & (spared[None, :, None] | (rank < kept[..., None]))
