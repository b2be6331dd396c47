"""Cameras from depth that is measured: frame by frame, among the points that the depth of other frames gives.

Needs neither parallax nor many frames: two frames, or a camera that stands still, are enough.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.solve import resection
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_cameras import Cameras, with_frame
from worldline.solve.track_depth import TrackDepth, unprojected
from worldline.solve.track_samples import TrackSamples

LEAST_SIGHTINGS = 24
"""A frame with fewer sightings of known depth cannot be placed by them."""


def enough_depth(samples: TrackSamples, depth: TrackDepth) -> bool:
    """Whether nearly every frame shows enough tracks of known depth."""
    per_frame = (depth.known & (samples.weight > 0)).sum(1)
    return bool((per_frame >= LEAST_SIGHTINGS).double().mean() > 0.8)


def cameras_from_depth(
    samples: TrackSamples, depth: TrackDepth, intrinsics: Float[Tensor, "4"], s: StructureSettings
) -> Cameras:
    """Cameras in the scale of the depth maps, the world that of the frame that shares most tracks with the others.

    Frames that cannot be placed are interpolated and not `solved`.
    """
    count = len(samples.uv)
    has = depth.known & (samples.weight > 0)
    shared = has.double() @ (samples.weight > 0).double().T
    first = int(shared.clamp_max(float(shared.diagonal().median())).sum(1).argmax())
    eye = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    solved = torch.arange(count) == first
    state, failed = Cameras(eye, solved, intrinsics, 0.0), torch.zeros_like(solved)
    while not bool((state.solved | failed).all()):
        points, known = points_from_depth(samples, state, depth)
        seen = ((samples.weight > 0) & known).sum(1)
        t = int(torch.where(state.solved | failed, torch.full_like(seen, -1), seen).argmax())
        wider = with_frame(samples, t, points, known, state, s)
        failed[t] = wider is None
        state = state if wider is None else wider
    cameras = resection.interpolate_missing(state.world_from_cam, state.solved)
    return state._replace(world_from_cam=cameras)


def points_from_depth(samples: TrackSamples, state: Cameras, depth: TrackDepth) -> tuple[Float[Tensor, "n 3"], Tensor]:
    """Where the depth of the solved frames puts each track (their weighted mean), and which tracks have any."""
    use = depth.known & (samples.weight > 0) & state.solved[:, None]
    frame, track = torch.nonzero(use, as_tuple=True)
    where = unprojected(
        samples.uv[frame, track], depth.log_depth[frame, track], state.world_from_cam[frame], state.intrinsics
    )
    weight = depth.sigma[frame, track].square().reciprocal()
    total = torch.zeros(use.shape[1], dtype=where.dtype).index_add_(0, track, weight)
    points = torch.zeros(use.shape[1], 3, dtype=where.dtype).index_add_(0, track, where * weight[:, None])
    return points / total.clamp_min(1e-12)[:, None], total > 0
