"""Several ways to the same frame: flow from the last frame, and from frames longer ago, each with its uncertainty.

A path of few long steps adds up fewer errors than one of many short ones, and steps over what covers a point for a
while; short steps see less change. So of all paths the most certain is taken: by the disagreement of flow there and
back, by how certain the place was where the step begins, and by how much the look at its end differs from the
template. The idea is that of Neoral, Serych and Matas, "MFT: Long-Term Tracking of Every Pixel" (WACV 2024), where a
network says how certain each step is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from worldline.cues import optical_flow, patches
from worldline.cues.followed import Followed
from worldline.cues.optical_flow import DenseFlow, sample


@dataclass(frozen=True)
class Config:
    """How a step is believed."""

    gap_px: float = 0.8
    """Flow whose two directions disagree by more (and by 5 per cent of its length) is wrong or hidden."""
    chained: float = 2.0
    """How much more a step along the flow alone may err than its disagreement shows (measured on rendered worlds)."""


@dataclass(frozen=True, eq=False)
class Step:
    """Flow from the frame so many `frames` ago to the present one, and back."""

    frames: int
    there: Float[np.ndarray, "h w 2"]
    back: Float[np.ndarray, "h w 2"]


@dataclass(frozen=True, eq=False)
class Ahead:
    """What flow says about N points in the present frame: place, its sigma, and whether both directions agree."""

    uv: Float[np.ndarray, "n 2"]
    sigma_px: Float[np.ndarray, "n"]
    consistent: Bool[np.ndarray, "n"]

    def __getitem__(self, chosen: np.ndarray) -> Ahead:
        """Some of the points."""
        return Ahead(self.uv[chosen], self.sigma_px[chosen], self.consistent[chosen])

    def put(self, chosen: np.ndarray, other: Ahead) -> Ahead:
        """The same with the chosen points replaced."""
        made = self.uv.copy(), self.sigma_px.copy(), self.consistent.copy()
        for mine, new in zip(made, (other.uv, other.sigma_px, other.consistent), strict=True):
            mine[chosen] = new
        return Ahead(*made)


def steps_to(frame: int, order: range, flows: tuple[DenseFlow, ...]) -> tuple[Step, ...]:
    """The steps that lead to a frame of a walk through the clip, from frames that the walk has passed."""
    made = []
    for flow in flows:
        source = frame - flow.step * order.step
        if source in order:
            made.append(Step(flow.step, flow.between(source, frame), flow.between(frame, source)))
    return tuple(made)


def ahead(points: Followed, step: Step, config: Config) -> Ahead:
    """Where a step takes points from where they were seen when it begins; not consistent where they were not seen."""
    start, sigma = points.past_uv[:, step.frames - 1], points.past_sigma_px[:, step.frames - 1]
    moved = sample(step.there, start)
    uv = start + moved
    gap = np.linalg.norm(moved + sample(step.back, uv), axis=-1)
    consistent = np.isfinite(sigma) & (gap < np.maximum(config.gap_px, 0.05 * np.linalg.norm(moved, axis=-1)))
    return Ahead(uv, np.hypot(sigma, config.chained * optical_flow.sigma_px(gap)), consistent)


def most_certain(
    points: Followed, image: Float[np.ndarray, "h w"], steps: tuple[Step, ...], config: Config, patch: patches.Config
) -> Ahead:
    """Of the paths to the present frame the most certain, by flow and by look, for each point."""
    ways = [ahead(points, step, config) for step in steps]
    uv, sigma, consistent = (np.stack([getattr(w, name) for w in ways]) for name in ("uv", "sigma_px", "consistent"))
    misfit = np.stack([patches.misfit_px(image, points.template, w.uv, points.linear, patch) for w in ways])
    best = np.where(consistent, np.hypot(sigma, misfit), np.inf).argmin(0)
    rows = np.arange(len(points))
    return Ahead(uv[best, rows], sigma[best, rows], consistent[best, rows])
