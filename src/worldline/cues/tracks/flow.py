"""Point tracks from dense flow, each held to the patch it started from.

Chaining flow alone adds up its errors. Here the flow only predicts: in every frame the patch cut around a track's
start is aligned anew (`cues/patches.py`), so the position drifts no more than the look of the patch allows. Where
the patch no longer fits but the flow is consistent (a deforming surface), the chain goes on with a growing sigma
and soon from a fresh patch. A track ends where the point is hidden or leaves the image.

Tracks start at the most textured pixel of every cell of a grid that no live track covers, every few frames, and are
followed forwards and then backwards in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.cues import optical_flow, patches
from worldline.cues.optical_flow import DenseFlow, dense_flow, sample
from worldline.cues.patches import Templates
from worldline.geometry import pixels
from worldline.scene.journal import Arrays, Journal
from worldline.scene.observations import Observations, PixelTracks, Source
from worldline.scene.video import Video

BROKEN = 0.05
"""Share of the tracks that get from one frame to the next below which the clip is probably cut there."""


@dataclass(frozen=True)
class Config:
    """Settings of the tracker; the defaults suit handheld video of up to a megapixel."""

    live: int = 2500
    """Cells of the grid, which is about the number of tracks that are alive in a frame."""
    reseed_every: int = 10
    """Frames between two looks for uncovered cells."""
    start_sigma_px: float = 1.0
    """A track starts only where the texture allows this accuracy at the noise of `patches`."""
    textured_sigma_px: float = 0.25
    """A patch whose texture allows this accuracy must be seen to be visible."""
    shortest: int = 3
    """Tracks seen in fewer frames are dropped (of shorter clips none)."""
    most: int = 15000
    """If there are more tracks, the longest of every starting frame are kept, the same share of each."""
    jump: float = 0.06
    """Change of the flow, in pixels per pixel, that no single surface shows between two frames."""
    border_px: float = 4.0
    """Tracks start and stay at least so far inside the image."""
    trusted_likeness: float = 0.8
    """Correlation with the template from which its position is believed."""
    fresh_likeness: float = 0.85
    """A trusted template that correlates less is cut anew."""
    hidden_likeness: float = 0.6
    """A textured patch that correlates less is hidden."""
    patience: int = 5
    """Frames that a track lives on flow alone before its template is cut anew."""
    gap_px: float = 0.8
    """Flow whose two directions disagree by more (and by 5 per cent of its length) is wrong or hidden."""
    reach_px: float = 1.5
    """How far the template may be found from where the flow says, beyond three sigma."""
    max_sigma_px: float = 4.0
    """A track that became less certain ends."""
    flow: optical_flow.Config = field(default_factory=optical_flow.fine)
    patches: patches.Config = field(default_factory=patches.Config)


@dataclass(frozen=True)
class FlowTracks:
    """The cue."""

    config: Config
    needs: tuple[str, ...] = ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> PixelTracks:
        """Tracks over the whole clip."""
        flow = dense_flow(video, journal, config=self.config.flow)

        def compute() -> Arrays:
            tracks = track_grid(video, flow, self.config, journal.progress.share)
            return {
                "uv": tracks.uv,
                "visible": tracks.visible,
                "sigma_px": tracks.sigma_px,
                "query_frame": tracks.query_frame,
            }

        stored = journal.run("tracks/flow", compute, settings=self.config)
        source = Source("tracks/flow", notes=_breaks(stored["visible"], video.times_s))
        return PixelTracks(stored["uv"], stored["visible"], stored["sigma_px"], stored["query_frame"], source)


def _breaks(visible: Bool[np.ndarray, "t n"], times_s: Float[np.ndarray, "t"]) -> tuple[str, ...]:
    """A sentence for every place in time that almost no track gets across."""
    before = np.maximum(visible[:-1].sum(1), 1)
    across = (visible[:-1] & visible[1:]).sum(1) / before
    return tuple(
        f"almost nothing can be followed from {times_s[t]:.2f} s to {times_s[t + 1]:.2f} s; if the clip is cut there, "
        "reconstruct each shot by itself with --start and --end."
        for t in np.flatnonzero((across < BROKEN) & (before >= 50))
    )


def build(config: Config) -> FlowTracks:
    """The cue with these settings."""
    return FlowTracks(config)


def track_grid(
    video: Video, flow: DenseFlow, config: Config, report: Callable[[float], None] = lambda share: None
) -> PixelTracks:
    """Tracks from a grid that is re-seeded where it is not covered, followed in both directions."""
    count = len(video)
    rows: list[_Rows] = []
    started: list[np.ndarray] = [np.zeros((0, 2), np.float32)]
    asked: list[np.ndarray] = [np.zeros(0, np.int64)]

    def uncovered(frame: int, image: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if frame % config.reseed_every and frame != count - 1:
            return np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
        uv = grid_seeds(image, flow.between(frame, frame + 1 if frame + 1 < count else frame - 1), live, config)
        first = sum(len(s) for s in started)
        started.append(uv)
        asked.append(np.full(len(uv), frame))
        return uv, np.arange(first, first + len(uv))

    for t, row in _followed(video, flow, range(count), uncovered, config):
        rows.append(row)
        report(0.5 * (t + 1) / count)
    uv, query = np.concatenate(started), np.concatenate(asked)
    backwards = _followed(video, flow, range(count - 1, -1, -1), _given(uv, query), config)
    for t, row in backwards:
        rows.append(row)
        report(1.0 - 0.5 * t / count)
    return _thinned(_collected(rows, uv, query, count), config)


def track_points(
    video: Video,
    flow: DenseFlow,
    uv: Float[np.ndarray, "n 2"],
    query_frame: Int[np.ndarray, "n"],
    config: Config | None = None,
) -> PixelTracks:
    """Tracks of chosen points in both directions; `uv` in pixels of the video, each in its query frame."""
    chosen, count = config or Config(), len(video)
    seeds = _given(np.asarray(uv, np.float32), np.asarray(query_frame))
    rows = [
        row
        for order in (range(count), range(count - 1, -1, -1))
        for _, row in _followed(video, flow, order, seeds, chosen)
    ]
    return _collected(rows, np.asarray(uv, np.float32), np.asarray(query_frame), count)


def grid_seeds(
    image: Float[np.ndarray, "h w"],
    flow: Float[np.ndarray, "h w 2"],
    live: Float[np.ndarray, "n 2"],
    config: Config,
) -> Float[np.ndarray, "m 2"]:
    """The most textured pixel of every cell without a live track, where it is textured enough.

    Near a jump of the flow a patch sees two surfaces and follows neither, so such pixels come last.
    """
    height, width = image.shape
    cell = max(np.sqrt(height * width / config.live), 4.0)
    down, across = int(height // cell), int(width // cell)
    strength = _corner_strength(image, config) * np.where(_near_jump(flow, config), 0.02, 1.0)
    size = np.array([width / across, height / down])
    taken = np.zeros((down, across), dtype=bool)
    at = (live / size).astype(int)
    taken[at[:, 1].clip(0, down - 1), at[:, 0].clip(0, across - 1)] = True
    best = _best_of_cells(strength, down, across)
    uv = best[~taken.ravel()]
    enough = config.patches.noise / np.sqrt(np.maximum(strength[tuple(uv.astype(int)[:, ::-1].T)], 1e-9))
    return uv[enough < config.start_sigma_px].astype(np.float32)


def _near_jump(flow: np.ndarray, config: Config) -> np.ndarray:
    """Whether the flow changes faster than on a smooth surface anywhere within the patch around each pixel."""
    steps = [cv2.Sobel(flow, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (0, 1)]
    steep = np.sqrt(sum((s**2).sum(-1) for s in steps)) > config.jump
    side = 2 * round(config.patches.window_px) + 1
    return cv2.dilate(steep.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def _corner_strength(image: np.ndarray, config: Config) -> np.ndarray:
    """Information on the worse-known direction of a shift of the patch around each pixel; zero near the border."""
    p = config.patches
    du, dv = cv2.Sobel(image, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(image, cv2.CV_32F, 0, 1, scale=1 / 8)
    uu, uv, vv = (cv2.GaussianBlur(x, (0, 0), p.window_px / 2) for x in (du * du, du * dv, dv * dv))
    least = (uu + vv) / 2 - np.hypot((uu - vv) / 2, uv)
    least *= np.pi * p.window_px**2
    edge = int(np.ceil(config.border_px))
    inner = np.zeros_like(least)
    inner[edge:-edge, edge:-edge] = least[edge:-edge, edge:-edge]
    return inner


def _best_of_cells(strength: np.ndarray, down: int, across: int) -> np.ndarray:
    """uv of the strongest pixel of each cell, row by row."""
    height, width = strength.shape
    row = (np.arange(height) * down // height)[:, None]
    label = (row * across + np.arange(width) * across // width).ravel()
    order = np.lexsort((-strength.ravel(), label))
    first = order[np.searchsorted(label[order], np.arange(down * across))]
    return pixels.from_integer_centres(np.stack([first % width, first // width], -1).astype(np.float64))


@dataclass(frozen=True, eq=False)
class _Rows:
    """What is known in one frame: tracks, places, sigmas."""

    frame: int
    track: np.ndarray
    uv: np.ndarray
    sigma: np.ndarray


@dataclass(frozen=True, eq=False)
class _Live:
    """Tracks under way in one frame.

    `base` is the sigma of the place where the template was cut, `sigma` that of the present place, `alone` the number
    of frames since the template was last trusted.
    """

    track: np.ndarray
    uv: np.ndarray
    linear: np.ndarray
    base: np.ndarray
    sigma: np.ndarray
    alone: np.ndarray
    templates: Templates

    def __getitem__(self, chosen: np.ndarray) -> _Live:
        return _Live(
            self.track[chosen],
            self.uv[chosen],
            self.linear[chosen],
            self.base[chosen],
            self.sigma[chosen],
            self.alone[chosen],
            self.templates[chosen],
        )

    def row(self, frame: int) -> _Rows:
        return _Rows(frame, self.track, self.uv, self.sigma)


_Seeds = Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _given(uv: np.ndarray, query: np.ndarray) -> _Seeds:
    def seeds(frame: int, image: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        which = np.flatnonzero(query == frame)
        return uv[which], which

    return seeds


def _followed(
    video: Video, flow: DenseFlow, order: range, seeds: _Seeds, config: Config
) -> Iterable[tuple[int, _Rows]]:
    """Every frame in `order` with the tracks alive in it; `seeds(frame, image, live uv)` gives new (uv, track)."""
    live: _Live | None = None
    for t in order:
        image = patches.smoothed(video.grey([t])[0], config.patches)
        if live is not None:
            live = _advanced(live, image, flow.between(t - order.step, t), flow.between(t, t - order.step), config)
        uv, track = seeds(t, image, live.uv if live is not None else np.zeros((0, 2), np.float32))
        fresh = _started(image, uv, track, config)
        live = fresh if live is None else _joined(live, fresh)
        yield t, live.row(t)


def _started(image: np.ndarray, uv: np.ndarray, track: np.ndarray, config: Config) -> _Live:
    count = len(uv)
    templates = patches.cut(image, uv.astype(np.float32), config.patches)
    zero = np.zeros(count, np.float32)
    linear = np.tile(np.eye(2, dtype=np.float32), (count, 1, 1))
    return _Live(track, uv.astype(np.float32), linear, zero, zero, np.zeros(count, np.int64), templates)


def _joined(a: _Live, b: _Live) -> _Live:
    def pair(name: str) -> np.ndarray:
        return np.concatenate([getattr(a, name), getattr(b, name)])

    return _Live(
        pair("track"),
        pair("uv"),
        pair("linear"),
        pair("base"),
        pair("sigma"),
        pair("alone"),
        Templates.joined(a.templates, b.templates),
    )


def _advanced(live: _Live, image: np.ndarray, there: np.ndarray, back: np.ndarray, config: Config) -> _Live:
    """The tracks one frame on: predicted by the flow, corrected by the template, ended or given a fresh one."""
    moved = sample(there, live.uv)
    predicted = live.uv + moved
    gap = np.linalg.norm(moved + sample(back, predicted), axis=-1)
    chained = np.hypot(live.sigma, optical_flow.sigma_px(gap))
    found = patches.align(image, live.templates, predicted, live.linear, config.patches)
    reach = config.reach_px + 3.0 * chained
    trusted = (
        (found.likeness > config.trusted_likeness)
        & (found.last_step_px < 0.1)
        & (np.linalg.norm(found.uv - predicted, axis=-1) < reach)
        & _plausible(live.linear, found.linear)
    )
    uv = np.where(trusted[:, None], found.uv, predicted)
    linear = np.where(trusted[:, None, None], found.linear, live.linear)
    sigma = np.where(trusted, np.hypot(live.base, found.sigma_px), chained)
    alone = np.where(trusted, 0, live.alone + 1)
    consistent = gap < np.maximum(config.gap_px, 0.05 * np.linalg.norm(moved, axis=-1))
    textured = patches.texture_sigma_px(live.templates, config.patches.noise) < config.textured_sigma_px
    hidden = textured & (found.likeness < config.hidden_likeness)
    height, width = image.shape
    margin = config.border_px
    inside = ((uv >= margin) & (uv <= np.array([width, height]) - margin)).all(-1)
    lives = inside & (consistent | trusted) & ~hidden & (sigma < config.max_sigma_px)
    moved_on = _Live(live.track, uv, linear, live.base, sigma, alone, live.templates)
    stale = (trusted & (found.likeness < config.fresh_likeness)) | (alone >= config.patience)
    return _refreshed(moved_on, image, stale, config)[lives]


def _refreshed(live: _Live, image: np.ndarray, stale: np.ndarray, config: Config) -> _Live:
    """New templates, cut where the stale tracks are now; their sigma becomes the sigma of the new start."""
    which = np.flatnonzero(stale)
    if len(which) == 0:
        return live
    templates = live.templates.put(which, patches.cut(image, live.uv[which], config.patches))
    linear = np.where(stale[:, None, None], np.eye(2, dtype=np.float32), live.linear)
    base = np.where(stale, live.sigma, live.base)
    return _Live(live.track, live.uv, linear, base, live.sigma, np.where(stale, 0, live.alone), templates)


def _plausible(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Whether a linear map changed no more than a patch does between two frames, and is no extreme one."""
    change = after @ np.linalg.inv(before)
    off = np.linalg.norm(change - np.eye(2, dtype=change.dtype), axis=(-1, -2))
    area = np.linalg.det(after)
    return (off < 0.5) & (area > 0.25) & (area < 4.0)


