"""Dense optical flow between frames of a clip, both ways, computed once and shared by all cues.

The flow is DIS (Kroeger, Timofte, Dai and Van Gool, "Fast Optical Flow using Dense Inverse Search", ECCV 2016) with
variational refinement, as in OpenCV. Where forward and backward flow do not return to the same pixel, the
pixel is hidden in one of the frames or the flow is wrong: `disagreement_px` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float

from worldline.errors import InputError
from worldline.geometry import pixels
from worldline.scene.journal import Arrays, Journal
from worldline.scene.lazy import LazyArray
from worldline.scene.video import Video

SMALLEST_SIDE = 16
PATCH = 8

RESCUED_SHARE = 0.5
"""A pair of which fewer pixels return to their place after both flows is matched again, in several ways."""

RESCUE_ITERATIONS = 60
"""Gradient steps per patch of those attempts: large motion needs many to get from scale to scale."""

RESCUE_PATCHES = ((8, 4), (8, 3), (12, 4))
"""Side of the matched patches and pixels between them, in turn: each finds what the others miss."""


@dataclass(frozen=True)
class Config:
    """How the flow is computed; the defaults give a median error of 0.04 px in 0.15 s per 854 x 480 pair and core."""

    finest_scale: int = 0
    """0 matches at full resolution, 1 at half of it."""
    patch_stride: int = 4
    """Pixels between matched patches at the finest scale."""
    descent_iterations: int = 12
    """Gradient steps per patch and scale."""
    refinement_iterations: int = 5
    """Variational steps per scale."""
    max_side: int = 1024
    """Longer images are reduced to this side first, which bounds memory and time."""
    stored_bytes: int = 1 << 30
    """The flow of a long clip is stored at a lower resolution, so that both directions stay below this."""
    threads: int = 2
    """Pairs that are computed at once."""


def fine() -> Config:
    """Full resolution: the default."""
    return Config()


def fast() -> Config:
    """Half resolution: twice the error in half the time."""
    return Config(finest_scale=1, patch_stride=3, descent_iterations=25)


def longer() -> Config:
    """For steps over several frames, which only tracks use: half resolution, computed and kept."""
    return Config(finest_scale=1, stored_bytes=1 << 28)


@dataclass(frozen=True, eq=False)
class DenseFlow:
    """Flow over one distance in time, possibly of lower resolution than the video, in pixels of the video.

    Attributes:
        step: frames between source and target.
        size: (height, width) of the video.
        forward: (T - step, h, w, 2) float16; uv of frame t plus forward[t] is uv of frame t + step.
        backward: (T - step, h, w, 2) float16; uv of frame t + step plus backward[t] is uv of frame t.
    """

    step: int
    size: tuple[int, int]
    forward: Float[LazyArray, "p h w 2"]
    backward: Float[LazyArray, "p h w 2"]

    def between(self, source: int, target: int) -> Float[np.ndarray, "h w 2"]:
        """Flow of every pixel of frame `source` to frame `target`, `step` frames away, float32, size of the video.

        Raises:
            InputError: the frames are not `step` apart or not in the clip.
        """
        stored, first = (self.forward, source) if target > source else (self.backward, target)
        if abs(target - source) != self.step or not 0 <= first < len(stored):
            raise InputError(f"no flow from frame {source} to {target}; ask for frames {self.step} apart in the clip.")
        return _resized(stored[first].astype(np.float32), self.size)

    def disagreement_px(self, source: int, target: int) -> Float[np.ndarray, "h w"]:
        """Distance to the start after going from `source` to `target` and back; infinite outside the image."""
        return disagreement_px(self.between(source, target), self.between(target, source))

    def sigma_px(self, source: int, target: int) -> Float[np.ndarray, "h w"]:
        """Standard deviation per axis, from a floor and the disagreement of the two directions."""
        return sigma_px(self.disagreement_px(source, target))


def dense_flow(video: Video, journal: Journal, *, step: int = 1, config: Config | None = None) -> DenseFlow:
    """Flow between all frames `step` apart, both ways; the journal keeps it, so all cues share one computation.

    Raises:
        InputError: the clip has no two frames `step` apart, or its frames are too small.
    """
    if not 1 <= step < len(video):
        raise InputError(f"a clip of {len(video)} frames has none {step} apart; use a smaller step or a longer clip.")
    if min(video.height, video.width) < SMALLEST_SIDE:
        raise InputError(f"frames of {video.width} x {video.height} are too small for flow; use at least 16 x 16.")
    chosen = config or Config()

    def compute() -> Iterator[Arrays]:
        return _both_ways(video, step, chosen, journal.progress.share)

    stored = journal.run_by_frame(f"flow/{step}", compute, len(video) - step, settings=chosen)
    return DenseFlow(step, (video.height, video.width), stored["forward"], stored["backward"])


def disagreement_px(there: Float[np.ndarray, "h w 2"], back: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "h w"]:
    """Per source pixel: the distance to its start after both flows; infinite where it leaves the image."""
    height, width = there.shape[:2]
    landed = pixels.centres(height, width).numpy() + there
    gap = np.linalg.norm(there + sample(back, landed), axis=-1)
    gap[~pixels.inside(torch.from_numpy(landed), height, width).numpy()] = np.inf
    return gap


def sigma_px(disagreement: Float[np.ndarray, "*n"], *, floor_px: float = 0.08) -> Float[np.ndarray, "*n"]:
    """Standard deviation per axis of a flow whose two directions disagree so much.

    Two equal independent errors of s per axis disagree by 2 s on average over both axes; the floor stands for what
    both directions get wrong alike.
    """
    return np.hypot(floor_px, 0.5 * disagreement).astype(np.float32)


def sample(
    image: Float[np.ndarray, "h w *c"], uv: Float[np.ndarray, "*n 2"], *, cubic: bool = False
) -> Float[np.ndarray, "*n *c"]:
    """Interpolated values of an image (one to four channels) at uv, repeated beyond its border.

    The leading shape of `uv` may have any length: OpenCV takes at most 32766 rows and columns, so it is folded.
    """
    shape = uv.shape[:-1]
    flat = pixels.to_integer_centres(np.asarray(uv, dtype=np.float32)).reshape(-1, 2)
    width = 4096
    padded = np.zeros((-(-max(len(flat), 1) // width) * width, 2), dtype=np.float32)
    padded[: len(flat)] = flat
    how = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    grid = padded.reshape(-1, width, 2)
    values = cv2.remap(image, grid, None, how, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return values.reshape(-1, *image.shape[2:])[: len(flat)].reshape(*shape, *image.shape[2:])


@contextmanager
def opencv_single_threaded() -> Iterator[None]:
    """One OpenCV thread per call inside, as before afterwards: the pool here already fills the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def reduced_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(height, width) with the longer side at most `max_side` and the same shape."""
    scale = min(1.0, max_side / max(height, width))
    return round(height * scale), round(width * scale)


def _stored_size(height: int, width: int, pairs: int, most_bytes: int) -> tuple[int, int]:
    """(height, width) at which two directions of `pairs` float16 flows fit."""
    needed = 2 * pairs * height * width * 2 * np.dtype(np.float16).itemsize
    return reduced_size(height, width, int(max(height, width) * min(1.0, np.sqrt(most_bytes / needed))))


def _both_ways(video: Video, step: int, config: Config, report: Callable[[float], None]) -> Iterator[Arrays]:
    """Forward and backward flow, pair by pair."""
    pairs = len(video) - step
    size = reduced_size(video.height, video.width, config.max_side)
    scale = np.array([video.width / size[1], video.height / size[0]], dtype=np.float32)
    stored = _stored_size(*size, pairs, config.stored_bytes)

    match = _matched if step == 1 else _match_both  # over longer steps, much that disagrees is just hidden

    def one(first: int) -> Arrays:
        grey = [_reduced(video.grey([t])[0], size) for t in (first, first + step)]
        flows = [_reduced(flow * scale, stored).astype(np.float16) for flow in match(grey[0], grey[1], config)]
        return dict(zip(("forward", "backward"), flows, strict=True))

    with opencv_single_threaded(), ThreadPoolExecutor(config.threads) as pool:
        for done, pair in enumerate(pool.map(one, range(pairs)), start=1):
            report(done / pairs)
            yield pair


def _matched(first: np.ndarray, second: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Flow from the first image to the second and back, with more patience where the two disagree."""
    flows = _match_both(first, second, config)
    if consistent_share(*flows) >= RESCUED_SHARE:
        return flows
    again = _patiently(first, second, config)
    better = _agreeing_share(first, second, *again) > _agreeing_share(first, second, *flows)
    return again if better else flows


