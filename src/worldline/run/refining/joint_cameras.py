"""Cameras, focal length and static points of a scene together, from where points were seen and from its own depth.

The scene's depth and cameras take part with their uncertainty, so what the images do not tell (a camera that only
turns has no path) stays where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.geometry import se3
from worldline.run.refining.sightings import Sightings
from worldline.scene.observations import DepthMaps, PixelTracks, Source
from worldline.scene.scene import Scene
from worldline.solve.anchored_bundle import Placed, anchored_points, bundled
from worldline.solve.focal import Focal
from worldline.solve.known_poses import KnownPoses
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_cameras import Cameras
from worldline.solve.track_depth import TrackDepth, depth_of_tracks
from worldline.solve.track_samples import TrackSamples, well_spread
from worldline.solve.triangulation import triangulate

_ROUNDS = 12
"""Of the fit to the start's path, each leaving out more of the frames that are far off."""


@dataclass(frozen=True)
class CameraSettings:
    """Settings of the joint adjustment of cameras and static points.

    Attributes:
        centre_sigma: of the start's camera centres, as a share of the depth; rotation_sigma: of its rotations
            (radians). They are wide: they only hold what nothing else does.
        focal_sigma: relative, of its focal length. depth_sigma: least relative one of its depth.
        frame_scale_sigma: of the log scale of each of its depth maps.
        stages: of the adjustment, in turn, outliers found anew before each: how many times as large as their noise
            sightings may be off there, and the steps. fewest: static tracks that it takes.
        agree: share of what the images do not tell that the path and the depth may differ in scale.
    """

    structure: StructureSettings = field(default_factory=lambda: StructureSettings(tracks=1200))
    centre_sigma: float = 0.03
    rotation_sigma: float = 0.02
    focal_sigma: float = 0.02
    depth_sigma: float = 0.03
    frame_scale_sigma: float = 0.05
    stages: tuple[tuple[float, int], ...] = ((8.0, 8), (3.0, 8), (1.0, 12))
    fewest: int = 40
    agree: float = 0.02


@dataclass(frozen=True, eq=False)
class Solved:
    """Cameras and static points that agree with the sightings, in the world of the start.

    Attributes:
        world_from_cam: (T, 4, 4). focal: fx in pixels (its mean over frames).
        columns: (K,) tracks; points_world: (K, 3); doubt: (K,) relative standard deviation of their depth by parallax.
    """

    world_from_cam: Float[np.ndarray, "t 4 4"]
    focal: float
    columns: Int[np.ndarray, "k"]
    points_world: Float[np.ndarray, "k 3"]
    doubt: Float[np.ndarray, "k"]

    def log_depth(self) -> Float[np.ndarray, "t k"]:
        """Log depth of the points along the axis of every camera, NaN behind it."""
        forward, centre = self.world_from_cam[:, :3, 2], self.world_from_cam[:, :3, 3]
        depth_z = np.einsum("tki,ti->tk", self.points_world[None] - centre[:, None], forward)
        return np.log(np.where(depth_z > 0, depth_z, np.nan))


def solve_cameras(
    scene: Scene, found: Sightings, use: Bool[np.ndarray, "n"], settings: CameraSettings
) -> Solved | None:
    """Adjust cameras, focal length and the points of some of the tracks; None where there are too few of them."""
    samples, columns, reference = static_samples(scene, found, use, settings.structure)
    if len(columns) < settings.fewest:
        return None
    start = _tensor(scene.world_from_cam)
    depth = _depth(scene, found, columns, settings)
    focal = Focal(_tensor(reference), settings.focal_sigma, (float(reference[0]),), 0.0)
    every = torch.ones(len(scene), dtype=torch.bool)
    cameras = Cameras(start, every, focal.intrinsics, focal.sigma)
    size = settings.centre_sigma * float(depth.log_depth[depth.known].median().exp()) if depth else 0.0
    poses = KnownPoses(start, every, max(size, 1e-9), settings.rotation_sigma, False, scene.metric)
    placed = Placed(cameras, poses, depth, sized=True)
    for wide, steps in settings.stages:
        wider = replace(settings.structure, outlier_px=wide * settings.structure.outlier_px)
        placed = bundled(TrackSamples(samples.uv, samples.weight / wide**2), placed, focal, wider, steps=steps)
    return _solution(samples, columns, placed, settings)


