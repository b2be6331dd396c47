"""Whether sigma is true: errors of depth, cameras and tracks in standard deviations, on rendered worlds and recordings.

    python benchmarks/calibration.py [--worlds 20] [--clip ../shared/data/sevenscenes_redkitchen] [--keep FOLDER]

The whole default pipeline runs from colour images alone. A median |error| / sigma of 0.67 is perfect, 0.5 to 1.0 is
good, above it sigma says too little. `halves` is the mean |log error| of the half of the pixels with the lower sigma
over that of the other half. One line per clip, then all together with the least and greatest.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch

from worldline import synthetic
from worldline.cli.memory import keep_freed_memory
from worldline.evaluate import calibration
from worldline.io.video_files import read_video
from worldline.run.reconstruction import reconstruct
from worldline.run.recorded_truth import recorded_truth
from worldline.scene.journal import Journal, content_key
from worldline.scene.scene import Scene
from worldline.scene.video import Video
from worldline.synthetic.presets import build

LAYOUTS = (
    ("room", "handheld"), ("room", "dolly"), ("outdoor", "handheld"), ("room", "orbit"), ("outdoor", "dolly"),
    ("room", "handheld"), ("outdoor", "orbit"), ("outdoor", "handheld"),
)  # fmt: skip
SIZES = ((256, 192), (320, 240), (320, 192))
COLUMNS = ("static", "moving", "centres", "rotations", "focal", "tracks", "halves", "abs_rel", "sure_abs_rel")


@dataclass(frozen=True, eq=False)
class Truth:
    """Depth (0 where unknown) and what moves at the size of the scene, poses, the focal length if known."""

    depth_z: np.ndarray
    moving: np.ndarray
    world_from_cam: np.ndarray
    focal: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=20, help="how many rendered worlds")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them; other numbers, other worlds")
    parser.add_argument("--clip", type=Path, action="append", default=[], help="folder in the layout of 7-Scenes")
    parser.add_argument("--keep", type=Path, help="folder that keeps clips and stages between runs")
    parser.add_argument("--quality", default="default")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    jobs = [*range(args.first, args.first + args.worlds), *args.clip]
    print(f"{'clip':28}" + "".join(f"{c:>13}" for c in COLUMNS) + "   seconds")
    lines = []
    for name, line, seconds in measured_all(jobs, args):
        lines.append(line)
        print(f"{name:28}" + _text(line) + f"{seconds:10.1f}", flush=True)
    for what, summary in (("median", np.nanmedian), ("least", np.nanmin), ("greatest", np.nanmax)):
        print(f"{what:28}" + _text({c: float(summary([line[c] for line in lines])) for c in COLUMNS}))


def measured_all(jobs: list[int | Path], args: argparse.Namespace) -> Iterator[tuple[str, dict[str, float], float]]:
    if args.processes == 1:
        yield from map(measured, jobs, repeat(args.keep), repeat(args.quality))
        return
    with ProcessPoolExecutor(args.processes) as pool:
        yield from pool.map(measured, jobs, repeat(args.keep), repeat(args.quality))


def measured(job: int | Path, keep: Path | None, quality: str) -> tuple[str, dict[str, float], float]:
    """Name, normalised errors and seconds of a rendered world or of a recording."""
    keep_freed_memory()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    video, truth = (read_video(job / "frames", max_side=1024), None) if isinstance(job, Path) else world(job)
    journal = Journal(["calibration", content_key(video.frames)], keep / video.name if keep else None)
    started = time.perf_counter()
    scene = reconstruct(video, journal=journal, quality=quality)
    seconds = time.perf_counter() - started
    truth = truth or recording(Path(job), scene)
    return video.name, normalised_errors(scene, truth), seconds


def world(number: int) -> tuple[Video, Truth]:
    """The clip of a number: kind, path, size, length, lens, travel, hand and movers differ."""
    random = np.random.default_rng(number)
    kind, path = LAYOUTS[number % len(LAYOUTS)]
    made = build(
        kind, path, seed=100 + number, frames=int(random.integers(24, 41)), size=SIZES[number % len(SIZES)],
        travel_m=float(random.uniform(0.4, 1.0)) * (1.5 if kind == "outdoor" else 1.0),
        fov_deg=float(random.uniform(50, 75)), with_movers=number % 5 != 4,
    )  # fmt: skip
    rendered = synthetic.render(made)
    scene = rendered.scene
    depth_z = np.where(scene.valid, scene.depth_z, 0)
    return rendered.video, Truth(depth_z, np.asarray(scene.moving), scene.world_from_cam, scene.camera.focal)


def recording(folder: Path, scene: Scene) -> Truth:
    """Of a recording, as `worldline evaluate` reads it: the depth moved into the view of the colour camera."""
    true = recorded_truth(folder, scene).scene
    depth_z = np.where(true.valid, true.depth_z, 0)
    return Truth(depth_z, np.zeros(depth_z.shape, bool), true.world_from_cam)


def normalised_errors(scene: Scene, truth: Truth) -> dict[str, float]:
    """Median |error| / sigma of all that has a sigma, and how well the depth sigma ranks the errors."""
    depth = depth_errors(scene, truth)
    return {**depth, **camera_errors(scene, truth), "tracks": track_errors(scene, truth)}


def depth_errors(scene: Scene, truth: Truth) -> dict[str, float]:
    use = np.asarray(scene.valid[:]) & (truth.depth_z > 0)
    log_error = np.log(np.asarray(scene.depth_z[:])[use]) - np.log(truth.depth_z[use])
    moving = truth.moving[use] > 0
    if not scene.metric:
        log_error = log_error - np.median(log_error[~moving])
    found = calibration.depth_calibration(log_error, np.asarray(scene.depth_sigma[:])[use], moving)
    return {
        "static": found.static, "moving": found.moving, "halves": found.halves,
        "abs_rel": float(np.abs(np.expm1(log_error)).mean()), "sure_abs_rel": found.abs_rel_sure,
    }  # fmt: skip


def camera_errors(scene: Scene, truth: Truth) -> dict[str, float]:
    sigma = scene.camera_sigma
    if sigma is None:
        return {"centres": np.nan, "rotations": np.nan, "focal": np.nan}
    found = calibration.camera_calibration(scene.world_from_cam, truth.world_from_cam, sigma, metric=scene.metric)
    focal = np.nan
    if truth.focal is not None and sigma.focal > 0:
        focal = abs(np.log(scene.camera.focal / truth.focal)) / sigma.focal
    return {"centres": found.centre, "rotations": found.rotation, "focal": float(focal)}


def track_errors(scene: Scene, truth: Truth) -> float:
    """Positions along the ray of the query frame against the true depth there: |log error| / (sigma / depth)."""
    tracks = scene.tracks
    if tracks is None or len(tracks) == 0:
        return float("nan")
    rows = np.arange(len(tracks))
    points, frame = tracks.points_world[tracks.query_frame, rows], tracks.query_frame
    cam_from_world = np.linalg.inv(scene.world_from_cam)[frame]
    points_cam = np.einsum("nij,nj->ni", cam_from_world[:, :3, :3], points) + cam_from_world[:, :3, 3]
    z = points_cam[:, 2]
    uv = points_cam[:, :2] / z[:, None] * scene.camera.intrinsics[:2] + scene.camera.intrinsics[2:]
    column = np.clip(np.nan_to_num(uv[:, 0]), 0, scene.width - 1).astype(int)
    row = np.clip(np.nan_to_num(uv[:, 1]), 0, scene.height - 1).astype(int)
    true = truth.depth_z[frame, row, column]
    use = np.isfinite(z) & (z > 0) & (true > 0) & ~tracks.moving & (truth.moving[frame, row, column] == 0)
    log_error = np.log(z[use] / true[use])
    log_error -= 0 if scene.metric else np.median(log_error)
    return calibration.error_in_sigma(log_error, tracks.sigma[frame, rows][use] / z[use])


def _text(line: dict[str, float]) -> str:
    return "".join(f"{line[c]:13.3f}" for c in COLUMNS)


if __name__ == "__main__":
    main()
