"""What is known of a clip as the network takes it: rays, depth along them, poses, radial motion of the views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.engines.any4d.inputs import Views
from worldline.engines.any4d.network import Prediction
from worldline.engines.any4d.resolution import Fit, normalised
from worldline.errors import InputError
from worldline.geometry import pixels, se3
from worldline.geometry.camera import rays_z1
from worldline.scene.observations import CameraMotion, Observations
from worldline.scene.video import Video
from worldline.solve.radar_maps import doppler_vectors

SPARSE_SHARE = 0.3
"""Depth of fewer pixels comes from single points (LiDAR, radar), which picking pixels would mostly miss."""
USABLE = ("camera", "depth", "camera_motion", "doppler")
"""The items of Observations that the network has an input for."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """A video and what is known of it, cut to the network's images, window by window.

    Raises:
        InputError: an item has another number of frames than the video, or depth is not a number everywhere.
    """

    video: Video
    observed: Observations
    fit: Fit
    device: str = "cpu"

    @classmethod
    def of(
        cls, video: Video, observed: Observations, device: str = "cpu", size: tuple[int, int] | None = None
    ) -> Conditions:
        """Of a whole clip."""
        _check(video, observed)
        return cls(video, observed, Fit.of(video.width, video.height, size), device)

    @property
    def used(self) -> tuple[str, ...]:
        """Names of what is known and goes in."""
        return tuple(name for name in USABLE if getattr(self.observed, name) is not None)

    @cached_property
    def needs_first_pass(self) -> bool:
        """Whether depth or speed are known but not along which rays, or no distance: then the network says it first."""
        depth, speed = self.observed.depth, self.observed.doppler
        if self.observed.camera is None:
            return depth is not None or speed is not None
        return depth is None and speed is not None and not _has_depth(speed.range_m)

    @cached_property
    def posed(self) -> Bool[np.ndarray, "t"]:
        """Frames whose rotation, at least, is known."""
        motion = self.observed.camera_motion
        return np.zeros(len(self.video), dtype=bool) if motion is None else motion.turned_frames

    def images(self, frames: Sequence[int]) -> Float[Tensor, "v 3 h w"]:
        """Colours of the views."""
        cut = np.stack([self.fit.image(np.asarray(self.video.frames[f])) for f in frames])
        return normalised(cut).to(self.device)

    def pictures(self, frames: Sequence[int]) -> np.ndarray:
        """The same as (V, H, W, 3) uint8."""
        return np.stack([self.fit.image(np.asarray(self.video.frames[f])) for f in frames])

    def views(self, frames: Sequence[int], first: Prediction | None = None) -> Views:
        """One scene of these views, the first the reference.

        Args:
            first: what the network says without depth and speed, where it is needed for them.
        """
        values: dict[str, Any] = {"image": self.images(frames)[:, None]}
        known = self.rays(frames)
        if known is not None:
            values |= {"rays": known[:, None]}
        along = known if known is not None or first is None else first.rays[:, 0]
        if along is not None and not (first is None and self.needs_first_pass):
            values |= self._depth(frames, along) | self._radial(frames, along, first)
        return Views(**values | self._poses(frames))

    def rays(self, frames: Sequence[int]) -> Float[Tensor, "v h w 3"] | None:
        """Those of the camera, where it is known."""
        if self.observed.camera is None:
            return None
        camera = self.observed.camera.camera
        intrinsics = self.fit.trained_intrinsics(camera.frames(len(self.video))[list(frames)])
        k = torch.from_numpy(intrinsics).float().to(self.device)
        return unit_rays(k, self.fit.height, self.fit.width, camera.distortion)

    def depth_z(self, frames: Sequence[int]) -> Float[Tensor, "v h w"] | None:
        """What is known of depth, 0 where nothing is."""
        if self.observed.depth is None:
            return None
        maps = np.stack([self._cut(np.asarray(self.observed.depth.depth_z[f])) for f in frames])
        return torch.from_numpy(maps.astype(np.float32)).to(self.device)

    def _cut(self, depth_z: np.ndarray) -> np.ndarray:
        """A map in the network's pixels, 0 where unknown; of a sparse one every point is carried over."""
        depth_z = np.where(np.isfinite(depth_z) & (depth_z > 0), depth_z, 0)
        sparse = np.mean(depth_z > 0) < SPARSE_SHARE
        return self.fit.nearest_points(depth_z) if sparse else self.fit.nearest(depth_z)

    def _depth(self, frames: Sequence[int], rays: Float[Tensor, "v h w 3"]) -> dict[str, Any]:
        depth_z = self.depth_z(frames)
        if depth_z is None:
            return {}
        assert self.observed.depth is not None
        along = torch.where(rays[..., 2] > 0, depth_z / rays[..., 2], torch.zeros_like(depth_z))
        there = (along > 0).flatten(1).any(1)
        metric = torch.full_like(there, self.observed.depth.metric)
        return {"depth": along[:, None], "has_depth": there[:, None], "metric": metric[:, None]}

    def _poses(self, frames: Sequence[int]) -> dict[str, Any]:
        """Poses of the views that have one, if the first does: the network takes all others relative to it."""
        motion, known = self.observed.camera_motion, self.posed[list(frames)]
        if motion is None or not known[0] or known.sum() < 2:
            return {}
        matrices = torch.from_numpy(np.where(known[:, None, None], motion.world_from_cam[list(frames)], np.eye(4)))
        placed = torch.from_numpy(motion.given_frames[list(frames)])
        values = {
            "quaternion": normalised_quaternions(matrices[:, :3, :3])[:, None].float(),
            "translation": matrices[:, None, :3, 3].float(),
            "has_pose": torch.from_numpy(known)[:, None],
            "has_translation": (placed & placed[0])[:, None],
        }
        if self.observed.depth is None:
            values["metric"] = torch.full((len(known), 1), motion.metric)
        return {name: value.to(self.device) for name, value in values.items()}

    def _radial(
        self, frames: Sequence[int], rays: Float[Tensor, "v h w 3"], first: Prediction | None
    ) -> dict[str, Any]:
        """Radial motion of the views, and the distance of view 0 by which the network divides it."""
        measured = self.observed.doppler
        if measured is None or len(self.video) < 2:
            return {}
        vectors, there = doppler_vectors(
            measured, self.video.times_s, np.asarray(frames), rays, np.linalg.inv(self.fit.original_from_network)
        )
        if not bool(there.any()):
            return {}
        unit = self._distance(frames, rays, first)
        return {"radial": vectors[:, None], "has_radial": there[:, None], "radial_unit": unit}

    def _distance(
        self, frames: Sequence[int], rays: Float[Tensor, "v h w 3"], first: Prediction | None
    ) -> Float[Tensor, "1"]:
        """Mean distance in view 0: by its depth, else by what the radar saw then or at all, else by the network."""
        assert self.observed.doppler is not None
        depth_z = self.depth_z(frames[:1])
        known = [] if depth_z is None else [depth_z[0] / rays[0, ..., 2]]
        ranges = [torch.from_numpy(np.asarray(self.observed.doppler.range_m[list(f)])) for f in (frames[:1], frames)]
        said = [] if first is None else [first.depth[0, 0]]
        for distances in (*known, *ranges, *said):
            good = distances[distances.isfinite() & (distances > 0)]
            if len(good):
                return good.float().mean()[None].to(self.device)
        raise InputError("the Doppler measurements have no range; give depth with them, or leave them out.")


