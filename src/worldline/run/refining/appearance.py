"""Whether things look the same where a scene puts them: a judge that shares nothing with tracks.

A point of one frame is put into another by the scene; if it is right, the little patch around looks as before. Tracks
that slip along a surface agree with each other, but not with the images.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from worldline.geometry import camera, pixels, se3
from worldline.run.refining.judging import Verdict, compared
from worldline.scene.scene import Scene

_OFFSETS = np.array([(x, y) for y in (-1.5, 0.0, 1.5) for x in (-1.5, 0.0, 1.5)])
"""Of the places of a patch, in pixels."""
_BOUND = 25.0
"""Grey levels: more than this is something else, however much it differs."""
_GRID = (24, 16)
"""Columns and rows of pixels of a frame whose looks are compared, in blocks of four by four."""
_TEXTURE = 60.0
"""Least squared grey levels per pixel that a patch must change by in every direction to be found again."""
_LOOKS = 4
"""Steps of finding it."""
_FAR_PX = 3.0
"""It is not looked for further away."""
_GAPS = (2, 5)
"""Frames between two that are compared."""


class Looks(NamedTuple):
    """Grey images of a clip (T, H, W), slightly blurred, of the size of the scene."""

    grey: Float[Tensor, "t h w"]

    @classmethod
    def of(cls, frames: UInt8[np.ndarray, "t h w 3"], width: int, height: int) -> Looks:
        """Bring the frames to the size of the scene."""
        return cls(torch.stack([torch.from_numpy(_grey(frame, width, height)) for frame in frames]))

    def unlike(
        self,
        frame: Int[np.ndarray, "m"],
        uv: Float[np.ndarray, "m 2"],
        other: Int[np.ndarray, "m"],
        other_uv: Float[np.ndarray, "m 2"],
    ) -> Float[np.ndarray, "m"]:
        """Mean bounded grey difference of the patches around uv in `frame` and around `other_uv` in `other`.

        A difference in brightness of the whole patch counts half. NaN where a patch leaves its image.
        """
        first, second = self._patches(frame, uv), self._patches(other, other_uv)
        off = second - first
        off = off - 0.5 * off.mean(1, keepdim=True)
        return off.abs().clamp_max(_BOUND).mean(1).numpy().astype(np.float64)

    def offsets_px(
        self,
        frame: Int[np.ndarray, "m"],
        uv: Float[np.ndarray, "m 2"],
        other: Int[np.ndarray, "m"],
        other_uv: Float[np.ndarray, "m 2"],
    ) -> Float[np.ndarray, "m 2"]:
        """By how much `other_uv` must move for its patch to look most like that around uv; NaN without texture.

        Source: Lucas and Kanade, "An iterative image registration technique", 1981, with the gradient of the first.
        """
        first = self._patches(frame, uv)
        slope = torch.stack([(self._patches(frame, uv + e) - self._patches(frame, uv - e)) / 2 for e in np.eye(2)], -1)
        slope = slope - slope.mean(1, keepdim=True)
        normal = torch.einsum("mki,mkj->mij", slope, slope)
        textured = torch.linalg.eigvalsh(normal.nan_to_num(0.0))[:, 0] > _TEXTURE
        solvable = torch.where(textured[:, None, None], normal, torch.eye(2))
        moved = np.zeros(uv.shape)
        for _ in range(_LOOKS):
            off = first - self._patches(other, other_uv + moved)
            off = off - off.mean(1, keepdim=True)
            step = torch.linalg.solve(solvable, torch.einsum("mki,mk->mi", slope, off)[..., None])[..., 0]
            moved = moved + step.clamp(-1.0, 1.0).numpy()
        near = np.asarray(np.abs(moved) < _FAR_PX).all(1)
        return np.where((textured.numpy() & near)[:, None], moved, np.nan)

    def _patches(self, frame: np.ndarray, uv: np.ndarray) -> Float[Tensor, "m k"]:
        height, width = self.grey.shape[1:]
        places = torch.from_numpy((uv[:, None] + _OFFSETS).astype(np.float32))
        inside = pixels.inside(places, height, width, margin=0.5).all(-1)
        safe = torch.where(inside[:, None, None], places, torch.ones_like(places))
        at = torch.from_numpy(np.ascontiguousarray(frame)).long()[:, None].expand(safe.shape[:2])
        values = pixels.sample_frames(self.grey, at, safe)
        return torch.where(inside[:, None], values, torch.nan)


def static_looks(looks: Looks, before: Scene, after: Scene) -> Verdict:
    """How alike static pixels look in later frames where the depth and the cameras of two scenes put them."""
    rows = [_put(before, after, t, gap) for t in range(len(before)) for gap in _GAPS if t + gap < len(before)]
    if not rows:
        return compared(np.zeros(0), np.zeros(0), np.zeros(0, int))
    frame, other, uv, block, old, new = (np.concatenate(column) for column in zip(*rows, strict=True))
    return compared(looks.unlike(frame, uv, other, old), looks.unlike(frame, uv, other, new), block)


def _put(before: Scene, after: Scene, frame: int, gap: int) -> tuple[np.ndarray, ...]:
    """Frames, pixels on static ground, blocks, and where both scenes see these in the later frame."""
    step = np.array([before.width / _GRID[0], before.height / _GRID[1]])
    column, row = np.meshgrid(np.arange(_GRID[0]), np.arange(_GRID[1]))
    uv = (np.stack([column, row], -1).reshape(-1, 2) + 0.5) * step
    at = uv.astype(int)[:, ::-1].T
    use = np.asarray(before.valid[frame])[tuple(at)] & (np.asarray(before.moving[frame])[tuple(at)] == 0)
    block = (row.ravel() // 4 * _GRID[0] // 4 + column.ravel() // 4)[use]
    block = block + 1000 * (frame * 4 // max(len(before), 1))
    uv, at = uv[use], at[:, use]
    places = [_seen_from(scene, frame, frame + gap, uv, at) for scene in (before, after)]
    here = np.full(len(uv), frame)
    return here, here + gap, uv, block, *places


def _seen_from(scene: Scene, frame: int, other: int, uv: np.ndarray, at: np.ndarray) -> Float[np.ndarray, "m 2"]:
    depth_z = torch.from_numpy(np.asarray(scene.depth_z[frame])[tuple(at)].astype(np.float64))
    rays = camera.rays_z1(torch.from_numpy(uv), _tensor(scene.camera.at(frame)), scene.camera.distortion)
    other_from_cam = se3.inverse(_tensor(scene.world_from_cam[other])) @ _tensor(scene.world_from_cam[frame])
    points = se3.apply(other_from_cam, rays * depth_z[:, None])
    own = scene.camera.at(other)
    ideal = camera.project(points, _tensor(own)).numpy()
    alone = camera.Camera(own, scene.camera.width, scene.camera.height, scene.camera.distortion)
    return np.where((points[:, 2] > 0).numpy()[:, None], camera.real_uv(ideal, alone, own), np.nan)


def _grey(frame: np.ndarray, width: int, height: int) -> Float[np.ndarray, "h w"]:
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    if grey.shape != (height, width):
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.8))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))
