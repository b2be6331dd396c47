"""What a reconstruction costs: stage, wall and CPU seconds, peak memory, for --fast, the default and --best.

    python benchmarks/reconstruct_speed.py VIDEO [--presets fast default best] [--keep FOLDER]

Every preset runs in a process of its own, page and stills included. Wall times mean something on a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PRESETS = ("fast", "default", "best")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="a video file or a folder of images")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--keep", type=Path, help="folder for the results, which are thrown away otherwise")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for preset in args.presets:
            print(table(measured(args.video, preset, (args.keep or Path(scratch)) / preset)), flush=True)


def measured(video: Path, preset: str, out: Path) -> dict[str, Any]:
    """The run's record with what the whole process cost."""
    options = [] if preset == "default" else [f"--{preset}"]
    command = [
        str(Path(sys.executable).with_name("worldline")),
        "reconstruct",
        str(video),
        "-o",
        str(out),
        "--overwrite",
        *options,
    ]
    before, start = cpu_of_children(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    record = json.loads((out / "run.json").read_text())
    return {**record, "preset": preset, "total": (wall, cpu_of_children() - before)}


def cpu_of_children() -> float:
    """CPU seconds of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(record: dict[str, Any]) -> str:
    """The stages of one run, and the sum."""
    scene, threads = record["scene"], record["threads"]
    width, height = scene["size"]
    lines = [
        f"{record['preset']}: {scene['frames']} frames of {width}x{height}; threads: torch {threads['torch']}, "
        f"OpenCV {threads['opencv']}, of {os.cpu_count()} CPUs",
        f"{'stage':24s} {'wall s':>8s} {'CPU s':>8s} {'peak MB':>8s}",
    ]
    lines += [f"{s['name']:24s} {s['wall_s']:8.1f} {s['cpu_s']:8.1f} {s['peak_mb']:8.0f}" for s in record["stages"]]
    peak = max(s["peak_mb"] for s in record["stages"])
    return "\n".join([*lines, f"{'all':24s} {record['total'][0]:8.1f} {record['total'][1]:8.1f} {peak:8.0f}\n"])


if __name__ == "__main__":
    main()
