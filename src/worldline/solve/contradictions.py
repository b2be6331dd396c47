"""What is known against what the images say: one sentence with figures for each thing that does not agree."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.scene.observations import KnownLengths
from worldline.solve.anchored_bundle import anchored_points
from worldline.solve.calibration import calibrated
from worldline.solve.focal import Focal
from worldline.solve.known_lengths import OFF_SIGMAS as LENGTH_OFF
from worldline.solve.known_lengths import LengthScale
from worldline.solve.known_poses import OFF_SIGMAS
from worldline.solve.structure import RigidStructure
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_cameras import Cameras, adjusted
from worldline.solve.track_depth import TrackDepth
from worldline.solve.track_samples import TrackSamples, keyframes

LEAST_FOCAL_SHARE = 0.02
"""A given focal length that is off by less is not worth a sentence: the lens is not modelled."""

FOCAL_SIGMAS = 3.0
"""A focal length that is off by more standard deviations contradicts the images."""

FAR_FOCAL_SHARE, FAR_FOCAL_SIGMAS = 0.15, 5.0
"""How far off, relatively and in standard deviations, a focal length is that the images alone would not find."""

BETTER_FIT = 0.95
"""The images contradict a given focal length only if with another one they fit better than by this factor."""

LEAST_SPREAD = 0.01
"""Scatter of depth around the structure, relative, that says nothing."""

UNEVEN, FAR_OFF = 3.0, 0.3
"""Times the usual scatter from which a depth image is off; log depth from which it does not matter how much more."""

HOLES = 0.33
"""Share of the usual number of values below which a depth image has holes."""

_LENGTH = "the known length of"

JUDGES = 1200
"""Tracks that are asked about the focal length, at most."""


def about_focal(
    samples: TrackSamples, cameras: Cameras, focal: Focal, s: StructureSettings, *, distorts: bool
) -> tuple[str, ...]:
    """Whether the images alone, left to choose, take another focal length than the given one.

    Args:
        samples: of the real camera, unless it is known that its lens does not distort.
    """
    given = float(focal.intrinsics[0])
    samples = samples.tracks(torch.arange(0, samples.uv.shape[1], max(1, samples.uv.shape[1] // JUDGES)))
    keys, free = keyframes(samples, s.frames_per_key), focal._replace(sigma=s.focal_sigma)
    few = cameras._replace(world_from_cam=cameras.world_from_cam[keys], solved=cameras.solved[keys])
    as_given = adjusted(samples.frames(keys), few, focal._replace(sigma=0.0), s, steps=25)
    few = adjusted(samples.frames(keys), few, free, s, steps=25)
    if not residual_of(samples.frames(keys), few, s) < BETTER_FIT * residual_of(samples.frames(keys), as_given, s):
        return ()
    moved = cameras.world_from_cam.clone()
    moved[keys] = few.world_from_cam
    cameras = cameras._replace(world_from_cam=moved, intrinsics=few.intrinsics)
    lens = calibrated(samples, keys, cameras, free, s, distorts=distorts)
    images, sigma = float(lens.intrinsics[0]), lens.focal_sigma
    if abs(np.log(images / given)) < max(LEAST_FOCAL_SHARE, FOCAL_SIGMAS * float(np.hypot(sigma, focal.sigma))):
        return ()
    return (_other_focal(given, images, sigma),)


def about_focal_alone(
    found: RigidStructure, cameras: Cameras, samples: TrackSamples, focal: Focal, s: StructureSettings
) -> tuple[str, ...]:
    """Whether a structure that knew nothing of the given focal length found quite another one, and fits better.

    It is asked because a solution that starts far from the truth may stay where it is.

    Args:
        found: the structure of these frames alone; cameras: the same frames under the given focal length.
    """
    given, images, sigma = float(focal.intrinsics[0]), float(found.intrinsics[0]), found.focal_sigma
    far = max(FAR_FOCAL_SHARE, FAR_FOCAL_SIGMAS * float(np.hypot(sigma, focal.sigma)))
    if found.motion == "static" or found.zooms or abs(np.log(images / given)) < far:
        return ()
    solved, intrinsics = torch.from_numpy(found.solved), torch.from_numpy(found.intrinsics)
    own = Cameras(torch.from_numpy(found.world_from_cam), solved & cameras.solved, intrinsics, sigma)
    as_given = cameras._replace(solved=own.solved)
    if not residual_of(samples, own, s) < BETTER_FIT * residual_of(samples, as_given, s):
        return ()
    return (_other_focal(given, images, sigma),)


def _other_focal(given_px: float, images_px: float, sigma: float) -> str:
    return (
        f"the given focal length of {given_px:.0f} px contradicts the images, which speak for {images_px:.0f} +- "
        f"{images_px * sigma:.0f} px; check the calibration, or the size of the images that it belongs to."
    )


def about_poses(
    off: Float[Tensor, "t"], known: Bool[Tensor, "t"], residual_px: tuple[float, float] | None = None
) -> tuple[str, ...]:
    """Frames whose given pose is off by more than it may be, and how much better the images fit without it."""
    bad = torch.nonzero(known & (off > OFF_SIGMAS))[:, 0].tolist()
    if not bad:
        return ()
    figures = "" if residual_px is None else (
        f" (reprojection {residual_px[0]:.2g} px with the poses as given, {residual_px[1]:.2g} px as found)"
    )  # fmt: skip
    return (
        f"the given poses of {len(bad)} of {int(known.sum())} frames ({_listed(bad)}) contradict the images by up to "
        f"{float(off.max()):.0f} standard deviations{figures}; check those poses, or give a larger --pose-sigma.",
    )


def all_poses(residual_px: tuple[float, float]) -> str:
    """For poses that do not fit the motion in the images as a whole."""
    return (
        f"the given poses contradict the images as a whole (reprojection {residual_px[0]:.2g} px with them, "
        f"{residual_px[1]:.2g} px without) and were set aside; check that they are camera-to-world, in metres, with z "
        "forward, and of these frames."
    )


def about_depth_scale(log_ratio: float, sigma: float, what: str) -> tuple[str, ...]:
    """Depth whose scale is not that of the other things known."""
    if abs(log_ratio) < OFF_SIGMAS * sigma:
        return ()
    return (
        f"the given depth is {np.exp(-log_ratio):.3g} times what {what} say, which are good to {100 * sigma:.1g} %; it "
        "was scaled to them; check --depth-scale, or the units of what was given.",
    )


def about_depth(
    samples: TrackSamples, cameras: Cameras, depth: TrackDepth, s: StructureSettings
) -> tuple[tuple[str, ...], Float[np.ndarray, "t"]]:
    """Frames whose depth is off the structure of all as a whole; and the log offset of every frame, (T,)."""
    points = anchored_points(samples, cameras, None, s)
    forward, centre = cameras.world_from_cam[:, :3, 2], cameras.world_from_cam[:, :3, 3]
    z = forward @ points.points_world.T - (forward * centre).sum(-1, keepdim=True)
    use = depth.known & (samples.weight > 0) & points.good & (points.residual_px < s.outlier_px) & (z > 0)
    ratio = torch.where(use, z.clamp_min(1e-9).log() - depth.log_depth, torch.nan)
    enough = use.sum(1) >= 20
    offset = torch.where(enough, ratio.nanmedian(1).values, torch.nan)
    spread = torch.where(enough, (ratio - offset[:, None]).abs().clamp_max(FAR_OFF).nanmean(1), torch.nan)
    limit = OFF_SIGMAS * max(float(np.hypot(depth.scale_sigma, 0.02)), 1.4826 * float(offset.abs().nanmedian()))
    uneven = UNEVEN * max(LEAST_SPREAD, float(spread.nanmedian()))
    bad = torch.nonzero((offset.abs() > limit) | (spread > uneven))[:, 0].tolist()
    notes: tuple[str, ...] = ()
    if bad:
        worst = float((offset.abs() + spread)[bad].max())
        notes = (
            f"the given depth of {len(bad)} of {len(offset)} frames ({_listed(bad)}) is off the others by up to "
            f"{100 * np.expm1(worst):.0f} %; check those depth images.",
        )
    return (*notes, *_about_holes(depth, samples)), offset.nan_to_num(0.0).numpy()


def _about_holes(depth: TrackDepth, samples: TrackSamples) -> tuple[str, ...]:
    """Frames whose depth is known in far fewer places than that of the others."""
    seen = samples.weight > 0
    share = (depth.known & seen).sum(1).double() / seen.sum(1).clamp_min(1)
    few = torch.nonzero(share < HOLES * share.median())[:, 0].tolist()
    if not few:
        return ()
    return (
        f"the given depth of {len(few)} of {len(share)} frames ({_listed(few)}) has a value in "
        f"{100 * float(share[few].max()):.0f} % of the places at most where the others have one in "
        f"{100 * float(share.median()):.0f} %; check those depth images.",
    )


def about_lengths(lengths: KnownLengths, scale: LengthScale, other: str = "") -> tuple[str, ...]:
    """Lengths that contradict each other, or (with `other` naming it) what else gives the scale (log scale 0)."""
    notes = []
    lost = np.flatnonzero(~np.isfinite(scale.each))
    if len(lost):
        notes.append(
            f"{len(lost)} of {len(scale.each)} known lengths could not be used, for nothing static is followed near "
            "their ends; mark points on textured static things."
        )
    mean = 0.0 if other else scale.log_scale
    off = np.abs(scale.each - mean) / scale.each_sigma
    placed = np.flatnonzero(np.isfinite(scale.each))
    if not other and len(placed) == 2:
        return (*notes, *_about_two(lengths, scale, *placed.tolist()))
    for k in np.flatnonzero(off > LENGTH_OFF):
        seen = lengths.length_m[k] * np.exp(mean - scale.each[k])
        notes.append(
            f"{_LENGTH} {lengths.length_m[k]:g} m in frame {int(lengths.frame[k])} measures {seen:.3g} m by "
            f"{other or 'the other lengths'}; check its end points and its value."
        )
    return tuple(notes)


def _about_two(lengths: KnownLengths, scale: LengthScale, a: int, b: int) -> tuple[str, ...]:
    """Two lengths that contradict each other: none of them is the odd one."""
    off = scale.each[a] - scale.each[b]
    if abs(off) < LENGTH_OFF * np.hypot(scale.each_sigma[a], scale.each_sigma[b]):
        return ()
    seen = lengths.length_m[b] * np.exp(off)
    first, second = (f"{lengths.length_m[k]:g} m in frame {int(lengths.frame[k])}" for k in (a, b))
    return (
        f"{_LENGTH} {first} and that of {second} contradict each other, for by the first the second measures "
        f"{seen:.3g} m; check the end points and values of both, or give a third.",
    )


def but_lengths(notes: tuple[str, ...]) -> tuple[str, ...]:
    """The sentences without those about single lengths, which the finished scene measures again, and better."""
    return tuple(note for note in notes if not note.startswith(_LENGTH))


def about_masks(
    on_mask: Bool[np.ndarray, "t n"],
    residual_px: Float[np.ndarray, "t n"],
    rms_px: Float[np.ndarray, "n"],
    path_px: float,
) -> tuple[str, ...]:
    """Given masks that cover what stands still, or miss what moves.

    Args:
        on_mask: sightings that lie on a mask. residual_px, rms_px: of the static hypothesis.
        path_px: how far static points move in the image; little says nothing about who moves.
    """
    seen = np.isfinite(residual_px)
    length = seen.sum(0)
    long = length >= min(8, len(seen))
    covered = long & ((on_mask & seen).sum(0) > 0.9 * length)
    clear = long & ~(on_mask & seen).any(0)
    notes = []
    if covered.sum() >= 30 and path_px > 10 and (still := float((rms_px[covered] < 1.0).mean())) > 0.7:
        notes.append(
            f"{100 * still:.0f} % of what the given masks cover moves like the static scene; check that the masks are "
            "of these frames, and not inverted."
        )
    if clear.sum() >= 30 and (moving := float((rms_px[clear] > 4.0).mean())) > 0.2:
        notes.append(
            f"{100 * moving:.0f} % of what the given masks leave free does not move like a static scene; the masks may "
            "miss moving things."
        )
    return tuple(notes)


def residual_of(samples: TrackSamples, cameras: Cameras, s: StructureSettings) -> float:
    """Median reprojection error in pixels of the sightings under these cameras."""
    found = anchored_points(samples, cameras, None, s)
    seen = (samples.weight > 0) & cameras.solved[:, None] & found.residual_px.isfinite()
    return float(found.residual_px[seen].median()) if bool(seen.any()) else float("nan")


def _listed(frames: list[int], most: int = 6) -> str:
    """Frame numbers, the first few of many."""
    shown = ", ".join(str(f) for f in frames[:most])
    return shown + (", ..." if len(frames) > most else "")
