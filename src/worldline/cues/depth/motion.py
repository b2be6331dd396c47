"""Depth from the motion of the camera: every static pixel triangulated over many frames, the rest completed.

Each pixel is followed along the flow through frames at several baselines; its inverse depth is the weighted least
squares solution along its own ray, its sigma comes from the parallax and from how well the frames agree. Where that
says nothing (no texture, no parallax, hidden) depth is completed within similar colours from where it does. What
moves stands where it touches the ground. All depths share the scale of the camera motion. Depth that is known in some
pixels stays as it is there and is evidence for the others.

Source of the completion: Barron and Poole, "The Fast Bilateral Solver", ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter1d

from worldline.cues import optical_flow
from worldline.cues.edge_aware import BilateralGrid, guided
from worldline.cues.known_depth import InverseDepth, known_evidence, merged, respecting, scale_between
from worldline.cues.optical_flow import dense_flow
from worldline.cues.parallax import (
    FlowChain,
    believed,
    inverse_depth_limits,
    lens_of,
    static_hypothesis,
    static_tracks,
)
from worldline.cues.rigid_scene import camera_motion_of, rigid_scene
from worldline.cues.standing import Standing, stand
from worldline.geometry import pixels
from worldline.scene.journal import Arrays, Journal, content_key
from worldline.scene.observations import DepthMaps, MovingMasks, Observations, Source
from worldline.scene.video import Video
from worldline.solve.structure import MEDIAN_DEPTH, RigidStructure
from worldline.solve.structure_settings import StructureSettings

NO_PARALLAX = (
    "the camera does not move enough to see depth; the depth maps are a guess (farther up in the image is farther)."
)


PLACED = 0.05
"""Share of an object's pixels with known depth from which it needs no ground to stand on."""


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
    standing: Standing = field(default_factory=Standing)
    """How what moves is placed."""
    threads: int = 2
    """Frames that are worked on at once."""
    flow: optical_flow.Config = field(default_factory=optical_flow.fine)
    structure: StructureSettings = field(default_factory=StructureSettings)

    @classmethod
    def fast(cls) -> Config:
        """Smaller maps and fewer frames around each, on faster flow."""
        return cls(side=288, offsets=(2, 8, 20), flow=optical_flow.fast(), structure=StructureSettings.fast())


@dataclass(frozen=True)
class MotionDepth:
    """The cue."""

    config: Config
    needs: tuple[str, ...] = ("tracks", "camera", "moving")

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Observations:
        """Depth maps of every frame, smaller than the video, and the camera motion that they share a scale with."""
        assert observed.moving is not None, "observe supplies what `needs` names"
        moving = observed.moving
        scene = rigid_scene(video, observed, journal, self.config.structure)
        flow = dense_flow(video, journal, config=self.config.flow) if scene.parallax else None
        height, width = optical_flow.reduced_size(video.height, video.width, self.config.side)

        given = observed.depth

        def compute() -> Arrays:
            chain = FlowChain.of(flow, height, width) if flow is not None else None
            ids = _reduced_masks(moving, height, width)
            depth_z, sigma = depth_maps(video, scene, chain, ids, self.config, journal.progress.share, given=given)
            return {"depth_z": depth_z, "sigma": sigma}

        known = given and content_key(np.asarray(given.depth_z), np.asarray(given.sigma))
        key = (self.config, content_key(scene.world_from_cam, scene.intrinsics, moving.ids), scene.distortion, known)
        found = journal.run("depth/motion", compute, settings=key)
        if given is not None:
            source = replace(given.source, name=f"{given.source.name}, completed")
            depth = replace(given, depth_z=found["depth_z"], sigma=found["sigma"], source=source)
        else:
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
    *,
    given: DepthMaps | None = None,
) -> tuple[Float[np.ndarray, "t H W"], Float[np.ndarray, "t H W"]]:
    """Depth and its log sigma for every frame; without a flow chain, the guess of a clip without parallax.

    Known depth (`given`) stays where it is, and gives the maps their size if that is larger.
    """
    inverse = np.empty(ids.shape, dtype=np.float32)
    sigma = np.empty(ids.shape, dtype=np.float32)

    def one(t: int) -> None:
        seen, trust = _evidence(video, scene, chain, ids, t, config, given)
        if chain is None and given is None:
            inverse[t], sigma[t] = _guess(*ids[t].shape), config.guess_sigma
        else:
            inverse[t], sigma[t] = completed(video, scene, t, seen, trust, config)

    with ThreadPoolExecutor(config.threads) as pool:
        for done, _ in enumerate(pool.map(one, range(len(ids))), start=1):
            report(done / len(ids))
    focal_px = float(scene.intrinsics[0]) * ids.shape[2] / video.width
    stand(inverse, sigma, ids if given is None else _unplaced(ids, given), focal_px, config.standing)
    depth_z, sigma = 1 / inverse, np.hypot(sigma, config.model_sigma)
    if given is None or given.depth_z.shape[1] < ids.shape[1]:
        return depth_z, sigma
    maps = [respecting(depth_z[t], sigma[t], given, t) for t in range(len(ids))]
    return np.stack([z for z, _ in maps]), np.stack([s for _, s in maps])


