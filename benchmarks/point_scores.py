"""How long scoring takes: every protocol of points on one synthetic clip, single thread.

python benchmarks/point_scores.py [--frames 64] [--points 20000]
"""

from __future__ import annotations

import argparse
import os
import resource
from time import perf_counter

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from worldline.evaluate import allocentric
from worldline.evaluate.motion import track_scores
from worldline.evaluate.tapvid3d import SCALINGS, tapvid3d_scores


def clip(frames: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Estimate, its visibility, truth and its visibility: points on a wall and a floor that drift, errors of 3 cm."""
    rng = np.random.default_rng(0)
    place = rng.uniform(-3, 3, (count, 3))
    place[: count // 2, 2], place[count // 2 :, 1] = 0, 1.5
    truth = place + np.cumsum(rng.normal(size=(frames, count, 3)) * 0.01, 0) + [0, 0, 6]
    seen = rng.random((frames, count)) < 0.8
    points = 1.3 * (truth + rng.normal(size=truth.shape) * 0.03)
    return points, np.where(rng.random(seen.shape) < 0.9, seen, ~seen), truth, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--points", type=int, default=20_000)
    args = parser.parse_args()
    points, said, truth, seen = clip(args.frames, args.points)
    query = np.zeros(args.points, dtype=int)
    print(f"{args.frames} frames, {args.points} points; wall seconds")
    for scaling in SCALINGS:
        begun = perf_counter()
        found = tapvid3d_scores(points, said, truth, seen, focal_px=250.0, scaling=scaling, query_frame=query)
        print(f"  tapvid3d {scaling:<20} {perf_counter() - begun:6.2f}   AJ {found.average_jaccard:.3f}")
    everywhere = np.ones(seen.shape, dtype=bool)
    for name in allocentric.ALIGNMENTS:
        begun = perf_counter()
        moved, _ = allocentric.aligned(points, truth, everywhere, name=name)
        found = track_scores(moved, truth, everywhere)
        print(f"  worldtrack {name:<18} {perf_counter() - begun:6.2f}   APD {found.apd:.3f}")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
