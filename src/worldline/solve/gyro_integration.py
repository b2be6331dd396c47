"""Attitude from angular rates: the rates of a gyroscope added up on the group of rotations.

Between two samples the rate is taken to change linearly, and the rotation over the step is exact to third order: the
mean rate, and half the area that its direction sweeps (coning), the second term of the Magnus expansion. Source:
Savage, "Strapdown inertial navigation integration algorithm design", part 1, 1998; Iserles et al., "Lie-group methods",
2000, section 4.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import se3


def rotations_at_samples(times_s: Float[Tensor, "n"], rate_radps: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """start_from_body at every sample; the first is the identity.

    Args:
        rate_radps: angular rate on the body's own axes, biases taken off.
    """
    steps = se3.so3_exp(_turned(torch.diff(times_s)[:, None], rate_radps[:-1], rate_radps[1:]))
    first = torch.eye(3, dtype=rate_radps.dtype, device=rate_radps.device)[None]
    return torch.cat([first, products(steps)])


def rotations_at(
    times_s: Float[Tensor, "n"], rate_radps: Float[Tensor, "n 3"], at_s: Float[Tensor, "m"]
) -> Float[Tensor, "m 3 3"]:
    """start_from_body at any times between the first and the last sample, where start is the first sample."""
    before = (torch.searchsorted(times_s, at_s, right=True) - 1).clamp(0, len(times_s) - 2)
    passed = (at_s - times_s[before])[:, None]
    step = (times_s[before + 1] - times_s[before])[:, None]
    rate = rate_radps[before] + (rate_radps[before + 1] - rate_radps[before]) * (passed / step)
    return rotations_at_samples(times_s, rate_radps)[before] @ se3.so3_exp(_turned(passed, rate_radps[before], rate))


def products(steps: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
    """Running products from the left, steps[0] @ ... @ steps[i], in log2(n) rounds over all at once."""
    done, reach = steps, 1
    while reach < len(steps):
        done = torch.cat([done[:reach], done[:-reach] @ done[reach:]])
        reach *= 2
    return done


def _turned(step_s: Float[Tensor, "n 1"], first: Float[Tensor, "n 3"], last: Float[Tensor, "n 3"]) -> Tensor:
    """Rotation vector over a step in which the rate goes linearly from first to last."""
    return step_s * (first + last) / 2 + step_s**2 / 12 * torch.linalg.cross(first, last)
