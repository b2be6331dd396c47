"""Bundle adjustment of a finished scene: its static tracks, with what is newly known as further terms.

The evidence is where the scene's static tracks were seen; the adjustment is that of the solver
(`solve.anchored_bundle`). Some tracks take no part and judge the result: cameras that explain them worse than the
cameras before are not handed on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.run.refining.similarity import known_poses
from worldline.scene.observations import Observations, PixelTracks, Source
from worldline.scene.scene import Scene
from worldline.solve.anchored_bundle import Placed, anchored_points, bundled
from worldline.solve.contradictions import about_focal, about_poses
from worldline.solve.focal import Focal
from worldline.solve.known_poses import KnownPoses
from worldline.solve.resection import interpolate_missing
from worldline.solve.robust import GemanMcClure
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_cameras import Cameras
from worldline.solve.track_depth import TrackDepth, depth_of_tracks
from worldline.solve.track_samples import TrackSamples, well_spread
from worldline.solve.triangulation import triangulate

_BOUND_PX = 3.0
"""A held-out sample counts as at most this far off."""
_USUAL = 3.0
"""Multiple of the usual distance from the path beyond which a known pose does not bend it at the start."""
_SURE = 0.1
"""Relative uncertainty below which a given focal length can contradict the images."""


@dataclass(frozen=True)
class Refining:
    """Settings of the adjustment of a finished scene.

    Attributes:
        held_out: tracks that only judge; fewest: fewer static tracks are no evidence.
        focal_sigma: relative prior on the focal length of a scene that carries no uncertainty of it.
        steps: of the bundle adjustment, in turn; outliers are found anew before each.
        parallax: relative noise of its depth up to which a track says anything about how depth has changed.
        worse: relative increase of the held-out error that is still no worse, beside what the start may be overfitted.
    """

    structure: StructureSettings = StructureSettings()
    held_out: int = 150
    fewest: int = 30
    focal_sigma: float = 0.2
    steps: tuple[int, ...] = (12, 15)
    parallax: float = 0.3
    worse: float = 0.01


@dataclass(frozen=True, eq=False)
class Adjusted:
    """Cameras after the adjustment, static tracks that tell their depth, and how it went.

    `columns` are those of the tracks in the scene, `doubt` is the relative standard deviation of their depth.

    `kept` tells whether the held-out tracks agree; where they do not, camera and poses are those of the start.
    """

    camera: Camera
    world_from_cam: Float[np.ndarray, "t 4 4"]
    columns: Int[np.ndarray, "k"]
    points_world: Float[np.ndarray, "k 3"]
    doubt: Float[np.ndarray, "k"]
    kept: bool
    outcome: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Evidence:
    """Static tracks (their columns in the scene), as a pinhole with the intrinsics `reference` sees them."""

    columns: Int[np.ndarray, "n"]
    samples: TrackSamples
    reference: Float[np.ndarray, "4"]

    def chosen(self, index: Int[np.ndarray, "k"]) -> _Evidence:
        return _Evidence(self.columns[index], self.samples.tracks(torch.from_numpy(index)), self.reference)


def adjust(scene: Scene, observed: Observations, settings: Refining) -> Adjusted | None:
    """Move cameras, focal length and points together; None where the scene holds too few sightings.

    The scene is already in the world and unit of what is known.
    """
    camera = scene.camera if observed.camera is None else observed.camera.camera
    everything = _evidence(scene, camera, settings)
    if everything is None or len(everything.columns) < settings.fewest:
        return None
    solving, judging = _divided(scene, everything, settings)
    part, held = everything.chosen(solving), everything.chosen(judging)
    placed = _solved(scene, observed, part, settings)
    factor = float(placed.cameras.intrinsics[0]) / float(part.reference[0])
    before = _error_px(_same_tracks(scene, held, settings), _tensor(scene.world_from_cam))
    after = _error_px(replace(held, reference=placed.cameras.intrinsics.numpy()), placed.cameras.world_from_cam)
    kept = not after > before * (1 + settings.worse + _overfit(everything))
    outcome = {
        "tracks": len(part.columns), "held_out": len(held.columns),
        "focal_px": round(float(placed.cameras.intrinsics[:2].mean()), 3),
        "held_out_px_before": round(before, 4), "held_out_px_after": round(after, 4),
        "kept": "result" if kept else "start",
    }  # fmt: skip
    notes: tuple[str, ...] = ()
    if placed.poses is not None:
        notes = about_poses(placed.poses.off_by(placed.cameras.world_from_cam), placed.poses.known, (before, after))
    if observed.camera is not None and observed.camera.focal_sigma < _SURE:
        given = _focal(scene, observed, part, settings)
        notes += about_focal(part.samples, placed.cameras, given, settings.structure, distorts=False)
    found = _with_parallax(part, placed, settings)
    if not kept:
        return Adjusted(scene.camera, scene.world_from_cam, *found, False, outcome, notes)
    moved = replace(camera, intrinsics=camera.intrinsics * np.array([factor, factor, 1.0, 1.0]))
    return Adjusted(moved, placed.cameras.world_from_cam.numpy(), *found, True, outcome, notes)


def _evidence(scene: Scene, camera: Camera, settings: Refining) -> _Evidence | None:
    """All static tracks that were seen twice at least; None where the scene kept no sightings."""
    tracks = scene.tracks
    if tracks is None or tracks.uv is None:
        return None
    seen = tracks.visible & np.isfinite(tracks.uv).all(-1)
    columns = np.flatnonzero(~np.asarray(tracks.moving, dtype=bool) & (seen.sum(0) >= 2))
    reference = camera.frames(len(scene)).mean(0)
    ideal = _pixel_tracks(scene, columns).ideal(camera, reference)
    return _Evidence(columns, TrackSamples.of(ideal, settings.structure.noise_px), reference)


def _pixel_tracks(scene: Scene, columns: np.ndarray) -> PixelTracks:
    """Some of the scene's tracks as they were observed, all of them equally sure."""
    tracks = scene.tracks
    assert tracks is not None and tracks.uv is not None
    uv, visible = tracks.uv[:, columns], tracks.visible[:, columns]
    query = np.asarray(tracks.query_frame)[columns]
    return PixelTracks(uv, visible, np.zeros(visible.shape, np.float32), query, Source(scene.name))


