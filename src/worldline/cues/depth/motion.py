"""Depth from the motion of the camera: every static pixel triangulated over many frames, the rest completed.

Each pixel is followed along the flow through frames at several baselines; its inverse depth is the weighted least
squares solution along its own ray, its sigma comes from the parallax and from how well the frames agree. Where that
says nothing (no texture, no parallax, hidden) depth is completed within similar colours from where it does. What
moves stands where it touches the ground. All depths share the scale of the camera motion.

Source of the completion: Barron and Poole, "The Fast Bilateral Solver", ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter1d, percentile_filter

from worldline.cues import optical_flow
from worldline.cues.edge_aware import BilateralGrid, guided
from worldline.cues.optical_flow import dense_flow
from worldline.cues.parallax import FlowChain, believed, inverse_depth_limits, static_hypothesis, static_tracks
from worldline.cues.rigid_scene import camera_motion_of, rigid_scene
from worldline.geometry import pixels
from worldline.scene.journal import Arrays, Journal, content_key
from worldline.scene.observations import DepthMaps, MovingMasks, Observations, Source
from worldline.scene.video import Video
from worldline.solve.structure import MEDIAN_DEPTH, RigidStructure

NO_PARALLAX = (
    "the camera does not move enough to see depth; the depth maps are a guess (farther up in the image is farther)."
)

GROUND_SIGMA = 0.12
"""Standard deviation of log depth up to which a static pixel speaks about the ground."""


@dataclass(frozen=True)
class Config:
    """Settings; depth is relative (log) unless said."""

    side: int = 384
    """Longer side of the depth maps."""
    offsets: tuple[int, ...] = (2, 6, 12, 20)
    """Frames ahead and back in which a pixel is looked for."""
    pose_px: float = 0.3
    """Error of the camera motion, added to that of the flow."""
    model_sigma: float = 0.03
    """Of the camera motion and the lens, added to every depth."""
    cell_sigma: float = 0.08
    """Spread of depth within a cell of similar place and colour."""
    moving_sigma: float = 0.35
    """Of what moves and is placed by its contact with the ground."""
    unseen_sigma: float = 0.7
    """Of what is completed from far away."""
    guess_sigma: float = 1.0
    """Of a clip without parallax."""
    smoothness: float = 0.05
    """Pull between neighbouring cells, in units of the confidence of a well seen pixel."""
    farthest: float = 50.0
    """Greatest depth, in medians of the scene."""
    frame_scale_sigma: float = 0.02
    """How far the scale of a depth map may be off the camera motion's."""
    stride_frames: int = 13
    """Frames over which an object touches the ground at least once."""
    threads: int = 2
    """Frames that are worked on at once."""
    flow: optical_flow.Config = field(default_factory=optical_flow.fine)


class InverseDepth(NamedTuple):
    """Inverse depth of the pixels of a frame and its standard deviation, infinite where nothing is known."""

    value: Float[np.ndarray, "h w"]
    sigma: Float[np.ndarray, "h w"]


@dataclass(frozen=True)
class MotionDepth:
    """The cue."""

    config: Config
    needs: tuple[str, ...] = ("tracks", "camera", "moving")

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Observations:
        """Depth maps of every frame, smaller than the video, and the camera motion that they share a scale with."""
        assert observed.moving is not None, "observe supplies what `needs` names"
        moving = observed.moving
        scene = rigid_scene(video, observed, journal)
        flow = dense_flow(video, journal, config=self.config.flow) if scene.parallax else None
        height, width = optical_flow.reduced_size(video.height, video.width, self.config.side)

        def compute() -> Arrays:
            chain = FlowChain.of(flow, height, width) if flow is not None else None
            ids = _reduced_masks(moving, height, width)
            depth_z, sigma = depth_maps(video, scene, chain, ids, self.config, journal.progress.share)
            return {"depth_z": depth_z, "sigma": sigma}

        key = (self.config, content_key(scene.world_from_cam, scene.intrinsics, moving.ids))
        found = journal.run("depth/motion", compute, settings=key)
        source = Source("depth/motion", notes=() if scene.parallax else (NO_PARALLAX,))
        depth = DepthMaps(found["depth_z"], found["sigma"], source, frame_scale_sigma=self.config.frame_scale_sigma)
        return Observations(depth=depth, camera_motion=camera_motion_of(scene))


def build(config: Config) -> MotionDepth:
    """The cue with these settings."""
    return MotionDepth(config)


def depth_maps(
    video: Video,
    scene: RigidStructure,
    chain: FlowChain | None,
    ids: Int[np.ndarray, "t h w"],
    config: Config,
    report: Callable[[float], None] = lambda share: None,
) -> tuple[Float[np.ndarray, "t h w"], Float[np.ndarray, "t h w"]]:
    """Depth and its log sigma for every frame; without a flow chain, the guess of a clip without parallax."""
    inverse = np.empty(ids.shape, dtype=np.float32)
    sigma = np.empty(ids.shape, dtype=np.float32)

    def one(t: int) -> None:
        if chain is None:
            inverse[t], sigma[t] = _guess(*ids[t].shape), config.guess_sigma
        else:
            seen = triangulated(chain, scene, t, config)
            trust = believed(video, t, *ids[t].shape) * (ids[t] == 0)
            inverse[t], sigma[t] = completed(video, scene, t, seen, trust, config)

    with ThreadPoolExecutor(config.threads) as pool:
        for done, _ in enumerate(pool.map(one, range(len(ids))), start=1):
            report(done / len(ids))
    _stand(inverse, sigma, ids, config)
    return 1 / inverse, np.hypot(sigma, config.model_sigma)


