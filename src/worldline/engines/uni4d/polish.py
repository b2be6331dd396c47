"""The last steps of the bundle: full Gauss-Newton on all sightings of the tracks that fit, without the depth cue.

Depth that was made from a first guess of the cameras holds them near that guess; see `solve/polish.py` for the steps.
"""

from __future__ import annotations

import numpy as np
import torch

from worldline.engines.uni4d import doubts, structure
from worldline.engines.uni4d.inputs import FROM_HERE, Inputs
from worldline.engines.uni4d.world import metric_source
from worldline.scene.journal import Arrays, pack, unpack
from worldline.solve.polish import in_its_scale, log_depth, polish

BENT = 0.15
"""Median change of log depth, beyond a common scale, from which a polished scene is another one: where the images
leave a valley open, its lowest place means nothing; what bends less, the points take the depth maps along with."""

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
    before = log_depth(samples, torch.from_numpy(bundled["world_from_cam"]), where)
    after = log_depth(samples, found.world_from_cam, found.points)
    world_from_cam, bent = in_its_scale(found.world_from_cam, before, after)
    costs = [round(cost, 4) for cost in found.costs]
    outcome = {**unpack(bundled["outcome"]), "polish": costs, "bent": round(bent, 4)}
    if not bent < BENT:
        return {**bundled, "outcome": pack({**outcome, "polish": "undone"})}
    return {
        **bundled, "world_from_cam": world_from_cam.numpy(), "intrinsics": found.intrinsics.numpy(),
        "outcome": pack(outcome),
    }  # fmt: skip
