"""Dense scene flow of short clips: every pixel of one frame at its place in the others, with the depth that is there.

A displacement that depth and flow cannot tell from none is none where the masks call the pixel static; so a mover
that the masks missed still moves, and a static wall does not tremble.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float

from worldline.geometry import camera, pixels, se3
from worldline.scene.journal import Arrays
from worldline.scene.observations import PixelFlow
from worldline.scene.scene import Scene

STILL_SIGMAS = 3.0
"""A pixel that the masks call static is still up to this many standard deviations of its displacement..."""

STILL_TREMBLES = 4.0
"""...and up to this many times the median displacement of all such pixels: a sigma may hold errors common to both
ends, which move nothing."""

EDGE = 0.03
"""Neighbouring depths that differ by more (of the depth) are two surfaces: the nearest pixel is taken, not a mean."""


def dense_motion(scene: Scene, flow: PixelFlow) -> Arrays:
    """`displacement` (T, H, W, 3) in the world of every pixel of the reference frame, and where it is `valid`."""
    ref, size = flow.reference, (scene.height, scene.width)
    place, static = pixels.centres(*size).double(), np.asarray(scene.moving[ref]) == 0
    first = _Surface.of(scene, ref)
    start = first.points_world(place, torch.from_numpy(first.depth_z))
    displacement = np.zeros((len(scene), *size, 3), np.float32)
    valid = np.zeros((len(scene), *size), bool)
    valid[ref] = first.valid
    for t in (t for t in range(len(scene)) if t != ref):
        shift, sigma_px = _resized(flow, t, size)
        there = place + torch.from_numpy(shift)
        moved, known, sigma_m = _Surface.of(scene, t).looked_up(there, sigma_px)
        moved = moved - start.numpy()
        valid[t] = known & first.valid & np.isfinite(sigma_px)
        still = static & (np.linalg.norm(moved, axis=-1) < _tremble(moved, sigma_m, first, static & valid[t]))
        displacement[t] = np.where((valid[t] & ~still)[..., None], moved, 0)
    return {"displacement": displacement, "valid": valid}


@dataclass(frozen=True, eq=False)
class _Surface:
    """What one frame shows: its camera and its maps."""

    intrinsics: Float[torch.Tensor, "4"]
    distortion: tuple[float, ...]
    world_from_cam: Float[torch.Tensor, "4 4"]
    depth_z: Float[np.ndarray, "h w"]
    sigma: Float[np.ndarray, "h w"]
    valid: Bool[np.ndarray, "h w"]

    @classmethod
    def of(cls, scene: Scene, t: int) -> _Surface:
        intrinsics = torch.from_numpy(np.asarray(scene.camera.at(t), dtype=np.float64))
        maps = (np.asarray(m[t]) for m in (scene.depth_z, scene.depth_sigma, scene.valid))
        return cls(intrinsics, scene.camera.distortion, torch.from_numpy(scene.world_from_cam[t]), *maps)

    def points_world(self, uv: Float[torch.Tensor, "h w 2"], depth_z: torch.Tensor) -> Float[torch.Tensor, "h w 3"]:
        flat = camera.unproject(uv.reshape(-1, 2), depth_z.double().reshape(-1), self.intrinsics, self.distortion)
        return se3.apply(self.world_from_cam, flat).reshape(*uv.shape[:2], 3)

    def looked_up(self, uv: Float[torch.Tensor, "h w 2"], sigma_px: np.ndarray) -> tuple[np.ndarray, ...]:
        """World points at places of the image, where they are known, and their standard deviation."""
        depth, known = depth_at(self.depth_z, self.valid, uv.numpy())
        relative = _remap(self.sigma, _integer(uv.numpy()), cv2.INTER_NEAREST)
        across = np.nan_to_num(sigma_px, posinf=0) * np.sqrt(2) / float(self.intrinsics[0])
        points = self.points_world(uv, torch.from_numpy(depth))
        return points.numpy(), known, depth * np.hypot(relative, across)


def _tremble(moved: np.ndarray, sigma_m: np.ndarray, first: _Surface, static: np.ndarray) -> np.ndarray:
    """Displacement up to which a static pixel has none."""
    sigma = STILL_SIGMAS * np.hypot(sigma_m, first.sigma * first.depth_z)
    if not static.any():
        return sigma
    usual = np.median(np.linalg.norm(moved[static], axis=-1) / first.depth_z[static])
    return np.minimum(sigma, STILL_TREMBLES * usual * first.depth_z)


def depth_at(
    depth_z: Float[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], uv: Float[np.ndarray, "p q 2"]
) -> tuple[Float[np.ndarray, "p q"], Bool[np.ndarray, "p q"]]:
    """Depth at places of a frame, and where it is known; means of neighbours, but never across an edge."""
    integer = _integer(uv)
    known = np.where(valid, depth_z, 0).astype(np.float32)
    nearest = _remap(known, integer, cv2.INTER_NEAREST)
    weight = _remap((known > 0).astype(np.float32), integer, cv2.INTER_LINEAR)
    mean = _remap(known, integer, cv2.INTER_LINEAR)
    smooth = (weight > 0.999) & (np.abs(mean - nearest) < EDGE * nearest)
    depth = np.where(smooth, mean, nearest)
    return depth, depth > 0


def _integer(uv: np.ndarray) -> np.ndarray:
    return pixels.to_integer_centres(uv).astype(np.float32)


def _remap(image: np.ndarray, integer: np.ndarray, how: int) -> np.ndarray:
    return cv2.remap(image, integer, None, how, borderMode=cv2.BORDER_CONSTANT, borderValue=0)  # type: ignore[call-overload]


def _resized(flow: PixelFlow, t: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Displacement and its sigma of one frame at the scene's resolution."""
    shift, sigma = flow.displacement_px[t], flow.sigma_px[t]
    if sigma.shape == size:
        return shift, sigma
    wide = size[::-1]
    return cv2.resize(shift, wide), cv2.resize(sigma, wide, interpolation=cv2.INTER_NEAREST)
