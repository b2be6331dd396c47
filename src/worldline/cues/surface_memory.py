"""What a surface showed in other frames: moving is a property that it keeps while it pauses.

Every surface point is background, or an object that moves, or an object that pauses: a hidden Markov chain along
the flow. A pausing object looks like background, so it is told from it only by when it moved, before or after. The
two passes of the forward-backward algorithm (Rabiner, "A tutorial on hidden Markov models", Proc. IEEE 1989, section
III) run along the flow; where that is lost a surface is unknown again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from worldline.cues.parallax import FlowChain


@dataclass(frozen=True)
class MemorySettings:
    """Times in seconds."""

    prior: float = 0.35
    """Share of objects among surfaces of which nothing is known."""
    moving_s: float = 1.0
    """Time after which a mover pauses, and a pausing one moves again."""
    kept_s: float = 4.0
    """Time after which it is forgotten what a surface is: flow slips from one surface to another."""
    trust: float = 0.5
    """Share of one frame's evidence that is its own; neighbouring frames look at nearly the same."""


def remembered(
    chain: FlowChain, odds: Float[np.ndarray, "t h w"], step_s: float, settings: MemorySettings
) -> Float[np.ndarray, "t h w"]:
    """Log odds that a pixel belongs to an object, from its surface in all frames; `step_s` is from frame to frame."""
    prior = _prior(settings)
    seen = settings.trust * odds
    before, after = (_carried(chain, seen, way, _change(step_s, settings), prior) for way in (1, -1))
    out = np.empty_like(seen)
    for t, (a, b) in enumerate(zip(before, after, strict=True)):
        belief = a.astype(np.float32) * b.astype(np.float32) / prior
        moves = belief[..., 1] * np.exp(seen[t])
        out[t] = np.log((moves + belief[..., 2] + 1e-9) / (belief[..., 0] + 1e-9))
    return out


def _prior(settings: MemorySettings) -> Float[np.ndarray, "3"]:
    share = settings.prior
    return np.array([1 - share, 0.7 * share, 0.3 * share], dtype=np.float32)


def _change(step_s: float, settings: MemorySettings) -> Float[np.ndarray, "3 3"]:
    """Probability of each state (columns) one frame after each state (rows)."""
    pause = 1 - np.exp(-step_s / settings.moving_s)
    lost = 1 - np.exp(-step_s / settings.kept_s)
    kept = np.array([[1, 0, 0], [0, 1 - pause, pause], [0, pause, 1 - pause]])
    return ((1 - lost) * kept + lost * _prior(settings)).astype(np.float32)


def _carried(
    chain: FlowChain, seen: np.ndarray, way: int, change: np.ndarray, prior: np.ndarray
) -> Float[np.ndarray, "t h w 3"]:
    """Belief in each state from the frames before (way 1) or after (way -1), without the frame's own evidence."""
    out = np.empty((*seen.shape, 3), dtype=np.float16)
    frames = range(len(seen)) if way > 0 else range(len(seen) - 1, -1, -1)
    belief = np.broadcast_to(prior, out.shape[1:])
    for k, t in enumerate(frames):
        if k:
            brought, found = chain.brought(belief, t, way)
            belief = np.where(found[..., None], brought @ change, prior)
        out[t] = belief
        belief = belief * np.stack([np.ones_like(seen[t]), np.exp(seen[t]), np.ones_like(seen[t])], -1)
        belief /= belief.sum(-1, keepdims=True)
    return out
