"""Cameras under tracks, and the steps that improve them: their points, one more frame, bundle adjustment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.geometry import se3
from worldline.solve import bundle, resection, triangulation
from worldline.solve.focal import Focal
from worldline.solve.problem import Stop
from worldline.solve.robust import Cauchy
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.terms import PixelSamples
from worldline.solve.track_samples import TrackSamples


class Cameras(NamedTuple):
    """Cameras of all frames, and which of them were really seen; one focal length with its relative sigma.

    The samples beside them are those of a pinhole; `distortion` is that of the lens they were seen through.
    """

    world_from_cam: Float[Tensor, "t 4 4"]
    solved: Bool[Tensor, "t"]
    intrinsics: Float[Tensor, "4"]
    focal_sigma: float
    distortion: tuple[float, ...] = ()


def static_points(
    samples: TrackSamples, state: Cameras, s: StructureSettings
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, "n"]]:
    """Points from the solved frames, and which of them most of their samples agree with."""
    weight = samples.weight * state.solved[:, None]
    found = triangulation.triangulate(samples.uv, weight, state.world_from_cam, state.intrinsics)
    agree = ((found.residual_px < 2 * s.outlier_px) & (weight > 0)).sum(0)
    good = (agree >= 2) & (agree >= 0.6 * (weight > 0).sum(0))
    return found.points_world, good


def with_frame(
    samples: TrackSamples,
    t: int,
    points: Float[Tensor, "n 3"],
    good: Bool[Tensor, "n"],
    state: Cameras,
    s: StructureSettings,
) -> Cameras | None:
    """The cameras with frame `t` placed among the good points; None where it does not fit them."""
    use = (samples.weight[t] > 0) & good
    found = resection.resect(
        points[use].numpy(), samples.uv[t, use].numpy(), state.intrinsics.numpy(), threshold_px=2 * s.outlier_px
    )
    if found is None:
        return None
    start = torch.from_numpy(found)[None]
    weight = samples.weight[t : t + 1] * good
    cameras, solved = state.world_from_cam.clone(), state.solved.clone()
    cameras[t] = resection.refine_cameras(start, points, samples.uv[t : t + 1], weight, state.intrinsics)[0]
    solved[t] = True
    return state._replace(world_from_cam=cameras, solved=solved)


def adjusted(samples: TrackSamples, state: Cameras, focal: Focal, s: StructureSettings, steps: int = 12) -> Cameras:
    """Bundle adjustment of the solved frames with their points; the focal length joins from five frames on."""
    points, good = static_points(samples, state, s)
    frames = torch.nonzero(state.solved)[:, 0]
    track = torch.nonzero(good)[:, 0]
    if len(track) < 16:
        return state
    frame, point = torch.nonzero(samples.weight[frames][:, track] > 0, as_tuple=True)
    sighting = (frames[frame], track[point])
    sigma_px = samples.weight[sighting].rsqrt()
    doubt = focal.sigma * min(1.0, (s.effective / len(frame)) ** 0.5) if len(frames) >= 5 else 0.0
    result = bundle.adjust(
        PixelSamples(frame, point, samples.uv[sighting], sigma_px),
        state.world_from_cam[frames], state.intrinsics, points[track],
        focal_sigma=doubt, focal_prior=float(focal.intrinsics[0]),
        loss=Cauchy(3.0), stop=Stop(steps=steps, tolerance=1e-4),
    )  # fmt: skip
    cameras = state.world_from_cam.clone()
    cameras[frames] = result.world_from_cam
    return state._replace(world_from_cam=cameras, intrinsics=result.intrinsics)


def reweighted(samples: TrackSamples, state: Cameras, s: StructureSettings) -> TrackSamples:
    """The same samples with the noise that their residuals show instead of the one assumed."""
    points, good = static_points(samples, state, s)
    residual = triangulation.reprojection(points, samples.uv, state.world_from_cam, state.intrinsics)[1]
    noise = float(residual[(samples.weight > 0) & good].median()) / 1.18  # median of a Rayleigh distribution
    floor = min(max(noise, 0.2 * s.noise_px), 2 * s.noise_px)
    own = samples.weight.clamp_min(1e-9).reciprocal() - s.noise_px**2
    weight = 1 / (own.clamp_min(0) + floor**2)
    return samples._replace(weight=torch.where(samples.weight > 0, weight, samples.weight))


def anchored(samples: TrackSamples, state: Cameras, median_depth: float, s: StructureSettings) -> Cameras:
    """World = first camera, and the median depth of the structure as given."""
    cameras = se3.inverse(state.world_from_cam[:1]) @ state.world_from_cam
    points, good = static_points(samples, state._replace(world_from_cam=cameras), s)
    depth_z = triangulation.reprojection(points, samples.uv, cameras, state.intrinsics)[0]
    scale = median_depth / depth_z[(samples.weight > 0) & good & (depth_z > 0)].median()
    cameras[:, :3, 3] *= scale
    return state._replace(world_from_cam=cameras)
