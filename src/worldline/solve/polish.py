"""The last steps of a bundle adjustment: undamped Gauss-Newton on all sightings, cameras and focal length together.

Damped steps creep along the valley in which the focal length trades against the motion. Near the solution undamped
steps cross it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import se3
from worldline.solve import bundle, terms, uncertainty
from worldline.solve.problem import retract
from worldline.solve.robust import GemanMcClure
from worldline.solve.terms import PixelSamples

STEPS = 8
"""Most steps."""

STILL = 1e-4
"""Change of the log focal length at which the steps end."""

LONGEST = 0.1
"""Longest step of the log focal length."""


def in_its_scale(
    world_from_cam: Float[Tensor, "t 4 4"], before: Float[Tensor, "m"], after: Float[Tensor, "m"]
) -> tuple[Float[Tensor, "t 4 4"], float]:
    """Cameras in the world of the first one with the scale that log depth had before, and how far depth was bent.

    Nothing seen has a scale, but the depth maps have one, and the solution must keep it.
    """
    change = after - before
    scaled = se3.inverse(world_from_cam[:1]) @ world_from_cam
    scaled[:, :3, 3] /= change.median().exp()
    return scaled, float((change - change.median()).abs().median())


def log_depth(
    samples: PixelSamples, world_from_cam: Float[Tensor, "t 4 4"], points: Float[Tensor, "n 3"]
) -> Float[Tensor, "m"]:
    """Log depth of every sighting's point in the camera that saw it."""
    return terms.in_camera(world_from_cam[samples.frame], points[samples.point])[:, 2].clamp_min(terms.NEAREST).log()


class Polished(NamedTuple):
    """Cameras and points, and the mean robust cost of a sighting before and after."""

    world_from_cam: Float[Tensor, "t 4 4"]
    intrinsics: Float[Tensor, "4"]
    points: Float[Tensor, "n 3"]
    costs: tuple[float, float]


def polish(
    samples: PixelSamples,
    world_from_cam: Float[Tensor, "t 4 4"],
    intrinsics: Float[Tensor, "4"],
    points: Float[Tensor, "n 3"],
    *,
    focal_sigma: float,
) -> Polished:
    """Cameras, focal length and points of least reprojection error, from near it; the start where that is better.

    `focal_sigma` is what is known of the log focal length (0: all) and only steadies the steps.
    """
    lens_sigma = (focal_sigma, *(0.0 for _ in uncertainty.UNMODELLED_SIGMA))
    start = now = (world_from_cam, intrinsics, points)
    for _ in range(STEPS):
        cameras, lens, where = now
        where = _settled(samples, cameras, lens, where)
        system = uncertainty.linearised(samples, cameras, lens, where)
        pull = system.pulls.sum(0, keepdim=True)
        step = uncertainty.moved(system, pull, cameras, lens_sigma, held=False)
        log_focal = -float(step.lens[0])
        part = min(1.0, LONGEST / max(abs(log_focal), 1e-12))
        back = cameras[:, :3, :3].transpose(1, 2)
        own = -part * torch.cat([back @ step.centres, back @ step.turns], 1)[..., 0]
        scale = torch.tensor([part * log_focal, part * log_focal, 0.0, 0.0]).to(lens).exp()
        now = retract(cameras, own), lens * scale, where - part * step.points[..., 0]
        if abs(log_focal) < STILL:
            break
    before, after = (_cost(samples, *at[:2], _settled(samples, *at)) for at in (start, now))
    return Polished(*(now if after < before else start), (before, after))


def _settled(samples: PixelSamples, cameras: Tensor, lens: Tensor, points: Tensor) -> Tensor:
    return bundle.refine_points(samples, cameras, lens, points, loss=GemanMcClure(uncertainty.KNEE)).points


def _cost(samples: PixelSamples, cameras: Tensor, lens: Tensor, points: Tensor) -> float:
    loss = GemanMcClure(uncertainty.KNEE)
    term = terms.reprojection_of_points(samples, cameras, lens, loss)
    return float(loss.cost(term.squares({"points": points})).mean())
