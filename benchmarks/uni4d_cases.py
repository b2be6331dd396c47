"""The uni4d engine on an optimisation case with truth: `python benchmarks/uni4d_cases.py CASE.npz [--corrupt KIND]`.

Prints one JSON line. One thread; CPU seconds of the engine alone, neither imports nor loading counted. The case's
own `make_cases.py` and `metrics.py` (beside the case, or in ../shared/cases/uni4d) load and score it.
"""

import argparse
import importlib.util
import json
import os
import resource
import time
from pathlib import Path
from types import ModuleType

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import cv2
import numpy as np
import torch

from worldline.cli.memory import keep_freed_memory
from worldline.engines import uni4d
from worldline.geometry import pixels
from worldline.geometry.camera import Camera
from worldline.scene.journal import Journal
from worldline.scene.observations import CameraPrior, DepthMaps, MovingMasks, Observations, PixelTracks, Source
from worldline.scene.scene import Scene
from worldline.scene.video import Video

SHARED = Path(__file__).resolve().parents[2] / "shared" / "cases" / "uni4d"
SOURCE = Source("optimisation case")


def beside(case: Path, name: str) -> ModuleType:
    path = case.parent / name if (case.parent / name).exists() else SHARED / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def video_and_observations(case: dict, full_depth: np.ndarray) -> tuple[Video, Observations]:
    """The case in worldline's conventions: pixel centres at +0.5, depth at full resolution."""
    count, height, width = case["F"], case["H"], case["W"]
    frames = np.broadcast_to(np.uint8(0), (count, height, width, 3))
    k = case["K_guess"].astype(np.float64)
    intrinsics = np.array([k[0, 0], k[1, 1], *pixels.from_integer_centres(k[:2, 2])])
    ones = np.ones(case["vis"].shape, np.float32)
    sigma = np.broadcast_to(np.float32(0.04), full_depth.shape)
    return Video(frames, np.arange(count) / 30.0), Observations(
        depth=DepthMaps(full_depth, sigma, SOURCE, metric=True),
        tracks=PixelTracks(pixels.from_integer_centres(case["tracks"]), case["vis"], ones, case["query_frame"], SOURCE),
        moving=MovingMasks(case["mask"], SOURCE),
        camera=CameraPrior(Camera(intrinsics, width, height), 0.15, SOURCE),
    )


def score(case: dict, scene: Scene, make: ModuleType, metrics: ModuleType) -> dict[str, float | None]:
    tracks, moving = scene.tracks, scene.tracks.moving
    truth = make.gt_track_xyz(case)
    columns, positions = tracks.observed[moving], tracks.points_world[:, moving].transpose(1, 0, 2)
    valid = np.isfinite(positions).all(-1)
    m = metrics.evaluate(
        case, scene.world_from_cam, scene.camera.matrix(), metrics.lo_sample(scene.depth_z),
        tracks.observed[~moving], tracks.points_world[0, ~moving], columns, np.nan_to_num(positions), valid, truth,
    )  # fmt: skip
    really = (case["gt_track_part"] >= 0) & case["gt_vis"]
    covered = valid & really[:, columns].T
    return {
        "ate_cm": m["ATE_cm"], "rpe_t_cm": m["RPEt_cm"], "rpe_r_deg": m["RPEr_deg"],
        "focal_err_pct": m["focal_err_pct"],
        "absrel_static": m["absrel_static"], "absrel_dyn": m["absrel_dyn"], "static_pt_med_cm": m["static_pt_med_cm"],
        "dyn_epe_cm": m.get("dynEPE_mean_cm"), "dyn_flow_cm": m.get("dynflow_mean_cm"),
        "dyn_coverage": covered.sum() / max(really.sum(), 1),
    }  # fmt: skip


def warm_up(case: dict, full_depth: np.ndarray) -> None:
    """First calls of torch and OpenCV load code, which is loading and not work: five frames, a few tracks."""
    few = {"F": 5, "H": case["H"], "W": case["W"], "K_guess": case["K_guess"]}
    first = np.flatnonzero(case["query_frame"] == 0)[::4]
    few |= {k: case[k][:5, first] for k in ("tracks", "vis")}
    few |= {"mask": case["mask"][:5], "query_frame": case["query_frame"][first]}
    uni4d.build()(*video_and_observations(few, full_depth[:5]), Journal("warm up"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("--corrupt", choices=["mask_miss", "mask_drop", "depth_jump", "track_slide"])
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    make, metrics = beside(arguments.case, "make_cases.py"), beside(arguments.case, "metrics.py")
    case = make.load_case(arguments.case)
    if arguments.corrupt:
        case = make.corrupt_case(case, arguments.corrupt)
    full_depth = make.upsample_depth(case["depth"])
    video, observed = video_and_observations(case, full_depth)
    engine, journal = uni4d.build(uni4d.Config()), Journal("benchmark")
    warm_up(case, full_depth)
    cpu, wall = time.process_time(), time.perf_counter()
    scene = engine(video, observed, journal)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    line = {
        "case": arguments.case.stem, "corrupt": arguments.corrupt, "threads": 1, "cpu_s": cpu, "wall_s": wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "stages": {t.name: round(t.cpu_s, 4) for t in journal.times}, **score(case, scene, make, metrics),
    }  # fmt: skip
    print(json.dumps({k: round(float(v), 5) if isinstance(v, (float, np.floating)) else v for k, v in line.items()}))


if __name__ == "__main__":
    main()
