"""Bundle adjustment of a rigid structure together with what is known, each with its own uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.geometry import se3
from worldline.solve import bundle, terms, triangulation
from worldline.solve.bundle import DepthSamples
from worldline.solve.depth_cameras import points_from_depth
from worldline.solve.focal import Focal
from worldline.solve.known_poses import KnownPoses, pose_prior
from worldline.solve.problem import Stop, Term
from worldline.solve.robust import Cauchy
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.surface_alignment import Surfaces, surface_pairs
from worldline.solve.terms import PixelSamples
from worldline.solve.track_cameras import Cameras
from worldline.solve.track_depth import TrackDepth
from worldline.solve.track_samples import TrackSamples

PER_FRAME = 50
"""Independent sightings that a frame is worth against what is known: the errors of neighbouring tracks go together."""


class Placed(NamedTuple):
    """Cameras in the world of what is known, and what of it takes part (depth in the units of that world)."""

    cameras: Cameras
    poses: KnownPoses | None
    depth: TrackDepth | None
    sized: bool
    """Whether poses or depth fix the scale."""


class Points(NamedTuple):
    """Static points (N, 3), which of them most of their samples agree with (N,), and all residuals (T, N) in pixels."""

    points_world: Float[Tensor, "n 3"]
    good: Bool[Tensor, "n"]
    residual_px: Float[Tensor, "t n"]


def anchored_points(samples: TrackSamples, cameras: Cameras, depth: TrackDepth | None, s: StructureSettings) -> Points:
    """Triangulated where the rays of a track meet at an angle that tells more than its depth does, else from depth."""
    weight = samples.weight * cameras.solved[:, None]
    found = triangulation.triangulate(samples.uv, weight, cameras.world_from_cam, cameras.intrinsics)
    points, residual = found.points_world, found.residual_px
    if depth is not None:
        cast, has = points_from_depth(samples, cameras, depth)
        noise = s.noise_px / float(cameras.intrinsics[0]) / found.spread_rad.clamp_min(1e-9)
        depth_sigma = depth.sigma.nan_to_num(torch.inf).amin(0)
        points = torch.where((has & (depth_sigma < noise))[:, None], cast, points)
        residual = triangulation.reprojection(points, samples.uv, cameras.world_from_cam, cameras.intrinsics)[1]
    seen = weight > 0
    agree = ((residual < 2 * s.outlier_px) & seen).sum(0)
    return Points(points, (agree >= 2) & (agree >= 0.6 * seen.sum(0)), residual)


def bundled(
    samples: TrackSamples,
    placed: Placed,
    focal: Focal,
    s: StructureSettings,
    *,
    surfaces: Surfaces | None = None,
    steps: int = 12,
) -> Placed:
    """Cameras, points and (unless it is certain) the focal length that agree best with the tracks and what is known.

    Surfaces are compared under the cameras that it starts from.
    """
    cameras = placed.cameras
    points = anchored_points(samples, cameras, placed.depth, s)
    frames, track = torch.nonzero(cameras.solved)[:, 0], torch.nonzero(points.good)[:, 0]
    if len(track) < 8 or len(frames) < 2:
        return placed
    frame, point = torch.nonzero(samples.weight[frames][:, track] > 0, as_tuple=True)
    sighting = (frames[frame], track[point])
    share = share_of(len(frame), len(frames))
    doubt = focal.sigma * min(1.0, (s.effective / len(frame)) ** 0.5) if len(frames) >= 5 or placed.depth else 0.0
    depth = _depth_of(placed.depth, sighting, point, share)
    result = bundle.adjust(
        PixelSamples(frame, point, samples.uv[sighting], samples.weight[sighting].rsqrt()),
        cameras.world_from_cam[frames], cameras.intrinsics, points.points_world[track],
        focal_sigma=doubt, focal_prior=float(focal.intrinsics[0]), depth=depth,
        extra=_surfaces_of(placed, surfaces, frames, share), held=_held(placed, frames, share), loss=Cauchy(3.0),
        stop=Stop(steps=steps, tolerance=1e-4),
    )  # fmt: skip
    moved = cameras.world_from_cam.clone()
    moved[frames] = result.world_from_cam
    return placed._replace(cameras=cameras._replace(world_from_cam=moved, intrinsics=result.intrinsics))


def _depth_of(
    depth: TrackDepth | None, sighting: tuple[Tensor, Tensor], point: Tensor, share: float
) -> DepthSamples | None:
    """The depth at the sightings; what is said along one track counts once, since its errors go together."""
    if depth is None:
        return None
    log_depth, sigma = depth.log_depth[sighting], depth.sigma[sighting]
    known = log_depth.isfinite() & sigma.isfinite()
    count = torch.zeros(int(point.max()) + 1, dtype=sigma.dtype).index_add_(0, point, known.to(sigma)).clamp_min(1)
    sigma = torch.where(known, sigma * count[point].sqrt(), torch.full_like(sigma, 1e6))
    return DepthSamples(torch.where(known, log_depth, torch.zeros_like(log_depth)), sigma, depth.scale_sigma * share)


def _surfaces_of(placed: Placed, surfaces: Surfaces | None, frames: Tensor, share: float) -> list[Term]:
    """What surfaces say about the cameras, where depth takes part."""
    cameras = placed.cameras
    if surfaces is None or placed.depth is None:
        return []
    seen = surfaces.scaled(placed.depth.log_shift)
    pairs = surface_pairs(seen, cameras.world_from_cam, cameras.solved, cameras.intrinsics)
    like = cameras.world_from_cam
    return [] if pairs is None else [pairs.term(share, like, frames)]


def _held(placed: Placed, frames: Tensor, share: float) -> list[Term]:
    """What fixes the world: the known poses, let go where they contradict; else the first camera, and a size."""
    cameras = placed.cameras.world_from_cam[frames]
    size = [] if placed.sized else bundle.held_size(cameras)
    poses = placed.poses
    if poses is None or not bool(poses.known[frames].any()):
        return [terms.motion_prior(cameras, frames.new_zeros(1), 1e-6, 1e-6), *size]
    here = poses._replace(world_from_cam=poses.world_from_cam[frames], known=poses.known[frames])
    return [pose_prior(here, share), *size]


def share_of(sightings: int, frames: int) -> float:
    """By how much what is known must claim to be better, for so many sightings whose errors go together."""
    return min(1.0, (PER_FRAME * frames / max(sightings, 1)) ** 0.5)


def in_first_camera(cameras: Cameras) -> Cameras:
    """The same cameras in the world of the first one."""
    return cameras._replace(world_from_cam=se3.inverse(cameras.world_from_cam[:1]) @ cameras.world_from_cam)