def _evidence(
    video: Video,
    scene: RigidStructure,
    chain: FlowChain | None,
    ids: Int[np.ndarray, "t h w"],
    frame: int,
    config: Config,
    given: DepthMaps | None,
) -> tuple[InverseDepth, Float[np.ndarray, "h w"]]:
    """What motion and known depth say about the pixels of a frame, and how far that is to be trusted."""
    shape = ids[frame].shape
    nothing = InverseDepth(np.zeros(shape, dtype=np.float32), np.full(shape, np.inf, dtype=np.float32))
    seen, trust = nothing, np.zeros(shape, dtype=np.float32)
    if chain is not None:
        seen = triangulated(chain, scene, frame, config)
        trust = believed(video, frame, *shape) * (ids[frame] == 0)
    if given is None:
        return seen, trust
    known = known_evidence(given, frame, *shape)
    factor = scale_between(seen, known) if chain is not None else 1.0
    return merged(InverseDepth(seen.value * factor, seen.sigma * factor), trust, known)


def _unplaced(ids: Int[np.ndarray, "t h w"], given: DepthMaps) -> Int[np.ndarray, "t h w"]:
    """The moving objects of the frames in which hardly any of their pixels have a known depth."""
    out = ids.copy()
    for t in range(len(ids)):
        known = np.isfinite(known_evidence(given, t, *ids[t].shape).sigma)
        numbers = np.unique(ids[t][ids[t] > 0])
        placed = [n for n in numbers.tolist() if known[ids[t] == n].mean() > PLACED]
        out[t][np.isin(ids[t], placed)] = 0
    return out


def triangulated(chain: FlowChain, scene: RigidStructure, frame: int, config: Config) -> InverseDepth:
    """Inverse depth of every pixel from its sightings alone."""
    seen = chain.follow(frame, [o for k in config.offsets for o in (-k, k)])
    _, greatest = inverse_depth_limits(scene, frame)
    lens = lens_of(scene, chain)
    fit = static_hypothesis(seen, chain.grid_uv, scene.world_from_cam, frame, scene.intrinsics, lens=lens)
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
    usual = _usual(scene, frame, seen)
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


def _usual(scene: RigidStructure, frame: int, seen: InverseDepth) -> float:
    """Inverse depth of what is seen well, else of the static tracks, else of the scene."""
    well = (seen.sigma < 0.1 * seen.value) & (seen.value > 0)
    if well.mean() > 0.02:
        return float(np.median(seen.value[well]))
    depth_z, static = static_tracks(scene, frame)
    return float(np.median(1 / depth_z[static])) if static.any() else 1 / MEDIAN_DEPTH


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


def _reduced_masks(moving: MovingMasks, height: int, width: int) -> Int[np.ndarray, "t h w"]:
    """Object numbers on the grid, a little larger than they are."""
    grown = np.ones((3, 3), dtype=np.uint8)
    return np.stack(
        [
            cv2.dilate(cv2.resize(m.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST), grown)
            for m in moving.ids
        ]
    )
