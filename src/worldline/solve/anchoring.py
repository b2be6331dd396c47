"""The rigid structure in the world of what is known: poses of some frames, depth from a sensor, lengths.

1. A start: cameras from measured depth where there is enough of it, else from the tracks alone
   (`structure.rigid_structure`), else the known poses themselves.
2. It is brought into the world of the known poses by a robust similarity, or scaled by the depth.
3. Bundle adjustment with everything that is known as terms of its own uncertainty. Their losses are bounded: a pose or
   a depth that contradicts the rest is let go, and reported (`contradictions`).
4. Lengths scale what has no other scale; where there is another one they are compared with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.errors import SolveFailed
from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.scene.observations import KnownLengths, PixelTracks
from worldline.solve import contradictions, rotation
from worldline.solve.anchored_bundle import Placed, anchored_points, bundled, in_first_camera
from worldline.solve.depth_cameras import cameras_from_depth, enough_depth, points_from_depth
from worldline.solve.focal import Focal, prior_focal
from worldline.solve.known_lengths import named, scale_by_lengths
from worldline.solve.known_poses import OFF_SIGMAS, KnownPoses, world_from_structure
from worldline.solve.pose_conventions import as_meant
from worldline.solve.resection import interpolate_missing
from worldline.solve.revisits import Features
from worldline.solve.structure import MEDIAN_DEPTH, Motion, RigidStructure, rigid_structure, structure_at
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.surface_alignment import Surfaces, SurfaceSettings
from worldline.solve.track_cameras import Cameras
from worldline.solve.track_depth import TrackDepth
from worldline.solve.track_samples import TrackSamples, keyframes, mean_square, still_share, well_spread

MOVES_PX = 1.5
"""A camera whose translation moves the median point by less does not move."""

LEAST_SHARED = 16
"""Tracks that consecutive frames must share for cameras from tracks."""

SURFACE_ROUNDS = 4
"""How often surfaces are compared anew: what they say holds near the cameras under which they are compared."""

SECOND_OPINION, FRAMES = StructureSettings(tracks=500, lens_tracks=1000, frames_per_key=7), 24
"""How much is used to ask the images for a focal length without the given one."""

DRIFT = 0.03
"""How far a structure from tracks may drift, as a share of its size, before its poses are compared with known ones."""


class Known(NamedTuple):
    """What is known before: poses of some frames, depth at the sightings of all tracks and the surfaces that it has,
    lengths; each optional."""

    poses: KnownPoses | None = None
    depth: TrackDepth | None = None
    lengths: KnownLengths | None = None
    surfaces: Surfaces | None = None


@dataclass(frozen=True, eq=False)
class AnchoredStructure(RigidStructure):
    """A rigid structure in the world of what is known.

    Attributes:
        metric: whether lengths are metres. scale_source: what says so. notes: what contradicts what.
        given: (T,) frames whose pose was known and does not contradict the images; given_world_from_cam: (T, 4, 4) that
        pose, with its sigmas in the units of the world. pose_off: (T,) by how many standard deviations a known pose is
        off, 0 elsewhere.
    """

    metric: bool = False
    scale_source: str = ""
    notes: tuple[str, ...] = ()
    given: Bool[np.ndarray, "t"] = field(default_factory=lambda: np.zeros(0, bool))
    given_world_from_cam: Float[np.ndarray, "t 4 4"] = field(default_factory=lambda: np.zeros((0, 4, 4)))
    given_sigma_m: float = 0.0
    given_sigma_rad: float = 0.0
    pose_off: Float[np.ndarray, "t"] = field(default_factory=lambda: np.zeros(0))

    @property
    def median_depth(self) -> float:
        """The usual depth of the static points where they are seen, in the units of the world."""
        depth_z = _depth_z(self)
        good = (self.residual_px < 2) & (depth_z > 0)
        return float(np.median(depth_z[good])) if good.any() else MEDIAN_DEPTH


@dataclass(frozen=True, eq=False)
class _Task:
    """The tracks of one clip (all of them, and those that take part), its focal length, what is known, settings."""

    size: tuple[int, int]
    tracks: PixelTracks
    index: Int[Tensor, "m"]
    samples: TrackSamples
    raw_samples: TrackSamples
    all_depth: TrackDepth | None
    depth: TrackDepth | None
    poses: KnownPoses | None
    lengths: KnownLengths | None
    focal: Focal
    focal_given: bool
    distorts: bool
    free: Callable[[], RigidStructure]
    alone: Callable[[], RigidStructure]
    settings: StructureSettings


def anchored_structure(
    tracks: PixelTracks,
    width: int,
    height: int,
    known: Known,
    *,
    focal_px: float | None = None,
    focal_sigma: float = 0.0,
    distorts: bool = True,
    features: Features | None = None,
    usable: Bool[np.ndarray, "t n"] | None = None,
    settings: StructureSettings | None = None,
) -> AnchoredStructure:
    """Camera motion and static structure in the world of what is known.

    Args:
        tracks: as an ideal pinhole with its principal point in the middle of width x height sees them.
        known: of these tracks; what of it contradicts the images is reported in the `notes` of the result.
        focal_px, focal_sigma, distorts, features: as in `rigid_structure`.
        usable: sightings that may hold the cameras, None for all; the others are judged only.

    Raises:
        SolveFailed: neither the tracks nor what is known give cameras.
    """
    s = settings or StructureSettings()
    own = tracks if usable is None else replace(tracks, visible=tracks.visible & usable)
    everything = TrackSamples.of(own, s.noise_px)
    index = well_spread(everything, tracks.query_frame, width, height, s.tracks)
    task = _Task(
        (width, height), tracks, index, everything.tracks(index), everything.tracks(index), known.depth,
        None if known.depth is None else known.depth.tracks(index), known.poses, known.lengths,
        prior_focal(focal_px, focal_sigma, width, height, s),
        focal_px is not None, distorts, lambda: rigid_structure(
            own, width, height, focal_px=focal_px, focal_sigma=focal_sigma, distorts=distorts,
            features=features, settings=s,
        ), lambda: rigid_structure(_thinned(own), width, height, distorts=False, settings=SECOND_OPINION), s,
    )  # fmt: skip
    start = _start(task)
    if known.poses is None and known.depth is None and start.free is not None:
        return _unanchored(task, start, judged_apart=usable is not None)
    task = _through_lens(task, start)
    task, meant = _as_meant(task, start)
    placed, notes = _placed(task, start)
    for steps in (12, 15):
        placed = bundled(task.samples, placed, task.focal, s, steps=steps)
    if start.motion == "general" and known.surfaces is not None and known.surfaces.hold(SurfaceSettings()):
        for _ in range(SURFACE_ROUNDS):
            placed = bundled(task.samples, placed, task.focal, s, surfaces=known.surfaces, steps=6)
    placed, motion = _standing_still(task, placed, start.motion)
    notes = (*meant, *notes, *_about_cameras(task, placed, motion))
    scene = _judged(task, _exact(placed), motion)
    return _in_metres(task, _with_lens(scene, start), placed, notes)


class _Start(NamedTuple):
    cameras: Cameras
    motion: Motion
    measured: bool
    """Whether its scale is that of the depth."""
    free: RigidStructure | None = None
    """What the tracks alone gave."""
    from_poses: bool = False
    """Whether the cameras are the known poses."""


def _start(task: _Task) -> _Start:
    """Cameras from depth, from the tracks, or from the known poses, whichever there is first."""
    s, poses = task.settings, task.poses
    if task.depth is not None and enough_depth(task.samples, task.depth):
        placed = cameras_from_depth(task.samples, task.depth, _intrinsics(task, task.depth), s)
        if float(placed.solved.double().mean()) > 0.5:
            still = poses is None and still_share(task.samples, s.still_px) > 0.5
            return _Start(placed, "static" if still else "general", True)
    whole = poses is not None and bool(poses.known.all())
    found: RigidStructure | None
    try:
        found = task.free()
    except SolveFailed as failure:
        if not whole:
            raise SolveFailed(_why(task) or str(failure)) from failure
        found = None
    if poses is not None and whole and (found is None or not found.parallax):
        every = torch.ones_like(poses.known)
        moves = poses.reach > OFF_SIGMAS * poses.sigma_m
        return _Start(
            Cameras(poses.world_from_cam, every, task.focal.intrinsics, task.focal.sigma),
            "general" if moves else "turning", False, from_poses=True,
        )  # fmt: skip
    assert found is not None
    solved, intrinsics = torch.from_numpy(found.solved), torch.from_numpy(found.intrinsics)
    cameras = Cameras(torch.from_numpy(found.world_from_cam), solved, intrinsics, found.focal_sigma)
    return _Start(cameras, found.motion, False, found)


def _why(task: _Task) -> str:
    """What keeps the tracks from giving cameras: views that share too little; empty where it is something else."""
    visible = task.tracks.visible
    shared = (visible[1:] & visible[:-1]).sum(1)
    few = np.flatnonzero(shared < LEAST_SHARED)
    if len(few) == 0:
        return ""
    pair = f"frames {few[0]} and {few[0] + 1} share {shared[few[0]]}"
    return (
        f"consecutive frames overlap too little or move too far for tracks ({len(few)} of {len(shared)} pairs share "
        f"fewer than {LEAST_SHARED}, {pair}); give frames closer together, or known poses or depth."
    )


def _through_lens(task: _Task, start: _Start) -> _Task:
    """The samples as a pinhole would have seen them, where the tracks alone told the lens or its zoom."""
    found = start.free
    if found is None or not (found.distortion or found.zooms):
        return task
    tracks = task.tracks.ideal(Camera(found.intrinsics_per_frame, *task.size, found.distortion), found.intrinsics)
    uv = torch.from_numpy(tracks.uv[:, task.index.numpy()].astype(np.float64))
    seen = (task.samples.weight > 0)[..., None]
    return replace(task, tracks=tracks, samples=task.samples._replace(uv=torch.where(seen, uv, task.samples.uv)))


def _as_meant(task: _Task, start: _Start) -> tuple[_Task, tuple[str, ...]]:
    """The known poses in the convention in which they fit what the images say, and a sentence if that is another."""
    if task.poses is None or start.motion != "general" or start.from_poses:
        return task, ()
    poses, notes = as_meant(task.poses, start.cameras.world_from_cam, start.cameras.solved)
    return replace(task, poses=poses), notes


def _some_frames(count: int) -> Int[np.ndarray, "f"]:
    return np.unique(np.linspace(0, count - 1, min(count, FRAMES)).round().astype(int))


def _thinned(tracks: PixelTracks) -> PixelTracks:
    """The tracks in some of the frames, equally far apart in time."""
    at = _some_frames(len(tracks.uv))
    query = np.minimum(np.searchsorted(at, tracks.query_frame), len(at) - 1)
    return PixelTracks(tracks.uv[at], tracks.visible[at], tracks.sigma_px[at], query, tracks.source)


def _with_lens(scene: RigidStructure, start: _Start) -> RigidStructure:
    """The lens and the zoom that the tracks alone told, said of the scene solved without them."""
    found = start.free
    return scene if found is None else replace(scene, distortion=found.distortion, zoom=found.zoom)


def _unanchored(task: _Task, start: _Start, *, judged_apart: bool) -> AnchoredStructure:
    """The structure that the tracks alone gave; lengths may still give its scale."""
    found = start.free
    assert found is not None
    task, placed = _through_lens(task, start), Placed(start.cameras, None, None, False)
    if judged_apart:
        found = _with_lens(_judged(task, placed, start.motion), start)
    return _in_metres(task, found, placed, _about_cameras(task, placed, start.motion))


def _intrinsics(task: _Task, depth: TrackDepth) -> Float[Tensor, "4"]:
    """Those that are known, or under which depth places a few frames best."""
    focal, s = task.focal, task.settings
    if focal.known:
        return focal.intrinsics
    keys = keyframes(task.samples, max(s.frames_per_key, len(task.samples.uv) // 6))
    few = task.samples.frames(keys)
    there = depth._replace(log_depth=depth.log_depth[keys], sigma=depth.sigma[keys])
    costs = []
    for f in focal.candidates:
        cameras = cameras_from_depth(few, there, focal.at(f), s)
        residual = anchored_points(few, cameras, there, s).residual_px
        costs.append(mean_square(residual, few.weight, s.outlier_px / s.noise_px))
    return focal.at(focal.best(costs))


def _placed(task: _Task, start: _Start) -> tuple[Placed, tuple[str, ...]]:
    """The start in the world of the known poses, else of its first camera, in metres where something gives them."""
    depth, poses = task.depth, task.poses
    cameras, measured = start.cameras, start.measured
    if depth is not None and not measured and start.motion == "general":
        cameras = _scaled(cameras, -_depth_ratio(task, cameras, depth))
        measured = True
    if poses is None:
        return Placed(in_first_camera(cameras), None, depth, measured), ()
    size = _size(task, cameras)
    poses = poses.least(size)
    sizing = int(poses.known.sum()) > 1 and poses.reach > OFF_SIGMAS * poses.sigma_m and start.motion == "general"
    found = world_from_structure(poses, cameras.world_from_cam, cameras.solved, with_scale=sizing)
    if found is None:
        return Placed(in_first_camera(cameras), None, depth, measured), ()
    notes: tuple[str, ...] = ()
    log_scale = float(found.scale.log())
    if measured and sizing and depth is not None:
        sigma = float(np.hypot(2 * poses.sigma_m / poses.reach, max(depth.scale_sigma, 0.015)))
        if poses.metric:
            notes = contradictions.about_depth_scale(log_scale, sigma, "the given poses")
            depth = depth.shifted(log_scale) if notes else depth
            if not notes:
                found = world_from_structure(poses, cameras.world_from_cam, cameras.solved, with_scale=False) or found
        else:
            poses = poses.resized(float(np.exp(-log_scale)))
            found = found._replace(scale=torch.ones_like(found.scale), translation=found.translation / found.scale)
    moved = _filled(cameras._replace(world_from_cam=found.apply_to_cameras(cameras.world_from_cam)), poses)
    gross = _gross(poses, moved, size * float(found.scale))
    known = poses.known & cameras.solved
    if int(known.sum()) >= 3 and int((gross & known).sum()) > 0.5 * int(known.sum()):
        notes = (*notes, contradictions.all_poses(_residuals(task, poses, moved)))
        return Placed(in_first_camera(cameras), None, task.depth, measured), notes
    return Placed(moved, poses, depth, measured or sizing), notes


def _scaled(cameras: Cameras, log_scale: float) -> Cameras:
    matrices = cameras.world_from_cam.clone()
    matrices[:, :3, 3] *= float(np.exp(log_scale))
    return cameras._replace(world_from_cam=matrices)


def _depth_ratio(task: _Task, cameras: Cameras, depth: TrackDepth) -> float:
    """Median log ratio of the structure's depth to the measured one."""
    points = anchored_points(task.samples, cameras, None, task.settings)
    forward, centre = cameras.world_from_cam[:, :3, 2], cameras.world_from_cam[:, :3, 3]
    z = forward @ points.points_world.T - (forward * centre).sum(-1, keepdim=True)
    use = depth.known & (task.samples.weight > 0) & points.good & (z > 0)
    return float((z[use].log() - depth.log_depth[use]).median()) if bool(use.any()) else 0.0


