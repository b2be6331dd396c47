"""What belongs together in an estimated scene and the true one: frames, pixels, tracks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from worldline.errors import InputError
from worldline.evaluate.alignment import IDENTITY, Alignment, Kind, align_points_trimmed
from worldline.evaluate.paths import associate
from worldline.geometry import camera, pixels, se3
from worldline.scene.motion import WorldTracks
from worldline.scene.scene import Scene

_GRID = 20
"""Rows and columns of the grid of pixels on which static points are aligned."""
_ENOUGH = 50
"""Fewer common static points do not determine an alignment that can be trusted."""


@dataclass(frozen=True, eq=False)
class FramePairs:
    """Frame `estimate[i]` shows the same instant as frame `truth[i]`; `how` says how that was decided."""

    estimate: Int[np.ndarray, "p"]
    truth: Int[np.ndarray, "p"]
    how: str

    def __len__(self) -> int:
        return len(self.estimate)


@dataclass(frozen=True, eq=False)
class TrackPairs:
    """Estimated tracks with the true ones they started on, over P paired frames, in the frame of the truth.

    Attributes:
        points, truth: (P, M, 3), NaN where the estimate gives no position. visible: (P, M), truly.
        moving: (M,), truly. matched: share of estimated tracks with a match.
    """

    points: Float[np.ndarray, "p m 3"]
    truth: Float[np.ndarray, "p m 3"]
    visible: Bool[np.ndarray, "p m"]
    moving: Bool[np.ndarray, "m"]
    matched: float


def paired_frames(
    times_s: Float[np.ndarray, "a"], truth_times_s: Float[np.ndarray, "b"], *, max_gap_s: float | None = None
) -> FramePairs:
    """Pair frames by time stamps; by count where no stamp agrees and the counts do.

    Args:
        max_gap_s: None takes half of the shorter of the two typical frame intervals.

    Raises:
        InputError: nothing can be paired.
    """
    gap = _half_a_frame(times_s, truth_times_s) if max_gap_s is None else max_gap_s
    a, b = associate(times_s, truth_times_s, max_gap_s=gap)
    if len(a):
        return FramePairs(a, b, f"{len(a)} of {len(times_s)} frames paired by time stamps within {gap:.3g} s")
    if len(times_s) != len(truth_times_s):
        raise InputError("no time stamp of the scene is near one of the truth; give stamps of the same clock.")
    same = np.arange(len(times_s))
    return FramePairs(same, same, f"{len(same)} frames paired by count, since no time stamps agree")


def nearest_frame(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """One (H, W, ...) map on another grid: each new pixel takes the old one that its centre lies in."""
    if image.shape[:2] == (height, width):
        return image
    row, column = _indices(_grid(height, width, height, width), width, height, image.shape[1], image.shape[0])
    return image[row.reshape(height, width), column.reshape(height, width)]


def static_alignment(scene: Scene, truth: Scene, pairs: FramePairs, *, kind: Kind) -> Alignment | None:
    """Trimmed alignment of the truly static points of a grid of pixels; None where too few have both depths."""
    if kind == "none":
        return IDENTITY
    both = [_static_points(scene, truth, int(f), int(g)) for f, g in zip(pairs.estimate, pairs.truth, strict=True)]
    points, true = (np.concatenate(side) for side in zip(*both, strict=True))
    if len(points) < _ENOUGH:
        return None
    return align_points_trimmed(points, true, kind=kind)


def paired_tracks(
    scene: Scene, truth: Scene, pairs: FramePairs, alignment: Alignment, *, match_px: float
) -> TrackPairs | None:
    """Match tracks where they start: each estimated track, projected in its query frame by the estimated camera,
    with the nearest truly visible true track projected by the true camera, if within `match_px` of the estimate's
    pixels. None where either side has no tracks, or nothing matches.
    """
    estimate, true = scene.tracks, truth.tracks
    if estimate is None or true is None or len(estimate) == 0 or len(true) == 0:
        return None
    found = [
        _match_frame(scene, truth, int(f), int(g), match_px) for f, g in zip(pairs.estimate, pairs.truth, strict=True)
    ]
    i, j = (np.concatenate(side) for side in zip(*found, strict=True))
    if len(i) == 0:
        return None
    return TrackPairs(
        points=alignment.apply(estimate.points_world[pairs.estimate][:, i].astype(np.float64)),
        truth=true.points_world[pairs.truth][:, j].astype(np.float64),
        visible=np.asarray(true.visible)[pairs.truth][:, j],
        moving=np.asarray(true.moving, dtype=bool)[j],
        matched=len(i) / len(estimate),
    )


def track_coverage(scene: Scene, truth: Scene, pairs: FramePairs, *, moving: bool, cover_px: float) -> float:
    """Share of the visible samples of true tracks (the moving or the static ones) that the estimate covers.

    A sample is covered when in its frame an estimated track, held for moving where the true one moves, has a
    position that projects to within `cover_px` of it (pixels of the estimate). NaN without true samples.
    """
    assert scene.tracks is not None and truth.tracks is not None
    among = np.asarray(truth.tracks.moving, dtype=bool) == moving
    able = np.asarray(scene.tracks.moving, dtype=bool) | (not moving)
    covered = wanted = 0
    for frame, true_frame in zip(pairs.estimate, pairs.truth, strict=True):
        uv, true_uv = _uv_of_both(scene, truth, int(frame), int(true_frame))
        uv = uv[able & np.isfinite(uv).all(-1)]
        true_uv = true_uv[among & truth.tracks.visible[true_frame] & np.isfinite(true_uv).all(-1)]
        wanted += len(true_uv)
        if len(uv) and len(true_uv):
            covered += int((cKDTree(uv).query(true_uv, distance_upper_bound=cover_px)[0] <= cover_px).sum())
    return covered / wanted if wanted else float("nan")


def track_uv(tracks: WorldTracks, scene: Scene, frame: int) -> Float[np.ndarray, "n 2"]:
    """Where all tracks are in one frame's image: pixels of the scene's maps, NaN without position or behind."""
    cam_from_world = se3.inverse(torch.from_numpy(np.array(scene.world_from_cam[frame])))
    points = torch.from_numpy(np.asarray(tracks.points_world[frame], dtype=np.float64))
    points_cam = se3.apply(cam_from_world, points)
    uv = camera.project(points_cam, torch.from_numpy(np.array(scene.camera.at(frame)))).numpy()
    uv[~(points_cam[:, 2].numpy() > 0)] = np.nan
    return uv


def _half_a_frame(times_s: np.ndarray, truth_times_s: np.ndarray) -> float:
    intervals = [float(np.median(np.diff(t))) for t in (times_s, truth_times_s) if len(t) > 1]
    return min(intervals, default=1e-3) / 2


def _grid(rows: int, columns: int, height: int, width: int) -> torch.Tensor:
    """uv (rows * columns, 2) of the centres of equal cells of an image."""
    uv = pixels.centres(rows, columns, dtype=torch.float64).reshape(-1, 2)
    return uv * torch.tensor([width / columns, height / rows], dtype=torch.float64)


def _indices(uv: torch.Tensor, width: int, height: int, to_width: int, to_height: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column in another image of the same view."""
    scaled = uv * torch.tensor([to_width / width, to_height / height], dtype=torch.float64)
    row, column = pixels.indices(scaled, to_height, to_width)
    return row.numpy(), column.numpy()


