"""Windows of a long clip, joined: how far the path drifts, and how much memory joining needs.

    python benchmarks/any4d_windows.py [--frames 300] [--seeds 5] [--first 0] [--windows 16 50] [--shared 2 4 8]

A world is seen along four paths. Each window's prediction is the truth with errors of its own: its unit, depth (smooth
over the image, per pixel, and outliers), cameras (in every frame, and growing with the distance from the reference),
and frames that are simply wrong; the first line that is printed has the numbers. Nothing else is told: the unit, the
gauge and the quality of a window are unknown.

One JSON line per path, length of windows and number of shared frames. Each figure is [mean, worst] over the seeds, in
per cent of the length of the path; of the usual depth where the camera stands and only turns.

drift     median error of the last eight centres, the first camera aligned, one scale for the whole path
ate       root mean square of the centres after a similarity (evo's APE), wrong frames included
unit      error of the scale of the whole, in per cent: how well metres are metres
turn_deg  median error of the last eight rotations, the first camera aligned
placed    the drift before windows are settled: what is known while they come
baseline  drift and ate of the plain way: the mean ratio of depths, and the pose of the one frame next to the window

The last lines are peak memory of joining windows of 336 x 518 pixels, in a process of its own for each length of clip:
of the whole process (`rss_mib`), and what Python allocated (`traced_mib`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from worldline.engines.any4d.joining import Seam, join, settled
from worldline.engines.any4d.windows import Window, plan
from worldline.evaluate.paths import path_length, path_scores
from worldline.geometry.sim3 import Sim3
from worldline.scene.fragment import Fragment
from worldline.synthetic.camera_paths import look_at
from worldline.synthetic.predictions import Oracle, WindowNoise
from worldline.synthetic.presets import build
from worldline.synthetic.world import World

PATHS = ("line", "orbit", "eight", "standing")
SIZE = (72, 48)
NETWORK_SIZE = (336, 518)
LAST = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5, help="how many draws of the errors")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw; other numbers, other errors")
    parser.add_argument("--windows", type=int, nargs="+", default=[16, 50], help="lengths of windows")
    parser.add_argument("--shared", type=int, nargs="+", default=[2, 4, 8], help="frames that windows share")
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--memory", type=int, help="only join a clip of so many frames and print its peak memory")
    args = parser.parse_args()
    if args.memory:
        print(json.dumps(memory(args.memory)))
        return
    noise = WindowNoise.realistic()
    print(json.dumps({"noise": asdict(noise), "frames": args.frames, "seeds": args.seeds}))
    for path in args.paths:
        oracle = Oracle(world(path, args.frames), noise)
        for window in args.windows:
            for shared in args.shared:
                windows = plan(args.frames, window=window, shared=shared)
                draws = [scores(oracle, windows, args.first + k) for k in range(args.seeds)]
                table = {name: _mean_and_worst([d[name] for d in draws]) for name in draws[0]}
                line = {"path": path, "window": window, "shared": shared, "windows": len(windows), **table}
                print(json.dumps(line), flush=True)
    for frames in (100, 200, 300):
        command = [sys.executable, __file__, "--memory", str(frames)]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, end="", flush=True)


def world(path: str, frames: int) -> World:
    """An outdoor world with things that move, along one of the paths."""
    share = np.linspace(0, 1, frames)
    still = build("outdoor", "static", seed=7, frames=frames, size=SIZE)
    return replace(still, ground_from_cam=_ground_from_cam(path, share))


def _ground_from_cam(path: str, share: np.ndarray) -> np.ndarray:
    o, angle = np.zeros_like(share), 2 * np.pi * share
    if path == "line":
        eyes = np.stack([12 * share - 6, o - 4, o + 1.6], -1)
        return look_at(eyes, eyes + [0.5, 3.0, -0.3])
    if path == "orbit":
        eyes = np.stack([4 * np.cos(0.9 * angle), 4 * np.sin(0.9 * angle), 1.6 + 0.3 * np.sin(3 * angle)], -1)
        return look_at(eyes, np.zeros_like(eyes) + [0.0, 0.0, 0.8])
    if path == "eight":
        eyes = np.stack([4 * np.sin(angle), 2 * np.sin(2 * angle), o + 1.5], -1)
        ahead = np.gradient(eyes, axis=0)
        return look_at(eyes, eyes + 3 * ahead / np.linalg.norm(ahead, axis=1, keepdims=True) - [0.0, 0.0, 0.3])
    eyes = np.stack([o, o - 4, o + 1.6], -1)
    return look_at(eyes, eyes + np.stack([np.sin(2 * share), np.cos(2 * share), o - 0.1], -1))


def scores(oracle: Oracle, windows: Sequence[Window], seed: int) -> dict[str, float]:
    """All figures of one draw of the errors."""
    random = np.random.default_rng(seed)
    seams: list[Seam] = []
    cameras: list[np.ndarray] = []
    plain = Baseline()
    for placed in join((oracle.predicted(w.frames, random) for w in windows), windows):
        seams.append(placed.seam)
        cameras.append(np.asarray(placed.fragment.world_from_cam))
        plain.add(placed.fragment)
    ways = {
        "": settled(seams),
        "placed_": [seam.placement.world_from_window for seam in seams],
        "baseline_": plain.places,
    }
    found = {}
    for way, places in ways.items():
        errors = Errors.of(path_of(windows, cameras, places), oracle)
        found |= {f"{way}drift": errors.drift, f"{way}ate": errors.ate}
        if not way:
            found |= {"unit": errors.unit, "turn_deg": errors.turn_deg}
    return found


def path_of(windows: Sequence[Window], cameras: Sequence[np.ndarray], places: Sequence[Sim3]) -> np.ndarray:
    """The camera of every frame, each from the window whose own it is."""
    found = np.zeros((sum(len(w.own) for w in windows), 4, 4))
    for window, window_from_cam, place in zip(windows, cameras, places, strict=True):
        moved = place.apply_to_cameras(torch.from_numpy(window_from_cam)).numpy()
        found[list(window.own)] = moved[window.own_views]
    return found


@dataclass(frozen=True)
class Errors:
    """Of a path, in per cent of its length (of the usual depth where there is none), and degrees."""

    drift: float
    ate: float
    unit: float
    turn_deg: float

    @classmethod
    def of(cls, world_from_cam: np.ndarray, oracle: Oracle) -> Errors:
        truth = oracle.world.world_from_cam
        length = path_length(truth)
        moves = length > 1e-6
        here, there = world_from_cam[:, :3, 3], truth[:, :3, 3]
        scale = float((here * there).sum() / (here**2).sum()) if moves else 1.0
        off = np.linalg.norm(scale * here - there, axis=-1)
        unit = length if moves else oracle.usual_depth
        ate = path_scores(world_from_cam, truth).ate_m if moves else float(np.sqrt((off**2).mean()))
        turn = np.einsum("nji,njk->nik", truth[-LAST:, :3, :3], world_from_cam[-LAST:, :3, :3])
        sine = np.linalg.norm(turn - turn.transpose(0, 2, 1), axis=(1, 2)) / 8**0.5
        return cls(
            100 * float(np.median(off[-LAST:])) / unit,
            100 * ate / unit,
            100 * abs(1 / scale - 1) if moves else float("nan"),
            float(np.degrees(np.median(np.arcsin(np.clip(sine, 0, 1))))),
        )


class Baseline:
    """Windows placed one after the other as is usually done."""

    def __init__(self) -> None:
        self.places: list[Sim3] = []
        self._seen: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}

    def add(self, fragment: Fragment) -> None:
        """Scale by the mean ratio of depths, the pose of the reference taken over."""
        cameras = torch.from_numpy(np.array(fragment.world_from_cam))
        depth = np.where(np.asarray(fragment.valid), np.asarray(fragment.depth_ray), np.nan)
        scale, world_from_cam = 1.0, torch.eye(4, dtype=torch.float64)
        if self.places:
            number, camera, before = self._seen[int(fragment.frames[0])]
            scale = float(self.places[number].scale) * float(np.nanmean(before / depth[0]))
            world_from_cam = self.places[number].apply_to_cameras(torch.from_numpy(camera))
        rotation = world_from_cam[:3, :3] @ cameras[0, :3, :3].T
        shift = world_from_cam[:3, 3] - scale * rotation @ cameras[0, :3, 3]
        self.places.append(Sim3(torch.tensor(scale, dtype=torch.float64), rotation, shift))
        for view, frame in enumerate(fragment.frames):
            self._seen.setdefault(int(frame), (len(self.places) - 1, cameras[view].numpy(), depth[view]))


def memory(frames: int) -> dict[str, float]:
    """Peak memory of joining a clip at the size of the network."""
    windows = plan(frames, window=16, shared=4)
    tracemalloc.start()
    seams = [placed.seam for placed in join(_plain_fragments(windows), windows)]
    settled(seams)
    traced = tracemalloc.get_traced_memory()[1] / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"memory_of_frames": frames, "windows": len(windows), "rss_mib": round(peak), "traced_mib": round(traced, 1)}


def _plain_fragments(windows: Sequence[Window]) -> Iterator[Fragment]:
    for window in windows:
        depth = np.full((len(window), *NETWORK_SIZE), 2.0, dtype=np.float32)
        cameras = np.tile(np.eye(4), (len(window), 1, 1))
        cameras[:, 0, 3] = 0.05 * (np.array(window.frames) - window.reference)
        yield Fragment(np.array(window.frames), depth_ray=depth, valid=depth > 0, world_from_cam=cameras, scale=1.0)


def _mean_and_worst(values: list[float]) -> list[float] | None:
    return [round(float(x), 3) for x in (np.mean(values), np.max(values))] if np.isfinite(values).all() else None


if __name__ == "__main__":
    main()
