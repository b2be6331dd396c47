"""Pixels followed through frames around their own, and what the camera motion makes of them.

Dense flow is chained from a frame to frames before and after it. A static point seen along the ray r (z = 1) of
the reference frame is at r / q, with q its inverse depth; in another camera it is R r + q t up to scale, which is
linear in q. So every pixel has one unknown, a weighted least-squares solution, and residuals that speak for or
against being static.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from worldline.cues.lens_table import ideal_uv
from worldline.cues.optical_flow import DenseFlow, sample
from worldline.geometry import pixels
from worldline.geometry.camera import Camera, real_uv
from worldline.scene.observations import DepthMaps
from worldline.scene.video import Video
from worldline.solve.structure import RigidStructure

STEP_SIGMA_PX = 0.12
"""Standard deviation of one step of flow, before its disagreement."""
BORDER = 0.005
"""Flow that lands so near the border (share of the longer side) is not believed: it may have been stopped there."""
FLAT_GREY = 2.0
"""Slope, in grey levels per cell of the grid, at which flow is half believed; at half of it, not at all."""
ONE_WAY = 0.05
"""Share of the squared slopes of a place that its weaker direction needs for flow to be half believed along it."""


Limits: TypeAlias = tuple[float | np.ndarray, float | np.ndarray]
"""Least and greatest inverse depth, of all pixels or of each."""


@dataclass(frozen=True, eq=False)
class Sightings:
    """Pixels of one frame in others.

    Attributes:
        frames: the other frames. uv: (D, h, w, 2) pixels of the video. sigma_px: (D, h, w), infinite where lost.
    """

    frames: tuple[int, ...]
    uv: Float[np.ndarray, "d h w 2"]
    sigma_px: Float[np.ndarray, "d h w"]

    def only(self, keep: Sequence[bool]) -> Sightings:
        """The sightings in some of the frames."""
        index = np.flatnonzero(keep)
        return Sightings(tuple(self.frames[i] for i in index), self.uv[index], self.sigma_px[index])


@dataclass(frozen=True, eq=False)
class Parallax:
    """The static hypothesis of every pixel.

    Attributes:
        inverse_depth: (h, w), may be negative. information: (h, w) inverse variance of it.
        residual_px: (D, h, w) distance between where it was seen and where a static point would be.
        static_uv: (D, h, w, 2) where a static point would be.
    """

    inverse_depth: Float[np.ndarray, "h w"]
    information: Float[np.ndarray, "h w"]
    residual_px: Float[np.ndarray, "d h w"]
    static_uv: Float[np.ndarray, "d h w 2"]


@dataclass(frozen=True, eq=False)
class FlowChain:
    """Adjacent flow on a reduced grid, ready to be chained.

    Attributes:
        grid_uv: (h, w, 2) where the grid is in the video. size: (height, width) of the video.
        steps: (2, T - 1, h, w, 3) float16: flow in pixels of the video and disagreement of the two directions, from
        frame t to t + 1 in steps[0, t], from t + 1 to t in steps[1, t].
    """

    grid_uv: Float[np.ndarray, "h w 2"]
    size: tuple[int, int]
    steps: Float[np.ndarray, "2 p h w 3"]

    @classmethod
    def of(cls, flow: DenseFlow, height: int, width: int) -> FlowChain:
        """A grid of height x width over the video of the flow."""
        scale = np.array([flow.size[1] / width, flow.size[0] / height], dtype=np.float32)
        grid_uv = pixels.centres(height, width).numpy() * scale
        steps = np.empty((2, len(flow.forward), height, width, 3), dtype=np.float16)
        for t in range(len(flow.forward)):
            there, back = (_reduced(stored[t], height, width) for stored in (flow.forward, flow.backward))
            for way, (a, b) in enumerate(((there, back), (back, there))):
                gap = np.linalg.norm(a + sample(b, (grid_uv + a) / scale), axis=-1, keepdims=True)
                steps[way, t] = np.concatenate([a, np.minimum(gap, 1e3)], -1)
        return cls(grid_uv, flow.size, steps)

    def __len__(self) -> int:
        return int(self.steps.shape[1]) + 1

    @property
    def scale(self) -> Float[np.ndarray, "2"]:
        """Pixels of the video per cell of the grid, along u and v."""
        height, width = self.grid_uv.shape[:2]
        return np.array([self.size[1] / width, self.size[0] / height], dtype=np.float32)

    def adjacent(self, frame: int, way: int) -> Float[np.ndarray, "h w 3"]:
        """Flow and disagreement from a frame to the next (way 1) or the one before (way -1)."""
        return self.steps[0, frame] if way > 0 else self.steps[1, frame - 1]

    def follow(self, frame: int, offsets: Sequence[int]) -> Sightings:
        """The grid of one frame in the frames at `offsets` that exist, in the order of `offsets`.

        In a clip so short that none of them exists, the neighbours are followed instead.
        """
        wanted = [o for o in offsets if 0 <= frame + o < len(self)]
        wanted = wanted or [o for o in (-1, 1) if 0 <= frame + o < len(self)]
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for way in (1, -1):
            uv, variance = self.grid_uv, np.zeros(self.grid_uv.shape[:2], dtype=np.float32)
            for k in range(max((o * way for o in wanted), default=0)):
                uv, variance = self._moved(frame + way * k, way, uv, variance)
                found[way * (k + 1)] = uv, variance
        if not wanted:
            empty = np.zeros((0, *self.grid_uv.shape), dtype=np.float32)
            return Sightings((), empty, empty[..., 0])
        uvs, variances = zip(*(found[o] for o in wanted), strict=True)
        return Sightings(tuple(frame + o for o in wanted), np.stack(uvs), np.sqrt(np.stack(variances)))

    def brought(
        self, values: Float[np.ndarray, "h w *c"], frame: int, way: int
    ) -> tuple[Float[np.ndarray, "h w *c"], Bool[np.ndarray, "h w"]]:
        """A map of the neighbouring frame `frame - way`, brought to `frame` along the flow, and where that is known."""
        step = self.adjacent(frame, -way).astype(np.float32)
        uv = self.grid_uv + step[..., :2]
        return sample(values, uv / self.scale), ~self._lost(uv, step)

    def carried_ids(self, ids: Int[np.ndarray, "h w"], frame: int, way: int = 1) -> Int[np.ndarray, "h w"]:
        """Labels of the neighbouring frame `frame - way`, brought to `frame` along the flow; 0 where that is lost."""
        step = self.adjacent(frame, -way).astype(np.float32)
        uv = self.grid_uv + step[..., :2]
        row, column = pixels.indices(torch.from_numpy(uv / self.scale), *ids.shape)
        return np.where(self._lost(uv, step), 0, ids[row.numpy(), column.numpy()])

    def _moved(self, frame: int, way: int, uv: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        step = sample(self.adjacent(frame, way).astype(np.float32), uv / self.scale)
        landed = uv + step[..., :2]
        grown = variance + STEP_SIGMA_PX**2 + 0.25 * step[..., 2] ** 2
        return landed, np.where(self._lost(landed, step), np.inf, grown).astype(np.float32)

    def _lost(self, uv: np.ndarray, step: np.ndarray) -> np.ndarray:
        height, width = self.size
        margin = BORDER * max(height, width)
        u, v = uv[..., 0], uv[..., 1]
        outside = (u < margin) | (v < margin) | (u > width - margin) | (v > height - margin)
        return outside | (step[..., 2] > 1 + 0.05 * (np.abs(step[..., 0]) + np.abs(step[..., 1])))


def static_hypothesis(
    sightings: Sightings,
    grid_uv: Float[np.ndarray, "h w 2"],
    world_from_cam: Float[np.ndarray, "t 4 4"],
    frame: int,
    intrinsics: Float[np.ndarray, "4"],
    *,
    limits: Limits = (-np.inf, np.inf),
    lens: Camera | None = None,
    rounds: int = 2,
) -> Parallax:
    """Inverse depth of every pixel by robust least squares over its sightings, and their residuals.

    Args:
        limits: least and greatest inverse depth, numbers or (h, w); equal where depth is known.
        lens: the real camera, with intrinsics per frame, where it is not the pinhole with `intrinsics`.
    """
    if lens is not None:
        others = replace(lens, intrinsics=lens.intrinsics[list(sightings.frames)])
        here = replace(lens, intrinsics=lens.at(frame))
        ideal = Sightings(sightings.frames, ideal_uv(sightings.uv, others, intrinsics), sightings.sigma_px)
        grid_uv = ideal_uv(grid_uv, here, intrinsics)
        fit = static_hypothesis(ideal, grid_uv, world_from_cam, frame, intrinsics, limits=limits, rounds=rounds)
        return replace(fit, static_uv=real_uv(fit.static_uv, others, intrinsics))
    f, c = intrinsics[:2].astype(np.float32), intrinsics[2:].astype(np.float32)
    other_from_cam = np.linalg.inv(world_from_cam[list(sightings.frames)]) @ world_from_cam[frame]
    ray = np.concatenate([(grid_uv - c) / f, np.ones_like(grid_uv[..., :1])], -1)
    rotated = other_from_cam[:, :3, :3].astype(np.float32).transpose(0, 2, 1)
    turned = np.matmul(ray.reshape(1, -1, 3), rotated).reshape(-1, *ray.shape)
    moved = other_from_cam[:, None, None, :3, 3].astype(np.float32)
    xy = (sightings.uv - c) / f
    slope = (moved[..., :2] - xy * moved[..., 2:]) * f
    offset = (xy * turned[..., 2:] - turned[..., :2]) * f
    along, wanted, power = _dot(slope, offset), _dot(offset, offset), _dot(slope, slope)
    base = 1 / (sightings.sigma_px**2 * turned[..., 2] ** 2)
    weight = base
    for _ in range(rounds):
        information = (weight * power).sum(0)
        q = (weight * along).sum(0) / np.maximum(information, 1e-12)
        q = np.clip(q, *limits)
        square = base * (wanted - 2 * q * along + q * q * power)
        weight = base / (1 + square / 9)
    z = np.maximum(turned[..., 2] + q * moved[..., 2], 0.05)
    off = (offset - q[..., None] * slope) / z[..., None]
    return Parallax(q, information, np.sqrt(_dot(off, off)), sightings.uv - off)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Over the last axis of two; numpy's own sum over so short an axis takes several times as long."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1]


def lens_of(scene: RigidStructure, chain: FlowChain) -> Camera | None:
    """The real camera of a scene, None where it is a pinhole with one focal length."""
    if not scene.distortion and not scene.zooms:
        return None
    return Camera(scene.intrinsics_per_frame, chain.size[1], chain.size[0], scene.distortion)


def inverse_depth_limits(scene: RigidStructure, frame: int) -> tuple[float, float]:
    """What inverse depth a static point of this frame may have: up to half again that of the nearest known ones."""
    if not scene.parallax:
        return 0.0, 0.0
    depth_z, static = static_tracks(scene, frame)
    return 0.0, 1.5 * float(np.percentile(1 / depth_z[static], 99)) if static.any() else np.inf


def known_depth_limits(
    scene: RigidStructure, depth: DepthMaps, frame: int, chain: FlowChain, usual: Limits, *, sigmas: float = 3.0
) -> Limits:
    """Inverse depth of each pixel within its known depth, give or take `sigmas`; the usual limits where unknown.

    Known depth and the rigid scene may differ in scale: the static tracks of the frame, which have both, tell it.
    """
    if not scene.parallax:
        return usual
    size = chain.grid_uv.shape[1::-1]
    depth_z, sigma = (
        cv2.resize(np.asarray(m[frame], np.float32), size, interpolation=cv2.INTER_NEAREST)
        for m in (depth.depth_z, depth.sigma)
    )
    known = np.isfinite(depth_z) & (depth_z > 0) & np.isfinite(sigma)
    scale = _scene_from_known(scene, np.where(known, depth_z, 0), frame, chain)
    if scale is None:
        return usual
    q, factor = 1 / np.where(known, depth_z * scale, 1), np.exp(sigmas * np.where(known, sigma, 0))
    return np.where(known, q / factor, usual[0]), np.where(known, q * factor, usual[1])


def _scene_from_known(
    scene: RigidStructure, depth_z: Float[np.ndarray, "h w"], frame: int, chain: FlowChain
) -> float | None:
    """The scale of the scene over that of known depth, from the static tracks; None where too few have both."""
    of_tracks, static = static_tracks(scene, frame)
    cam_from_world = np.linalg.inv(scene.world_from_cam[frame])
    points_cam = scene.points_world[static] @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    uv = points_cam[:, :2] / points_cam[:, 2:] * scene.intrinsics[:2] + scene.intrinsics[2:]
    row, column = pixels.indices(torch.from_numpy(uv / chain.scale), *depth_z.shape)
    there = depth_z[row.numpy(), column.numpy()]
    ratio = of_tracks[static][there > 0] / there[there > 0]
    return float(np.median(ratio)) if len(ratio) >= 10 else None


def static_tracks(scene: RigidStructure, frame: int) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Depth of all tracks in a frame, and which are seen there and agree with being static."""
    cam_from_world = np.linalg.inv(scene.world_from_cam[frame])
    depth_z = scene.points_world @ cam_from_world[2, :3] + cam_from_world[2, 3]
    return depth_z, (scene.residual_px[frame] < 2) & (scene.track_rms_px < 1.5) & (depth_z > 0)


