"""Known lengths: what they say about the scale of a structure, each from the static points around its two ends."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from worldline.scene.observations import KnownLengths, PixelTracks
from worldline.solve.structure import RigidStructure

NEAR = 0.08
"""Share of the image width within which static points speak about the depth of an end."""

NEIGHBOURS = 6
"""Points that are asked, at most."""

OFF_SIGMAS = 4.0
"""A length that is off by more standard deviations contradicts the others."""


class LengthScale(NamedTuple):
    """Metres per unit of the structure.

    Attributes:
        log_scale: log of the robust mean; sigma: its standard deviation.
        each: (K,) log scale by every length, NaN where its ends could not be placed; each_sigma: (K,).
    """

    log_scale: float
    sigma: float
    each: Float[np.ndarray, "k"]
    each_sigma: Float[np.ndarray, "k"]

    @property
    def off(self) -> Float[np.ndarray, "k"]:
        """By how many standard deviations each length is off the mean of all."""
        return np.abs(self.each - self.log_scale) / self.each_sigma


def end_points(
    uv_end: Float[np.ndarray, "k 2 2"], depth_z: Float[np.ndarray, "k 2"], intrinsics: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "k 2 3"]:
    """The ends in their cameras."""
    xy = (uv_end - intrinsics[2:]) / intrinsics[:2]
    return np.concatenate([xy, np.ones_like(xy[..., :1])], -1) * depth_z[..., None]


def scale_from(
    lengths: KnownLengths,
    uv_end: Float[np.ndarray, "k 2 2"],
    depth_z: Float[np.ndarray, "k 2"],
    depth_sigma: Float[np.ndarray, "k 2"],
    intrinsics: Float[np.ndarray, "4"],
) -> LengthScale | None:
    """Metres per unit, from the depths of the ends and their relative sigma (NaN: unknown); None where none is known.

    The mean is a median of the lengths first, and then the weighted mean of those that agree with it.
    """
    ends = end_points(uv_end, depth_z, intrinsics)
    away = ends[:, 1] - ends[:, 0]
    own = np.linalg.norm(away, axis=-1)
    # an end that is off along its ray changes the length by what of the ray lies along it
    along = np.abs(np.einsum("kei,ki->ke", ends, away / np.maximum(own, 1e-12)[:, None]))
    slope = np.maximum(along, 0.7 * own[:, None])
    doubt = np.sqrt(((slope * depth_sigma) ** 2).sum(1)) / np.maximum(own, 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.log(lengths.length_m / own)
        sigma = np.hypot(doubt, lengths.sigma_m / lengths.length_m)
    known = np.isfinite(each) & np.isfinite(sigma)
    if not known.any():
        return None
    each, sigma = np.where(known, each, np.nan), np.maximum(np.where(known, sigma, np.nan), 1e-4)
    middle = float(np.nanmedian(each))
    agree = known & (np.abs(each - middle) <= OFF_SIGMAS * sigma) if known.sum() > 2 else known
    agree = agree if agree.any() else known
    weight = 1 / sigma[agree] ** 2
    return LengthScale(float(weight @ each[agree] / weight.sum()), float(weight.sum() ** -0.5), each, sigma)


def depth_around(
    uv_end: Float[np.ndarray, "2"],
    uv: Float[np.ndarray, "n 2"],
    depth_z: Float[np.ndarray, "n"],
    usable: Bool[np.ndarray, "n"],
    width: int,
) -> tuple[float, float]:
    """Depth at a pixel from the static points around it, and its relative sigma; NaN without any."""
    away = np.where(usable, np.linalg.norm(uv - uv_end, axis=-1), np.inf)
    near = np.argsort(away)[:NEIGHBOURS]
    near = near[away[near] < NEAR * width]
    if len(near) == 0:
        return np.nan, np.nan
    weight = 1 / (away[near] + 0.004 * width)
    inverse = 1 / depth_z[near]
    order = np.argsort(inverse)
    half = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    middle = inverse[order][min(half, len(order) - 1)]
    spread = float(np.sqrt(weight @ (inverse / middle - 1) ** 2 / weight.sum()))
    return 1 / float(middle), float(np.hypot(spread / max(len(near), 2) ** 0.5, 0.01))


def scale_by_lengths(tracks: PixelTracks, scene: RigidStructure, lengths: KnownLengths) -> LengthScale | None:
    """Metres per unit of a structure; None where nothing static is followed near the ends of any length."""
    width = int(round(2 * scene.intrinsics[2]))
    cam_from_world = np.linalg.inv(scene.world_from_cam)
    depth_z = np.einsum("ti,ni->tn", cam_from_world[:, 2, :3], scene.points_world) + cam_from_world[:, 2, 3:]
    usable = (scene.residual_px < 2) & (scene.track_rms_px < 1.5) & (depth_z > 0)
    found = [
        [depth_around(end, tracks.uv[t], depth_z[t], usable[t], width) for end in ends]
        for t, ends in zip(lengths.frame, lengths.uv, strict=True)
    ]
    depth, sigma = np.moveaxis(np.array(found), -1, 0)
    return scale_from(lengths, lengths.uv, depth, sigma, scene.intrinsics)


def named(lengths: KnownLengths) -> str:
    """What gives the scale, in words."""
    if len(lengths.length_m) == 1:
        return f"a known length of {lengths.length_m[0]:g} m"
    return f"{len(lengths.length_m)} known lengths"