def _size(task: _Task, cameras: Cameras) -> float:
    """Usual depth of the tracks under the start, in its own units."""
    if task.depth is not None and bool(task.depth.known.any()):
        return float(task.depth.log_depth[task.depth.known].median().exp())
    points = anchored_points(task.samples, cameras, None, task.settings)
    away = (points.points_world[points.good] - cameras.world_from_cam[:, :3, 3].median(0).values).norm(dim=-1)
    return float(away.median()) if len(away) else MEDIAN_DEPTH


def _gross(poses: KnownPoses, cameras: Cameras, size: float) -> Bool[Tensor, "t"]:
    """Known poses that are off by more than they and the drift of a structure from tracks can be."""
    drift = DRIFT * max(poses.reach, 0.1 * size)
    wide = poses._replace(
        sigma_m=float(np.hypot(poses.sigma_m, drift)), sigma_rad=float(np.hypot(poses.sigma_rad, DRIFT))
    )
    return wide.off_by(cameras.world_from_cam) > OFF_SIGMAS


def _residuals(task: _Task, poses: KnownPoses, found: Cameras) -> tuple[float, float]:
    """Reprojection in pixels over the known frames: under the poses as given, and as found."""
    given = found._replace(world_from_cam=poses.world_from_cam, solved=poses.known)
    own = found._replace(solved=poses.known & found.solved)
    a, b = (contradictions.residual_of(task.samples, c, task.settings) for c in (given, own))
    return a, b


