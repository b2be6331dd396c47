"""Moving objects placed as wholes: where they touch the ground, steady over time, with a sigma that says how surely.

The inverse depth of a plane is affine in the image, so the ground around the foot of an object is fitted in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter1d, percentile_filter

GROUND_SIGMA = 0.12
"""Standard deviation of log depth up to which a static pixel speaks about the ground."""

AT_THE_BORDER = 0.02
"""Share of the image's height: a foot nearer to the lower border may be outside."""


@dataclass(frozen=True)
class Standing:
    """How surely an object is placed, in log depth.

    Attributes:
        ground: on a ground fitted around its foot. ring: at the depth of what surrounds its foot.
        nowhere: where its foot is outside the image.
        thickness: of the object, as a share of its smaller side in the image, which is its size over its depth.
        lifted: share of what the contact jumps that counts: off the ground the place is interpolated in time.
        stride_frames: frames over which an object touches the ground at least once.
    """

    ground: float = 0.06
    ring: float = 0.2
    nowhere: float = 0.35
    thickness: float = 0.3
    lifted: float = 0.5
    stride_frames: int = 13


class Contact(NamedTuple):
    """Inverse depth where an object touches the ground, and the sigma of its log."""

    inverse: float
    sigma: float


def stand(
    inverse: Float[np.ndarray, "t h w"],
    sigma: Float[np.ndarray, "t h w"],
    ids: Int[np.ndarray, "t h w"],
    focal_px: float,
    settings: Standing,
) -> None:
    """Put every moving object, as a whole, at the depth of the ground where it touches it, steady over time, in place.

    Off the ground (a jump, a bounce) that place is too far, never too near: the nearer places around it count.
    `focal_px` is in pixels of the maps.
    """
    for number in range(1, int(ids.max()) + 1):
        frames = np.flatnonzero((ids == number).any((1, 2)))
        if len(frames) == 0:
            continue
        contacts = [touched(inverse[t], sigma[t], ids[t] == number, ids[t] > 0, settings) for t in frames]
        log_contact, doubt = np.log([c.inverse for c in contacts]), np.array([c.sigma for c in contacts])
        grounded = percentile_filter(log_contact, 80, size=settings.stride_frames, mode="nearest")
        steady = gaussian_filter1d(grounded, 2.0, mode="nearest")
        jumps = gaussian_filter1d(np.abs(steady - log_contact), 2.0, mode="nearest")
        doubt = np.hypot(gaussian_filter1d(doubt, 2.0, mode="nearest"), settings.lifted * jumps)
        for t, q, s in zip(frames, np.exp(steady), doubt, strict=True):
            inside = ids[t] == number
            inverse[t][inside] = q
            sigma[t][inside] = np.hypot(s, settings.thickness * smaller_side(inside) / focal_px)


def smaller_side(inside: Bool[np.ndarray, "h w"]) -> float:
    """Mean width of a region in pixels, or its mean height if that is less."""
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    return float(inside.sum() / max(rows, columns, 1))


def touched(
    inverse: Float[np.ndarray, "h w"],
    sigma: Float[np.ndarray, "h w"],
    inside: Bool[np.ndarray, "h w"],
    moving: Bool[np.ndarray, "h w"],
    settings: Standing,
) -> Contact:
    """The ground under the lowest part of a region.

    It is fitted to the well known static pixels around the contact, robustly; without enough of them the static ring
    around the lowest part has to do.
    """
    height, width = inverse.shape
    rows = np.flatnonzero(inside.any(1))
    foot, lowest = rows[-1], rows[-1] - max(2, round(0.05 * (rows[-1] - rows[0])))
    middle = float(np.flatnonzero(inside[lowest:].any(0)).mean())
    outside = settings.nowhere if foot >= (1 - AT_THE_BORDER) * height - 1 else 0.0
    near = cv2.dilate(moving.astype(np.uint8), np.ones((7, 7), dtype=np.uint8)) > 0
    v, u = np.nonzero((sigma < GROUND_SIGMA) & ~near)
    dv, du = (v - foot) / height, (u - middle) / width
    use = (np.abs(dv) < 0.2) & (np.abs(du) < 0.3)
    if use.sum() >= 100:
        v, u, dv, du = v[use], u[use], dv[use], du[use]
        known = inverse[v, u].astype(np.float64)
        weight = np.exp(-((dv / 0.1) ** 2)) / (sigma[v, u] * known) ** 2
        ground = _affine(np.stack([np.ones_like(du), du, dv], 1), known, weight)[0]
        if 0.5 < ground / np.median(known) < 2.0:
            return Contact(float(ground), max(settings.ground, outside))
    ring = (cv2.dilate(inside.astype(np.uint8), np.ones((7, 7), dtype=np.uint8)) > 0) & ~moving
    ring[:lowest] = False
    if ring.any():
        around = float(np.hypot(settings.ring, np.median(sigma[ring])))
        return Contact(float(np.median(inverse[ring])), max(around, outside))
    return Contact(float(np.median(inverse[inside])), settings.nowhere)


def _affine(
    places: Float[np.ndarray, "n 3"], values: Float[np.ndarray, "n"], weight: Float[np.ndarray, "n"], steps: int = 8
) -> Float[np.ndarray, "3"]:
    """Coefficients of an affine function, by least squares reweighted with a Cauchy loss at 4 % of the values."""
    now, scale = weight, 0.04 * np.median(values)
    for _ in range(steps):
        normal = (places * now[:, None]).T @ places
        found = np.linalg.solve(normal + 1e-9 * np.trace(normal) * np.eye(3), (places * now[:, None]).T @ values)
        now = weight / (1 + ((places @ found - values) / scale) ** 2)
    return found
