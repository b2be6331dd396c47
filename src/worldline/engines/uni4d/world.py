"""From the frame in which the stages work to the world: that of the known poses, in metres where something says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from worldline.engines.uni4d.inputs import Inputs
from worldline.geometry.camera import Camera, ideal_uv
from worldline.scene.motion import WorldTracks
from worldline.scene.scene import Scene
from worldline.solve import contradictions
from worldline.solve.known_lengths import LengthScale, named, scale_from
from worldline.solve.known_poses import OFF_SIGMAS

UNKNOWN = "unknown scale"


def in_world(inputs: Inputs, scene: Scene) -> Scene:
    """The scene in the world, with the scale of the known lengths if nothing else gives one."""
    lengths, source = inputs.observed.lengths, metric_source(inputs)
    measured = None if lengths is None else measured_lengths(inputs, scene)
    notes = scene.notes
    if lengths is not None and measured is not None:
        other = source and f"the {source}"
        notes = tuple(dict.fromkeys((*notes, *contradictions.about_lengths(lengths, measured, other))))
        if not source:
            scene, source = resized(scene, float(np.exp(measured.log_scale))), named(lengths)
    placed = moved(scene, inputs.world_from_local)
    return replace(placed, metric=bool(source), metric_source=source or UNKNOWN, notes=notes)


def metric_source(inputs: Inputs) -> str:
    """What gives the scale besides lengths, in words; empty where nothing does."""
    poses, motion = inputs.poses, inputs.observed.camera_motion
    if poses is not None and poses.metric and poses.reach > OFF_SIGMAS * poses.sigma_m:
        return "known poses"
    if inputs.depth.metric:
        return f"depth from {inputs.depth.source.name}"
    if motion is None or not motion.metric:
        return ""
    lengths = inputs.observed.lengths
    by_lengths = lengths is not None and motion.metric_source in ("", named(lengths))
    return "" if by_lengths else motion.metric_source or "known camera motion"


def measured_lengths(inputs: Inputs, scene: Scene) -> LengthScale | None:
    """Metres per unit of the scene, by its depth at the ends of the known lengths."""
    lengths, camera = inputs.observed.lengths, scene.camera
    assert lengths is not None
    at = [
        [scene.depth_around(t, uv) if 0 <= t < len(scene) else (np.nan, np.nan) for uv in ends]
        for t, ends in zip(lengths.frame.tolist(), lengths.uv, strict=True)
    ]
    depth_z, sigma = np.moveaxis(np.array(at), -1, 0)
    own = Camera(camera.frames(len(scene))[lengths.frame], camera.width, camera.height, camera.distortion)
    ideal = ideal_uv(np.asarray(lengths.uv, dtype=np.float64), own, inputs.intrinsics)
    return scale_from(lengths, ideal, depth_z, sigma, inputs.intrinsics)


def resized(scene: Scene, factor: float) -> Scene:
    """The same scene in other units: all lengths times `factor`."""
    matrices = scene.world_from_cam.copy()
    matrices[:, :3, 3] *= factor
    sigma = scene.camera_sigma and replace(scene.camera_sigma, centre=scene.camera_sigma.centre * factor)
    points = None if scene.static_points is None else scene.static_points * np.float32(factor)
    tracks = scene.tracks and replace(
        scene.tracks,
        points_world=scene.tracks.points_world * np.float32(factor), sigma=scene.tracks.sigma * np.float32(factor),
    )  # fmt: skip
    depth_z = np.asarray(scene.depth_z) * np.float32(factor)
    return replace(
        scene, world_from_cam=matrices, depth_z=depth_z, static_points=points, tracks=tracks, camera_sigma=sigma
    )


def moved(scene: Scene, world_from_local: Float[np.ndarray, "4 4"]) -> Scene:
    """The scene in another frame of the same units."""
    if np.array_equal(world_from_local, np.eye(4)):
        return scene
    points = None if scene.static_points is None else _applied(world_from_local, scene.static_points)
    tracks: WorldTracks | None = scene.tracks
    if tracks is not None:
        tracks = replace(tracks, points_world=_applied(world_from_local, tracks.points_world))
    return replace(scene, world_from_cam=world_from_local @ scene.world_from_cam, static_points=points, tracks=tracks)


def _applied(world_from_local: np.ndarray, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    return (points @ world_from_local[:3, :3].T + world_from_local[:3, 3]).astype(np.float32)