def _filled(cameras: Cameras, poses: KnownPoses) -> Cameras:
    """Known poses in the frames that could not be solved; the rest between all of them."""
    missing = poses.known & ~cameras.solved
    matrices = torch.where(missing[:, None, None], poses.world_from_cam, cameras.world_from_cam)
    solved = cameras.solved | missing
    return cameras._replace(world_from_cam=interpolate_missing(matrices, solved), solved=solved)


def _standing_still(task: _Task, placed: Placed, motion: Motion) -> tuple[Placed, Motion]:
    """One centre for a camera whose translation cannot be seen; one pose for one that stands."""
    cameras = placed.cameras.world_from_cam
    if motion == "static" and placed.poses is None:
        first = cameras[:1].expand_as(cameras).clone()
        return placed._replace(cameras=placed.cameras._replace(world_from_cam=first)), motion
    centres = cameras[:, :3, 3]
    middle = centres.median(0).values
    reach_px = float((centres - middle).norm(dim=-1).max()) / _size(task, placed.cameras)
    reach_px *= float(placed.cameras.intrinsics[0])
    if placed.poses is not None or not placed.sized or reach_px > MOVES_PX:
        return placed, motion
    turned = rotation.turning(task.samples.uv, task.samples.weight, placed.cameras.intrinsics).rotation
    held = se3.from_rotation_translation(turned, torch.zeros_like(turned[:, 0]))
    return placed._replace(cameras=placed.cameras._replace(world_from_cam=held)), "turning"


