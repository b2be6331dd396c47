"""What may be wrong with single frames: pictures, tracks, cameras, depth and masks that are unlike their neighbours'.

Every symptom is one number per frame, 0 where nothing is wrong, and relative to the clip: what all frames share is no
symptom of one of them. `health` makes a probability and sentences of them.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import median_filter
from scipy.special import gammainc

from worldline.engines.uni4d import evidence
from worldline.engines.uni4d.inputs import Inputs
from worldline.geometry import se3
from worldline.scene.journal import Arrays
from worldline.scene.lazy import LazyArray
from worldline.solve.known_poses import OFF_SIGMAS

GOOD_CENTRE, GOOD_ROTATION_RAD, GOOD_DEPTH = 0.02, float(np.radians(1.0)), 0.1
"""A frame is good if its camera's centre is off by less than this share of the usual depth, it is turned by less, and
the depth of what stands still is off by less on average; or by at most `USUAL` times what all frames are off by."""

USUAL = 3.0

NEIGHBOURS = 9
"""Frames around (and with) one that tell what is usual there."""

ALIKE = 0.1
"""Share of the usual change of the picture below which a frame only repeats the one before."""

LEAST_CHANGE = 1.0
"""Usual change of the picture, in grey levels, from which a repeated frame can be told."""

DARK, BRIGHT = 4, 251
"""Grey levels beyond which light was not measured."""

STRAY = 4.0
"""Times the usual misfit of a sighting from which it strays."""

FEW = 30.0
"""Static sightings that fit of which a frame has few."""

MOSTLY = 0.65
"""Share of the frames around one from which a track is mostly on a mask, or off it."""

STEADY_RAD = 0.002
"""A camera is never steadier than this."""

FAR_OFF = 0.5
"""Log depth from which it does not matter by how much more it is off."""

PICTURE_SIDE = 64
"""Width of the pictures that are compared as wholes."""


def find_symptoms(inputs: Inputs, bundled: Arrays, points: Arrays, fused: Arrays, doubts: Arrays) -> Arrays:
    """Names and (T,) arrays of all symptoms, in the order in which they explain a frame."""
    misfit = misfits(inputs, bundled, points)
    fits = np.nansum(misfit < STRAY * np.nanmedian(misfit), 1) if np.isfinite(misfit).any() else np.zeros(len(misfit))
    return {
        **of_pictures(inputs.video.frames),
        "pose": off_poses(inputs), "measured": off_scale(bundled["log_depth_scale"][:, 0]),
        "mask": flips(inputs), "few": np.log1p(FEW / np.maximum(fits, 1e-3)), "lost": drops(fits),
        "stray": strays(misfit), "jump": jumps(bundled["world_from_cam"]),
        "depth": off_depth(inputs, bundled, points, fused),
        "vague": rises([float(np.median(s)) for s in fused["sigma"]]), "camera": doubtful(inputs, fused, doubts),
    }  # fmt: skip


def of_pictures(frames: UInt8[LazyArray, "t h w 3"]) -> Arrays:
    """Frames that repeat the one before (1), that lack light or have too much, that are unlike both neighbours, much
    less sharp, or much more noisy.

    `clipped` is a share of all pixels; `unlike`, `blurred` and `noisy` are logs of ratios to what is usual around.
    """
    grey = [cv2.cvtColor(np.asarray(f), cv2.COLOR_RGB2GRAY) for f in frames]
    height = max(2, round(PICTURE_SIDE * grey[0].shape[0] / grey[0].shape[1]))
    small = np.stack([cv2.resize(g, (PICTURE_SIDE, height), interpolation=cv2.INTER_AREA) for g in grey]).astype(float)
    detail = np.array([float(np.abs(cv2.Laplacian(g, cv2.CV_32F)).mean()) + 0.1 for g in grey])
    ends = np.array([float(((g < DARK) | (g > BRIGHT)).mean()) for g in grey])
    change = np.array([float(cv2.absdiff(a, b).mean()) for a, b in zip(grey, grey[1:], strict=False)])
    usual = around(change)
    repeats = (change < ALIKE * usual) & (usual > LEAST_CHANGE)
    return {
        "repeat": np.concatenate([[0.0], repeats.astype(float)]), "clipped": excess(ends), "unlike": unlike(small),
        "blurred": drops(detail), "noisy": rises(detail),
    }  # fmt: skip


def unlike(small: Float[np.ndarray, "t h w"]) -> Float[np.ndarray, "t"]:
    """Log of how much farther a picture is from both neighbours than those are from each other."""

    def apart(step: int) -> np.ndarray:
        return np.abs(small[step:] - small[:-step]).mean((1, 2)) + 0.5

    out = np.zeros(len(small))
    if len(small) < 5:
        return out
    near, far = apart(1), apart(2)
    out[1:-1] = np.log(np.minimum(near[:-1], near[1:]) / np.maximum(far, around(near)[1:]))
    return np.maximum(out, 0)


def misfits(inputs: Inputs, bundled: Arrays, points: Arrays) -> Float[np.ndarray, "t n"]:
    """How far, in its own sigma, every static sighting is from its point; NaN where there is none."""
    columns = points["columns"]
    seen = inputs.evidence.static[:, columns]
    frame, track = np.nonzero(seen)
    cam_from_world = np.linalg.inv(bundled["world_from_cam"])
    points_cam = _in_cameras(cam_from_world, frame, points["points"][track])
    intrinsics = bundled["intrinsics"]
    uv = points_cam[:, :2] / np.maximum(points_cam[:, 2:], 1e-6) * intrinsics[:2] + intrinsics[2:]
    at = frame, columns[track]
    sigma = np.maximum(inputs.tracks.sigma_px[at], inputs.config.bundling.least_sigma_px)
    out = np.full(seen.shape, np.nan)
    out[frame, track] = np.linalg.norm(uv - inputs.tracks.uv[at], axis=-1) / sigma
    return out


def strays(misfit: Float[np.ndarray, "t n"]) -> Float[np.ndarray, "t"]:
    """Share of a frame's sightings that stray, beyond what is usual around it."""
    seen = np.isfinite(misfit)
    if not seen.any():
        return np.zeros(len(misfit))
    share = (seen & (misfit > STRAY * np.nanmedian(misfit))).sum(1) / np.maximum(seen.sum(1), 1)
    return excess(share)


