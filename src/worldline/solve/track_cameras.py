"""Cameras under tracks, and the steps that improve them: their points, one more frame, bundle adjustment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.solve import bundle, resection, triangulation
from worldline.solve.focal import Focal
from worldline.solve.problem import Stop
from worldline.solve.robust import Cauchy
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.terms import PixelSamples
from worldline.solve.track_samples import TrackSamples


class Cameras(NamedTuple):
    """Cameras of all frames, and which of them were really seen; one focal length with its relative sigma."""

    world_from_cam: Float[Tensor, "t 4 4"]
    solved: Bool[Tensor, "t"]
    intrinsics: Float[Tensor, "4"]
    focal_sigma: float


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
