"""Point tracks from dense flow, each held to the patch it started from and found again after short occlusions.

Tracks start at the most textured pixel of every cell of a grid that no live track covers (`cues/seeds.py`), every few
frames, and are followed forwards and then backwards in time (`cues/following.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.cues import following, optical_flow, seeds
from worldline.cues.following import Row, Seeds, follow
from worldline.cues.optical_flow import DenseFlow, dense_flow
from worldline.cues.picture_area import picture_area
from worldline.scene.journal import Arrays, Journal
from worldline.scene.observations import Observations, PixelTracks, Source
from worldline.scene.video import Video

BROKEN = 0.05
"""Share of the tracks that get from one frame to the next below which the clip is probably cut there."""


@dataclass(frozen=True)
class Config:
    """Settings of the tracker; the defaults suit handheld video of up to a megapixel."""

    seeding: seeds.Config = field(default_factory=seeds.Config)
    following: following.Config = field(default_factory=following.Config)
    shortest: int = 3
    """Tracks seen in fewer frames are dropped (of shorter clips none)."""
    most: int = 15000
    """If there are more tracks, the longest of every starting frame are kept, the same share of each."""
    support: int = 800
    """Cells of a grid whose tracks carry chosen points (`track_points`) over gaps."""
    flow: optical_flow.Config = field(default_factory=optical_flow.Config)
    longer_steps: tuple[int, ...] = ()
    """Distances in time over which flow is also computed, as other ways to the same frame: they cost time, and find
    twice as many points again after an occlusion."""
    longer_flow: optical_flow.Config = field(default_factory=optical_flow.longer)

    @classmethod
    def fast(cls) -> Config:
        """Flow at half resolution, half as many tracks."""
        return cls(seeding=seeds.Config(live=1200), most=7000, flow=optical_flow.fast())

    @classmethod
    def best(cls) -> Config:
        """Twice as many tracks, looked for more often, and flow over several step sizes."""
        return cls(seeding=seeds.Config(live=5000, every=5), most=30000, longer_steps=(6, 12))


@dataclass(frozen=True)
class FlowTracks:
    """The cue."""

    config: Config
    needs: tuple[str, ...] = ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> PixelTracks:
        """Tracks over the whole clip."""
        flows = flows_of(video, journal, self.config)

        def compute() -> Arrays:
            tracks = track_grid(video, flows, self.config, journal.progress.share)
            return {
                "uv": tracks.uv,
                "visible": tracks.visible,
                "sigma_px": tracks.sigma_px,
                "query_frame": tracks.query_frame,
            }

        stored = journal.run("tracks/flow", compute, settings=self.config)
        source = Source("tracks/flow", notes=_breaks(stored["visible"], video.times_s))
        return PixelTracks(stored["uv"], stored["visible"], stored["sigma_px"], stored["query_frame"], source)


def build(config: Config) -> FlowTracks:
    """The cue with these settings."""
    return FlowTracks(config)


def flows_of(video: Video, journal: Journal, config: Config) -> tuple[DenseFlow, ...]:
    """The flow that the tracker follows: between neighbouring frames, and over longer steps where the clip has them."""
    nearest = dense_flow(video, journal, config=config.flow)
    steps = [k for k in config.longer_steps if k < len(video)]
    return nearest, *(dense_flow(video, journal, step=k, config=config.longer_flow) for k in steps)


def track_grid(
    video: Video, flows: tuple[DenseFlow, ...], config: Config, report: Callable[[float], None] = lambda share: None
) -> PixelTracks:
    """Tracks from a grid that is re-seeded where it is not covered, followed in both directions."""
    nothing = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    return _thinned(_tracked(video, flows, *nothing, config, report), config)


def track_points(
    video: Video,
    flows: tuple[DenseFlow, ...],
    uv: Float[np.ndarray, "n 2"],
    query_frame: Int[np.ndarray, "n"],
    config: Config | None = None,
) -> PixelTracks:
    """Tracks of chosen points in both directions; `uv` in pixels of the video, each in its query frame.

    Where a point is not visible, `uv` is a guess and, unless it was given up, `sigma_px` finite.
    """
    chosen = config or Config()
    chosen = replace(chosen, seeding=replace(chosen.seeding, live=min(chosen.support, chosen.seeding.live)))
    tracks = _tracked(video, flows, np.asarray(uv, np.float32), np.asarray(query_frame), chosen)
    return _columns(tracks, np.arange(len(uv)))


def _tracked(
    video: Video,
    flows: tuple[DenseFlow, ...],
    uv: np.ndarray,
    query_frame: np.ndarray,
    config: Config,
    report: Callable[[float], None] = lambda share: None,
) -> PixelTracks:
    """Tracks of given points, followed by those of the grid; given points keep the grid from seeding their cells."""
    count = len(video)
    rows: list[Row] = []
    started, asked = [uv], [query_frame]
    shows = picture_area(video, round(config.seeding.border_px + config.following.patch.window_px))

    def given_and_uncovered(frame: int, image: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = np.flatnonzero(query_frame == frame)
        if frame % config.seeding.every and frame != count - 1:
            return uv[given], given
        motion = flows[0].between(frame, frame + 1 if frame + 1 < count else frame - 1)
        taken = np.concatenate([live, uv[given]])
        fresh = seeds.grid_seeds(image, motion, taken, config.seeding, config.following.patch)
        fresh = fresh[shows[tuple(fresh.astype(int)[:, ::-1].T)]]
        first = sum(len(s) for s in started)
        started.append(fresh)
        asked.append(np.full(len(fresh), frame))
        return np.concatenate([uv[given], fresh]), np.concatenate([given, np.arange(first, first + len(fresh))])

    for row in follow(video, flows, range(count), given_and_uncovered, config.following):
        rows.append(row)
        report(0.5 * (row.frame + 1) / count)
    everywhere, query = np.concatenate(started), np.concatenate(asked)
    for row in follow(video, flows, range(count - 1, -1, -1), _given(everywhere, query), config.following):
        rows.append(row)
        report(1.0 - 0.5 * row.frame / count)
    return _collected(rows, everywhere, query, count)


def _given(uv: np.ndarray, query: np.ndarray) -> Seeds:
    def seeds_there(frame: int, image: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        which = np.flatnonzero(query == frame)
        return uv[which], which

    return seeds_there


def _breaks(visible: Bool[np.ndarray, "t n"], times_s: Float[np.ndarray, "t"]) -> tuple[str, ...]:
    """A sentence for every place in time that almost no track gets across."""
    before = np.maximum(visible[:-1].sum(1), 1)
    across = (visible[:-1] & visible[1:]).sum(1) / before
    return tuple(
        f"almost nothing can be followed from {times_s[t]:.2f} s to {times_s[t + 1]:.2f} s; if the clip is cut there, "
        "reconstruct each shot by itself with --start and --end."
        for t in np.flatnonzero((across < BROKEN) & (before >= 50))
    )


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
    return _columns(tracks, kept)


def _columns(tracks: PixelTracks, kept: np.ndarray) -> PixelTracks:
    return PixelTracks(
        tracks.uv[:, kept], tracks.visible[:, kept], tracks.sigma_px[:, kept], tracks.query_frame[kept], tracks.source
    )


def _collected(rows: list[Row], uv: np.ndarray, query: np.ndarray, count: int) -> PixelTracks:
    shape = (count, len(uv))
    places, visible = np.zeros((*shape, 2), np.float32), np.zeros(shape, bool)
    sigma = np.full(shape, np.inf, np.float32)
    for row in rows:
        places[row.frame, row.track] = row.uv
        visible[row.frame, row.track] = row.seen
        sigma[row.frame, row.track] = row.sigma_px
    return PixelTracks(places, visible, sigma, query.astype(np.int32), Source("tracks/flow"))