def off_poses(inputs: Inputs) -> Float[np.ndarray, "t"]:
    """Log of one more than by how many times of what it may be off a given pose is off; 0 where none was given."""
    motion = inputs.observed.camera_motion
    if motion is None or motion.off is None:
        return np.zeros(len(inputs.video))
    return np.log1p(np.maximum(motion.off - 1, 0) / OFF_SIGMAS)


def jumps(world_from_cam: Float[np.ndarray, "t 4 4"]) -> Float[np.ndarray, "t"]:
    """Log of how much more than usual a camera is turned from the middle of its neighbours."""
    out = np.zeros(len(world_from_cam))
    if len(out) < 5:
        return out
    turns = torch.from_numpy(world_from_cam[:, :3, :3].copy())
    before, after = turns[:-2], turns[2:]
    half = se3.so3_exp(0.5 * se3.so3_log(se3.nearest_rotation(before.mT @ after)))
    away = se3.angle_rad(se3.nearest_rotation((before @ half).mT @ turns[1:-1])).numpy()
    out[1:-1] = rises(np.maximum(away, STEADY_RAD))
    return out


def off_scale(log_scale: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """How far, in usual deviations, the scale of a frame's depth cue is from that of the others; log of one more."""
    off = np.abs(log_scale - np.median(log_scale))
    return np.log1p(off / max(1.4826 * float(np.median(off)), 0.02))


def flips(inputs: Inputs) -> Float[np.ndarray, "t"]:
    """Share of the tracks on a mask, in a frame or mostly around it, that are the other way in it; beyond the usual."""
    on, seen = _on_mask(inputs, inputs.masks.ids)
    number = np.stack([_moving_sums(x, NEIGHBOURS) for x in (on & seen, seen)]) - np.stack([on & seen, seen])
    usual = number[0] / np.maximum(number[1], 1)
    told = seen & (number[1] >= 2) & ((usual > MOSTLY) | (usual < 1 - MOSTLY))
    often = usual > MOSTLY
    changed, either = (told & (on != often)).sum(1), (told & (on | often)).sum(1)
    return excess(changed / np.maximum(either, FEW))


def _moving_sums(values: Bool[np.ndarray, "t n"], width: int) -> Int[np.ndarray, "t n"]:
    """Sums over the frames around each."""
    padded = np.pad(values.astype(np.int32), ((width // 2 + 1, width // 2), (0, 0))).cumsum(0)
    return padded[width:] - padded[:-width]


def _on_mask(inputs: Inputs, ids: np.ndarray) -> tuple[Bool[np.ndarray, "t n"], Bool[np.ndarray, "t n"]]:
    """Which visible sightings are on a mask, and which there are."""
    uv, seen = inputs.seen_uv, inputs.tracks.visible & np.isfinite(inputs.seen_uv).all(-1)
    frame, track = np.nonzero(seen)
    on = np.zeros(seen.shape, bool)
    on[frame, track] = evidence.nearest_at(ids, frame, uv[frame, track], inputs.video.width, inputs.video.height) > 0
    return on, seen


def off_depth(inputs: Inputs, bundled: Arrays, points: Arrays, fused: Arrays) -> Float[np.ndarray, "t"]:
    """Mean |log| of the frame's depth against static points, in units of `GOOD_DEPTH`, beyond what is usual."""
    fits = np.flatnonzero(np.isfinite(points["misfit"]))
    columns = points["columns"][fits]
    frame, track = np.nonzero(inputs.evidence.static[:, columns])
    z = _in_cameras(np.linalg.inv(bundled["world_from_cam"]), frame, points["points"][fits][track])[:, 2]
    size = inputs.video.width, inputs.video.height
    uv = inputs.seen_uv[frame, columns[track]]
    out = np.zeros(len(inputs.video))
    for t in range(len(out)):
        here = (frame == t) & (z > 0)
        depth_z = evidence.nearest_at(np.asarray(fused["depth_z"][t])[None], np.zeros(here.sum(), int), uv[here], *size)
        known = depth_z > 0
        if known.sum() >= FEW:
            out[t] = np.minimum(np.abs(np.log(depth_z[known] / z[here][known])), FAR_OFF).mean()
    return np.maximum(out - np.median(out), 0) / GOOD_DEPTH


def doubtful(inputs: Inputs, fused: Arrays, doubts: Arrays) -> Float[np.ndarray, "t"]:
    """Minus the log of the probability that the camera's errors stay within the limits, as its sigma says."""
    depth_z = np.asarray(fused["depth_z"][len(inputs.video) // 2])
    limits = GOOD_CENTRE * float(np.median(depth_z)), GOOD_ROTATION_RAD
    good = [
        within(max(limit, USUAL * float(np.median(doubts[name]))), doubts[name])
        for limit, name in zip(limits, ("centre", "rotation_rad"), strict=True)
    ]
    return -np.log(np.maximum(good[0] * good[1], 1e-3))


def within(limit: float, sigma: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Probability that a vector of three normal components of this sigma is shorter than `limit`."""
    return gammainc(1.5, 0.5 * (limit / np.maximum(sigma, 1e-12)) ** 2)


def excess(shares: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """By how much a share is larger than usual, around each frame and in the clip; at least 0."""
    return np.maximum(shares - np.maximum(around(shares), np.median(shares)), 0)


def drops(values: np.ndarray) -> Float[np.ndarray, "t"]:
    """By how much less than usual around each frame a positive quantity is there: log of the ratio, at least 0."""
    values = np.maximum(np.asarray(values, dtype=np.float64), 1e-3)
    return np.maximum(np.log(np.minimum(around(values), np.median(values)) / values), 0)


def rises(values: np.ndarray | list[float]) -> Float[np.ndarray, "t"]:
    """By how much more than usual around each frame a positive quantity is there: log of the ratio, at least 0."""
    values = np.maximum(np.asarray(values, dtype=np.float64), 1e-6)
    return np.maximum(np.log(values / np.maximum(around(values), np.median(values))), 0)


def around(values: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """The median of the frames around each."""
    return median_filter(values, NEIGHBOURS, mode="nearest")


def _in_cameras(
    cam_from_world: Float[np.ndarray, "t 4 4"], frame: np.ndarray, points: Float[np.ndarray, "m 3"]
) -> Float[np.ndarray, "m 3"]:
    rows = cam_from_world[frame]
    return np.einsum("mij,mj->mi", rows[:, :3, :3], points) + rows[:, :3, 3]
