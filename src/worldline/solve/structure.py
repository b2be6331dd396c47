"""Structure from pixel tracks alone: cameras and points of the rigid surroundings, with movers among the tracks.

1. What the camera may follow is set aside (`surroundings`): something rigid that most tracks agree on, but that keeps
   away from the borders of the image, which others reach.
2. A camera that only turns is fitted, with a fixed lens and with one that zooms (`rotation.calibrated`).
3. A camera that moves is fitted beside it (`growth.moving_camera`): keyframes are solved outward from the best pair
   (`starting_pairs`), with bundle adjustments in between, the other frames are resected, and all is adjusted together.
   From it the best explanation by a lens that zooms is sought (`zoom_rival`).
4. Of each two the one with fewer unknowns is kept unless the tracks speak against it (`model_selection`).

A clip without parallax has rotations; no translation and no depth are claimed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.errors import SolveFailed
from worldline.geometry import se3
from worldline.scene.observations import PixelTracks
from worldline.solve import rotation, triangulation, zoom, zoom_rival
from worldline.solve.calibration import calibrated, through_lens
from worldline.solve.focal import Focal, prior_focal
from worldline.solve.growth import moving_camera
from worldline.solve.model_selection import Explanation, better, enclosed
from worldline.solve.resection import interpolate_missing
from worldline.solve.revisits import Features, closed
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_cameras import Cameras, anchored
from worldline.solve.track_samples import TrackSamples, keyframes, still_share, well_spread
from worldline.solve.zoom import Lensed

Motion = Literal["static", "turning", "general"]
SUBJECT = 0.15
"""Least share of the tracks for a subject that is followed, and for what is around it."""
ZOOM_TRACKS = 300
"""Tracks from which the zoom of a moving camera is found, about."""
SWAY_PX = 6.0
"""Root mean square by which a subject that is followed may sway in the image."""
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
        zoom: (T,) focal length of every frame over that of `intrinsics`; ones unless the lens zooms.
        zoom_sigma: standard deviation of the log of last over first focal length, were it free, of a camera that moves.
        distortion: k1 and k2 of the lens that the tracks were seen through (OpenCV), empty for a pinhole; all pixels
        above are those of the pinhole with `intrinsics`.
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
    zoom: Float[np.ndarray, "t"]
    distortion: tuple[float, ...] = ()
    zoom_sigma: float = 0.0

    @property
    def parallax(self) -> bool:
        """Whether translation and depth are claimed."""
        return self.motion == "general"

    @property
    def zooms(self) -> bool:
        """Whether the focal length changes."""
        return bool((self.zoom != 1).any())

    @property
    def intrinsics_per_frame(self) -> Float[np.ndarray, "t 4"]:
        """fx fy cx cy of every frame."""
        return self.intrinsics * np.stack([self.zoom, self.zoom, np.ones_like(self.zoom), np.ones_like(self.zoom)], 1)


def rigid_structure(
    tracks: PixelTracks,
    width: int,
    height: int,
    *,
    focal_px: float | None = None,
    focal_sigma: float = 0.0,
    distorts: bool = True,
    features: Features | None = None,
    settings: StructureSettings | None = None,
) -> RigidStructure:
    """Camera motion and static structure from pixel tracks.

    Args:
        width, height: of the image the tracks live in; the principal point is its centre.
        focal_px: the focal length if known, with its relative `focal_sigma` (0 keeps it fixed); None: estimated.
        distorts: whether the lens may distort; False where that has been undone.
        features: of the frames, to recognise a place that is seen again; without them loops are not closed.

    Raises:
        SolveFailed: hardly any track spans several frames.
    """
    s, size = settings or StructureSettings(), torch.tensor([width, height], dtype=torch.float64)
    everything = TrackSamples.of(tracks, s.noise_px)
    focal = prior_focal(focal_px, focal_sigma, width, height, s)
    scene = surroundings(everything, tracks.query_frame, focal, size, s)
    used = well_spread(scene, tracks.query_frame, width, height, s.tracks)
    if len(used) < 16:
        raise SolveFailed("fewer than 16 tracks span several frames; use a longer or sharper clip.")
    samples = scene.tracks(used)
    if still_share(samples, s.still_px) > 0.5:
        return _judged(everything, _standing(len(tracks.uv), focal), "static", s)
    keys = keyframes(samples, s.frames_per_key)
    turning = _turning(samples, keys, focal, size, s)
    general = _general(samples, keys, focal, turning.log_zoom, s)
    if general is None or not _explains(samples.frames(keys), keys, turning, general.lensed, size, s):
        return _judged(turning.ideal(everything), turning.cameras, "turning", s, turning.log_zoom)
    lensed = general.lensed
    ideal, found = lensed.ideal(everything), lensed.cameras
    if not lensed.zooms:
        many = ideal.tracks(well_spread(scene, tracks.query_frame, width, height, s.lens_tracks))
        lens = calibrated(many, keys, found, focal, s, distorts=distorts)
        ideal, found = through_lens(ideal, used, found, lens, focal, s)
        if features is not None:
            found = closed(ideal.tracks(used), keys, found, features, focal, s)
    found = anchored(ideal.tracks(used), found, MEDIAN_DEPTH, s)
    return replace(_judged(ideal, found, "general", s, lensed.log_zoom), zoom_sigma=general.zoom_sigma)


def surroundings(
    samples: TrackSamples, query_frame: Int[np.ndarray, "n"], focal: Focal, size: Float[Tensor, "2"],
    s: StructureSettings,
) -> TrackSamples:  # fmt: skip
    """The samples without those of a subject that the camera keeps in the middle of the image.

    Such a subject stays in view, hardly moves in the image, and may outnumber the scene around it. It is what the best
    turning (or standing) camera explains, if that keeps away from the borders of the image, which other tracks reach.
    """
    few = well_spread(samples, query_frame, int(size[0]), int(size[1]), s.tracks // 3)
    if len(few) < 16:
        return samples
    keys = keyframes(samples.tracks(few), s.frames_per_key)
    chosen = samples.tracks(few).frames(keys)
    start = rotation.turning(chosen.uv, chosen.weight, focal.intrinsics)
    fit = rotation.calibrated(
        chosen.uv, chosen.weight, start, focal.intrinsics, focal_sigma=focal.sigma, step_sigma=zoom.step_sigma(keys)
    )
    inside, seen = _follows(chosen, fit.turning.residual_px), (chosen.weight > 0).sum(0) > 1
    if min(int(inside.sum()), int((seen & ~inside).sum())) < SUBJECT * int(seen.sum()):
        return samples
    if not enclosed(chosen, inside, seen & ~inside, size):
        return samples
    intrinsics = focal.at(float(focal.intrinsics[0] * fit.log_focal[0].exp()))
    ideal = zoom.at_fixed_focal(samples, zoom.between_keys(fit.log_focal, keys, len(samples.uv)).exp(), intrinsics)
    rotations = _interpolated(fit.turning.rotation, keys, len(samples.uv))
    subject = _follows(samples, rotation.at_rotations(ideal.uv, ideal.weight, intrinsics, rotations).residual_px)
    return samples._replace(weight=torch.where(subject, torch.zeros_like(samples.weight), samples.weight))


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


def _turning(
    samples: TrackSamples, keys: Tensor, focal: Focal, size: Float[Tensor, "2"], s: StructureSettings
) -> Lensed:
    """The camera that only turns, with a fixed lens, or one that zooms where that explains the tracks better."""
    few = samples.frames(keys)
    start = rotation.turning(few.uv, few.weight, focal.intrinsics)
    fixed, zooming = (
        rotation.calibrated(few.uv, few.weight, start, focal.intrinsics, focal_sigma=focal.sigma, step_sigma=step)
        for step in (None, zoom.step_sigma(keys))
    )
    models = [Explanation(f.turning.residual_px, k * len(keys), 2) for f, k in ((fixed, 3), (zooming, 4))]
    zooms = better(few, models[0], models[1], size, s) and zoom.noticeable(zooming.log_focal)
    chosen = zooming if zooms else fixed
    log_zoom = (
        zoom.between_keys(chosen.log_focal, keys, len(samples.uv)) if zooms else samples.uv.new_zeros(len(samples.uv))
    )
    intrinsics = focal.at(float(focal.intrinsics[0] * chosen.log_focal[0].exp()))
    ideal = zoom.at_fixed_focal(samples, log_zoom.exp(), intrinsics)
    found = rotation.turning(ideal.uv, ideal.weight, intrinsics)
    world_from_cam = se3.from_rotation_translation(found.rotation, torch.zeros_like(found.rotation[:, 0]))
    solved = (samples.weight > 0).sum(1) >= 8
    sigma = _focal_sigma(float(chosen.variance[0]), int((few.weight > 0).sum()), focal, s)
    return Lensed(Cameras(world_from_cam, solved, intrinsics, sigma), log_zoom)


def _focal_sigma(variance: float, sightings: int, focal: Focal, s: StructureSettings) -> float:
    """Relative sigma of the focal length of a turning camera: all sightings are worth `effective` independent ones."""
    if focal.sigma == 0:
        return 0.0
    return min(focal.sigma, max(s.least_focal_sigma, (variance * max(1.0, sightings / s.effective)) ** 0.5))


class _General(NamedTuple):
    """The camera that moves, and how well a change of its focal length is seen (`RigidStructure.zoom_sigma`)."""

    lensed: Lensed
    zoom_sigma: float


def _general(
    samples: TrackSamples, keys: Tensor, focal: Focal, log_zoom: Float[Tensor, "t"], s: StructureSettings
) -> _General | None:
    """The camera that moves, with a fixed lens, or one that zooms where the tracks speak for it.

    `log_zoom` is that of the camera that only turns, from which the search may start as well.
    """
    found = moving_camera(samples, keys, focal, s, median_depth=MEDIAN_DEPTH)
    if found is None:
        return None
    fixed = Lensed(found, samples.uv.new_zeros(len(samples.uv)))
    if focal.sigma == 0:
        return _General(fixed, 0.0)
    few = samples.frames(keys)
    few = few.tracks(torch.nonzero((few.weight > 0).sum(0) > 1)[:, 0])
    thin = few.tracks(torch.arange(0, few.uv.shape[1], max(1, few.uv.shape[1] // ZOOM_TRACKS)))
    own = found._replace(world_from_cam=found.world_from_cam[keys], solved=found.solved[keys])
    guess = None
    if zoom.noticeable(log_zoom):
        ideal = zoom.at_fixed_focal(thin, log_zoom[keys].exp(), focal.intrinsics)
        grown = moving_camera(ideal, torch.arange(len(keys)), focal, s, median_depth=MEDIAN_DEPTH)
        guess = None if grown is None else Lensed(grown, log_zoom[keys])
    zooming = zoom_rival.rival(thin, keys, own, focal, s, guess=guess)
    if zooming is None:
        return _General(fixed, 0.0)
    sigma = zoom_rival.sigmas(thin, keys, zooming, focal, s)
    sure = zoom.noticeable(zooming.log_zoom, sigma.zoom)
    if not (sure and zoom_rival.believed(thin, keys, own, zooming, focal, s)):
        return _General(fixed, sigma.zoom)
    known = zooming._replace(cameras=zooming.cameras._replace(focal_sigma=sigma.focal))
    return _General(zoom.everywhere(samples, keys, known, focal, s), sigma.zoom)


def _explains(
    few: TrackSamples, keys: Tensor, turning: Lensed, general: Lensed, size: Float[Tensor, "2"], s: StructureSettings
) -> bool:
    """Whether the tracks at keyframes need the translation of the moving camera."""
    models = []
    choices: tuple[tuple[Lensed, Motion, int], ...] = ((turning, "turning", 3), (general, "general", 6))
    for model, motion, unknowns in choices:
        ideal = zoom.at_fixed_focal(few, model.log_zoom[keys].exp(), model.cameras.intrinsics)
        cameras = model.cameras._replace(world_from_cam=model.cameras.world_from_cam[keys])
        residual = _static(ideal, cameras, motion)[2] * model.log_zoom[keys].exp()[:, None]
        models.append(Explanation(residual, (unknowns + model.zooms) * len(keys), 3 if motion == "general" else 2))
    return better(few, models[0], models[1], size, s)


def _follows(samples: TrackSamples, residual_px: Float[Tensor, "t n"]) -> Bool[Tensor, "n"]:
    """Tracks that stay within a hand's shake of a turning camera."""
    seen = samples.weight > 0
    square = torch.where(seen, residual_px.clamp_max(50).square(), torch.zeros_like(residual_px)).sum(0)
    return (square < SWAY_PX**2 * seen.sum(0)) & (seen.sum(0) > 1)


