"""The lens of a camera whose motion is known roughly: whether it distorts, its focal length, and how well it is seen.

Focal length and distortion are fitted together at the keyframes, where many tracks can be used. The distortion is
believed only where it is far from zero by the scatter of the tracks, and where tracks that took no part agree.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.solve import resection, triangulation
from worldline.solve.focal import Focal
from worldline.solve.lens import LensFit, LensPrior, fit_lens
from worldline.solve.problem import Stop
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.terms import PixelSamples
from worldline.solve.track_cameras import Cameras, adjusted, reweighted, static_points
from worldline.solve.track_polish import polished
from worldline.solve.track_samples import TrackSamples, log_misfit

FLAT = 0.01
"""Median distance from a plane, in median distances from the camera, below which the points are on it."""

HELD_OUT = 5
"""Every so many of the tracks judges the lens instead of taking part."""


class Lens(NamedTuple):
    """Intrinsics (4,), k1 and k2 (empty where the lens is taken for a pinhole), relative sigma of the focal length."""

    intrinsics: Float[Tensor, "4"]
    distortion: tuple[float, ...]
    focal_sigma: float


def through_lens(
    everything: TrackSamples,
    used: Int[Tensor, "m"],
    state: Cameras,
    lens: Lens,
    focal: Focal,
    s: StructureSettings,
) -> tuple[TrackSamples, Cameras]:
    """All samples as a pinhole would have seen them, and the cameras of a last adjustment on the used ones."""
    ideal = everything.ideal(lens.intrinsics, lens.distortion)
    state = state._replace(intrinsics=lens.intrinsics, focal_sigma=lens.focal_sigma, distortion=lens.distortion)
    samples = reweighted(ideal.tracks(used), state, s)
    state = adjusted(samples, state, focal._replace(sigma=0.0), s, steps=12)
    # a lens that distorts was found together with its focal length
    state = state if any(lens.distortion) else polished(samples, state, focal, s)
    cameras = resection.interpolate_missing(state.world_from_cam, state.solved)
    return ideal, state._replace(world_from_cam=cameras)


def calibrated(
    samples: TrackSamples,
    keys: Int[Tensor, "k"],
    state: Cameras,
    focal: Focal,
    s: StructureSettings,
    *,
    distorts: bool = True,
) -> Lens:
    """The lens behind the samples, which are those of the real camera; `distorts` False: it is known not to."""
    family = _families(samples, state.intrinsics)
    few = samples.frames(keys)
    here = state._replace(world_from_cam=state.world_from_cam[keys], solved=state.solved[keys])
    few = few._replace(weight=few.weight * here.solved[:, None])
    good = static_points(few, here, s)[1]
    track = torch.nonzero(good)[:, 0]
    judges = track[::HELD_OUT]
    track = track[torch.arange(len(track)) % HELD_OUT > 0]
    if len(track) < 64:
        return Lens(state.intrinsics, (), focal.sigma)
    wide = _fit(few, here, track, family, focal, s, s.distortion_sigma if distorts else 0.0)
    sigma = max(s.least_focal_sigma, float(wide.covariance[0, 0].sqrt())) if focal.sigma > 0 else 0.0
    sigma = focal.sigma if _flat(wide) else sigma
    if distorts and _believed(wide, s):
        plain = _fit(few, here, track, family, focal, s, 0.0)
        if _misfit(few.tracks(judges), state, wide) < _misfit(few.tracks(judges), state, plain):
            return Lens(_longer(state.intrinsics, wide), tuple(wide.lens[1:].tolist()), sigma)
    return Lens(state.intrinsics, (), sigma)


def _flat(fit: LensFit) -> bool:
    """Whether what is seen is one plane, under which many focal lengths have a minimum of their own."""
    away = fit.points - fit.world_from_cam[0, :3, 3]
    weight = torch.ones_like(away[:, :1])
    distance = weight[:, 0]
    for _ in range(5):
        centre = (weight * away).sum(0) / weight.sum()
        normal = torch.linalg.eigh((weight * (away - centre)).T @ (away - centre)).eigenvectors[:, 0]
        distance = ((away - centre) @ normal).abs()
        weight = 1 / (1 + (distance / distance.median().clamp_min(1e-9)).square())[:, None].square()
    return float(distance.median()) < FLAT * float(away.norm(dim=-1).median())


def _believed(fit: LensFit, s: StructureSettings) -> bool:
    """Whether k1 and k2 are far enough from zero for their scatter (Wald's test)."""
    k = fit.lens[1:]
    return float(k @ torch.linalg.solve(fit.covariance[1:, 1:], k)) > s.distortion_evidence


def _fit(
    few: TrackSamples,
    here: Cameras,
    track: Int[Tensor, "n"],
    family: Int[Tensor, "f m"],
    focal: Focal,
    s: StructureSettings,
    distortion_sigma: float,
) -> LensFit:
    frame, point = torch.nonzero(few.weight[:, track] > 0, as_tuple=True)
    sighting = (frame, track[point])
    points = static_points(few.tracks(track), here, s)[0]
    expected = float((focal.intrinsics[0] / here.intrinsics[0]).log())
    return fit_lens(
        PixelSamples(frame, point, few.uv[sighting], few.weight[sighting].rsqrt()),
        here.world_from_cam, points, here.intrinsics,
        LensPrior(focal.sigma, distortion_sigma, s.centre_sigma, expected), family[:, track], stop=Stop(12, 1e-5),
    )  # fmt: skip


def _families(samples: TrackSamples, intrinsics: Float[Tensor, "4"]) -> Int[Tensor, "2 n"]:
    """Tracks that start in the same region of the image, and tracks that start in the same frame."""
    first = (samples.weight > 0).to(torch.uint8).argmax(0)
    place = samples.uv[first, torch.arange(len(first))] / (2 * intrinsics[2:])
    column, row = (place[:, 0] * 4).long().clamp(0, 3), (place[:, 1] * 3).long().clamp(0, 2)
    return torch.stack([row * 4 + column, first])


def _longer(intrinsics: Float[Tensor, "4"], fit: LensFit) -> Float[Tensor, "4"]:
    return torch.cat([intrinsics[:2] * fit.lens[0].exp(), intrinsics[2:]])


def _misfit(judges: TrackSamples, state: Cameras, fit: LensFit) -> float:
    """How badly tracks that took no part fit the cameras of a fit."""
    intrinsics = _longer(state.intrinsics, fit)
    ideal = judges.ideal(intrinsics, tuple(fit.lens[1:].tolist()))
    found = triangulation.triangulate(ideal.uv, ideal.weight, fit.world_from_cam, intrinsics)
    return log_misfit(found.residual_px, ideal.weight)
