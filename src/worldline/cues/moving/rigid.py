"""What moves by itself: pixels that contradict the rigid scene over several frames.

Every pixel is followed some frames ahead and back. If it were static, the camera motion would leave it one unknown,
its depth, within what the static points of that frame have; what is left of its motion is evidence against it. Of the
two directions in time the better one counts, since a static point may be hidden in one. The evidence is carried
along the flow through the clip, smoothed within similar colours, cut, and linked into objects.

Source of the idea: Papazoglou and Ferrari, "Fast object segmentation in unconstrained video", ICCV 2013 (evidence
carried over frames); residuals of a rigid scene take the place of their motion boundaries.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from worldline.cues import optical_flow
from worldline.cues.edge_aware import BilateralGrid, guided
from worldline.cues.optical_flow import dense_flow
from worldline.cues.parallax import FlowChain, believed, inverse_depth_limits, static_hypothesis
from worldline.cues.rigid_scene import rigid_scene
from worldline.scene.journal import Arrays, Journal, content_key
from worldline.scene.observations import MovingMasks, Observations, Source
from worldline.scene.video import Video
from worldline.solve.structure import RigidStructure


@dataclass(frozen=True)
class Config:
    """Settings; pixels are those of the video."""

    side: int = 432
    """Longer side of the grid on which evidence is gathered."""
    offsets: tuple[int, ...] = (2, 4, 6)
    """Frames ahead and back in which a pixel is looked at."""
    model_px: float = 0.4
    """Error of the rigid scene itself, added to that of the flow."""
    threshold: float = 3.5
    """Residual, in standard deviations and in medians of the frame, beyond which a pixel speaks for motion."""
    sharpness: float = 2.0
    """How fast the log odds grow with the log of the residual."""
    memory: float = 0.85
    """Share of the evidence that is carried to the next frame."""
    smoothness: float = 0.4
    """Pull between neighbouring cells of similar colour."""
    least_area: float = 0.001
    """Smaller regions (share of the image) are dropped."""
    least_frames: int = 4
    """Objects that live shorter are dropped."""
    threads: int = 2
    """Frames that are worked on at once."""
    flow: optical_flow.Config = field(default_factory=optical_flow.fine)


@dataclass(frozen=True)
class RigidMasks:
    """The cue."""

    config: Config
    needs: tuple[str, ...] = ("tracks", "camera")

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> MovingMasks:
        """Masks with ids and probability, at the size of the video."""
        scene = rigid_scene(video, observed, journal)
        flow = dense_flow(video, journal, config=self.config.flow)

        def compute() -> Arrays:
            height, width = optical_flow.reduced_size(video.height, video.width, self.config.side)
            chain = FlowChain.of(flow, height, width)
            evidence = gather(video, chain, scene, self.config, journal.progress.share)
            probability = segment(video, chain, evidence, self.config)
            return {"probability": probability, "ids": link(chain, probability, self.config)}

        key = (self.config, content_key(scene.world_from_cam, scene.intrinsics))
        found = journal.run("moving/rigid", compute, settings=key)
        probability, ids = _full_size(video, found["probability"], found["ids"])
        return MovingMasks(ids, Source("moving/rigid"), probability)


def build(config: Config) -> RigidMasks:
    """The cue with these settings."""
    return RigidMasks(config)


def gather(
    video: Video,
    chain: FlowChain,
    scene: RigidStructure,
    config: Config,
    report: Callable[[float], None] = lambda share: None,
) -> Float[np.ndarray, "t h w"]:
    """Log odds that each pixel moves, from its own motion and as far as its texture lets that be seen."""
    height, width = chain.grid_uv.shape[:2]

    def one(t: int) -> np.ndarray:
        return frame_evidence(chain, scene, t, config) * believed(video, t, height, width)

    out = np.empty((len(video), height, width), dtype=np.float32)
    with ThreadPoolExecutor(config.threads) as pool:
        for t, odds in enumerate(pool.map(one, range(len(video)))):
            out[t] = odds
            report(0.7 * (t + 1) / len(video))
    return out


def frame_evidence(chain: FlowChain, scene: RigidStructure, frame: int, config: Config) -> Float[np.ndarray, "h w"]:
    """Log odds that each pixel of a frame moves, from its own motion; 0 where it cannot be followed."""
    seen = chain.follow(frame, [o for k in config.offsets for o in (-k, k)])
    limits = inverse_depth_limits(scene, frame)
    misfits = []
    for way in (-1, 1):
        side = seen.only([(f - frame) * way > 0 for f in seen.frames])
        if side.frames:
            fit = static_hypothesis(side, chain.grid_uv, scene.world_from_cam, frame, scene.intrinsics, limits=limits)
            variance = side.sigma_px**2 + config.model_px**2
            count = np.isfinite(variance).sum(0)
            mean = (fit.residual_px**2 / variance).sum(0) / np.maximum(count, 1)
            misfits.append(np.where(count > 0, np.sqrt(mean), np.nan))
    misfit = np.fmin(*misfits) if len(misfits) == 2 else misfits[0]
    usual = max(1.0, float(np.nanmedian(misfit))) if np.isfinite(misfit).any() else 1.0
    odds = config.sharpness * np.log(np.maximum(misfit, 1e-3) / (config.threshold * usual))
    return np.clip(np.nan_to_num(odds), -2, 3).astype(np.float32)


def segment(
    video: Video, chain: FlowChain, evidence: Float[np.ndarray, "t h w"], config: Config
) -> UInt8[np.ndarray, "t h w"]:
    """Probability of motion (255 is one): evidence carried both ways through time, smoothed within similar colours."""
    ahead, back = _carried(chain, evidence, 1, config.memory), _carried(chain, evidence, -1, config.memory)
    total = np.clip(ahead + back - evidence, -6, 6)
    return np.stack([_smoothed(video, t, odds, config) for t, odds in enumerate(total)])


def _carried(chain: FlowChain, evidence: np.ndarray, way: int, memory: float) -> np.ndarray:
    out = evidence.copy()
    frames = range(1, len(out)) if way > 0 else range(len(out) - 2, -1, -1)
    for t in frames:
        out[t] += memory * chain.carried(out[t - way], t, way)
        np.clip(out[t], -6, 6, out=out[t])
    return out


def _smoothed(video: Video, frame: int, odds: np.ndarray, config: Config) -> np.ndarray:
    image = cv2.resize(np.asarray(video.frames[frame]), odds.shape[::-1], interpolation=cv2.INTER_AREA)
    grid = BilateralGrid.of(image)
    confidence = 0.02 + np.abs(np.tanh(odds / 2))
    target = 1 / (1 + np.exp(-2 * odds))
    solved = grid.solve(target, confidence, smoothness=config.smoothness)
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return np.round(255 * np.clip(guided(luma, solved, radius=3, edge=0.05), 0, 1)).astype(np.uint8)


def link(chain: FlowChain, probability: UInt8[np.ndarray, "t h w"], config: Config) -> Int[np.ndarray, "t h w"]:
    """Numbers of objects: connected regions, each taking the number of the region that the flow brings onto it."""
    ids = np.zeros(probability.shape, dtype=np.int32)
    fresh = 1
    for t, p in enumerate(probability):
        count, region, stats, _ = cv2.connectedComponentsWithStats((p > 127).astype(np.uint8), connectivity=4)
        before = chain.carried_ids(ids[t - 1], t) if t else np.zeros_like(region)
        for k in range(1, count):
            if stats[k, cv2.CC_STAT_AREA] < config.least_area * p.size:
                continue
            inside = region == k
            known = np.bincount(before[inside])
            known[:1] = 0
            old = int(known.argmax()) if known.size and known.max() > 0.2 * inside.sum() else 0
            ids[t][inside] = old or fresh
            fresh += old == 0
    return _renumbered(ids, config.least_frames)


def _renumbered(ids: np.ndarray, least_frames: int) -> np.ndarray:
    """Lasting objects only, the largest first, at most 255."""
    present = np.stack([np.bincount(frame.reshape(-1), minlength=ids.max() + 1) for frame in ids])
    lasting = (present > 0).sum(0) >= min(least_frames, len(ids))
    lasting[0] = False
    order = np.argsort(-present.sum(0) * lasting, kind="stable")[: min(255, int(lasting.sum()))]
    number = np.zeros(ids.max() + 1, dtype=np.uint8)
    number[order] = np.arange(1, len(order) + 1)
    return number[ids]


def _full_size(video: Video, probability: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At the size of the video, along the edges of its frames."""
    size = (video.width, video.height)
    full = np.empty((len(ids), video.height, video.width), dtype=np.float32)
    numbers = np.empty(full.shape, dtype=np.uint8)
    for t, (p, n) in enumerate(zip(probability, ids, strict=True)):
        luma = cv2.cvtColor(np.asarray(video.frames[t]), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        kept = np.where((n > 0) | (p <= 127), p, 127).astype(np.float32) / 255
        full[t] = np.clip(guided(luma, cv2.resize(kept, size), radius=4, edge=0.03), 0, 1)
        near = cv2.dilate(n, np.ones((5, 5), dtype=np.uint8))
        numbers[t] = np.where(full[t] > 0.5, cv2.resize(near, size, interpolation=cv2.INTER_NEAREST), 0)
    return full, numbers