def _about_cameras(task: _Task, placed: Placed, motion: Motion) -> tuple[str, ...]:
    """Sentences about the focal length, the poses and the depth that were given."""
    s, notes = task.settings, tuple[str, ...]()
    if task.focal_given and task.focal.sigma < 0.1 and motion != "static":
        notes = (*notes, *_about_focal(task, placed, motion))
    if placed.poses is not None:
        off = placed.poses.off_by(placed.cameras.world_from_cam)
        if bool((off > OFF_SIGMAS).any()):
            figures = _residuals(task, placed.poses, placed.cameras)
            notes = (*notes, *contradictions.about_poses(off, placed.poses.known, figures))
    if placed.depth is not None and motion == "general":
        notes = (*notes, *contradictions.about_depth(task.samples, placed.cameras, placed.depth, s)[0])
    return notes


def _about_focal(task: _Task, placed: Placed, motion: Motion) -> tuple[str, ...]:
    """Whether another focal length near the given one fits better, or the images by themselves say another."""
    notes: tuple[str, ...] = ()
    if motion == "general":
        raw, s = task.raw_samples, task.settings
        notes = contradictions.about_focal(raw, placed.cameras, task.focal, s, distorts=task.distorts)
    if notes:
        return notes
    try:
        alone = task.alone()
    except SolveFailed:
        return ()
    at = torch.from_numpy(_some_frames(len(task.samples.uv)))
    few = placed.cameras._replace(world_from_cam=placed.cameras.world_from_cam[at], solved=placed.cameras.solved[at])
    return contradictions.about_focal_alone(alone, few, task.raw_samples.frames(at), task.focal, task.settings)


