"""The rigid scene of a clip: cameras and static points from the pixel tracks, one computation shared by the cues.

What is known already (a camera, poses of some frames, depth from a sensor, lengths, masks) takes part in it, and the
scene comes out in the world and the units of that (`solve/anchoring.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float

from worldline.cues.recognition import Recognition
from worldline.geometry.camera import Camera, ideal_uv
from worldline.scene.journal import Arrays, Journal, content_key, pack, unpack
from worldline.scene.observations import CameraMotion, DepthMaps, MovingMasks, Observations, PixelTracks, Source
from worldline.scene.video import Video
from worldline.solve import contradictions
from worldline.solve.anchoring import AnchoredStructure, Known, anchored_structure
from worldline.solve.known_poses import KnownPoses, about_rotations
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.surface_alignment import Surfaces, surfaces_of
from worldline.solve.track_depth import depth_of_tracks

ESTIMATED = "camera/selfcal"
"""Source of cameras and poses that came from here: they carry no knowledge of their own."""

FROM_HERE = ("moving/rigid", "depth/motion")
"""Sources of masks and depth that were made from the rigid scene: no knowledge of their own either."""

CENTRE_SIGMA = 0.02
"""Standard deviation of a camera centre, as a share of the median depth."""

ROTATION_SIGMA_RAD = 0.004
"""Standard deviation of a camera's rotation."""

MASK_MARGIN = 0.012
"""Width around a known mask, as a share of the image's, in which a sighting may still be on the mover."""


@dataclass(frozen=True, eq=False)
class _Given:
    """What was known before, leaving out what came from here."""

    camera: Camera | None
    focal_sigma: float
    motion: CameraMotion | None
    depth: DepthMaps | None
    masks: MovingMasks | None
    observed: Observations

    @classmethod
    def of(cls, observed: Observations) -> _Given:
        prior, motion = observed.camera, observed.camera_motion
        depth, masks = observed.depth, observed.moving
        prior = None if prior is None or prior.source.name == ESTIMATED else prior
        return cls(
            None if prior is None else prior.camera, 0.0 if prior is None else prior.focal_sigma,
            motion if motion is not None and motion.given_frames.any() else None,
            depth if depth is not None and depth.metric and depth.source.name not in FROM_HERE else None,
            masks if masks is not None and masks.source.name not in FROM_HERE else None, observed,
        )  # fmt: skip

    def key(self) -> Any:
        """All of it that the scene depends on."""
        tracks, motion, lengths = self.observed.tracks, self.motion, self.observed.lengths
        assert tracks is not None
        return {
            "tracks": content_key(tracks.uv, tracks.visible, tracks.sigma_px),
            "camera": self.camera and (self.camera.intrinsics, self.camera.distortion, self.focal_sigma),
            "poses": motion and (motion.world_from_cam, motion.given_frames, motion.sigma_m, motion.sigma_rad),
            "depth": self.depth and content_key(np.asarray(self.depth.depth_z), np.asarray(self.depth.sigma)),
            "masks": self.masks and content_key(np.asarray(self.masks.ids)),
            "lengths": lengths and (lengths.frame, lengths.uv, lengths.length_m, lengths.sigma_m),
        }


def rigid_scene(
    video: Video, observed: Observations, journal: Journal, settings: StructureSettings | None = None
) -> AnchoredStructure:
    """Structure from the observed tracks, in the world of everything that is known already.

    Needs `observed.tracks`. A known camera (from a file, a sensor) gives the focal length, and `intrinsics` of the
    result are then that camera's (of the median frame where it zooms), else those of an ideal pinhole.

    Raises:
        SolveFailed: neither the tracks nor what is known give cameras.
    """
    given, chosen = _Given.of(observed), settings or StructureSettings()
    stored = journal.run(
        "structure", lambda: _solved(video, given, chosen), settings={"settings": chosen, **given.key()}
    )
    return _structure(stored)


def camera_motion_of(scene: AnchoredStructure) -> CameraMotion:
    """The camera motion as an observation, so that an engine can start from it: given poses, and estimates between."""
    known = scene.given.any()
    return CameraMotion(
        np.where(scene.given[:, None, None], scene.given_world_from_cam, scene.world_from_cam),
        scene.solved | scene.given,
        scene.given_sigma_m if known else CENTRE_SIGMA * scene.median_depth,
        scene.given_sigma_rad if known else ROTATION_SIGMA_RAD,
        Source(ESTIMATED, notes=contradictions.but_lengths(scene.notes)), metric=scene.metric,
        metric_source=scene.scale_source, given=scene.given, off=scene.pose_off,
    )  # fmt: skip


