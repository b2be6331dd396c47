"""Pixel tracks against rendered worlds: how near, how often found again, and whether sigma_px is true.

    python benchmarks/tracks.py [--worlds 4] [--first 0] [--ways chained fast default best] [--keep FOLDER]

Points of a grid are queried in several frames of a clip whose true tracks are known. `chained` is the baseline: flow
between neighbouring frames, added up, and lost where its two directions disagree.

near    mean share of the samples where the point is truly seen that are within 1, 2, 4, 8 and 16 px (as d_avg of
        TAP-Vid; the tracker's guess counts where it says hidden)
seen    share of those samples that the tracker says are seen
wrong   share of the samples it says are seen that are truly hidden, or 4 px off
again   share of the samples after a true occlusion that are said to be seen and within 4 px
sigma   median |error| per axis in standard deviations, of samples seen (0.67 is perfect); of far: 10 frames and more
beyond  share of those errors beyond 5 standard deviations
Static and moving points stand side by side; the last two columns are CPU seconds for flow and for the points.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from worldline import synthetic
from worldline.cues.optical_flow import dense_flow, disagreement_px, sample, sigma_px
from worldline.cues.tracks import flow as flow_tracks
from worldline.scene.journal import Journal
from worldline.scene.observations import PixelTracks, Source
from worldline.scene.video import Video
from worldline.synthetic import truth
from worldline.synthetic.presets import build
from worldline.synthetic.world import World

LAYOUTS = (("room", "handheld"), ("outdoor", "handheld"), ("room", "orbit"), ("outdoor", "dolly"))
SIZE, FRAMES = (480, 320), 36
EVERY, STEP_PX = 12, 10
NEAR_PX = (1, 2, 4, 8, 16)
COLUMNS = ("near", "seen", "wrong", "again", "sigma", "far", "beyond")


@dataclass(frozen=True, eq=False)
class Case:
    """A clip, and the true tracks of points of its grid; what moves of them."""

    world: World
    video: Video
    truth: PixelTracks
    moving: np.ndarray
    uv: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=4, help="how many rendered worlds")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them; other numbers, other worlds")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--keep", type=Path, help="folder that keeps the clips between runs")
    args = parser.parse_args()
    print(f"{'clip':22}{'way':9}" + "".join(f"{c:>14}" for c in COLUMNS) + f"{'flow s':>9}{'points s':>9}")
    lines: dict[str, list[np.ndarray]] = {way: [] for way in args.ways}
    for number in range(args.first, args.first + args.worlds):
        case = made(number, args.keep)
        for way in args.ways:
            tracks, seconds = WAYS[way](case)
            lines[way].append(np.stack([scores(tracks, case, case.moving == m) for m in (False, True)]))
            print(
                f"{case.world.name:22}{way:9}" + _text(lines[way][-1]) + "".join(f"{s:9.1f}" for s in seconds),
                flush=True,
            )
    for way, found in lines.items():
        print(f"{'mean':22}{way:9}" + _text(np.nanmean(found, axis=0)))


def made(number: int, keep: Path | None) -> Case:
    """The clip of a number."""
    kind, path = LAYOUTS[number % len(LAYOUTS)]
    world = build(kind, path, seed=500 + number, frames=FRAMES, size=SIZE, travel_m=0.8 if kind == "room" else 1.2)
    uv, query = truth.query_grid(world, STEP_PX, EVERY)
    file = keep / f"{world.name}.npz" if keep else None
    if file and file.exists():
        frames = np.load(file)["frames"]
    else:
        frames = np.asarray(synthetic.render(world).video.frames)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, frames=frames)
    true = synthetic.pixel_tracks(world, uv, query)
    real = true.visible[query, np.arange(len(uv))]
    true = PixelTracks(true.uv[:, real], true.visible[:, real], true.sigma_px[:, real], query[real], true.source)
    world_tracks = synthetic.world_tracks(world, uv[real], query[real])
    return Case(world, Video(frames, world.times_s, name=world.name), true, world_tracks.moving, uv[real])


def tracked(config: flow_tracks.Config) -> Callable[[Case], tuple[PixelTracks, tuple[float, float]]]:
    """The tracker with these settings."""

    def run(case: Case) -> tuple[PixelTracks, tuple[float, float]]:
        start = time.process_time()
        flows = flow_tracks.flows_of(case.video, Journal("tracks"), config)
        middle = time.process_time()
        found = flow_tracks.track_points(case.video, flows, case.uv, case.truth.query_frame, config)
        return found, (middle - start, time.process_time() - middle)

    return run


def added_up(case: Case) -> tuple[PixelTracks, tuple[float, float]]:
    """Flow from frame to frame added up, nothing else."""
    start = time.process_time()
    flow = dense_flow(case.video, Journal("tracks"))
    middle = time.process_time()
    count, query = len(case.video), case.truth.query_frame
    uv = np.tile(case.uv[None], (count, 1, 1)).astype(np.float32)
    sigma = np.zeros(uv.shape[:2], np.float32)
    for order in (range(1, count), range(count - 2, -1, -1)):
        for t in order:
            rows = np.flatnonzero((query < t) if order.step > 0 else (query > t))
            before, there = uv[t - order.step, rows], flow.between(t - order.step, t)
            uv[t, rows] = before + sample(there, before)
            off = sample(disagreement_px(there, flow.between(t, t - order.step)), before)
            sigma[t, rows] = np.hypot(sigma[t - order.step, rows], np.where(off < 1.0, sigma_px(off), np.inf))
    found = PixelTracks(uv, np.isfinite(sigma), sigma, query, Source("chained"))
    return found, (middle - start, time.process_time() - middle)


WAYS: dict[str, Callable[[Case], tuple[PixelTracks, tuple[float, float]]]] = {
    "chained": added_up,
    "fast": tracked(flow_tracks.Config.fast()),
    "default": tracked(flow_tracks.Config()),
    "best": tracked(flow_tracks.Config.best()),
}


def scores(tracks: PixelTracks, case: Case, chosen: np.ndarray) -> np.ndarray:
    """The COLUMNS for some of the points."""
    true, t = case.truth, np.arange(len(case.video))[:, None]
    count = chosen & (t != true.query_frame)
    error = np.linalg.norm(tracks.uv - true.uv, axis=-1)
    real = true.visible & count
    claimed = tracks.visible & count
    near = np.mean([(error[real] < px).mean() for px in NEAR_PX])
    wrong = (~true.visible | (error > 4))[claimed].mean()
    again = real & hidden_before(true.visible, true.query_frame)
    found = (claimed & (error < 4))[again].mean() if again.any() else np.nan
    in_sigma = np.abs(tracks.uv - true.uv) / np.maximum(tracks.sigma_px, 1e-6)[..., None]
    both = claimed & real
    far = both & (np.abs(t - true.query_frame) >= 10)
    medians = [float(np.median(in_sigma[rows])) if rows.any() else np.nan for rows in (both, far)]
    return np.array([near, (claimed & real).sum() / real.sum(), wrong, found, *medians, (in_sigma[both] > 5).mean()])


def hidden_before(visible: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Whether a point was hidden at some time between its query frame and this one (T, N)."""
    hidden = np.cumsum(np.concatenate([np.zeros_like(visible[:1], int), ~visible]), 0)
    rows, t = np.arange(visible.shape[1]), np.arange(len(visible))[:, None]
    low, high = np.minimum(t, query), np.maximum(t, query)
    between: np.ndarray = hidden[high, rows] - hidden[low, rows] > 0
    return between


def _text(found: np.ndarray) -> str:
    return "".join(f"{a:8.3f}{b:6.3f}" for a, b in found.T)


if __name__ == "__main__":
    main()
