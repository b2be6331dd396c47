"""The doubt of log depth that regions share, as a function of where a pixel is and how deep it lies.

Cameras that are a little off tilt, stretch and scale the depth of a frame as a whole. What such changes do is told by
few numbers: a covariance over the place in the image and the log depth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from worldline.geometry import pixels
from worldline.scene.journal import Arrays

GREATEST = 1.0
"""Change of log depth beyond which a point says no more: it is lost."""

REACH = (0.02, 0.98)
"""Quantiles of the log depth of the points beyond which the change is not carried on."""


@dataclass(frozen=True, eq=False)
class SharedDoubt:
    """Variance of log depth over (1, u, v, log depth), u and v from -0.5 to 0.5 and log depth from its middle.

    Attributes:
        covariance: of the changes. rest: standard deviation that these four do not explain.
        span: middle, least and greatest log depth of what it was made from.
    """

    covariance: Float[np.ndarray, "4 4"]
    rest: float
    span: Float[np.ndarray, "3"]

    @classmethod
    def of(
        cls, changes: Float[np.ndarray, "m g"], place: Float[np.ndarray, "m 2"], log_depth: Float[np.ndarray, "m"]
    ) -> SharedDoubt:
        """From independent changes of the log depth of sightings; places from 0 to 1."""
        changes = np.clip(changes, -GREATEST, GREATEST)
        span = np.quantile(log_depth, (0.5, *REACH))
        known = np.column_stack([np.ones(len(place)), place - 0.5, np.clip(log_depth, *span[1:]) - span[0]])
        size = np.linalg.norm(changes, axis=1, keepdims=True)
        # what is far changes by its own small parallax, which says nothing about the regions
        weight = 1 / np.hypot(1, size / max(float(np.median(size)), 1e-9))
        slopes = np.linalg.lstsq(weight * known, weight * changes, rcond=1e-6)[0]
        left = np.linalg.norm(changes - known @ slopes, axis=1)
        return cls(slopes @ slopes.T, float(np.median(left)), span)

    @classmethod
    def equal(cls, sigma: float) -> SharedDoubt:
        """The same everywhere."""
        return cls(np.zeros((4, 4)), sigma, np.zeros(3))

    def with_level(self, sigma: float) -> SharedDoubt:
        """With one more doubt that is as large everywhere."""
        return replace(self, rest=float(np.hypot(self.rest, sigma)))

    @classmethod
    def read(cls, stored: Arrays) -> SharedDoubt:
        """From the arrays of `stored`."""
        return cls(stored["shared_covariance"], float(stored["shared_rest"]), stored["shared_span"])

    def stored(self) -> Arrays:
        """As arrays of a stage."""
        return {
            "shared_covariance": self.covariance, "shared_rest": np.array(self.rest), "shared_span": self.span,
        }  # fmt: skip

    def at(self, place: Float[np.ndarray, "*n 2"], log_depth: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Standard deviation of log depth at places (0 to 1) of an image and log depths."""
        level, slope, bend = self._parabola(place)
        away = np.clip(log_depth, *self.span[1:]) - self.span[0]
        return np.sqrt(np.maximum(level + away * (slope + bend * away), 0))

    def over(self, height: int, width: int) -> ImageDoubt:
        """For all pixels of images of a size."""
        place = pixels.centres(height, width).numpy() / np.array([width, height])
        level, slope, bend = self._parabola(place)
        return ImageDoubt(level.astype(np.float32), slope.astype(np.float32), np.float32(bend), self.span)

    def _parabola(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Coefficients of the variance as a polynomial in log depth from its middle."""
        known = np.concatenate([np.ones_like(place[..., :1]), place - 0.5], -1)
        level = np.einsum("...i,ij,...j->...", known, self.covariance[:3, :3], known) + self.rest**2
        return level, 2 * known @ self.covariance[:3, 3], float(self.covariance[3, 3])


@dataclass(frozen=True, eq=False)
class ImageDoubt:
    """A doubt for images of one size: the variance of every pixel as a polynomial in log depth."""

    level: Float[np.ndarray, "h w"]
    slope: Float[np.ndarray, "h w"]
    bend: np.float32
    span: Float[np.ndarray, "3"]

    def sigma(self, depth_z: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """Standard deviation of the log depth of a frame."""
        middle, low, high = self.span.astype(np.float32)
        away = np.log(np.clip(depth_z, np.exp(low), np.exp(high))) - middle
        return np.sqrt(np.maximum(self.level + away * (self.slope + self.bend * away), 0))