def _match_both(first: np.ndarray, second: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    return _match(first, second, config), _match(second, first, config)


def consistent_share(forward: Float[np.ndarray, "h w 2"], backward: Float[np.ndarray, "h w 2"]) -> float:
    """Share of every eighth pixel that both flows bring back to within a pixel (or 5 per cent of the way).

    Those that leave the image say nothing; where all do, nothing is consistent.
    """
    there = forward[4::8, 4::8].astype(np.float32)
    landed = pixels.centres(*forward.shape[:2]).numpy()[4::8, 4::8].astype(np.float32) + there
    stays = pixels.inside(torch.from_numpy(landed), *forward.shape[:2]).numpy()
    gap = np.linalg.norm(there + sample(backward.astype(np.float32), landed), axis=-1)
    close = gap < np.maximum(1.0, 0.05 * np.linalg.norm(there, axis=-1))
    return float((close & stays).sum() / max(stays.sum(), 1))


def _patiently(a: np.ndarray, b: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Flow from a to b and back: of several attempts, per pixel the one that some attempt back returns best."""
    ways = [(replace(config, descent_iterations=RESCUE_ITERATIONS, patch_stride=s), p) for p, s in RESCUE_PATCHES]
    there = [_match(a, b, patient, patch) for patient, patch in ways]
    back = [_match(b, a, patient, patch) for patient, patch in ways]
    return _most_consistent(there, back), _most_consistent(back, there)


def _agreeing_share(a: np.ndarray, b: np.ndarray, there: np.ndarray, back: np.ndarray) -> float:
    """Share of pixels whose flows return and lead to a place that looks alike: chance returns do not."""
    size = (15, 15)
    x = a.astype(np.float32)
    y = sample(b.astype(np.float32), pixels.centres(*a.shape).numpy() + there)
    mean_x, mean_y = cv2.blur(x, size), cv2.blur(y, size)
    spread = [cv2.blur(m * m, size) - n * n for m, n in ((x, mean_x), (y, mean_y))]
    likeness = (cv2.blur(x * y, size) - mean_x * mean_y) / np.sqrt(np.maximum(spread[0] * spread[1], 1e-3))
    return float(((likeness > 0.6) & (disagreement_px(there, back) < 1.0)).mean())


def _most_consistent(candidates: list[np.ndarray], returns: list[np.ndarray]) -> np.ndarray:
    gaps = np.stack([np.min([disagreement_px(c, r) for r in returns], axis=0) for c in candidates])
    best = gaps.argmin(0)
    return np.take_along_axis(np.stack(candidates), best[None, ..., None], 0)[0]


def _match(source: np.ndarray, target: np.ndarray, config: Config, patch: int = PATCH) -> np.ndarray:
    matcher = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    fits = min(source.shape) >= 2 * patch << config.finest_scale  # OpenCV writes out of bounds where a patch does not
    matcher.setFinestScale(config.finest_scale if fits else 0)
    matcher.setPatchSize(patch)
    matcher.setPatchStride(config.patch_stride)
    matcher.setGradientDescentIterations(config.descent_iterations)
    matcher.setVariationalRefinementIterations(config.refinement_iterations)
    return np.asarray(matcher.calc(source, target, None))  # type: ignore[call-overload]


def _reduced(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def _resized(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return flow if flow.shape[:2] == size else cv2.resize(flow, size[::-1], interpolation=cv2.INTER_LINEAR)
