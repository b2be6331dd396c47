"""Every static point that a pixel could be: does some place on its epipolar line look like it?

Where two depths share a place (a railing or leaves before a valley) and on repeated texture flow is often wrong, and
then so is the one static point that fits it. So before flow may say that something moves, all the static points that
the pixel could be are compared with it in the images: a plane sweep (Collins, "A space-sweep approach to true
multi-image matching", CVPR 1996, section 2) over inverse depth, at half the resolution of the grid.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from worldline.cues.optical_flow import sample
from worldline.cues.parallax import FlowChain, Sightings
from worldline.geometry import pixels
from worldline.solve.structure import RigidStructure

STEP_PX = 1.5
"""Distance between neighbouring places of the sweep, in pixels of the reduced image."""
MOST_PLACES = 48
"""Places of a sweep, at most."""
WINDOW = 5
"""Side of the surroundings that are compared, in pixels of the reduced image."""
OUTSIDE = -1e4
"""Grey level of what is outside the image."""


class Sweep(NamedTuple):
    """One frame and those it is compared with, reduced, and the planes they are compared over.

    `far` and `near` are homographies to pixels of each other frame from those of this one: far + q * near is that of
    the plane at inverse depth q.
    """

    here: Float[np.ndarray, "h w"]
    others: list[Float[np.ndarray, "h w"]]
    far: Float[np.ndarray, "d 3 3"]
    near: Float[np.ndarray, "d 3 3"]


def sweep_of(
    chain: FlowChain, scene: RigidStructure, luma: Float[np.ndarray, "t h w"], frame: int, frames: tuple[int, ...]
) -> Sweep:
    """The frame and the others at half the resolution of the grid."""
    here, *others = (_half(luma[f]) for f in (frame, *frames))
    height, width = here.shape
    centre = pixels.from_integer_centres(np.zeros(2))
    uv_from_px = np.diag([chain.size[1] / width, chain.size[0] / height, 1.0])
    uv_from_px[:2, 2] = np.diag(uv_from_px)[:2] * centre
    xy_from_px = np.linalg.inv(_matrix(scene, frame)) @ uv_from_px
    px_from_xy = np.stack([np.linalg.inv(uv_from_px) @ _matrix(scene, f) for f in frames])
    other_from_cam = np.linalg.inv(scene.world_from_cam[list(frames)]) @ scene.world_from_cam[frame]
    shift = other_from_cam[:, :3, 3:] * [0, 0, 1]
    return Sweep(here, others, px_from_xy @ other_from_cam[:, :3, :3] @ xy_from_px, px_from_xy @ shift @ xy_from_px)


def least_difference(sweep: Sweep, farthest: float, nearest: float) -> Float[np.ndarray, "h w"]:
    """Mean square difference, in grey levels, of every pixel from the static place that looks most like it.

    Frames that do not see the place are left out; infinite where no place is in any of them.
    """
    best = np.full(sweep.here.shape, np.inf, dtype=np.float32)
    for q in np.linspace(farthest, nearest, _places(sweep, farthest, nearest)):
        total, count = np.zeros_like(best), np.zeros_like(best)
        for other, homography in zip(sweep.others, sweep.far + q * sweep.near, strict=True):
            gap = _around((sweep.here - _warped(other, homography)) ** 2)
            inside = gap < 256**2
            total += np.where(inside, gap, 0)
            count += inside
        best = np.minimum(best, np.where(count > 0, total / np.maximum(count, 1), np.inf))
    return best


def flow_difference(sweep: Sweep, chain: FlowChain, seen: Sightings) -> Float[np.ndarray, "h w"]:
    """The same of the places that flow leads to, in all frames: where flow is lost it explains nothing."""
    size = sweep.here.shape[::-1]
    scale = np.array([chain.size[1] / size[0], chain.size[0] / size[1]], dtype=np.float32)
    places = (cv2.resize(uv, size, interpolation=cv2.INTER_AREA) / scale for uv in seen.uv)
    gaps = (_around((sweep.here - sample(o, uv)) ** 2) for o, uv in zip(sweep.others, places, strict=True))
    return sum(gaps, np.zeros_like(sweep.here)) / len(sweep.others)


def _places(sweep: Sweep, farthest: float, nearest: float) -> int:
    """How many inverse depths it takes to leave no gap between the places of a corner."""
    height, width = sweep.here.shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1.0]]).T
    ends = [(sweep.far + q * sweep.near) @ corners for q in (farthest, nearest)]
    a, b = (x[:, :2] / np.maximum(x[:, 2:], 0.1) for x in ends)
    return int(np.clip(np.abs(b - a).max() / STEP_PX, 2, MOST_PLACES))


def _warped(image: Float[np.ndarray, "h w"], homography: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "h w"]:
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(image, homography, image.shape[::-1], flags=how, borderValue=OUTSIDE)


def _matrix(scene: RigidStructure, frame: int) -> Float[np.ndarray, "3 3"]:
    fx, fy, cx, cy = scene.intrinsics_per_frame[frame]
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _half(image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h2 w2"]:
    height, width = image.shape
    return cv2.resize(image, (max(width // 2, 1), max(height // 2, 1)), interpolation=cv2.INTER_AREA)


def _around(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    return cv2.boxFilter(values, cv2.CV_32F, (WINDOW, WINDOW), borderType=cv2.BORDER_REFLECT)
