"""Robust losses: how much a residual of squared size s counts, and the weight it gets in Gauss-Newton (IRLS).

All losses equal s near zero. Source: Zhang, "Parameter estimation techniques", 1997, table 1; Barron, CVPR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Loss(Protocol):
    """A loss on squared, whitened residual norms."""

    def cost(self, square: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
        """The loss of each residual."""
        ...

    def weight(self, square: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
        """Its derivative with respect to the square: the weight of iteratively reweighted least squares."""
        ...


@dataclass(frozen=True)
class Square:
    """Plain least squares."""

    def cost(self, square: Tensor) -> Tensor:
        """The square itself."""
        return square

    def weight(self, square: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(square)


@dataclass(frozen=True)
class GemanMcClure:
    """Bounded: a residual far beyond `scale` (in standard deviations) costs scale^2 and pulls nothing."""

    scale: float

    def cost(self, square: Tensor) -> Tensor:
        """s / (1 + s / c^2)."""
        return square / (1 + square / self.scale**2)

    def weight(self, square: Tensor) -> Tensor:
        """1 / (1 + s / c^2)^2."""
        return (1 + square / self.scale**2) ** -2


@dataclass(frozen=True)
class Cauchy:
    """Heavy-tailed: grows with the logarithm, keeps pulling weakly."""

    scale: float

    def cost(self, square: Tensor) -> Tensor:
        """c^2 log(1 + s / c^2)."""
        return self.scale**2 * torch.log1p(square / self.scale**2)

    def weight(self, square: Tensor) -> Tensor:
        """1 / (1 + s / c^2)."""
        return 1 / (1 + square / self.scale**2)


@dataclass(frozen=True)
class Huber:
    """Linear beyond `scale`: convex, for well-behaved outliers."""

    scale: float

    def cost(self, square: Tensor) -> Tensor:
        """s below c^2, 2 c sqrt(s) - c^2 above."""
        return torch.where(
            square <= self.scale**2, square, 2 * self.scale * square.clamp_min(1e-30).sqrt() - self.scale**2
        )

    def weight(self, square: Tensor) -> Tensor:
        """1 below c^2, c / sqrt(s) above."""
        return torch.where(
            square <= self.scale**2, torch.ones_like(square), self.scale * square.clamp_min(1e-30).rsqrt()
        )