def _divided(scene: Scene, found: _Evidence, settings: Refining) -> tuple[np.ndarray, np.ndarray]:
    """Tracks that solve and tracks that judge; with few of them all do both: then a worse fit is told less strictly."""
    assert scene.tracks is not None
    query = np.asarray(scene.tracks.query_frame)[found.columns]
    most = settings.structure.tracks + settings.held_out
    spread = well_spread(found.samples, query, scene.width, scene.height, most).numpy()
    if len(spread) < 4 * settings.held_out:
        return spread, spread
    judges = np.random.default_rng(0).choice(len(spread), settings.held_out, replace=False)
    return np.delete(spread, judges), spread[np.sort(judges)]


def _solved(scene: Scene, observed: Observations, part: _Evidence, settings: Refining) -> Placed:
    """Adjusted twice, outliers judged anew in between."""
    focal = _focal(scene, observed, part, settings)
    solved = torch.ones(len(scene), dtype=torch.bool)
    poses, depth = known_poses(scene, observed.camera_motion), _depth(scene, observed, part)
    start = _tensor(scene.world_from_cam)
    start = start if poses is None else _bent_through(start, poses)
    cameras = Cameras(start, solved, focal.intrinsics, focal.sigma)
    sized = depth is not None or (poses is not None and int(poses.known.sum()) > 1)
    placed = Placed(cameras, poses, depth, sized)
    for steps in settings.steps:
        placed = bundled(part.samples, placed, focal, settings.structure, steps=steps)
    return placed


def _bent_through(world_from_cam: Tensor, poses: KnownPoses) -> Tensor:
    """The path bent smoothly through the known poses, without those that are off by much more than is usual."""
    away = poses.off_by(world_from_cam)
    trusted = poses.known & (away <= _USUAL * away[poses.known].median())
    own_from_known = se3.inverse(world_from_cam) @ poses.world_from_cam
    return world_from_cam @ interpolate_missing(own_from_known, trusted)


def _focal(scene: Scene, observed: Observations, part: _Evidence, settings: Refining) -> Focal:
    """The focal length that was given, else that of the scene, with its relative uncertainty."""
    sigma = settings.focal_sigma if scene.camera_sigma is None else scene.camera_sigma.focal
    sigma = sigma if observed.camera is None else observed.camera.focal_sigma
    return Focal(_tensor(part.reference), sigma, (float(part.reference[0]),), 0.0)


def _depth(scene: Scene, observed: Observations, part: _Evidence) -> TrackDepth | None:
    if observed.depth is None or not observed.depth.metric:
        return None
    found = depth_of_tracks(_pixel_tracks(scene, part.columns), observed.depth, scene.width, scene.height)
    return found if bool(found.known.any()) else None


def _same_tracks(scene: Scene, held: _Evidence, settings: Refining) -> _Evidence:
    """The same tracks as the scene's own camera sees them."""
    own = _evidence(scene, scene.camera, settings)
    assert own is not None
    return own.chosen(np.searchsorted(own.columns, held.columns))


def _overfit(found: _Evidence) -> float:
    """How much better than the truth the start may fit, since it was fitted to these tracks: unknowns per residual."""
    seen = found.samples.weight > 0
    return 6 * len(seen) / max(2 * int(seen.sum()) - 3 * seen.shape[1], 1)


def _error_px(held: _Evidence, world_from_cam: Tensor) -> float:
    """Reprojection error of tracks that took no part, triangulated with these cameras: a bounded root mean square.

    A median would hardly see what a wrong camera does to the tracks at the border.
    """
    found = triangulate(held.samples.uv, held.samples.weight, world_from_cam, _tensor(held.reference))
    square = found.residual_px[held.samples.weight > 0].square().clamp_max(1e12)
    return float(GemanMcClure(_BOUND_PX).cost(square).mean().sqrt())


def _with_parallax(part: _Evidence, placed: Placed, settings: Refining) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, points and relative depth noise of the tracks that fit and whose depth rays or a sensor tell."""
    cameras, s = placed.cameras, settings.structure
    found = anchored_points(part.samples, cameras, placed.depth, s)
    spread = triangulate(part.samples.uv, part.samples.weight, cameras.world_from_cam, cameras.intrinsics).spread_rad
    doubt = s.noise_px / cameras.intrinsics[0] / spread.clamp_min(1e-9)
    if placed.depth is not None:
        doubt = torch.minimum(doubt, placed.depth.sigma.nan_to_num(torch.inf).amin(0))
    good = ((doubt < settings.parallax) & found.good).numpy()
    return part.columns[good], found.points_world.numpy()[good], doubt.numpy()[good]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))