def triangulated(chain: FlowChain, scene: RigidStructure, frame: int, config: Config) -> InverseDepth:
    """Inverse depth of every pixel from its sightings alone."""
    seen = chain.follow(frame, [o for k in config.offsets for o in (-k, k)])
    _, greatest = inverse_depth_limits(scene, frame)
    fit = static_hypothesis(seen, chain.grid_uv, scene.world_from_cam, frame, scene.intrinsics)
    variance = seen.sigma_px**2 + config.pose_px**2
    count = np.isfinite(seen.sigma_px).sum(0)
    misfit = np.minimum(fit.residual_px**2 / variance, 25).sum(0) / np.maximum(2 * count - 1, 1)
    inflation = 1 + misfit + (config.pose_px / 0.3) ** 2
    sigma = np.sqrt(inflation / np.maximum(fit.information, 1e-9))
    known = (count >= 2) & (fit.inverse_depth > -2 * sigma) & (fit.inverse_depth < greatest + 2 * sigma)
    return InverseDepth(np.clip(fit.inverse_depth, 0, greatest), np.where(known, sigma, np.inf))


def completed(
    video: Video, scene: RigidStructure, frame: int, seen: InverseDepth, trust: Float[np.ndarray, "h w"], config: Config
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Inverse depth everywhere and the sigma of its log: what was seen, smoothed and filled within similar colours."""
    image = cv2.resize(np.asarray(video.frames[frame]), trust.shape[::-1], interpolation=cv2.INTER_AREA)
    depth_z, static = static_tracks(scene, frame)
    usual = float(np.median(1 / depth_z[static])) if static.any() else 1 / MEDIAN_DEPTH
    spread = config.cell_sigma * usual
    weight = trust / (1 + (seen.sigma / spread) ** 2)
    grid = BilateralGrid.of(image, place_px=12, luma=16, chroma=10)
    target = _with_rows(seen.value, weight, usual)
    filled = grid.solve(target, weight + 1e-4, smoothness=config.smoothness, steps=150)
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    filled = np.maximum(guided(luma, filled, radius=6, edge=0.05), usual / config.farthest)
    own = trust / np.maximum(seen.sigma, 1e-9) ** 2
    pull = 1 / (config.cell_sigma * filled) ** 2
    inverse = np.maximum((own * seen.value + pull * filled) / (own + pull), usual / config.farthest)
    support = np.clip(cv2.blur(weight, (25, 25)) * 2, 0, 1)
    around = config.cell_sigma + (config.unseen_sigma - config.cell_sigma) * (1 - support)
    sigma = 1 / np.sqrt(own * inverse**2 + 1 / around**2)
    return inverse.astype(np.float32), sigma.astype(np.float32)


def _with_rows(values: np.ndarray, weight: np.ndarray, usual: float) -> np.ndarray:
    """Targets that fall back, where nothing is seen, on the weighted mean of their image row."""
    sums, total = (values * weight).sum(1), weight.sum(1)
    smooth = [gaussian_filter1d(x, 0.06 * len(values)) for x in (sums, total)]
    row = (smooth[0] + 1e-3 * usual) / (smooth[1] + 1e-3)
    return np.where(weight > 1e-3, values, row[:, None])


def _guess(height: int, width: int) -> Float[np.ndarray, "h w"]:
    """A ground that recedes upwards, with the scene's median depth in the middle."""
    down = pixels.centres(height, width).numpy()[..., 1] / height
    return (0.4 + 1.2 * down) / MEDIAN_DEPTH


def _stand(inverse: np.ndarray, sigma: np.ndarray, ids: np.ndarray, config: Config) -> None:
    """Put every moving object, as a whole, at the depth of the ground where it touches it, steady over time.

    Off the ground (a jump, a bounce) that place is too far, never too near: the nearer places around it count.
    """
    for number in range(1, int(ids.max()) + 1):
        frames = np.flatnonzero((ids == number).any((1, 2)))
        if len(frames) == 0:
            continue
        contact = np.log([_contact(inverse[t], sigma[t], ids[t] == number, ids[t] > 0) for t in frames])
        grounded = percentile_filter(contact, 80, size=config.stride_frames, mode="nearest")
        steady = np.exp(gaussian_filter1d(grounded, 2.0, mode="nearest"))
        for t, q in zip(frames, steady, strict=True):
            inside = ids[t] == number
            inverse[t][inside] = q
            sigma[t][inside] = np.maximum(config.moving_sigma, sigma[t][inside])


def _contact(
    inverse: Float[np.ndarray, "h w"],
    sigma: Float[np.ndarray, "h w"],
    inside: Bool[np.ndarray, "h w"],
    moving: Bool[np.ndarray, "h w"],
) -> float:
    """Inverse depth of the ground under the lowest part of a region.

    The inverse depth of a plane is affine in the image, so the ground is fitted to the well known static pixels
    around the contact, robustly; without enough of them the static ring around the lowest part has to do.
    """
    height, width = inverse.shape
    rows = np.flatnonzero(inside.any(1))
    foot, lowest = rows[-1], rows[-1] - max(2, round(0.05 * (rows[-1] - rows[0])))
    middle = float(np.flatnonzero(inside[lowest:].any(0)).mean())
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
            return float(ground)
    ring = (cv2.dilate(inside.astype(np.uint8), np.ones((7, 7), dtype=np.uint8)) > 0) & ~moving
    ring[:lowest] = False
    return float(np.median(inverse[ring])) if ring.any() else float(np.median(inverse[inside]))


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


def _reduced_masks(moving: MovingMasks, height: int, width: int) -> Int[np.ndarray, "t h w"]:
    """Object numbers on the grid, a little larger than they are."""
    grown = np.ones((3, 3), dtype=np.uint8)
    return np.stack(
        [
            cv2.dilate(cv2.resize(m.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST), grown)
            for m in moving.ids
        ]
    )
