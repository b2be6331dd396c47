"""Does refining ever make a scene worse? Synthetic worlds, each handed over with the errors of a feed-forward network.

    python benchmarks/refine_worlds.py                     # all worlds and kinds of error; half an hour on one core
    python benchmarks/refine_worlds.py --worlds 3 --kinds good perfect
    python benchmarks/refine_worlds.py --tracker           # evidence by our own tracker instead of true tracks + noise

One JSON line per world and kind: every error before and after, their ratio, which steps were kept, seconds. The last
line has the worst and the median ratio of every quantity. Errors below a floor (half a thousandth of the depth) count
as the floor. Exit code 1 if any ratio is above 1.02.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from worldline import synthetic
from worldline.evaluate.correspondence import paired_frames, static_alignment
from worldline.evaluate.paths import path_length, path_scores
from worldline.evaluate.report import evaluate
from worldline.run.refine import refine
from worldline.scene.observations import Observations, PixelTracks
from worldline.scene.scene import Scene
from worldline.synthetic.network_scene import NetworkNoise, network_scene
from worldline.synthetic.rendering import Rendered

WORST = 1.02
FLOOR = 5e-4
FRAMES, SIZE = 24, (160, 120)

WORLDS: dict[str, dict[str, Any]] = {
    "room handheld": {"kind": "room", "path": "handheld"},
    "room handheld again": {"kind": "room", "path": "handheld", "seed": 5},
    "room dolly": {"kind": "room", "path": "dolly"},
    "room orbit": {"kind": "room", "path": "orbit", "travel_m": 1.0},
    "room slide": {"kind": "room", "path": "slide"},
    "room forward": {"kind": "room", "path": "forward"},
    "room pause": {"kind": "room", "path": "pause"},
    "room return": {"kind": "room", "path": "return"},
    "room static": {"kind": "room", "path": "static"},
    "room static in hand": {"kind": "room", "path": "static", "hand": True},
    "room rotate": {"kind": "room", "path": "rotate"},
    "room zoom": {"kind": "room", "path": "zoom"},
    "room tiny baseline": {"kind": "room", "path": "slide", "travel_m": 0.03},
    "room wide": {"kind": "room", "path": "handheld", "fov_deg": 100.0},
    "room narrow": {"kind": "room", "path": "orbit", "fov_deg": 28.0},
    "room subject": {"kind": "room", "path": "dolly", "subject": True},
    "room fast movers": {"kind": "room", "path": "handheld", "fps": 6.0},
    "room empty": {"kind": "room", "path": "orbit", "with_movers": False},
    "room little texture": {"kind": "room", "path": "handheld", "seed": 2, "contrast": 0.08},
    "outdoor handheld": {"kind": "outdoor", "path": "handheld"},
    "outdoor backward": {"kind": "outdoor", "path": "backward", "travel_m": 1.5},
    "outdoor orbit": {"kind": "outdoor", "path": "orbit", "travel_m": 2.0},
    "outdoor static": {"kind": "outdoor", "path": "static"},
    "outdoor fast movers": {"kind": "outdoor", "path": "dolly", "fps": 6.0},
    "wall slide": {"kind": "wall", "path": "slide"},
    "wall rotate": {"kind": "wall", "path": "rotate"},
}
KINDS: dict[str, NetworkNoise] = {
    "good": NetworkNoise.good(),
    "bad depth": NetworkNoise(depth_smooth=0.08, depth_window=0.05, depth_frame=0.03, depth_pixel=0.01),
    "bad cameras": NetworkNoise(depth_smooth=0.01, centre=0.015, rotation_rad=0.008),
    "bad tracks": NetworkNoise(depth_smooth=0.01, track=0.08, background=0.02, track_outliers=0.05),
    "all bad": NetworkNoise(0.06, 0.04, 0.02, 0.01, 12, 0.015, 0.008, 0.06, 0.01, 0.05, 5.0),
    "bad frame": replace(NetworkNoise.good(), bad_frame=8.0),
    "perfect": NetworkNoise(),
    "perfect but": NetworkNoise(depth_smooth=0.01, centre=0.001, rotation_rad=0.0005, track=0.002),
    "wrong scale": replace(NetworkNoise.good(), scale=1.3),
    "slipping movers": NetworkNoise.good(),
    "slipping movers, perfect": NetworkNoise(),
    "slipping everywhere": NetworkNoise(depth_smooth=0.01, centre=0.001, rotation_rad=0.0005, track=0.002),
}
"""What is wrong with the scene; where a name says "slipping", the 2D tracks handed in as evidence are wrong as well."""
TRACKS = synthetic.NoiseModel(track_px=0.3, track_drift_px=0.05, track_outliers=0.03, track_missed=0.03)


def main() -> int:
    """Run the worlds and print their lines."""
    args = _arguments()
    rows = []
    for name in list(WORLDS)[args.first : args.first + args.worlds]:
        rendered = _rendered(WORLDS[name])
        for kind in args.kinds:
            rows.append({"world": name, "kind": kind, **_measured(rendered, kind, tracker=args.tracker)})
            print(json.dumps(rows[-1]), flush=True)
    summary = _summary(rows)
    print(json.dumps(summary))
    return int(any(entry["worst"] > WORST for entry in summary["ratios"].values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--worlds", type=int, default=len(WORLDS), help="only so many of them")
    parser.add_argument("--first", type=int, default=0, help="and from this one on")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), help="only these errors")
    parser.add_argument("--tracker", action="store_true", help="follow points in the images instead of noisy true ones")
    return parser.parse_args()


def _rendered(world: dict[str, Any]) -> Rendered:
    options = {**world}
    contrast = options.pop("contrast", 1.0)
    kind, path = options.pop("kind"), options.pop("path")
    built = synthetic.build(kind, path, **{"seed": 1, "frames": FRAMES, "size": SIZE, **options})
    rendered = synthetic.render(built, synthetic.Quality(antialias=False))
    if contrast == 1.0:
        return rendered
    noise = np.random.default_rng(0).normal(0, 1.0, rendered.video.frames.shape)
    flat = (128 + contrast * (rendered.video.frames.astype(float) - 128) + noise).clip(0, 255).astype(np.uint8)
    return replace(rendered, video=replace(rendered.video, frames=flat), scene=replace(rendered.scene, image=flat))


def _measured(rendered: Rendered, kind: str, *, tracker: bool) -> dict[str, Any]:
    start = network_scene(rendered, KINDS[kind], seed=3)
    evidence = None
    if not tracker:
        tracks = synthetic.observations(rendered, TRACKS, seed=7).tracks
        assert tracks is not None
        evidence = Observations(tracks=_slipping(rendered, tracks, kind))
    began = time.perf_counter()
    refined = refine(start, evidence)
    seconds = time.perf_counter() - began
    before, after = (errors(scene, rendered.scene) for scene in (start, refined))
    floors = _floors(rendered.scene)
    ratios = {k: round(max(after[k], floors[k]) / max(before[k], floors[k]), 4) for k in before if before[k] >= 0}
    kept = [step.name for step in refined.history if step.outcome.get("kept") == "result"]
    numbers = {k: [round(before[k], 5), round(after[k], 5)] for k in ratios}
    return {"errors": numbers, "ratios": ratios, "kept": kept, "seconds": round(seconds, 1)}


def errors(scene: Scene, truth: Scene) -> dict[str, float]:
    """Errors of a scene: of its path, its depth, and its points after motion; those it does not have are left out."""
    moves = path_length(truth.world_from_cam) > 1e-6
    depth = {name: evaluate(scene, truth, protocol=name).metrics["depth_abs_rel"] for name in ("default", "metric")}
    out = {
        "ate": path_scores(scene.world_from_cam, truth.world_from_cam, alignment="sim3" if moves else "se3").ate_m,
        "ate_metric": path_scores(scene.world_from_cam, truth.world_from_cam, alignment="se3").ate_m,
        "rotation_deg": path_scores(scene.world_from_cam, truth.world_from_cam).rpe_r_deg,
        "depth": depth["default"],
        "depth_metric": depth["metric"],
    }
    for kind in ("sim3", "se3"):
        out |= _track_errors(scene, truth, kind, "_metric" if kind == "se3" else "")
    return {k: v for k, v in out.items() if np.isfinite(v)}


def _track_errors(scene: Scene, truth: Scene, kind: Any, suffix: str) -> dict[str, float]:
    assert scene.tracks is not None and truth.tracks is not None
    found = static_alignment(scene, truth, paired_frames(scene.times_s, truth.times_s), kind=kind)
    if found is None:
        return {}
    off = np.linalg.norm(found.apply(scene.tracks.points_world.astype(float)) - truth.tracks.points_world, axis=-1)
    seen, moving = truth.tracks.visible, np.asarray(truth.tracks.moving, dtype=bool)
    first = np.asarray(truth.tracks.query_frame) == 0
    parts = {"epe_dynamic": moving[None] & seen, "epe_static": ~moving[None] & seen, "allocentric": first[None] & seen}
    return {name + suffix: float(off[use].mean()) for name, use in parts.items() if use.any()}


def _floors(truth: Scene) -> dict[str, float]:
    depth = float(np.median(np.asarray(truth.depth_z)[np.asarray(truth.valid)]))
    lengths = (
        "ate",
        "ate_metric",
        *(f"{n}{s}" for n in ("epe_dynamic", "epe_static", "allocentric") for s in ("", "_metric")),
    )
    return {
        **dict.fromkeys(lengths, FLOOR * depth),
        "depth": FLOOR,
        "depth_metric": FLOOR,
        "rotation_deg": np.degrees(FLOOR),
    }


def _slipping(rendered: Rendered, tracks: PixelTracks, kind: str) -> PixelTracks:
    """Tracks that slide along what they are on, all alike: they agree with each other and are wrong."""
    if not kind.startswith("slipping"):
        return tracks
    start = np.clip(tracks.uv[tracks.query_frame, np.arange(tracks.uv.shape[1])], 0, None).astype(int)
    moves = np.asarray(rendered.scene.moving)[
        tracks.query_frame, np.minimum(start[:, 1], SIZE[1] - 1), np.minimum(start[:, 0], SIZE[0] - 1)
    ]
    age = np.arange(len(tracks.uv))[:, None] - tracks.query_frame
    slip = 0.3 * age if "movers" in kind else 0.08 * age
    chosen = moves > 0 if "movers" in kind else np.ones(len(moves), bool)
    away = slip[..., None] * np.array([1.0, 0.5], np.float32) * chosen[:, None]
    return replace(tracks, uv=(tracks.uv + away).astype(np.float32))


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    noisy = [row for row in rows if not row["kind"].startswith(("perfect", "slipping"))]
    ratios = {}
    for name in names:
        worst = max((row for row in rows if name in row["ratios"]), key=lambda row: row["ratios"][name])
        here = [row["ratios"][name] for row in noisy if name in row["ratios"]]
        median = round(float(np.median(here)), 4) if here else None
        ratios[name] = {"worst": worst["ratios"][name], "at": f"{worst['world']}, {worst['kind']}", "median": median}
    over = sum(any(r > WORST for r in row["ratios"].values()) for row in rows)
    return {"runs": len(rows), "over": over, "ratios": ratios, "seconds": round(sum(row["seconds"] for row in rows), 1)}


if __name__ == "__main__":
    sys.exit(main())