def _interpolated(rotations: Tensor, keys: Tensor, count: int) -> Float[Tensor, "t 3 3"]:
    cameras = torch.eye(4, dtype=rotations.dtype).repeat(count, 1, 1)
    known = torch.zeros(count, dtype=torch.bool)
    cameras[keys, :3, :3], known[keys] = rotations, True
    return interpolate_missing(cameras, known)[:, :3, :3]


def _judged(
    samples: TrackSamples, state: Cameras, motion: Motion, s: StructureSettings, log_zoom: Tensor | None = None
) -> RigidStructure:
    """Every track under the cameras found: its static point, its residuals, and how many agree per frame.

    The samples are those of a lens that stays as it is in the first frame; the residuals, of the one that zooms.
    """
    seen = samples.weight > 0
    factor = torch.ones_like(samples.uv[:, 0, 0]) if log_zoom is None else log_zoom.exp()
    points, spread, residual = _static(samples, state, motion)
    residual = residual * factor[:, None]
    agree = (residual < s.outlier_px) & seen
    rms = (torch.where(seen, residual.clamp_max(1e3).square(), torch.zeros_like(residual)).sum(0) / seen.sum(0)).sqrt()
    return RigidStructure(
        state.world_from_cam.numpy(), state.solved.numpy(), state.intrinsics.numpy(), state.focal_sigma, motion,
        points.numpy(), spread.numpy(), torch.where(seen, residual, torch.nan).float().numpy(),
        rms.float().numpy(), agree.sum(1).numpy(), factor.numpy(), state.distortion,
    )  # fmt: skip


def _static(samples: TrackSamples, state: Cameras, motion: Motion) -> tuple[Tensor, Tensor, Tensor]:
    """The static point of every track, the spread of its rays, and its residuals."""
    if motion == "general":
        return triangulation.triangulate(samples.uv, samples.weight, state.world_from_cam, state.intrinsics)
    points, residual = _at_unit_depth(samples, state)
    return points, torch.zeros_like(points[:, 0]), residual


def _at_unit_depth(samples: TrackSamples, state: Cameras) -> tuple[Tensor, Tensor]:
    """Directions of the tracks of a camera that only turns, at MEDIAN_DEPTH, and their residuals."""
    fit = rotation.at_rotations(samples.uv, samples.weight, state.intrinsics, state.world_from_cam[:, :3, :3])
    return fit.direction * MEDIAN_DEPTH, fit.residual_px
