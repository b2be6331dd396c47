"""The focal length that tracks imply: what is known before, the values worth trying, the best one and its doubt."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.solve.structure_settings import StructureSettings


class Focal(NamedTuple):
    """What is known of the focal length before the tracks are looked at.

    Attributes:
        intrinsics: (4,) fx fy cx cy to start from; sigma: relative standard deviation of fx and fy (0: fixed).
        candidates: focal lengths in pixels that are worth trying; one where it is known well enough.
        weight: cost of a focal length one sigma from the start.
    """

    intrinsics: Float[Tensor, "4"]
    sigma: float
    candidates: tuple[float, ...]
    weight: float

    @property
    def known(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.candidates) == 1

    def at(self, focal_px: float) -> Float[Tensor, "4"]:
        """The intrinsics with this focal length."""
        return torch.cat([torch.full((2,), focal_px, dtype=self.intrinsics.dtype), self.intrinsics[2:]])

    def cost(self, focal_px: float) -> float:
        """What it costs to be away from the start, in mean squared residuals."""
        if self.sigma == 0:
            return 0.0
        return self.weight * float(np.log(focal_px / float(self.intrinsics[0])) / self.sigma) ** 2

    def best(self, costs: list[float]) -> float:
        """The focal length of least cost, given what the tracks say against each candidate."""
        return _lowest(self.candidates, [c + self.cost(f) for f, c in zip(self.candidates, costs, strict=True)])


def prior_focal(focal_px: float | None, sigma: float, width: int, height: int, s: StructureSettings) -> Focal:
    """The focal length given, with its relative sigma, or the usual field of view where none is."""
    start = max(width, height) / 2 / np.tan(np.radians(s.fov_deg) / 2) if focal_px is None else focal_px
    intrinsics = torch.tensor([start, start, width / 2, height / 2], dtype=torch.float64)
    if focal_px is not None and sigma < 0.1:
        return Focal(intrinsics, sigma, (start,), s.focal_weight)
    spread = s.focal_sigma if focal_px is None else sigma
    return Focal(intrinsics, spread, tuple(start * np.exp(spread * np.linspace(-1.8, 1.8, 9))), s.focal_weight)


def _lowest(values: tuple[float, ...], costs: list[float]) -> float:
    """The value of least cost: the grid's best, moved to the vertex of the parabola through its neighbours (log)."""
    best = int(np.argmin(costs))
    if best in (0, len(values) - 1):
        return values[best]
    left, middle, right = costs[best - 1 : best + 2]
    bend = left - 2 * middle + right
    share = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(values[best] * (values[best + 1] / values[best]) ** np.clip(share, -0.5, 0.5))