def _exact(placed: Placed) -> Placed:
    """Poses that were stated as exact stay so, whatever the images say."""
    poses, cameras = placed.poses, placed.cameras
    if poses is None or not poses.exact:
        return placed
    kept = torch.where(poses.known[:, None, None], poses.world_from_cam, cameras.world_from_cam)
    return placed._replace(cameras=cameras._replace(world_from_cam=kept))


def _judged(task: _Task, placed: Placed, motion: Motion) -> RigidStructure:
    """Every track under the cameras found; without parallax, at its measured depth where there is one."""
    s, cameras = task.settings, placed.cameras
    world_from_cam = cameras.world_from_cam.numpy()
    intrinsics = cameras.intrinsics.numpy()
    if motion == "general":
        return replace(
            structure_at(task.tracks, world_from_cam, intrinsics, settings=s),
            motion=motion, solved=cameras.solved.numpy(), focal_sigma=cameras.focal_sigma,
        )  # fmt: skip
    turned = world_from_cam.copy()
    turned[:, :3, 3] = 0
    found = structure_at(task.tracks, turned, intrinsics, settings=s)
    size = _size(task, cameras) / MEDIAN_DEPTH if placed.sized else 1.0
    points = found.points_world * size + world_from_cam[0, :3, 3]
    if task.all_depth is not None:
        everything = TrackSamples.of(task.tracks, s.noise_px)
        cast, has = points_from_depth(everything, cameras, task.all_depth)
        points = np.where(has.numpy()[:, None], cast.numpy(), points)
    return replace(
        found, world_from_cam=world_from_cam, points_world=points, motion=motion, solved=cameras.solved.numpy(),
        focal_sigma=cameras.focal_sigma,
    )  # fmt: skip