def _solved(video: Video, given: _Given, settings: StructureSettings) -> Arrays:
    tracks, lens = given.observed.tracks, given.camera
    assert tracks is not None, "the rigid scene comes from tracks"
    size = (video.width, video.height)
    on_mask = None if given.masks is None else sightings_on(given.masks, tracks, *size)
    usable = None if on_mask is None else ~on_mask & (on_mask.sum(0) <= 0.5 * tracks.visible.sum(0))
    centred = None if lens is None else _centred(lens)
    known = Known(
        None if given.motion is None else KnownPoses.of(given.motion),
        None if given.depth is None else depth_of_tracks(tracks, given.depth, *size),
        _ideal_lengths(given, lens), _surfaces(given, centred, *size),
    )  # fmt: skip
    ideal = tracks if lens is None or centred is None else tracks.ideal(lens, centred)
    found = anchored_structure(
        ideal, *size, known, focal_px=None if centred is None else float(centred[0]),
        focal_sigma=given.focal_sigma,
        distorts=lens is None or not any(lens.distortion), features=Recognition(video, lens, centred), usable=usable,
        settings=settings,
    )  # fmt: skip
    arrays = {f.name: np.asarray(getattr(found, f.name)) for f in fields(found) if f.name != "notes"}
    notes = found.notes if on_mask is None else (*found.notes, *_about_masks(found, on_mask, tracks))
    notes = (*notes, *about_rotations(given.observed.camera_motion))
    if lens is not None and centred is not None:
        own = _reference(lens)
        arrays["intrinsics"] = np.concatenate([own[:2] * (found.intrinsics[0] / centred[0]), own[2:]])
    return {**arrays, "notes": pack(list(notes))}


def _surfaces(given: _Given, centred: Float[np.ndarray, "4"] | None, width: int, height: int) -> Surfaces | None:
    """The surfaces that known depth has, as the pinhole of the solve sees them."""
    if given.depth is None:
        return None
    return surfaces_of(given.depth, width, height, camera=given.camera, reference=centred, moving=given.masks)


def _structure(stored: Arrays) -> AnchoredStructure:
    plain: dict[str, Any] = {k: v.item() if v.ndim == 0 and k != "notes" else v for k, v in stored.items()}
    texts = {"notes": tuple(unpack(stored["notes"])), "distortion": tuple(stored["distortion"].tolist())}
    return AnchoredStructure(**{**plain, **texts})


def _reference(lens: Camera) -> Float[np.ndarray, "4"]:
    """The intrinsics that stand for all frames."""
    return np.median(lens.intrinsics, 0) if lens.per_frame else lens.intrinsics


def _centred(lens: Camera) -> Float[np.ndarray, "4"]:
    """The pinhole of square pixels, its principal point in the middle, in which structure is solved."""
    focal = float(_reference(lens)[:2].mean())
    return np.array([focal, focal, lens.width / 2, lens.height / 2])


def _ideal_lengths(given: _Given, lens: Camera | None) -> Any:
    """The ends of the known lengths where the pinhole of the solve sees them."""
    lengths = given.observed.lengths
    if lengths is None or lens is None:
        return lengths
    own = Camera(lens.frames(int(lengths.frame.max()) + 1)[lengths.frame], lens.width, lens.height, lens.distortion)
    return replace(lengths, uv=ideal_uv(np.asarray(lengths.uv, dtype=np.float64), own, _centred(lens)))


def sightings_on(masks: MovingMasks, tracks: PixelTracks, width: int, height: int) -> Bool[np.ndarray, "t n"]:
    """Visible sightings that lie on a known mask, or so near to one that they may."""
    out = np.zeros(tracks.visible.shape, dtype=bool)
    rows, columns = masks.ids.shape[1:]
    radius = max(1, round(MASK_MARGIN * columns))
    grown = np.ones((2 * radius + 1, 2 * radius + 1), dtype=np.uint8)
    known = np.ones(len(out), dtype=bool) if masks.known is None else masks.known
    for t in np.flatnonzero(known):
        seen = np.flatnonzero(tracks.visible[t] & np.isfinite(tracks.uv[t]).all(-1))
        mask = cv2.dilate((np.asarray(masks.ids[t]) > 0).astype(np.uint8), grown)
        column = np.clip(tracks.uv[t, seen, 0] * (columns / width), 0, columns - 1).astype(np.int64)
        row = np.clip(tracks.uv[t, seen, 1] * (rows / height), 0, rows - 1).astype(np.int64)
        out[t, seen] = mask[row, column] > 0
    return out


def _about_masks(found: AnchoredStructure, on_mask: Bool[np.ndarray, "t n"], tracks: PixelTracks) -> tuple[str, ...]:
    """Contradictions between the given masks and the static scene, where the camera moves enough to tell."""
    seen = np.isfinite(found.residual_px)
    static = found.track_rms_px < 1.5
    moved = np.where(seen[..., None], tracks.uv, np.nan)[:, static]
    path_px = float(np.median(np.nanmax(moved, 0) - np.nanmin(moved, 0))) if static.any() else 0.0
    return contradictions.about_masks(on_mask, found.residual_px, found.track_rms_px, path_px)
