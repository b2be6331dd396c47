"""Evidence of motion in single frames: does the image contradict every static point that a pixel could be?

Two tests have to agree. The geometric one asks whether where a pixel went can be explained by the camera motion and
one depth. The photometric one asks whether the image says so too: the surroundings of the pixel must look clearly worse
where the static point would be than where the flow leads, in units of what static things of that frame look like
when they are compared in the same way. So flow that is merely guessed (sky) speaks for nothing, and texture that
flickers without going anywhere (water, leaves), which flow explains hardly better than standing still, speaks
against motion. Residuals count only across the structure of the image: along an edge flow slides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from worldline.cues.optical_flow import sample
from worldline.cues.parallax import FlowChain, Limits, Sightings, grip, lens_of, static_hypothesis, texture
from worldline.cues.static_places import flow_difference, least_difference, sweep_of
from worldline.solve.structure import RigidStructure

MOST, LEAST = 3.0, -2.0
"""Log odds that one frame may say for and against motion."""

QUARTILES = 2.5
"""A misfit whose median is more lower quartiles than this is not that of one scene."""


FOLLOWED, PROBED = 0.45, 6
"""Share of the pixels that the farthest offset has to keep, and in how many frames that is looked at."""


@dataclass(frozen=True)
class EvidenceSettings:
    """Pixels are those of the video."""

    offsets: tuple[int, ...] = (2, 6)
    """Frames ahead and back in which a pixel is looked at."""
    model_px: float = 0.4
    """Error of the rigid scene itself, added to that of the flow."""
    threshold: float = 3.5
    """Residual, in standard deviations, beyond which a pixel speaks for motion."""
    medians: float = 8.0
    """Residual, in medians of the frame, that it takes besides: all of water moves a little."""
    sharpness: float = 2.0
    """How fast the log odds grow with the log of the residual."""
    contrast: float = 0.5
    """Log of how much worse the static place must look than the own one to speak for motion."""
    contrast_gain: float = 1.5
    """How fast the log odds grow with it."""
    least_contrast: float = 0.25
    """Contrast from which the image fully speaks for motion; it says nothing at 0."""
    agreement: float = 4.0
    """Most log odds for motion per log of the residual: beside its place a sharp edge looks very wrong at once."""
    standing: float = 0.5
    """Log odds against motion of what flow takes elsewhere but looks the same at the static place."""
    window: int = 5
    """Side of the surroundings that are compared, in cells of the grid."""
    noise: float = 3.0
    """Difference of things from themselves, in grey levels."""


class Seen(NamedTuple):
    """One direction in time: misfit in standard deviations, as far as the image holds it, and by how many grey levels
    the surroundings differ at the static and at the own place."""

    misfit: Float[np.ndarray, "h w"]
    static: Float[np.ndarray, "h w"]
    own: Float[np.ndarray, "h w"]


def paced(chain: FlowChain, settings: EvidenceSettings) -> EvidenceSettings:
    """The settings with half the offsets where a clip moves so fast that they lose most of its pixels."""
    most = max(settings.offsets)
    frames = np.unique(np.linspace(most, len(chain) - 1 - most, PROBED).round().astype(int))
    frames = frames[(frames >= 0) & (frames < len(chain))]
    followed = [np.isfinite(chain.follow(int(t), [-most, most]).sigma_px).mean() for t in frames]
    if not followed or np.median(followed) >= FOLLOWED:
        return settings
    return replace(settings, offsets=tuple(max(1, o // 2) for o in settings.offsets))


def frame_evidence(
    chain: FlowChain,
    scene: RigidStructure,
    luma: Float[np.ndarray, "t h w"],
    frame: int,
    limits: Limits,
    settings: EvidenceSettings,
) -> Float[np.ndarray, "h w"]:
    """Log odds that each pixel of a frame moves, from that frame and those around it; 0 where nothing can be said.

    Of the two directions in time the one that contradicts less counts: a static point may be hidden in the other.

    Args:
        luma: frames on the grid, 0 to 255. limits: least and greatest inverse depth of static points.
    """
    seen = chain.follow(frame, [o for k in settings.offsets for o in (-k, k)])
    sides = [seen.only([(f - frame) * way > 0 for f in seen.frames]) for way in (-1, 1)]
    ways = [compared(chain, scene, luma, frame, side, limits, settings) for side in sides if side.frames]
    if not ways:
        return np.zeros(chain.grid_uv.shape[:2], dtype=np.float32)
    limit = max(settings.threshold, settings.medians * _usual(_least([way.misfit for way in ways])))
    odds = np.nan_to_num(_least([_odds(way, limit, texture(luma[frame]), settings) for way in ways]))
    if (odds > 0).any():
        lead = _of_any_place(chain, scene, luma, frame, seen, limits, settings) + settings.least_contrast
        odds = np.where(odds > 0, _confirmed(odds, lead, settings), odds)
    return odds.astype(np.float32)


def compared(
    chain: FlowChain,
    scene: RigidStructure,
    luma: Float[np.ndarray, "t h w"],
    frame: int,
    side: Sightings,
    limits: Limits,
    settings: EvidenceSettings,
) -> Seen:
    """How far the sightings contradict the static hypothesis; NaN where a pixel cannot be followed."""
    lens = lens_of(scene, chain)
    fit = static_hypothesis(
        side, chain.grid_uv, scene.world_from_cam, frame, scene.intrinsics, limits=limits, lens=lens
    )
    variance = side.sigma_px**2 + np.float32(settings.model_px**2)
    followed = np.isfinite(variance)
    count = followed.sum(0)
    share = np.where(count > 0, 1 / np.maximum(count, 1), np.nan).astype(np.float32)
    differences = np.zeros((2, *count.shape), dtype=np.float32)
    for f, known, *places in zip(side.frames, followed, fit.static_uv, side.uv, strict=True):
        for total, uv in zip(differences, places, strict=True):
            gap = luma[frame] - sample(luma[f], uv / chain.scale)
            total += known * _around(gap * gap, settings.window)
    misfit = (grip(luma[frame]).squared(side.uv - fit.static_uv) / variance).sum(0)
    return Seen(*(np.sqrt(np.maximum(total, 0) * share) for total in (misfit, *differences)))


def _of_any_place(
    chain: FlowChain,
    scene: RigidStructure,
    luma: Float[np.ndarray, "t h w"],
    frame: int,
    seen: Sightings,
    limits: Limits,
    settings: EvidenceSettings,
) -> Float[np.ndarray, "*h w"]:
    """Contrast of the best of all static places; infinite where there is but one, or its line is bent by the lens.

    The best of many looks good by chance too, so it has to look better than where flow leads to count.
    """
    farthest, nearest = limits
    if isinstance(farthest, np.ndarray) or isinstance(nearest, np.ndarray) or nearest == farthest or scene.distortion:
        return np.array(np.inf, dtype=np.float32)
    sweep = sweep_of(chain, scene, luma, frame, seen.frames)
    static, own = least_difference(sweep, farthest, nearest), flow_difference(sweep, chain, seen)
    size = chain.grid_uv.shape[1::-1]
    return cv2.resize(_contrast(static, own, settings), size, interpolation=cv2.INTER_LINEAR)


def _odds(
    seen: Seen, limit: float, believed: Float[np.ndarray, "h w"], settings: EvidenceSettings
) -> Float[np.ndarray, "h w"]:
    geometric = np.log(np.maximum(seen.misfit, 1e-3) / limit)
    contrast = _contrast(seen.static**2, seen.own**2, settings)
    odds = settings.sharpness * geometric + settings.contrast_gain * (contrast - settings.contrast)
    agreed = np.minimum(odds, np.maximum(settings.agreement * geometric, 0)).clip(0, MOST)
    return np.where(odds > 0, _confirmed(agreed, contrast, settings), np.maximum(odds, LEAST)) * believed


def _contrast(static: np.ndarray, own: np.ndarray, settings: EvidenceSettings) -> Float[np.ndarray, "h w"]:
    """Log of how much worse the static place looks than the own one, from mean square differences."""
    noise = settings.noise**2
    return 0.5 * np.log((np.minimum(static, 256**2) + noise) / (np.minimum(own, 256**2) + noise))


def _confirmed(odds: np.ndarray, contrast: np.ndarray, settings: EvidenceSettings) -> Float[np.ndarray, "h w"]:
    """Log odds for motion as far as the image says that the pixel is not at the static place; against, if it is."""
    told = np.clip(contrast / settings.least_contrast, 0, 1)
    return odds * told - settings.standing * (1 - told)


def _around(values: np.ndarray, window: int) -> np.ndarray:
    return cv2.boxFilter(values, cv2.CV_32F, (window, window), borderType=cv2.BORDER_REFLECT)


def _least(maps: list[np.ndarray]) -> np.ndarray:
    return np.fmin(*maps) if len(maps) == 2 else maps[0]


def _usual(values: np.ndarray) -> float:
    """The median of the known values, as far as the smaller ones bear it out; 0 without any.

    Something that moves may fill more than half of the image, and then has the median.
    """
    known = values[np.isfinite(values)]
    return float(min(np.median(known), QUARTILES * np.percentile(known, 25))) if known.size else 0.0