def _thinned(tracks: PixelTracks, config: Config) -> PixelTracks:
    """Without the shortest tracks, and with about the most that are wanted."""
    frames, count = tracks.visible.shape
    length = tracks.visible.sum(0)
    order = np.lexsort((-length, tracks.query_frame))
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count) - np.searchsorted(tracks.query_frame[order], tracks.query_frame[order])
    lasting = length >= min(config.shortest, frames)
    share = min(1.0, config.most / max(int(lasting.sum()), 1))
    per_frame = np.bincount(tracks.query_frame[lasting], minlength=frames)
    kept = lasting & (rank < share * per_frame[tracks.query_frame])
    return PixelTracks(
        tracks.uv[:, kept],
        tracks.visible[:, kept],
        tracks.sigma_px[:, kept],
        tracks.query_frame[kept],
        tracks.source,
    )


def _collected(rows: list[_Rows], uv: np.ndarray, query: np.ndarray, count: int) -> PixelTracks:
    shape = (count, len(uv))
    places, visible = np.zeros((*shape, 2), np.float32), np.zeros(shape, bool)
    sigma = np.full(shape, np.inf, np.float32)
    for row in rows:
        places[row.frame, row.track] = row.uv
        visible[row.frame, row.track] = True
        sigma[row.frame, row.track] = row.sigma
    return PixelTracks(places, visible, sigma, query.astype(np.int32), Source("tracks/flow"))