def _static_points(scene: Scene, truth: Scene, frame: int, true_frame: int) -> tuple[np.ndarray, np.ndarray]:
    uv = _grid(_GRID, _GRID, scene.height, scene.width)
    here = _indices(uv, scene.width, scene.height, scene.width, scene.height)
    there = _indices(uv, scene.width, scene.height, truth.width, truth.height)
    points, true = scene.points_world(frame)[here], truth.points_world(true_frame)[there]
    static = np.asarray(truth.moving[true_frame])[there] == 0
    keep = static & np.isfinite(points).all(-1) & np.isfinite(true).all(-1)
    return points[keep], true[keep]


def _match_frame(
    scene: Scene, truth: Scene, frame: int, true_frame: int, match_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of estimated tracks that start in this frame and of the true tracks they start on."""
    nothing = np.zeros(0, dtype=np.int64)
    assert scene.tracks is not None and truth.tracks is not None
    uv, true_uv = _uv_of_both(scene, truth, frame, true_frame)
    starts = np.flatnonzero((scene.tracks.query_frame == frame) & np.isfinite(uv).all(-1))
    seen = np.flatnonzero(truth.tracks.visible[true_frame] & np.isfinite(true_uv).all(-1))
    if len(starts) == 0 or len(seen) == 0:
        return nothing, nothing
    distance, nearest = cKDTree(true_uv[seen]).query(uv[starts])
    near = distance <= match_px
    return starts[near], seen[nearest[near]]


def _uv_of_both(scene: Scene, truth: Scene, frame: int, true_frame: int) -> tuple[np.ndarray, np.ndarray]:
    """uv of all estimated and of all true tracks in one frame, both in pixels of the estimate."""
    assert scene.tracks is not None and truth.tracks is not None
    true_uv = track_uv(truth.tracks, truth, true_frame) * [scene.width / truth.width, scene.height / truth.height]
    return track_uv(scene.tracks, scene, frame), true_uv
