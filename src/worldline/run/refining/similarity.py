"""One similarity that brings a finished scene to what is known: lengths, metric depth, some camera poses.

Each speaks about the scale with its own uncertainty; what agrees is averaged, what does not is told in words. The
fits of poses and lengths are those of the solver (`solve.known_poses`, `solve.known_lengths`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import InputError
from worldline.geometry.camera import ideal_uv
from worldline.geometry.sim3 import Sim3
from worldline.scene.observations import CameraMotion, DepthMaps, KnownLengths, Observations
from worldline.scene.scene import Scene
from worldline.solve import contradictions
from worldline.solve.known_lengths import LengthScale, named, scale_from
from worldline.solve.known_poses import OFF_SIGMAS, KnownPoses, about_rotations, world_from_structure

DRIFT = 0.015
"""How far a path drifts: its scale, its centres (as a share of its reach) and its rotations (radians)."""
DEPTH_DOUBT = 0.003
"""Least relative standard deviation of the scale that depth gives."""
_ENOUGH = 3
"""From so many poses on they can contradict the path as a whole."""


class Scale(NamedTuple):
    """Log of metres per unit of the scene, its standard deviation, what says so, and the name of its source."""

    log_scale: float
    sigma: float
    what: str
    source: str


@dataclass(frozen=True, eq=False)
class Anchoring:
    """`x_known = scale * rotation @ x_scene + translation`; whether that makes metres, by what, and what was found."""

    known_from_scene: Sim3
    metric: bool
    sources: tuple[str, ...]
    outcome: dict[str, Any]
    notes: tuple[str, ...]


def anchor(scene: Scene, observed: Observations) -> Anchoring | None:
    """The similarity from the scene to what is known; None where nothing known says anything about it.

    Raises:
        InputError: an end of a known length has no depth, or lies outside the image.
    """
    poses = known_poses(scene, observed.camera_motion)
    lengths = None if observed.lengths is None else length_scale(scene, observed.lengths)
    said = (_of_lengths(observed, lengths), _of_depth(scene, observed.depth), _of_poses(scene, poses, observed))
    scales = [s for s in said if s is not None]
    if not scales and poses is None:
        return None
    chosen = _agreed(scales)
    similarity = _similarity(scene, poses, 0.0 if chosen is None else chosen.log_scale)
    metric = scene.metric if chosen is None else _any_metric(scales, observed)
    outcome: dict[str, Any] = {"scale": round(float(similarity.scale), 6), "metric": metric}
    if chosen is not None:
        outcome["scale_sigma"] = round(chosen.sigma, 6)
    if poses is not None:
        outcome["poses"] = int(poses.known.sum())
    sources = tuple(s.source for s in scales)
    return Anchoring(similarity, metric, sources, outcome, _notes(scales, chosen, observed, lengths))


def known_poses(scene: Scene, motion: CameraMotion | None) -> KnownPoses | None:
    """The given frames of a motion, with uncertainties that a solver can work with; None without any."""
    if motion is None or not motion.given_frames.any():
        return None
    return KnownPoses.of(motion).least(DEPTH_DOUBT * float(np.linalg.norm(np.ptp(scene.centres_world, axis=0))))


def poses_set_aside(scene: Scene, motion: CameraMotion) -> str:
    """What to say of poses that do not fit the path of the scene as a whole, or are rotations alone; else nothing."""
    if sentences := about_rotations(motion):
        return sentences[0]
    poses = known_poses(scene, motion)
    if poses is None or int(poses.known.sum()) < _ENOUGH:
        return ""
    cameras, every = _tensor(scene.world_from_cam), torch.ones_like(poses.known)
    sizing = poses.reach > OFF_SIGMAS * poses.sigma_m
    found = world_from_structure(poses, cameras, every, with_scale=sizing)
    if found is None:
        return ""
    bent_m, bent_rad = float(np.hypot(poses.sigma_m, DRIFT * poses.reach)), float(np.hypot(poses.sigma_rad, DRIFT))
    wide = poses._replace(sigma_m=bent_m, sigma_rad=bent_rad)
    off = wide.off_by(found.apply_to_cameras(cameras))[poses.known] > OFF_SIGMAS
    if int(off.sum()) <= 0.5 * len(off):
        return ""
    return (
        f"the given poses of {int(off.sum())} of {len(off)} frames do not fit the path of the scene, so all were set "
        "aside; check that they are camera-to-world, in metres, with z forward, and of these frames."
    )


def length_scale(scene: Scene, lengths: KnownLengths) -> LengthScale | None:
    """What known lengths say, by the scene's depth at their ends.

    Raises:
        InputError: an end has no depth, or lies outside the image.
    """
    count = len(lengths.frame)
    depth_z, sigma = np.empty((count, 2)), np.empty((count, 2))
    for k, e in np.ndindex(count, 2):
        depth_z[k, e], sigma[k, e] = _depth_at(scene, int(lengths.frame[k]), lengths.uv[k, e])
    reference = scene.camera.frames(len(scene)).mean(0)
    uv = np.stack([ideal_uv(lengths.uv[k : k + 1], _camera_of(scene, int(lengths.frame[k])), reference)[0]
                   for k in range(count)])  # fmt: skip
    return scale_from(lengths, uv, depth_z, sigma, reference)


def log_depth_ratio(scene: Scene, depth: DepthMaps) -> float | None:
    """Median over frames of the log of given over reconstructed depth; None where no static pixel has both."""
    known = _log_ratios(scene, depth)
    return float(np.median(known)) if len(known) else None


def moved(scene: Scene, known_from_scene: Sim3) -> Scene:
    """The same scene in another world and unit: cameras, depth, tracks, points, flow and their uncertainties."""
    scale = float(known_from_scene.scale)
    cameras = known_from_scene.apply_to_cameras(_tensor(scene.world_from_cam)).numpy()
    tracks, sigma, flow = scene.tracks, scene.camera_sigma, scene.flow
    if tracks is not None:
        points = _points(known_from_scene, tracks.points_world)
        tracks = replace(tracks, points_world=points, sigma=(tracks.sigma * np.float32(scale)))
    if sigma is not None:
        sigma = replace(sigma, centre=sigma.centre * scale)
    if flow is not None:
        turned = (scale * known_from_scene.rotation.numpy()).astype(np.float32)
        flow = replace(flow, displacement=np.stack([np.asarray(frame) @ turned.T for frame in flow.displacement]))
    static_points = None if scene.static_points is None else _points(known_from_scene, scene.static_points)
    depth_z = np.stack([np.asarray(frame) * np.float32(scale) for frame in scene.depth_z])
    return replace(
        scene, world_from_cam=cameras, depth_z=depth_z, tracks=tracks, static_points=static_points, flow=flow,
        camera_sigma=sigma,
    )  # fmt: skip


def on_grid(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """One map on another grid by nearest pixel: depth and labels are never mixed."""
    if values.shape[:2] == (height, width):
        return values
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _of_lengths(observed: Observations, found: LengthScale | None) -> Scale | None:
    if observed.lengths is None or found is None:
        return None
    return Scale(found.log_scale, found.sigma, named(observed.lengths), observed.lengths.source.name)


def _of_depth(scene: Scene, depth: DepthMaps | None) -> Scale | None:
    """The median over frames of the median log ratio over static pixels; as uncertain as the frames scatter."""
    if depth is None or not depth.metric:
        return None
    known = _log_ratios(scene, depth)
    if not len(known):
        return None
    middle = float(np.median(known))
    scatter = 1.4826 * float(np.median(np.abs(known - middle))) / len(known) ** 0.5
    return Scale(middle, max(scatter, DEPTH_DOUBT), "the given depth", depth.source.name)


def _log_ratios(scene: Scene, depth: DepthMaps) -> Float[np.ndarray, "k"]:
    known = np.array([_frame_log_ratio(scene, depth, t) for t in range(len(scene))])
    return known[np.isfinite(known)]


def _frame_log_ratio(scene: Scene, depth: DepthMaps, frame: int) -> float:
    """Median log of known over reconstructed depth where the scene stands still; NaN where nothing is known."""
    known = on_grid(np.asarray(depth.depth_z[frame]), scene.height, scene.width)
    use = (known > 0) & np.isfinite(known) & np.asarray(scene.valid[frame]) & (np.asarray(scene.moving[frame]) == 0)
    if not use.any():
        return float("nan")
    return float(np.median(np.log(known[use] / np.asarray(scene.depth_z[frame])[use])))


def _of_poses(scene: Scene, poses: KnownPoses | None, observed: Observations) -> Scale | None:
    """What the distances between known poses say; None where they are too close together to tell."""
    if poses is None or observed.camera_motion is None or poses.reach <= OFF_SIGMAS * poses.sigma_m:
        return None
    found = world_from_structure(poses, _tensor(scene.world_from_cam), torch.ones_like(poses.known), with_scale=True)
    if found is None or not float(np.ptp(scene.centres_world, axis=0).max()) > 0:
        return None
    sigma = float(np.hypot(2 * poses.sigma_m / poses.reach, DRIFT / float(poses.known.sum()) ** 0.5))
    return Scale(float(found.scale.log()), sigma, "the given poses", observed.camera_motion.source.name)


def _agreed(scales: list[Scale]) -> Scale | None:
    """The weighted mean of the scales that agree with the surest."""
    if not scales:
        return None
    surest = min(scales, key=lambda s: s.sigma)
    agree = [s for s in scales if abs(s.log_scale - surest.log_scale) <= OFF_SIGMAS * np.hypot(s.sigma, surest.sigma)]
    weight = np.array([s.sigma**-2 for s in agree])
    mean = float(weight @ np.array([s.log_scale for s in agree]) / weight.sum())
    return surest._replace(log_scale=mean, sigma=float(weight.sum() ** -0.5))


def _any_metric(scales: list[Scale], observed: Observations) -> bool:
    by_poses = observed.camera_motion is not None and observed.camera_motion.metric
    return by_poses or any(s.what != "the given poses" for s in scales)


def _similarity(scene: Scene, poses: KnownPoses | None, log_scale: float) -> Sim3:
    scale = torch.tensor(log_scale, dtype=torch.float64).exp()
    only_scale = Sim3(scale, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    if poses is None:
        return only_scale
    cameras = only_scale.apply_to_cameras(_tensor(scene.world_from_cam))
    found = world_from_structure(poses, cameras, torch.ones_like(poses.known), with_scale=False)
    return only_scale if found is None else Sim3(scale, found.rotation, found.translation)


def _notes(
    scales: list[Scale], chosen: Scale | None, observed: Observations, lengths: LengthScale | None
) -> tuple[str, ...]:
    """What contradicts what: lengths each other and the scale, and other scales the one taken."""
    if chosen is None:
        return ()
    notes: list[str] = []
    if observed.lengths is not None and lengths is not None:
        other = chosen.what if chosen.what != named(observed.lengths) else ""
        shifted = lengths._replace(log_scale=lengths.log_scale - chosen.log_scale, each=lengths.each - chosen.log_scale)
        notes += contradictions.about_lengths(observed.lengths, shifted if other else lengths, other)
    for s in scales:
        off = s.log_scale - chosen.log_scale
        told = observed.lengths is not None and s.what == named(observed.lengths)
        if not told and abs(off) > OFF_SIGMAS * np.hypot(s.sigma, chosen.sigma):
            notes.append(
                f"{s.what} make the scene {np.exp(off):.3g} times as large as {chosen.what}, which are surer and were "
                "taken; check the units of both."
            )
    return tuple(notes)


def _depth_at(scene: Scene, frame: int, uv: np.ndarray) -> tuple[float, float]:
    """Depth and the sigma of its log around a pixel."""
    if not 0 <= frame < len(scene):
        raise InputError(f"a known length is in frame {frame}, but the scene has frames 0 to {len(scene) - 1}.")
    column, row = (int(np.floor(x)) for x in uv)
    if not (0 <= column < scene.width and 0 <= row < scene.height):
        raise InputError(f"a known length ends outside the image of frame {frame}; give pixels of the original image.")
    depth_z, sigma = scene.depth_around(frame, uv)
    if np.isnan(depth_z):
        raise InputError(
            f"the scene has no depth in frame {frame} at pixel ({uv[0]:.0f}, {uv[1]:.0f}) of its images, where a known "
            "length ends; choose another pixel or frame."
        )
    return depth_z, sigma


def _camera_of(scene: Scene, frame: int) -> Any:
    return replace(scene.camera, intrinsics=scene.camera.at(frame))


def _points(known_from_scene: Sim3, points: Float[np.ndarray, "*n 3"]) -> np.ndarray:
    return known_from_scene.apply(_tensor(points)).numpy().astype(np.float32)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))
