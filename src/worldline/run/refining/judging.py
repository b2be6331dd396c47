"""Whether a step is kept: errors before and after on evidence that took no part, compared block by block.

A mean over thousands of samples hardly ever lies still by itself, so a mean alone keeps whatever was fitted. Samples
that lie together are wrong together; the blocks they form are what counts, and a step is kept where the blocks agree
that it helps, by more than their scatter and by more than a least share.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_FEWEST = 4
"""Fewer blocks cannot agree."""


class Verdict(NamedTuple):
    """How errors changed: their ratio after over before, and by how many standard errors of the blocks they fell."""

    ratio: float
    sigmas: float
    blocks: int

    def better(self, *, sigmas: float = 2.5, ratio: float = 0.97) -> bool:
        """Whether the errors fell for sure, and by enough to be worth it."""
        return self.blocks >= _FEWEST and self.sigmas > sigmas and self.ratio < ratio

    def worse(self, *, sigmas: float = 2.5, ratio: float = 1.02) -> bool:
        """Whether the errors rose for sure."""
        return self.blocks >= _FEWEST and self.sigmas < -sigmas and self.ratio > ratio

    def as_outcome(self, name: str) -> dict[str, float]:
        """Two entries for the history."""
        return {f"{name}_ratio": round(self.ratio, 4), f"{name}_sigmas": round(self.sigmas, 2)}


NOTHING = Verdict(1.0, 0.0, 0)
"""Of no evidence."""


def compared(
    before: Float[np.ndarray, "m"], after: Float[np.ndarray, "m"], block: Int[np.ndarray, "m"], *, fewest: int = 5
) -> Verdict:
    """Errors of the same samples before and after, in blocks; NaN takes no part, nor do blocks of fewer samples.

    Every block counts by its root number of samples: a large one is surer, but never as sure as its number says.
    """
    known = np.isfinite(before) & np.isfinite(after)
    before, after, block = before[known], after[known], block[known]
    if not len(before):
        return NOTHING
    _, place, count = np.unique(block, return_inverse=True, return_counts=True)
    enough = count >= fewest
    if int(enough.sum()) < 2:
        return NOTHING
    means = [np.bincount(place, values)[enough] / count[enough] for values in (before, after)]
    weight = np.sqrt(count[enough])
    weight = weight / weight.sum()
    gain = means[0] - means[1]
    middle = float(weight @ gain)
    error = float(np.sqrt((weight**2 * (gain - middle) ** 2).sum())) + 1e-12 * float(weight @ means[0]) + 1e-300
    ratio = float(weight @ means[1]) / max(float(weight @ means[0]), 1e-300)
    return Verdict(ratio, middle / error, int(enough.sum()))