def believed(video: Video, frame: int, height: int, width: int) -> Float[np.ndarray, "h w"]:
    """How far flow can be believed where the image is flat: 0 without texture, 1 with it."""
    return texture(cv2.resize(video.grey([frame])[0], (width, height), interpolation=cv2.INTER_AREA))


class Grip(NamedTuple):
    """How far the image holds a displacement: a symmetric matrix per pixel, 1 across structure, 0 along it.

    Along an edge, as on a plain wall, flow is filled in from elsewhere; only its part across the edge was seen.
    """

    uu: Float[np.ndarray, "h w"]
    uv: Float[np.ndarray, "h w"]
    vv: Float[np.ndarray, "h w"]

    def squared(self, off: Float[np.ndarray, "*d h w 2"]) -> Float[np.ndarray, "*d h w"]:
        """Squared length of displacements, as far as the image can tell it."""
        u, v = off[..., 0], off[..., 1]
        return self.uu * u * u + 2 * self.uv * u * v + self.vv * v * v


def grip(luma: Shaped[np.ndarray, "h w"]) -> Grip:
    """How far an image (0 to 255) holds displacements of its pixels.

    G / (G + n) with G the structure tensor (Förstner and Gülch, "A fast operator for detection and precise location of
    distinct points", ISPRS 1987) and n what noise and a bent edge put into it.
    """
    uu, uv, vv = _structure(luma)
    nothing = FLAT_GREY**2 + ONE_WAY * (uu + vv)
    share = nothing / ((uu + nothing) * (vv + nothing) - uv * uv)
    return Grip(1 - share * (vv + nothing), share * uv, 1 - share * (uu + nothing))


def texture(luma: Shaped[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """0 where an image (0 to 255) is flat, 1 where it has texture."""
    uu, _, vv = _structure(luma)
    return np.clip(np.sqrt(uu + vv) / FLAT_GREY - 0.5, 0, 1)


def _structure(luma: Shaped[np.ndarray, "h w"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean products of the slopes around every pixel: uu, uv, vv."""
    u, v = (cv2.Sobel(luma.astype(np.float32), cv2.CV_32F, *axis, scale=0.125) for axis in ((1, 0), (0, 1)))
    uu, uv, vv = (cv2.boxFilter(product, cv2.CV_32F, (9, 9)) for product in (u * u, u * v, v * v))
    return uu, uv, vv


def _reduced(flow: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(flow.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
