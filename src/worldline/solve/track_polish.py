"""The polish of cameras under tracks: where damped steps would end if they went on, with the noise that is measured.

The adjustments that grow a structure are forgiving, so that what drifts a little pulls at the focal length; here it
does not.
"""

from __future__ import annotations

from dataclasses import replace
from math import log

import torch
from torch import Tensor

from worldline.solve import bundle, resection
from worldline.solve.focal import Focal
from worldline.solve.polish import polish
from worldline.solve.robust import Cauchy
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.terms import PixelSamples
from worldline.solve.track_cameras import Cameras, static_points
from worldline.solve.track_samples import TrackSamples

TRACKS, SIGHTINGS = 800, 24
"""Most tracks, and most sightings of each."""

LEAST = 64
"""Fewest tracks that are worth it."""

QUARTILE = -2 * log(0.75)
"""Lower quartile of the squared length of two standard normal components."""


def polished(samples: TrackSamples, state: Cameras, focal: Focal, s: StructureSettings) -> Cameras:
    """The cameras with the focal length of least robust cost; the same ones where it is known or little is static."""
    where, good = static_points(samples, state, s)
    track = torch.nonzero(good)[:, 0]
    track = track[torch.linspace(0, len(track) - 1, min(TRACKS, len(track))).long()]
    if len(track) < LEAST or focal.sigma == 0:
        return state
    frames = torch.nonzero(state.solved)[:, 0]
    here, points = state.world_from_cam[frames], where[track]
    few = _measured(_sightings(samples.frames(frames).tracks(track)), here, state.intrinsics, points)
    doubt = focal.sigma * min(1.0, (s.effective / len(few)) ** 0.5)
    found = polish(few, here, state.intrinsics, points, focal_sigma=doubt, focal_px=float(focal.intrinsics[0]))
    cameras = state.world_from_cam.clone()
    cameras[frames] = found.world_from_cam
    cameras = resection.interpolate_missing(cameras, state.solved)
    return state._replace(world_from_cam=cameras, intrinsics=found.intrinsics)


def _sightings(samples: TrackSamples) -> PixelSamples:
    """What was seen of the tracks, evenly thinned."""
    seen = samples.weight > 0
    number = seen.cumsum(0) - 1
    every = (seen.sum(0) / SIGHTINGS).clamp_min(1.0)
    seen = seen & ((number / every).floor() != ((number - 1) / every).floor())
    frame, point = torch.nonzero(seen, as_tuple=True)
    return PixelSamples(frame, point, samples.uv[frame, point], samples.weight[frame, point].rsqrt())


def _measured(samples: PixelSamples, cameras: Tensor, intrinsics: Tensor, points: Tensor) -> PixelSamples:
    """The samples with the noise that the better half of them shows."""
    square = bundle.refine_points(samples, cameras, intrinsics, points, loss=Cauchy(3.0)).square
    noise = (square.sort().values[len(square) // 4] / QUARTILE).sqrt().clamp_min(1e-3)
    return replace(samples, sigma_px=samples.sigma_px * noise)
