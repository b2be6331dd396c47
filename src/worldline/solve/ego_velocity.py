"""A radar's own velocity from one scan: what stands still is measured with speed -direction . velocity.

Source: Kellner et al., "Instantaneous ego-motion estimation using Doppler radar", 2013 (consensus of three returns,
then least squares over those that agree), with a robust refit and covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class EgoSettings:
    """How a scan is fitted.

    Attributes:
        sigma_mps: the least standard deviation of a speed. inlier_sigmas: beyond so many a return moves by itself.
        fewest, least_share: returns, and share of a scan, that must agree.
        draws: triples tried. largest_mps: standard deviation of a component that the directions do not tell.
    """

    sigma_mps: float = 0.05
    inlier_sigmas: float = 3.0
    fewest: int = 5
    least_share: float = 0.4
    draws: int = 300
    largest_mps: float = 30.0


@dataclass(frozen=True, eq=False)
class EgoVelocity:
    """Velocity of a radar on its own axes.

    Attributes:
        velocity_mps: (3,); covariance: (3, 3). A direction in which nothing was seen has zero velocity and the variance
            of knowing nothing.
        static: (n,) returns that agree with standing still; sigma_mps: the scatter of their speeds.
    """

    velocity_mps: Float[np.ndarray, "3"]
    covariance: Float[np.ndarray, "3 3"]
    static: Bool[np.ndarray, "n"]
    sigma_mps: float


def ego_velocity(
    directions: Float[np.ndarray, "n 3"],
    speed_mps: Float[np.ndarray, "n"],
    settings: EgoSettings | None = None,
    *,
    seed: int = 0,
) -> EgoVelocity | None:
    """The velocity on which most returns agree; None where too few do.

    Args:
        directions: unit vectors to the returns on the radar's axes.
        speed_mps: positive moves away; what is not finite is left out.
    """
    s = settings or EgoSettings()
    usable = np.isfinite(speed_mps)
    away, speed = -directions[usable], speed_mps[usable]
    if len(speed) < s.fewest:
        return None
    velocity = _consensus(away, speed, s, np.random.default_rng(seed))
    for _ in range(10):
        velocity, covariance, sigma, good = _refitted(away, speed, velocity, s)
    if good.sum() < max(s.fewest, s.least_share * len(speed)):
        return None
    static = np.zeros(len(usable), dtype=bool)
    static[usable] = good
    return EgoVelocity(velocity, covariance, static, sigma)


def _consensus(
    away: Float[np.ndarray, "n 3"], speed: Float[np.ndarray, "n"], s: EgoSettings, random: np.random.Generator
) -> Float[np.ndarray, "3"]:
    """The velocity of three returns with which most others agree, by the truncated sum of squares."""
    triples = random.random((s.draws, len(speed))).argsort(1)[:, :3]
    rows, right = away[triples], speed[triples]
    normal = rows.transpose(0, 2, 1) @ rows + np.eye(3) * (s.sigma_mps / s.largest_mps) ** 2
    tried = np.linalg.solve(normal, rows.transpose(0, 2, 1) @ right[..., None])[..., 0]
    tried = np.concatenate([tried, np.zeros((1, 3))])
    residual = (tried @ away.T - speed) / (s.inlier_sigmas * s.sigma_mps)
    return tried[np.minimum(residual**2, 1).sum(1).argmin()]


def _refitted(
    away: Float[np.ndarray, "n 3"], speed: Float[np.ndarray, "n"], velocity: Float[np.ndarray, "3"], s: EgoSettings
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"], float, Bool[np.ndarray, "n"]]:
    """One step of iteratively reweighted least squares (Tukey), its covariance, the scatter, and who agrees."""
    residual = away @ velocity - speed
    near = np.abs(residual) < 2 * s.inlier_sigmas * s.sigma_mps
    sigma = max(s.sigma_mps, 1.4826 * float(np.median(np.abs(residual[near])))) if near.any() else s.sigma_mps
    reach = 1.5 * s.inlier_sigmas * sigma
    weight = np.clip(1 - (residual / reach) ** 2, 0, None) ** 2
    normal = (away * weight[:, None]).T @ away / sigma**2 + np.eye(3) / s.largest_mps**2
    covariance = np.linalg.inv(normal)
    velocity = covariance @ (away * weight[:, None]).T @ speed / sigma**2
    return velocity, covariance, sigma, np.abs(away @ velocity - speed) < s.inlier_sigmas * sigma
