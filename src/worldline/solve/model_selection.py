"""Which of two motions of the camera explains the tracks: by likelihood and the number of unknowns, movers left out.

Noise of unknown size makes minus twice the log likelihood of a track 2 m ln(e^2), with m sightings and the mean
squared residual e^2; unknowns are paid for as in the Bayesian information criterion (Schwarz, "Estimating the dimension
of a model", 1978). Torr's GRIC ("Bayesian model estimation and selection for epipolar geometry and generic manifold
fitting", IJCV 2002) counts the same unknowns: those of the cameras, and of every track the dimension of what it lies
on (two where the camera turns, three where it moves). Sightings along a track share their errors, so they count as
few, and all tracks together as `StructureSettings.effective` sightings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_samples import TrackSamples, fitting

SIGHTINGS = 3.0
"""Independent sightings that a track is worth."""
OUTER = 0.35
"""Distance from the middle, as a share of the image, beyond which a sighting is near its border."""


class Explanation(NamedTuple):
    """How a model fits: residuals of every sighting in pixels, its unknowns for all cameras, and for every track."""

    residual_px: Float[Tensor, "t n"]
    camera_unknowns: int
    track_unknowns: int


def better(
    samples: TrackSamples, simple: Explanation, rich: Explanation, size: Float[Tensor, "2"], s: StructureSettings
) -> bool:
    """Whether the richer model is worth its unknowns.

    Tracks that neither model fits are movers and have no say. Nor have those that only the rich one fits, where they
    are few and surrounded by tracks that the simple one fits: that is how an object looks that a turning camera
    follows, while the parallax of a scene reaches the borders of the image.
    """
    fits_simple, fits_rich = (fitting(m.residual_px, samples.weight) for m in (simple, rich))
    gained = fits_rich & ~fits_simple
    judged = fits_rich | fits_simple
    if gained.sum() < fits_simple.sum() and enclosed(samples, gained, fits_simple, size):
        judged = judged & ~gained
    if int(judged.sum()) < 16:
        return False
    gain = float((_log_square(samples, simple, s) - _log_square(samples, rich, s))[judged].mean())
    return gain > _price(simple, rich, s)


def enclosed(
    samples: TrackSamples, inside: Bool[Tensor, "n"], around: Bool[Tensor, "n"], size: Float[Tensor, "2"]
) -> bool:
    """Whether some tracks keep away from the borders of the image, which others reach."""
    share = [outer_share(samples.tracks(torch.nonzero(k)[:, 0]), size) for k in (inside, around)]
    return share[0] < 0.5 * share[1]


def outer_share(samples: TrackSamples, size: Float[Tensor, "2"]) -> float:
    """Share of the sightings in the outer 15 per cent of the image on any side."""
    outer = ((samples.uv / size - 0.5).abs() > OUTER).any(-1)
    seen = samples.weight > 0
    return float((outer & seen).sum() / seen.sum().clamp_min(1))


def _price(simple: Explanation, rich: Explanation, s: StructureSettings) -> float:
    """What the further unknowns cost, in mean log squared residual per track."""
    numbers = 2 * SIGHTINGS
    of_track = (rich.track_unknowns - simple.track_unknowns) * np.log(numbers)
    of_cameras = (rich.camera_unknowns - simple.camera_unknowns) * np.log(2 * s.effective)
    return float(of_track / numbers + of_cameras / (2 * s.effective))


def _log_square(samples: TrackSamples, model: Explanation, s: StructureSettings) -> Float[Tensor, "n"]:
    """Log of every track's mean squared residual, which is never believed to be below the noise."""
    seen = samples.weight > 0
    square = torch.where(seen, model.residual_px.clamp_max(20).square(), torch.zeros_like(samples.weight)).sum(0)
    return (square / seen.sum(0).clamp_min(1) + s.noise_px**2).log()