def _in_metres(task: _Task, scene: RigidStructure, placed: Placed, notes: tuple[str, ...]) -> AnchoredStructure:
    """With the scale that lengths give, where nothing else does."""
    poses, depth = placed.poses, placed.depth
    by_poses = poses is not None and poses.metric and placed.sized
    metric = by_poses or (placed.sized and depth is not None and depth.metric)
    source = "known poses" if by_poses else "sensor depth" if metric else ""
    factor = 1.0
    scale = None if task.lengths is None else scale_by_lengths(task.tracks, scene, task.lengths)
    if task.lengths is not None and scale is not None:
        notes = (*notes, *contradictions.about_lengths(task.lengths, scale, source and f"the {source}"))
        if not metric:
            factor = float(np.exp(scale.log_scale))
            scene, metric = _resized(scene, factor), True
            source = named(task.lengths)
    own = {f.name: getattr(scene, f.name) for f in fields(RigidStructure)}
    facts = {"metric": metric, "scale_source": source, "notes": notes}
    return AnchoredStructure(**own, **facts, **_given(placed, scene, factor))  # type: ignore[arg-type]


def _given(placed: Placed, scene: RigidStructure, factor: float) -> dict[str, object]:
    """The known poses that the images do not contradict, in the units of the world, and how far all are off."""
    count, poses = len(scene.solved), placed.poses
    if poses is None:
        none = {"given_sigma_m": 0.0, "given_sigma_rad": 0.0, "pose_off": np.zeros(count)}
        return {"given": np.zeros(count, bool), "given_world_from_cam": np.tile(np.eye(4), (count, 1, 1)), **none}
    off, poses = poses.off_by(placed.cameras.world_from_cam), poses.resized(factor)
    return {
        "given": (poses.known & (poses.exact | (off <= OFF_SIGMAS))).numpy(), "pose_off": off.numpy(),
        "given_world_from_cam": poses.world_from_cam.numpy(),
        "given_sigma_m": poses.sigma_m, "given_sigma_rad": poses.sigma_rad,
    }  # fmt: skip


def _resized(scene: RigidStructure, factor: float) -> RigidStructure:
    matrices = scene.world_from_cam.copy()
    matrices[:, :3, 3] *= factor
    return replace(scene, world_from_cam=matrices, points_world=scene.points_world * factor)


def _depth_z(scene: RigidStructure) -> Float[np.ndarray, "t n"]:
    cam_from_world = np.linalg.inv(scene.world_from_cam)
    return np.einsum("ti,ni->tn", cam_from_world[:, 2, :3], scene.points_world) + cam_from_world[:, 2, 3:]