def static_samples(
    scene: Scene, found: Sightings, use: Bool[np.ndarray, "n"], structure: StructureSettings
) -> tuple[TrackSamples, Int[np.ndarray, "k"], Float[np.ndarray, "4"]]:
    """Sightings of static tracks as a pinhole sees them, their columns, and the intrinsics of that pinhole."""
    columns = np.flatnonzero(use & (found.group == 0) & (found.static.sum(0) >= 2))
    reference = scene.camera.frames(len(scene)).mean(0)
    ideal = _chosen(found, columns).ideal(scene.camera, reference)
    samples = TrackSamples.of(ideal, structure.noise_px)
    spread = well_spread(samples, ideal.query_frame, scene.width, scene.height, structure.tracks)
    return samples.tracks(spread), columns[spread.numpy()], reference


def _chosen(found: Sightings, columns: Int[np.ndarray, "k"]) -> PixelTracks:
    """Static sightings of some tracks."""
    tracks = found.tracks
    return PixelTracks(
        tracks.uv[:, columns], found.static[:, columns], tracks.sigma_px[:, columns],
        np.asarray(tracks.query_frame)[columns], tracks.source,
    )  # fmt: skip


def _depth(
    scene: Scene, found: Sightings, columns: Int[np.ndarray, "k"], settings: CameraSettings
) -> TrackDepth | None:
    depth_z = np.where(scene.valid[:], scene.depth_z[:], 0).astype(np.float32)
    sigma = np.maximum(np.asarray(scene.depth_sigma[:]), settings.depth_sigma).astype(np.float32)
    maps = DepthMaps(depth_z, sigma, Source(scene.name), scene.metric, settings.frame_scale_sigma)
    at = depth_of_tracks(_chosen(found, columns), maps, scene.width, scene.height)
    return at if bool(at.known.any()) else None


def _solution(samples: TrackSamples, columns: Int[np.ndarray, "k"], placed: Placed, settings: CameraSettings) -> Solved:
    cameras, s = placed.cameras, settings.structure
    points = anchored_points(samples, cameras, placed.depth, s)
    found = triangulate(samples.uv, samples.weight, cameras.world_from_cam, cameras.intrinsics)
    noise = s.noise_px / (samples.weight > 0).sum(0).clamp_min(1).sqrt()
    doubt = noise / cameras.intrinsics[0] / found.spread_rad.clamp_min(1e-9)
    good = points.good.numpy()
    return Solved(
        cameras.world_from_cam.numpy(),
        float(cameras.intrinsics[0]),
        columns[good],
        found.points_world.numpy()[good],
        doubt.numpy()[good],
    )


def in_gauge(start: Float[np.ndarray, "t 4 4"], solved: Solved, settings: CameraSettings) -> Solved:
    """The same structure turned, moved and scaled onto the path of the start, by least squares.

    The scale is that of the start's path as far as its shape can tell it; a path that is mostly noise does not, and
    then the scale stays the one that depth has given.
    """
    weight = np.ones(len(start))
    for _ in range(_ROUNDS):
        moved = _onto(start, solved, weight, settings.agree)
        away = np.linalg.norm(moved.world_from_cam[:, :3, 3] - start[:, :3, 3], axis=1)
        weight = 1 / (1 + (away / max(2 * float(np.median(away)), 1e-12)) ** 2)
    return moved


def _onto(start: np.ndarray, solved: Solved, weight: Float[np.ndarray, "t"], agree: float) -> Solved:
    own, share = solved.world_from_cam, weight / weight.sum()
    together = np.einsum("t,tij,tkj->ik", weight, start[:, :3, :3], own[:, :3, :3])
    rotation = se3.nearest_rotation(_tensor(together)).numpy()
    middle, own_middle = share @ start[:, :3, 3], share @ own[:, :3, 3]
    root = np.sqrt(weight)[:, None]
    scale = _scale(root * (start[:, :3, 3] - middle), root * (own[:, :3, 3] - own_middle) @ rotation.T, agree)
    shift = middle - scale * own_middle @ rotation.T
    moved = own.copy()
    moved[:, :3, :3] = rotation @ own[:, :3, :3]
    moved[:, :3, 3] = scale * own[:, :3, 3] @ rotation.T + shift
    points = scale * solved.points_world @ rotation.T + shift
    return Solved(moved, solved.focal, solved.columns, points, solved.doubt)


def _scale(a: Float[np.ndarray, "t 3"], b: Float[np.ndarray, "t 3"], agree: float) -> float:
    """Scale of path `a` over path `b`, drawn to 1 by as much as noise makes it doubtful."""
    reach = float((b * b).sum())
    if reach <= 1e-18 or (slope := float((a * b).sum()) / reach) <= 0.1:
        return 1.0
    noise = float(((a - slope * b) ** 2).sum() / max(a.size - 1, 1))
    doubt = noise / reach / slope**2
    return float(np.exp(np.log(slope) * agree**2 / (agree**2 + doubt)))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))
