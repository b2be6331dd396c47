"""The pinhole camera with OpenCV distortion: x right, y down, z forward.

`Camera` is a plain value (numpy); the functions work on tensors of any batch shape, on any device.
Intrinsics are always (fx, fy, cx, cy) in pixels with pixel centres at +0.5; K is built here and nowhere else.
Distortion follows OpenCV's documentation ("Camera Calibration and 3D Reconstruction"): k1 k2 p1 p2 [k3].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import InputError


@dataclass(frozen=True, eq=False)
class Camera:
    """Intrinsics of one camera, or of every frame: `intrinsics` (4,) or (T, 4) = fx, fy, cx, cy in pixels."""

    intrinsics: Float[np.ndarray, "*t 4"]
    width: int
    height: int
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        k = np.asarray(self.intrinsics, dtype=np.float64)
        if k.shape[-1:] != (4,) or k.ndim > 2:
            raise InputError(f"intrinsics must be (4,) or (T, 4) = fx, fy, cx, cy, not {k.shape}; give four numbers.")
        if not np.isfinite(k).all() or (k[..., :2] <= 0).any():
            raise InputError(f"the focal length must be positive and finite, not {k[..., :2]}; check the intrinsics.")
        if len(self.distortion) not in (0, 2, 4, 5):
            raise InputError("distortion takes 2, 4 or 5 numbers (k1 k2 [p1 p2 [k3]]); check the camera file.")
        object.__setattr__(self, "intrinsics", k)
        object.__setattr__(self, "distortion", tuple(float(d) for d in self.distortion))

    @classmethod
    def from_focal(cls, focal: float, width: int, height: int) -> Camera:
        """Square pixels, principal point in the middle of the image."""
        return cls(np.array([focal, focal, width / 2, height / 2]), width, height)

    @classmethod
    def from_fov_deg(cls, horizontal_fov_deg: float, width: int, height: int) -> Camera:
        """Square pixels, from the horizontal field of view in degrees."""
        return cls.from_focal(width / 2 / np.tan(np.radians(horizontal_fov_deg) / 2), width, height)

    @property
    def per_frame(self) -> bool:
        """Whether every frame has its own intrinsics."""
        return self.intrinsics.ndim == 2

    @property
    def focal(self) -> float:
        """Mean of fx and fy over all frames, pixels."""
        return float(self.intrinsics[..., :2].mean())

    @property
    def fov_deg(self) -> float:
        """Horizontal field of view in degrees (mean over frames)."""
        return float(np.degrees(2 * np.arctan(self.width / 2 / self.intrinsics[..., 0].mean())))

    def at(self, frame: int) -> Float[np.ndarray, "4"]:
        """fx, fy, cx, cy of one frame."""
        return self.intrinsics[frame] if self.per_frame else self.intrinsics

    def frames(self, count: int) -> Float[np.ndarray, "t 4"]:
        """fx, fy, cx, cy of every frame, repeated when shared."""
        return np.broadcast_to(self.intrinsics, (count, 4))

    def matrix(self, frame: int = 0) -> Float[np.ndarray, "3 3"]:
        """K of one frame."""
        return calibration(self.at(frame))

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for an image resized to width x height (a pure scale in our pixel convention)."""
        s = np.array([width / self.width, height / self.height] * 2)
        return replace(self, intrinsics=self.intrinsics * s, width=width, height=height)


def calibration(intrinsics: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
    """K of fx, fy, cx, cy (pixels)."""
    fx, fy, cx, cy = intrinsics
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def project(points_cam: Float[Tensor, "*#b 3"], intrinsics: Float[Tensor, "*#b 4"]) -> Float[Tensor, "*#b 2"]:
    """uv of camera-frame points. The caller checks z > 0; points behind the camera give mirrored values."""
    xy = points_cam[..., :2] / points_cam[..., 2:]
    return xy * intrinsics[..., :2] + intrinsics[..., 2:]


def unproject(
    uv: Float[Tensor, "*#b 2"],
    depth_z: Float[Tensor, "*#b"],
    intrinsics: Float[Tensor, "*#b 4"],
    distortion: tuple[float, ...] = (),
) -> Float[Tensor, "*#b 3"]:
    """Camera-frame points at depth_z (along the optical axis, not along the ray)."""
    return rays_z1(uv, intrinsics, distortion) * depth_z[..., None]


def rays_z1(
    uv: Float[Tensor, "*#b 2"], intrinsics: Float[Tensor, "*#b 4"], distortion: tuple[float, ...] = ()
) -> Float[Tensor, "*#b 3"]:
    """Directions through uv with z = 1, so that `ray * depth_z` is the point."""
    xy = (uv - intrinsics[..., 2:]) / intrinsics[..., :2]
    xy = undistort(xy, distortion) if any(distortion) else xy
    return torch.cat([xy, torch.ones_like(xy[..., :1])], -1)


def ideal_uv(
    uv: Float[np.ndarray, "*t n 2"], camera: Camera, reference: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "*t n 2"]:
    """Where a pinhole with the intrinsics `reference` would have seen what `camera` saw at `uv`.

    For a camera with intrinsics per frame the first axis of `uv` counts its frames. NaN stays NaN.
    """
    own, reference = _beside(camera, uv), reference.astype(uv.dtype)
    xy = torch.from_numpy((uv - own[..., 2:]) / own[..., :2])
    xy = undistort(xy, camera.distortion) if any(camera.distortion) else xy
    return (xy.numpy() * reference[:2] + reference[2:]).astype(uv.dtype)


def real_uv(
    uv: Float[np.ndarray, "*t n 2"], camera: Camera, reference: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "*t n 2"]:
    """The inverse of `ideal_uv`: where `camera` sees what a pinhole with the intrinsics `reference` sees at `uv`."""
    own, reference = _beside(camera, uv), reference.astype(uv.dtype)
    xy = torch.from_numpy((uv - reference[2:]) / reference[:2])
    xy = distort(xy, camera.distortion) if any(camera.distortion) else xy
    return (xy.numpy() * own[..., :2] + own[..., 2:]).astype(uv.dtype)


def _beside(camera: Camera, uv: np.ndarray) -> np.ndarray:
    """The intrinsics, with axes of length one where `uv` has points."""
    own = camera.intrinsics.astype(uv.dtype)
    return own.reshape(-1, *(1,) * (uv.ndim - 2), 4) if camera.per_frame else own


def distort(xy: Float[Tensor, "*b 2"], distortion: tuple[float, ...]) -> Float[Tensor, "*b 2"]:
    """Normalised image coordinates (x/z, y/z) of the ideal camera to those of the real lens."""
    k1, k2, p1, p2, k3 = (*distortion, *(0.0,) * 5)[:5]
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return torch.stack([x * radial + dx, y * radial + dy], -1)


def undistort(xy: Float[Tensor, "*b 2"], distortion: tuple[float, ...], *, steps: int = 20) -> Float[Tensor, "*b 2"]:
    """The inverse of `distort` by fixed-point iteration; converges for the moderate distortion of real lenses.

    Far outside of the image a distortion may have no inverse; what comes out there is never more than twice as far
    from the centre as what went in.
    """
    ideal, enough = xy.clone(), 1e-9 if xy.dtype == torch.float64 else 3e-6
    farthest = 2 * xy.norm(dim=-1, keepdim=True)
    for _ in range(steps):
        step = xy - distort(ideal, distortion)
        ideal = ideal + step
        reach = ideal.norm(dim=-1, keepdim=True)
        ideal = torch.where(reach > farthest, ideal * (farthest / reach.clamp_min(1e-12)), ideal)
        if not bool((step.abs() > enough).any()):
            break
    return ideal