def unit_rays(
    fx_fy_cx_cy: Float[Tensor, "*b 4"], height: int, width: int, distortion: tuple[float, ...] = ()
) -> Float[Tensor, "*b h w 3"]:
    """Directions of the pixels of a camera, of length one."""
    uv = pixels.centres(height, width, dtype=fx_fy_cx_cy.dtype, device=fx_fy_cx_cy.device)
    rays = rays_z1(uv.expand(*fx_fy_cx_cy.shape[:-1], -1, -1, -1), fx_fy_cx_cy[..., None, None, :], distortion)
    return rays / rays.norm(dim=-1, keepdim=True)


def normalised_quaternions(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """x y z w with w >= 0."""
    quaternion = se3.xyzw_from_wxyz(se3.quaternion_wxyz(rotation))
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def _check(video: Video, observed: Observations) -> None:
    counts = {
        "depth": None if observed.depth is None else observed.depth.depth_z.shape[0],
        "radial speed": None if observed.doppler is None else observed.doppler.speed_mps.shape[0],
        "camera motion": None if observed.camera_motion is None else len(observed.camera_motion.valid),
    }
    for what, count in counts.items():
        if count is not None and count != len(video):
            raise InputError(f"{what} of {count} frames was given for a video of {len(video)}; give one per frame.")
    if observed.depth is not None and not _has_depth(observed.depth.depth_z):
        raise InputError("no pixel of the given depth is a positive number; check it, or leave it out.")
    _check_motion(observed.camera_motion)


def _has_depth(maps: np.ndarray) -> bool:
    return any(bool((np.isfinite(z) & (z > 0)).any()) for z in (np.asarray(m) for m in maps))


def _check_motion(motion: CameraMotion | None) -> None:
    if motion is not None and not motion.turned_frames.any():
        raise InputError("no frame of the video has a known pose; check the times of the poses, or leave them out.")
