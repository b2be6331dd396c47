"""By what factor the depth of a scene is off, smooth over image and time, as its static points tell.

The log factor is a sum of cosines over the image with coefficients per frame. Fine patterns are less likely than
coarse ones, and a pattern seldom changes from one frame to the next; both are priors, so what no point tells is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.linalg import solveh_banded

from worldline.geometry import pixels

_ROUNDS = 4
"""Of the reweighting that leaves outliers out."""


@dataclass(frozen=True)
class FieldSettings:
    """How a field may look.

    Attributes:
        columns, rows: of cosines. frame, frame_step: standard deviation of the log scale of a frame, and of its change
            from frame to frame. pattern, pattern_step: the same of the first patterns; finer ones have less.
        least: relative noise that no point is below.
    """

    columns: int = 6
    rows: int = 5
    frame: float = 0.1
    frame_step: float = 0.03
    pattern: float = 0.06
    pattern_step: float = 0.02
    least: float = 0.01

    @classmethod
    def scales(cls, spread: float) -> FieldSettings:
        """One scale per frame, for depth that is off by `spread` (standard deviation of its logarithm)."""
        size = min(max(2 * spread, 0.01), 0.3)
        return cls(columns=1, rows=1, frame=size, frame_step=size / 2)

    @classmethod
    def patterns(cls, spread: float) -> FieldSettings:
        """Patterns over the image besides, for depth that is off by `spread`."""
        size = min(max(1.5 * spread, 0.005), 0.1)
        return cls(frame=size, frame_step=size / 2, pattern=size, pattern_step=size / 3)


@dataclass(frozen=True, eq=False)
class DepthField:
    """log(true / scene's depth) = basis(u, v) . coefficients[frame], where points tell; `columns`, `rows` of cosines.

    `doubt` is the covariance of the coefficients of a frame by its own points, `prior` what it is without any.
    """

    coefficients: Float[np.ndarray, "t k"]
    columns: int
    rows: int
    doubt: Float[np.ndarray, "t k k"]
    prior: Float[np.ndarray, "k"]

    def at(self, frame: Int[np.ndarray, "m"], place: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "m"]:
        """At places in [0, 1] of width and height."""
        return np.einsum("mk,mk->m", _basis(place, self.columns, self.rows), self.coefficients[frame])

    def over(self, frame: int, height: int, width: int) -> Float[np.ndarray, "h w"]:
        """At every pixel of a frame."""
        across, down = _cosines(_shares(width), self.columns), _cosines(_shares(height), self.rows)
        return down @ self.coefficients[frame].reshape(self.rows, self.columns) @ across.T

    def trust(self, frame: int, height: int, width: int) -> Float[np.ndarray, "h w"]:
        """Share of what was unknown at every pixel that points have told: 0 far from all of them."""
        u, v = np.meshgrid(_shares(width), _shares(height))
        rows = _basis(np.stack([u.ravel(), v.ravel()], -1), self.columns, self.rows)
        left = np.einsum("mk,mk->m", rows @ self.doubt[frame], rows) / (rows**2 @ self.prior)
        return np.clip(1 - left, 0, 1).reshape(height, width)


def fit_field(
    frame: Int[np.ndarray, "m"],
    place: Float[np.ndarray, "m 2"],
    log_ratio: Float[np.ndarray, "m"],
    doubt: Float[np.ndarray, "m"],
    count: int,
    settings: FieldSettings,
) -> DepthField:
    """The most likely field of `count` frames under log ratios at places, each with its relative doubt."""
    rows = _basis(place, settings.columns, settings.rows)
    size, step = _priors(settings)
    sigma = np.hypot(doubt, settings.least)
    found, doubt = np.zeros((count, len(size))), np.zeros((count, len(size), len(size)))
    for _ in range(_ROUNDS):
        off = (log_ratio - np.einsum("mk,mk->m", rows, found[frame])) / sigma
        noise = max(1.4826 * float(np.median(np.abs(off))), 0.3)
        weight = 1 / (1 + (off / (2.5 * noise)) ** 2) / (noise * sigma) ** 2
        found, doubt = _smoothest(frame, rows, log_ratio, weight, size, step, count)
    return DepthField(found, settings.columns, settings.rows, doubt, size**2)


def _smoothest(
    frame: np.ndarray, rows: np.ndarray, values: np.ndarray, weight: np.ndarray, size: np.ndarray, step: np.ndarray,
    count: int,
) -> tuple[Float[np.ndarray, "t k"], Float[np.ndarray, "t k k"]]:  # fmt: skip
    """Solve the block tridiagonal normal equations of all frames; and the covariance of each by itself."""
    k = rows.shape[1]
    normal, right = np.zeros((count, k, k)), np.zeros((count, k))
    order = np.argsort(frame, kind="stable")
    for t, here in enumerate(np.split(order, np.searchsorted(frame[order], np.arange(1, count)))):
        weighted = rows[here] * weight[here, None]
        normal[t], right[t] = weighted.T @ rows[here], weighted.T @ values[here]
    doubt = np.linalg.inv(normal + (np.eye(k) / size**2)[None])
    ends = np.full(count, 2.0)
    ends[[0, -1]] = 1.0 if count > 1 else 0.0
    normal += (np.eye(k) / size**2)[None] + ends[:, None, None] * np.diag(step**-2)
    banded = np.zeros((k + 1, count * k))
    for away in range(k):
        banded[away].reshape(count, k)[:, : k - away] = np.diagonal(normal, -away, 1, 2)
    banded[k] = np.tile(-(step**-2), count)
    banded[k, (count - 1) * k :] = 0
    return solveh_banded(banded, right.ravel(), lower=True).reshape(count, k), doubt


def _priors(settings: FieldSettings) -> tuple[np.ndarray, np.ndarray]:
    fine = np.hypot(*np.meshgrid(np.arange(settings.columns), np.arange(settings.rows))).ravel()
    falling = 1 / np.maximum(fine, 1) ** 1.5
    size, step = settings.pattern * falling, settings.pattern_step * falling
    size[0], step[0] = settings.frame, settings.frame_step
    return size, step


def _basis(place: Float[np.ndarray, "m 2"], columns: int, rows: int) -> Float[np.ndarray, "m k"]:
    across, down = _cosines(place[:, 0], columns), _cosines(place[:, 1], rows)
    return (down[:, :, None] * across[:, None]).reshape(len(place), -1)


def _shares(count: int) -> Float[np.ndarray, "n"]:
    """Pixel centres as shares of the side."""
    return (pixels.centres(1, count, dtype=torch.float64)[0, :, 0] / count).numpy()


def _cosines(share: Float[np.ndarray, "n"], count: int) -> Float[np.ndarray, "n k"]:
    order = np.arange(count)
    return np.cos(np.pi * share[:, None] * order) * np.where(order > 0, np.sqrt(2), 1.0)
