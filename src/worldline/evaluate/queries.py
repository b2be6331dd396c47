"""What a scene says about the points that a benchmark asks for: their places in the world, and when they are seen.

Dense flow answers what starts in its reference frame, read at the pixel that holds the query. Where a scene has tracks
instead, the nearest one that is seen in the query's frame answers, if near enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from worldline.evaluate.correspondence import track_uv
from worldline.geometry import camera, se3
from worldline.scene.scene import Scene


@dataclass(frozen=True, eq=False)
class Answers:
    """Tracks of the scene for N queries over the frames asked for.

    Attributes:
        points_world: (T, N, 3) float64, NaN where there is no answer. visible: (T, N).
        by_flow, by_tracks: (N,) which of the two answered; neither: no answer at all.
    """

    points_world: Float[np.ndarray, "t n 3"]
    visible: Bool[np.ndarray, "t n"]
    by_flow: Bool[np.ndarray, "n"]
    by_tracks: Bool[np.ndarray, "n"]


def answers(
    scene: Scene,
    query_frame: Int[np.ndarray, "n"],
    query_uv: Float[np.ndarray, "n 2"],
    frames: Int[np.ndarray, "t"],
    *,
    match_px: float,
    behind: float,
) -> Answers:
    """Answer queries at uv (pixels of the scene's maps) in frames of the scene, for the scene's `frames`.

    Args:
        match_px: how near a track must be, in pixels of the scene's maps.
        behind: with dense flow, a point is visible if at most this share of its depth behind the depth map.
    """
    shape = len(frames), len(query_frame)
    points, visible = np.full((*shape, 3), np.nan), np.zeros(shape, dtype=bool)
    inside = ((query_uv >= 0) & (query_uv < [scene.width, scene.height])).all(-1)
    by_flow = by_tracks = np.zeros(len(query_frame), dtype=bool)
    if scene.flow is not None:
        by_flow = inside & (query_frame == scene.flow.reference)
        points[:, by_flow], visible[:, by_flow] = _moved_by_flow(scene, query_uv[by_flow], frames, behind)
    if scene.tracks is not None:
        track = np.where(inside & ~by_flow, _nearest_tracks(scene, query_frame, query_uv, match_px), -1)
        by_tracks = track >= 0
        points[:, by_tracks] = scene.tracks.points_world[frames][:, track[by_tracks]]
        visible[:, by_tracks] = scene.tracks.visible[frames][:, track[by_tracks]]
    return Answers(points, visible & np.isfinite(points).all(-1), by_flow, by_tracks)


def scene_uv(scene: Scene, uv: Float[np.ndarray, "n 2"], width: int, height: int) -> Float[np.ndarray, "n 2"]:
    """Pixels of the scene's maps, from those of an original image of the given size."""
    assert scene.original_from_stored is not None and scene.original_size is not None
    original = uv * [scene.original_size[0] / width, scene.original_size[1] / height]
    stored = np.concatenate([original, np.ones((len(uv), 1))], -1) @ np.linalg.inv(scene.original_from_stored).T
    return stored[:, :2] / stored[:, 2:]


def scene_pixels_per_original(scene: Scene) -> float:
    """How many pixels of the scene's maps one pixel of the original image is."""
    assert scene.original_from_stored is not None
    return float(1 / np.sqrt(abs(np.linalg.det(scene.original_from_stored[:2, :2]))))


def _moved_by_flow(scene: Scene, uv: np.ndarray, frames: np.ndarray, behind: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of the reference frame at uv in every frame, and whether they are seen there."""
    assert scene.flow is not None
    column, row = np.floor(uv).astype(np.int64).T
    start = scene.points_world(scene.flow.reference)[row, column].astype(np.float64)
    points, visible = [], []
    for frame in frames.tolist():
        known = np.asarray(scene.flow.valid[frame])[row, column]
        moved = start + np.asarray(scene.flow.displacement[frame])[row, column]
        points.append(np.where(known[:, None], moved, np.nan))
        visible.append(_in_sight(scene, points[-1], frame, behind))
    return np.stack(points), np.stack(visible)


def _in_sight(scene: Scene, points_world: np.ndarray, frame: int, behind: float) -> np.ndarray:
    """Whether points lie in the image and not behind the depth map; where it knows nothing, nothing hides them."""
    cam_from_world = se3.inverse(torch.from_numpy(np.array(scene.world_from_cam[frame])))
    points_cam = se3.apply(cam_from_world, torch.from_numpy(points_world))
    uv = camera.project(points_cam, torch.from_numpy(np.array(scene.camera.at(frame)))).numpy()
    z = points_cam[:, 2].numpy()
    inside = (z > 0) & ((uv >= 0) & (uv < [scene.width, scene.height])).all(-1)
    column, row = np.floor(np.where(inside[:, None], uv, 0)).astype(np.int64).T
    surface = np.where(np.asarray(scene.valid[frame]), np.asarray(scene.depth_z[frame]), np.inf)[row, column]
    return inside & (z <= (1 + behind) * surface)


def _nearest_tracks(scene: Scene, query_frame: np.ndarray, query_uv: np.ndarray, match_px: float) -> np.ndarray:
    """Column of the nearest track that is seen in each query's frame, -1 where none is within match_px."""
    assert scene.tracks is not None
    found = np.full(len(query_frame), -1)
    for frame in np.unique(query_frame).tolist():
        uv = track_uv(scene.tracks, scene, frame)
        seen = np.flatnonzero(scene.tracks.visible[frame] & np.isfinite(uv).all(-1))
        here = np.flatnonzero((query_frame == frame) & np.isfinite(query_uv).all(-1))
        if len(seen) and len(here):
            distance, nearest = cKDTree(uv[seen]).query(query_uv[here])
            found[here] = np.where(distance <= match_px, seen[nearest], -1)
    return found
