"""What moves by itself: surfaces that contradict the rigid scene, told apart and followed through the clip.

1. Every frame gives evidence for and against motion (`motion_evidence`): geometric and photometric tests against the
   static hypothesis of every pixel, over several frames. A known depth leaves that hypothesis no freedom.
2. Surfaces remember it along the flow (`surface_memory`), so that a mover that pauses stays one.
3. The colours of what moves and what does not are learnt (`appearance`) and say a little more.
4. All is smoothed within similar colours, cut, and linked into objects that keep their numbers (`identities`).

Masks that are known for some frames are kept as they are, and are evidence for the others.

Source of the idea: Papazoglou and Ferrari, "Fast object segmentation in unconstrained video", ICCV 2013 (evidence
carried over frames, colours learnt from it); residuals of a rigid scene take the place of their motion boundaries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from worldline.cues import optical_flow
from worldline.cues.appearance import AppearanceSettings, colour_odds
from worldline.cues.edge_aware import BilateralGrid, guided
from worldline.cues.identities import IdentitySettings, identities
from worldline.cues.motion_evidence import EvidenceSettings, frame_evidence, paced
from worldline.cues.optical_flow import dense_flow
from worldline.cues.parallax import FlowChain, Limits, inverse_depth_limits, known_depth_limits
from worldline.cues.rigid_scene import rigid_scene
from worldline.cues.surface_memory import MemorySettings, remembered
from worldline.scene.journal import Arrays, Journal, content_key
from worldline.scene.observations import DepthMaps, MovingMasks, Observations, Source
from worldline.scene.video import Video
from worldline.solve.structure import RigidStructure
from worldline.solve.structure_settings import StructureSettings

CERTAIN = 12.0
"""Log odds of a pixel whose mask is known."""

SPECK = 0.01
"""Holes up to this share of the object around them belong to it."""

UNSAID, UNSAID_WEIGHT = 0.27, 0.05
"""Probability that a pixel moves of which nothing is known, and its weight beside what is known (at most 1): the
plain wall beside a mover is a wall."""


@dataclass(frozen=True)
class Config:
    """Settings of the cue."""

    side: int = 432
    """Longer side of the grid on which evidence is gathered."""
    most_cells: int = 40_000_000
    """Longer clips get a coarser grid, which bounds memory."""
    smoothness: float = 0.4
    """Pull between neighbouring cells of similar colour."""
    learnt_every: int = 4
    """Frames between those that colours are learnt from."""
    threads: int = 2
    """Frames that are worked on at once."""
    evidence: EvidenceSettings = field(default_factory=EvidenceSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    appearance: AppearanceSettings = field(default_factory=AppearanceSettings)
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    flow: optical_flow.Config = field(default_factory=optical_flow.fine)
    structure: StructureSettings = field(default_factory=StructureSettings)

    @classmethod
    def fast(cls) -> Config:
        """A coarser grid and fewer frames around each."""
        return cls(
            side=288,
            evidence=EvidenceSettings(offsets=(2, 5)),
            flow=optical_flow.fast(),
            structure=StructureSettings.fast(),
        )


@dataclass(frozen=True)
class RigidMasks:
    """The cue."""

    config: Config
    needs: tuple[str, ...] = ("tracks", "camera")

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> MovingMasks:
        """Masks with ids and probability, at the size of the video."""
        scene = rigid_scene(video, observed, journal, self.config.structure)
        flow = dense_flow(video, journal, config=self.config.flow)
        depth, known = observed.depth, observed.moving

        def compute() -> Arrays:
            chain = FlowChain.of(flow, *self._grid(video))
            work = _Work(video, chain, _reduced_frames(video, chain), _reduced_masks(known, chain), self.config)
            evidence = gather(work, scene, depth, journal.progress.share)
            probability = segment(work, evidence)
            return {"probability": probability, "ids": link(work, probability)}

        parts = (
            (scene.world_from_cam, scene.intrinsics)
            + ((depth.depth_z, depth.sigma) if depth else ())
            + ((known.ids, *([] if known.known is None else [known.known])) if known else ())
        )
        found = journal.run("moving/rigid", compute, settings=(self.config, content_key(*parts)))
        probability, ids = _full_size(video, found["probability"], found["ids"])
        _keep_known(known, ids, probability)
        return MovingMasks(ids, Source("moving/rigid"), probability)

    def _grid(self, video: Video) -> tuple[int, int]:
        height, width = optical_flow.reduced_size(video.height, video.width, self.config.side)
        excess = len(video) * height * width / self.config.most_cells
        return optical_flow.reduced_size(height, width, round(max(height, width) / max(1.0, excess) ** 0.5))


def build(config: Config) -> RigidMasks:
    """The cue with these settings."""
    return RigidMasks(config)


@dataclass(frozen=True, eq=False)
class _Work:
    """The clip on the grid: frames and flow, and the masks of the frames that are known."""

    video: Video
    chain: FlowChain
    images: UInt8[np.ndarray, "t h w 3"]
    known: dict[int, Int[np.ndarray, "h w"]]
    config: Config

    @property
    def step_s(self) -> float:
        return float(np.median(np.diff(self.video.times_s)))

    def each(self, one: Callable[[int], np.ndarray], frames: Sequence[int]) -> list[np.ndarray]:
        with optical_flow.opencv_single_threaded(), ThreadPoolExecutor(self.config.threads) as pool:
            return list(pool.map(one, frames))


def gather(
    work: _Work,
    scene: RigidStructure,
    depth: DepthMaps | None,
    report: Callable[[float], None] = lambda share: None,
) -> Float[np.ndarray, "t h w"]:
    """Log odds that each pixel moves, from the frames around its own."""
    luma = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in work.images]).astype(np.float32)
    settings = paced(work.chain, work.config.evidence)

    def limits(t: int) -> Limits:
        usual = inverse_depth_limits(scene, t)
        return usual if depth is None else known_depth_limits(scene, depth, t, work.chain, usual)

    def one(t: int) -> np.ndarray:
        report(0.7 * (t + 1) / len(luma))
        if t in work.known:
            return np.where(work.known[t] > 0, CERTAIN, -CERTAIN).astype(np.float32)
        return frame_evidence(work.chain, scene, luma, t, limits(t), settings)

    return np.stack(work.each(one, range(len(luma))))


def segment(work: _Work, evidence: Float[np.ndarray, "t h w"]) -> UInt8[np.ndarray, "t h w"]:
    """Probability of motion (255 is one): what surfaces remember and what colours say, smoothed in similar colours."""
    odds = remembered(work.chain, evidence, work.step_s, work.config.memory)

    def smoothed(t: int) -> np.ndarray:
        return _smoothed(work.images[t], odds[t], work.config.smoothness)

    learnt = range(0, len(odds), work.config.learnt_every)
    first = np.stack(work.each(smoothed, learnt))
    odds += colour_odds(work.images, learnt, first, work.step_s, work.config.appearance)
    found = work.each(lambda t: np.round(255 * smoothed(t)).astype(np.uint8), range(len(odds)))
    for t, ids in work.known.items():
        found[t] = np.where(ids > 0, 255, 0).astype(np.uint8)
    return np.stack(found)


def link(work: _Work, probability: UInt8[np.ndarray, "t h w"]) -> Int[np.ndarray, "t h w"]:
    """Numbers of objects, those of the known frames as they are."""
    return identities(
        work.chain, work.images, probability > 127, work.known, work.step_s, work.config.identity
    )  # fmt: skip


def _smoothed(image: UInt8[np.ndarray, "h w 3"], odds: np.ndarray, smoothness: float) -> Float[np.ndarray, "h w"]:
    said = np.abs(np.tanh(odds / 2))
    target = (said / (1 + np.exp(-odds)) + UNSAID_WEIGHT * UNSAID) / (said + UNSAID_WEIGHT)
    solved = BilateralGrid.of(image).solve(target, said + UNSAID_WEIGHT, smoothness=smoothness)
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return np.clip(guided(luma, solved, radius=3, edge=0.05), 0, 1)


def _reduced_frames(video: Video, chain: FlowChain) -> UInt8[np.ndarray, "t h w 3"]:
    size = chain.grid_uv.shape[1::-1]
    frames = (np.asarray(video.frames[t]) for t in range(len(video)))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _reduced_masks(known: MovingMasks | None, chain: FlowChain) -> dict[int, Int[np.ndarray, "h w"]]:
    if known is None:
        return {}
    frames = range(len(known.ids)) if known.known is None else np.flatnonzero(known.known)
    return {int(t): _nearest_size(known.ids[t], chain.grid_uv.shape[1::-1]).astype(np.int32) for t in frames}


def _nearest_size(ids: np.ndarray, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    return cv2.resize(np.asarray(ids).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)


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
        numbers[t] = solid(np.where(full[t] > 0.5, cv2.resize(near, size, interpolation=cv2.INTER_NEAREST), 0))
        full[t] = np.where(numbers[t] > 0, np.maximum(full[t], 0.5), full[t])
    return full, numbers


def solid(ids: Int[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The numbers of one frame without the specks that objects enclose."""
    out = ids.astype(np.uint8)
    count, regions, stats, _ = cv2.connectedComponentsWithStats((out == 0).astype(np.uint8), connectivity=4)
    areas = np.bincount(out.reshape(-1))
    for k in np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] < SPECK * areas[1:].max(initial=0)) + 1:
        u, v, width, height, area = stats[k]
        box = np.s_[max(v - 1, 0) : v + height + 1, max(u - 1, 0) : u + width + 1]
        speck = regions[box] == k
        rim = out[box][cv2.dilate(speck.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~speck]
        around = np.bincount(rim).argmax() if rim.size else 0
        if area < SPECK * areas[around] and around > 0:
            out[box][speck] = around
    return out


def _keep_known(known: MovingMasks | None, ids: np.ndarray, probability: np.ndarray) -> None:
    """Write the known frames into the masks as they were given."""
    if known is None:
        return
    for t in range(len(ids)) if known.known is None else np.flatnonzero(known.known):
        ids[t] = _nearest_size(known.ids[t], ids.shape[2:0:-1])
        sure = (ids[t] > 0).astype(np.float32)
        given = known.probability
        probability[t] = sure if given is None else cv2.resize(np.asarray(given[t], np.float32), ids.shape[2:0:-1])
