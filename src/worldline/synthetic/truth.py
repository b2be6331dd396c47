"""Exact answers about a world: depth, masks, 3D and 2D tracks with visibility, optical flow. All in float64.

A point on a surface is an `Anchors` entry: a part and a place in its object coordinates, known at every time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.geometry import camera, pixels, se3
from worldline.scene.motion import WorldTracks
from worldline.scene.observations import PixelTracks, Source
from worldline.synthetic import trace
from worldline.synthetic.world import World

_SAME_SURFACE = 1e-6


class Anchors(NamedTuple):
    """Points that stick to surfaces: part (-1: sky) and object coordinates."""

    part: Int[Tensor, "n"]
    points_object: Float[Tensor, "n 3"]


class OpticalFlow(NamedTuple):
    """Displacement of every pixel centre of one frame to another, NaN on the sky; and where it is still seen there."""

    displacement_px: Float[np.ndarray, "h w 2"]
    visible: Bool[np.ndarray, "h w"]


def rays(
    world: World, frame: int, uv: Float[Tensor, "n 2"] | None = None, *, device: str | torch.device = "cpu"
) -> Float[Tensor, "n 2"]:
    """x and y of camera rays (x, y, 1) through uv, or through all pixel centres in reading order."""
    if uv is None:
        size = (world.camera.height, world.camera.width)
        uv = pixels.centres(*size, dtype=torch.float64, device=device).reshape(-1, 2)
    intrinsics = torch.as_tensor(world.camera.at(frame).copy(), dtype=uv.dtype, device=uv.device)
    return camera.rays_z1(uv, intrinsics)[:, :2]


def anchors(world: World, frame: int, uv: Float[Tensor, "n 2"] | None = None) -> Anchors:
    """The surface points seen at uv (float64, any device) in one frame; all pixel centres when uv is not given."""
    xy = rays(world, frame, uv)
    seen = _view(world, frame, xy.device)
    hits = trace.trace(seen, xy)
    motions = seen.object_from_view[hits.part.clamp_min(0)]
    return Anchors(hits.part, trace.apply_each(motions, trace.hit_points(hits, xy)))


def points_world(world: World, points: Anchors, frame: int) -> Float[Tensor, "n 3"]:
    """Where anchored points are at one frame, world = first camera; NaN for the sky."""
    motion = torch.as_tensor(world.world_from_ground @ world.ground_from_object(frame), device=points.part.device)
    moved = trace.apply_each(motion[points.part.clamp_min(0)], points.points_object)
    return torch.where(points.part[:, None] < 0, torch.nan, moved)


def project(world: World, points: Anchors, frame: int) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, "n"]]:
    """uv of anchored points at one frame, and whether the camera sees them there.

    Visible means: in the image, and the ray through exactly this uv meets the same part at the same depth first.
    uv is NaN for the sky and for points behind the camera.
    """
    device = points.part.device
    cam_from_world = se3.inverse(torch.as_tensor(world.world_from_cam[frame], device=device))
    points_cam = se3.apply(cam_from_world, points_world(world, points, frame))
    intrinsics = torch.as_tensor(world.camera.at(frame).copy(), device=device)
    ahead = points_cam[:, 2] > 1e-3
    uv = torch.where(ahead[:, None], camera.project(points_cam, intrinsics), torch.nan)
    candidates = ahead & pixels.inside(uv, world.camera.height, world.camera.width)
    visible = torch.zeros_like(candidates)
    hits = trace.trace(_view(world, frame, device), rays(world, frame, uv[candidates]))
    same = (hits.depth_z - points_cam[candidates, 2]).abs() <= _SAME_SURFACE * points_cam[candidates, 2]
    visible[candidates] = same & (hits.part == points.part[candidates])
    return uv, visible


def pixel_tracks(
    world: World,
    uv: Float[np.ndarray, "n 2"],
    query_frame: Int[np.ndarray, "n"],
    *,
    device: str | torch.device = "cpu",
) -> PixelTracks:
    """Exact 2D tracks of the surface points seen at uv in their query frames; tracks of the sky are never visible."""
    paths, seen = _follow(world, _query(world, uv, query_frame, device))
    uv_t = torch.nan_to_num(paths, nan=-1.0).float().numpy(force=True)
    sigma = np.full(uv_t.shape[:2], 1e-3, dtype=np.float32)
    return PixelTracks(uv_t, seen.numpy(force=True), sigma, np.asarray(query_frame), Source("synthetic truth"))


def world_tracks(
    world: World,
    uv: Float[np.ndarray, "n 2"],
    query_frame: Int[np.ndarray, "n"],
    frames: np.ndarray | None = None,
    *,
    device: str | torch.device = "cpu",
) -> WorldTracks:
    """Exact 3D tracks of the surface points seen at uv in their query frames; queries of the sky are left out.

    `frames` (T, H, W, 3) gives the tracks the colour of their query pixel (else grey).
    """
    points = _query(world, uv, query_frame, device)
    kept = points.part >= 0
    points = Anchors(points.part[kept], points.points_object[kept])
    keep = kept.numpy(force=True)
    uv, query_frame = np.asarray(uv)[keep], np.asarray(query_frame)[keep]
    positions = torch.stack([points_world(world, points, t) for t in range(len(world))])
    moving = torch.as_tensor(world.moving, device=points.part.device)[points.part] > 0
    return WorldTracks(
        positions.float().numpy(force=True),
        _follow(world, points)[1].numpy(force=True),
        np.zeros(positions.shape[:2], dtype=np.float32),
        _colour(frames, uv, query_frame),
        moving.numpy(force=True),
        query_frame,
    )


def optical_flow(world: World, source: int, target: int, *, device: str | torch.device = "cpu") -> OpticalFlow:
    """Exact displacement (pixels) of every pixel centre of frame `source` to frame `target`."""
    size = (world.camera.height, world.camera.width)
    uv = pixels.centres(*size, dtype=torch.float64, device=device).reshape(-1, 2)
    moved, visible = project(world, anchors(world, source, uv), target)
    displacement = (moved - uv).reshape(*size, 2).float().numpy(force=True)
    return OpticalFlow(displacement, visible.reshape(size).numpy(force=True))


def query_grid(world: World, step_px: int, every: int) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, "n"]]:
    """uv and query frames of a regular grid that is seeded again every so many frames."""
    u = np.arange(step_px / 2, world.camera.width, step_px)
    v = np.arange(step_px / 2, world.camera.height, step_px)
    grid = np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)
    starts = np.arange(0, len(world), every)
    return np.tile(grid, (len(starts), 1)), np.repeat(starts, len(grid))


def _query(world: World, uv: np.ndarray, query_frame: np.ndarray, device: str | torch.device) -> Anchors:
    places = torch.as_tensor(np.asarray(uv, dtype=np.float64), device=device)
    frames = torch.as_tensor(np.asarray(query_frame), device=device)
    part = torch.full((len(places),), -1, dtype=torch.long, device=device)
    local = torch.zeros(len(places), 3, dtype=torch.float64, device=device)
    for t in torch.unique(frames).tolist():
        rows = frames == t
        part[rows], local[rows] = anchors(world, t, places[rows])
    return Anchors(part, local)


def _follow(world: World, points: Anchors) -> tuple[Float[Tensor, "t n 2"], Bool[Tensor, "t n"]]:
    steps = [project(world, points, t) for t in range(len(world))]
    return torch.stack([uv for uv, _ in steps]), torch.stack([seen for _, seen in steps])


def _colour(frames: np.ndarray | None, uv: np.ndarray, query_frame: np.ndarray) -> np.ndarray:
    if frames is None:
        return np.full((len(uv), 3), 128, dtype=np.uint8)
    height, width = frames.shape[1:3]
    row, column = pixels.indices(torch.as_tensor(uv), height, width)
    return frames[query_frame, row.numpy(), column.numpy()]


def _view(world: World, frame: int, device: str | torch.device) -> trace.View:
    return trace.view(world, frame, world.ground_from_cam[frame], device=device)
