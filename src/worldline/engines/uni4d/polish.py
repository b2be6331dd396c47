"""The last steps of the bundle: full Gauss-Newton on all sightings of the tracks that fit, without the depth cue.

Depth that was made from a first guess of the cameras holds them near that guess, and damped steps creep along the
valley in which the focal length trades against the motion. Near the solution undamped steps cross it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.engines.uni4d import doubts, structure, uncertainty
from worldline.engines.uni4d.inputs import FROM_HERE, Inputs
from worldline.engines.uni4d.world import metric_source
from worldline.geometry import se3
from worldline.scene.journal import Arrays, pack, unpack
from worldline.solve import bundle, terms
from worldline.solve.problem import retract
from worldline.solve.robust import GemanMcClure
from worldline.solve.terms import PixelSamples

STEPS = 8
"""Most steps."""

STILL = 1e-4
"""Change of the log focal length at which the steps end."""

LONGEST = 0.1
"""Longest step of the log focal length."""


BENT = 0.05
"""Median change of log depth, beyond a common scale, from which a polished scene is another one: where the images
leave a valley open, its lowest place means nothing, and the depth maps belong to where it was entered."""

TRACKS, SIGHTINGS = 2500, 64
"""Most tracks, and most sightings of each."""


def polished(inputs: Inputs, bundled: Arrays) -> Arrays:
    """The bundle, polished where nothing but the tracks speaks about the cameras; as it is elsewhere."""
    start = inputs.solved(bundled)
    told = inputs.depth.source.name not in FROM_HERE or inputs.poses is not None or metric_source(inputs) != ""
    if told or structure.one_centre(start.world_from_cam):
        return bundled
    tracks, columns = inputs.static_tracks
    noise, every, settings = float(bundled["noise"]), np.arange(len(columns)), inputs.config.bundling
    points, _ = structure.structure(tracks, every, start, settings, noise=noise)
    fit = structure.fit_of_tracks(tracks, every, start, points, settings, noise)
    chosen = doubts.well_fitted(inputs, fit.misfit.cpu().numpy(), TRACKS)
    if len(chosen) < inputs.config.doubting.blocks:
        return bundled
    samples = doubts.sightings(inputs, columns[chosen], np.arange(len(inputs.video)), SIGHTINGS, noise)
    where = points[torch.from_numpy(chosen).to(points.device)].cpu().double()
    found = polish(
        samples, torch.from_numpy(bundled["world_from_cam"]), torch.from_numpy(bundled["intrinsics"]), where,
        focal_sigma=doubts.focal_prior(inputs),
    )  # fmt: skip
    before = _log_depth(samples, torch.from_numpy(bundled["world_from_cam"]), where)
    after = _log_depth(samples, found.world_from_cam, found.points)
    world_from_cam, bent = in_its_scale(found.world_from_cam, before, after)
    costs = [round(cost, 4) for cost in found.costs]
    outcome = {**unpack(bundled["outcome"]), "polish": costs, "bent": round(bent, 4)}
    if not bent < BENT:
        return {**bundled, "outcome": pack({**outcome, "polish": "undone"})}
    return {
        **bundled, "world_from_cam": world_from_cam.numpy(), "intrinsics": found.intrinsics.numpy(),
        "outcome": pack(outcome),
    }  # fmt: skip


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


def _log_depth(
    samples: PixelSamples, world_from_cam: Float[Tensor, "t 4 4"], points: Float[Tensor, "n 3"]
) -> Float[Tensor, "m"]:
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
