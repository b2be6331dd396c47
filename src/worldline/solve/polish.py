"""The last steps of a bundle adjustment: undamped Gauss-Newton on all sightings, cameras and focal length together.

Damped steps creep along the valley in which the focal length trades against the motion. Near the solution undamped
steps cross it, and a step along it finds what another focal length makes of the scene.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import se3
from worldline.solve import bundle, terms, uncertainty
from worldline.solve.problem import retract
from worldline.solve.robust import GemanMcClure
from worldline.solve.terms import PixelSamples
from worldline.solve.uncertainty import Moved

STEPS = 8
"""Most steps."""

STILL = 1e-4
"""Change of the log focal length at which the steps end."""

LONGEST = 0.1
"""Longest step of the log focal length."""

SETTLING = 3
"""Steps with the focal length held at the end of a walk along the valley."""

Solved: TypeAlias = tuple[Float[Tensor, "t 4 4"], Float[Tensor, "4"], Float[Tensor, "n 3"]]
"""Cameras, intrinsics and points."""


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
    focal_px: float | None = None,
) -> Polished:
    """Cameras, focal length and points of least reprojection error, from near it; the start where that is better.

    `focal_sigma` is what is known of the log focal length (0: all), about `focal_px`; without that it only steadies
    the steps.
    """
    start = now = (world_from_cam, intrinsics, points)
    for _ in range(STEPS):
        now, log_focal = _step(samples, now, focal_sigma, focal_px)
        if abs(log_focal) < STILL:
            break
    before, after = (cost(samples, at) for at in (start, now))
    return Polished(*(now if after < before else start), (before, after))


def at_focal(
    samples: PixelSamples,
    world_from_cam: Float[Tensor, "t 4 4"],
    intrinsics: Float[Tensor, "4"],
    points: Float[Tensor, "n 3"],
    focal_px: float,
) -> Polished:
    """Cameras and points of least error with another focal length, reached along the valley of the present one."""
    start = now = (world_from_cam, intrinsics, points)
    away = float((focal_px / intrinsics[0]).log())
    count = max(1, round(abs(away) / LONGEST))
    for _ in range(count):
        now = _step(samples, _along(samples, now, away / count), 0.0)[0]
    for _ in range(SETTLING):
        now = _step(samples, now, 0.0)[0]
    before, after = (cost(samples, at) for at in (start, now))
    return Polished(*now, (before, after))


def cost(samples: PixelSamples, at: Solved) -> float:
    """Mean robust cost of a sighting, the points where they fit best."""
    loss = GemanMcClure(uncertainty.KNEE)
    cameras, lens, points = _settled(samples, at)
    term = terms.reprojection_of_points(samples, cameras, lens, loss)
    return float(loss.cost(term.squares({"points": points})).mean())


def _step(
    samples: PixelSamples, now: Solved, focal_sigma: float, focal_px: float | None = None
) -> tuple[Solved, float]:
    """An undamped step, and by how much it changed the log focal length."""
    cameras, lens, points = now = _settled(samples, now)
    system = uncertainty.linearised(samples, cameras, lens, points)
    pull = system.pulls.sum(0, keepdim=True)
    if focal_px is not None and focal_sigma > 0:
        pull[0, -uncertainty.LENS] += float((lens[0] / focal_px).log()) / focal_sigma**2
    step = uncertainty.moved(system, pull, cameras, (focal_sigma, *uncertainty.EXACT), held=False)
    log_focal = -float(step.lens[0])
    part = min(1.0, LONGEST / max(abs(log_focal), 1e-12))
    return _stepped(now, step, -part, part * log_focal), part * log_focal


def _along(samples: PixelSamples, now: Solved, log_focal: float) -> Solved:
    """Another focal length, with the cameras and points that follow it to first order."""
    cameras, lens, points = now = _settled(samples, now)
    system = uncertainty.linearised(samples, cameras, lens, points)
    pull = torch.zeros_like(system.pulls[:1])
    pull[0, -uncertainty.LENS] = 1.0
    step = uncertainty.moved(system, pull, cameras, (1e3, *uncertainty.EXACT), held=False)
    return _stepped(now, step, log_focal / float(step.lens[0]), log_focal)


def _stepped(now: Solved, step: Moved, part: float, log_focal: float) -> Solved:
    cameras, lens, points = now
    back = cameras[:, :3, :3].transpose(1, 2)
    own = part * torch.cat([back @ step.centres, back @ step.turns], 1)[..., 0]
    scale = torch.tensor([log_focal, log_focal, 0.0, 0.0]).to(lens).exp()
    return retract(cameras, own), lens * scale, points + part * step.points[..., 0]


def _settled(samples: PixelSamples, at: Solved) -> Solved:
    cameras, lens, points = at
    found = bundle.refine_points(samples, cameras, lens, points, loss=GemanMcClure(uncertainty.KNEE))
    return cameras, lens, found.points
