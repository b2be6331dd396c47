"""Structure from pixel tracks alone: cameras and points of the rigid majority, with movers among the tracks.

1. A camera that only turns is fitted first (`rotation.turning`). If it explains the tracks as well as tracks can be
   explained, the clip has no parallax: rotations are given, no translation and no depth are claimed.
2. A camera that moves is fitted beside it (`growth.moving_camera`): keyframes are solved outward from the best pair
   (`starting_pairs`), with bundle adjustments in between, the other frames are resected, and all is adjusted together.
3. The model with translation is kept only where it explains the tracks clearly better than turning does.

An unknown focal length is voted for by many pairs over a range of fields of view (`focal`), then refined with all
cameras.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.errors import SolveFailed
from worldline.geometry import se3
from worldline.scene.observations import PixelTracks
from worldline.solve import rotation, triangulation
from worldline.solve.focal import Focal, prior_focal
from worldline.solve.growth import moving_camera
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_cameras import Cameras
from worldline.solve.track_samples import TrackSamples, fitting, keyframes, mean_square, still_share, well_spread

Motion = Literal["static", "turning", "general"]
MEDIAN_DEPTH = 4.0
"""Scale of the answer: the median depth of the static points, in units of the world (unknown, not metres)."""


@dataclass(frozen=True, eq=False)
class RigidStructure:
    """What the rigid majority of the tracks says. World = first camera, scale by `MEDIAN_DEPTH`.

    Attributes:
        world_from_cam: (T, 4, 4), finite in every frame; solved: (T,) false where a pose is only interpolated.
        intrinsics: (4,) fx fy cx cy; focal_sigma: its relative standard deviation (0: was given).
        motion: whether the camera stood still, only turned, or moved with parallax.
        points_world: (N, 3) of the static hypothesis of every track; spread_rad: (N,) angle between its rays.
        residual_px: (T, N) reprojection error under it; NaN where the track is not visible.
        track_rms_px: (N,) robust size of the residuals over the track's life; NaN without samples.
        support: (T,) number of samples that agree.
    """

    world_from_cam: Float[np.ndarray, "t 4 4"]
    solved: Bool[np.ndarray, "t"]
    intrinsics: Float[np.ndarray, "4"]
    focal_sigma: float
    motion: Motion
    points_world: Float[np.ndarray, "n 3"]
    spread_rad: Float[np.ndarray, "n"]
    residual_px: Float[np.ndarray, "t n"]
    track_rms_px: Float[np.ndarray, "n"]
    support: Int[np.ndarray, "t"]

    @property
    def parallax(self) -> bool:
        """Whether translation and depth are claimed."""
        return self.motion == "general"


def rigid_structure(
    tracks: PixelTracks,
    width: int,
    height: int,
    *,
    focal_px: float | None = None,
    focal_sigma: float = 0.0,
    settings: StructureSettings | None = None,
) -> RigidStructure:
    """Camera motion and static structure from pixel tracks.

    Args:
        width, height: of the image the tracks live in; the principal point is its centre.
        focal_px: the focal length if known, with its relative `focal_sigma` (0 keeps it fixed); None: estimated.

    Raises:
        SolveFailed: hardly any track spans several frames.
    """
    s = settings or StructureSettings()
    everything = TrackSamples.of(tracks, s.noise_px)
    used = well_spread(everything, tracks.query_frame, width, height, s.tracks)
    if len(used) < 16:
        raise SolveFailed("fewer than 16 tracks span several frames; use a longer or sharper clip.")
    samples, focal = everything.tracks(used), prior_focal(focal_px, focal_sigma, width, height, s)
    if still_share(samples, s.still_px) > 0.5:
        return _judged(everything, _standing(len(tracks.uv), focal), "static", s)
    keys = keyframes(samples, s.frames_per_key)
    turning = _turning(samples, keys, focal, s)
    general = moving_camera(samples, keys, focal, s, median_depth=MEDIAN_DEPTH)
    if general is not None and _explains(samples, turning, general, s):
        return _judged(everything, general, "general", s)
    return _judged(everything, turning, "turning", s)


def structure_at(
    tracks: PixelTracks,
    world_from_cam: Float[np.ndarray, "t 4 4"],
    intrinsics: Float[np.ndarray, "4"],
    *,
    settings: StructureSettings | None = None,
) -> RigidStructure:
    """The static hypothesis of every track under known cameras, whose scale is kept."""
    s = settings or StructureSettings()
    cameras = torch.from_numpy(np.asarray(world_from_cam, dtype=np.float64))
    state = Cameras(cameras, torch.ones(len(cameras), dtype=torch.bool), torch.from_numpy(intrinsics.copy()), 0.0)
    moves = float((cameras[:, :3, 3] - cameras[0, :3, 3]).norm(dim=-1).max()) > 0
    return _judged(TrackSamples.of(tracks, s.noise_px), state, "general" if moves else "turning", s)


def _standing(count: int, focal: Focal) -> Cameras:
    eye = torch.eye(4, dtype=torch.float64).expand(count, 4, 4).clone()
    return Cameras(eye, torch.ones(count, dtype=torch.bool), focal.intrinsics, focal.sigma)


def _turning(samples: TrackSamples, keys: Tensor, focal: Focal, s: StructureSettings) -> Cameras:
    """The camera that only turns; its focal length is that of the lowest cost over the keyframes."""
    few = samples.frames(keys)
    fits = [rotation.turning(few.uv, few.weight, focal.at(f)) for f in focal.candidates]
    costs = [mean_square(fit.residual_px, few.weight, s.outlier_px / s.noise_px) for fit in fits]
    intrinsics = focal.at(focal.best(costs))
    found = rotation.turning(samples.uv, samples.weight, intrinsics)
    world_from_cam = se3.from_rotation_translation(found.rotation, torch.zeros_like(found.rotation[:, 0]))
    solved = (samples.weight > 0).sum(1) >= 8
    return Cameras(world_from_cam, solved, intrinsics, min(focal.sigma, 0.15))


def _explains(samples: TrackSamples, turning: Cameras, general: Cameras, s: StructureSettings) -> bool:
    """Whether enough of the tracks that fit the moving camera do not fit the turning one (and few the other way).

    What is gained in the middle of the image alone is taken for an object that the camera turns after, as long as
    turning explains more tracks than are gained: the parallax of a scene reaches its borders.
    """
    moving = triangulation.triangulate(samples.uv, samples.weight, general.world_from_cam, general.intrinsics)
    fits_moving = fitting(moving.residual_px, samples.weight)
    fits_turning = fitting(_at_unit_depth(samples, turning)[1], samples.weight)
    gained, lost = fits_moving & ~fits_turning, fits_turning & ~fits_moving
    if gained.sum() < fits_turning.sum():
        outer = [_outer_share(samples.tracks(torch.nonzero(k)[:, 0]), general) for k in (gained, fits_turning)]
        if outer[0] < 0.5 * outer[1]:
            return False
    return float(gained.sum() - lost.sum()) > s.parallax_share * float(fits_moving.sum())


def _outer_share(samples: TrackSamples, state: Cameras) -> float:
    """Share of the sightings in the outer 15 per cent of the image on any side."""
    size = 2 * state.intrinsics[2:]
    outer = ((samples.uv / size - 0.5).abs() > 0.35).any(-1)
    seen = samples.weight > 0
    return float((outer & seen).sum() / seen.sum().clamp_min(1))


def _judged(samples: TrackSamples, state: Cameras, motion: Motion, s: StructureSettings) -> RigidStructure:
    """Every track under the cameras found: its static point, its residuals, and how many agree per frame."""
    seen = samples.weight > 0
    if motion == "general":
        found = triangulation.triangulate(samples.uv, samples.weight, state.world_from_cam, state.intrinsics)
        points, spread, residual = found
    else:
        points, residual = _at_unit_depth(samples, state)
        spread = torch.zeros_like(points[:, 0])
    agree = (residual < s.outlier_px) & seen
    rms = (torch.where(seen, residual.clamp_max(1e3).square(), torch.zeros_like(residual)).sum(0) / seen.sum(0)).sqrt()
    return RigidStructure(
        state.world_from_cam.numpy(), state.solved.numpy(), state.intrinsics.numpy(), state.focal_sigma, motion,
        points.numpy(), spread.numpy(), torch.where(seen, residual, torch.nan).float().numpy(),
        rms.float().numpy(), agree.sum(1).numpy(),
    )  # fmt: skip


def _at_unit_depth(samples: TrackSamples, state: Cameras) -> tuple[Tensor, Tensor]:
    """Directions of the tracks of a camera that only turns, at MEDIAN_DEPTH, and their residuals."""
    fit = rotation.at_rotations(samples.uv, samples.weight, state.intrinsics, state.world_from_cam[:, :3, :3])
    return fit.direction * MEDIAN_DEPTH, fit.residual_px
