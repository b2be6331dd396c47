"""`worldline demo`: a world whose truth is known, filmed, reconstructed from the pixels alone, and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from worldline.cli.progress import shown
from worldline.cli.reconstruct import PRODUCTS, summary
from worldline.errors import OutputError
from worldline.evaluate.report import Report, evaluate
from worldline.io.video_files import write_video
from worldline.run import Request, reconstruct_into
from worldline.scene.atomic import cannot_write
from worldline.scene.journal import Progress
from worldline.scene.scene import Scene
from worldline.scene.store import load, save
from worldline.synthetic import demo_world, render

CLIP, TRUTH, RESULT = "clip.mp4", "truth", "reconstruction"

_ROWS = (
    ("length of the camera's path", "path_length_m", 100, "cm"),
    ("camera path, ATE after Sim(3)", "ate_m", 100, "cm"),
    ("  as a share of the path", "ate_pct", 1, "%"),
    ("camera turn from frame to frame, RPE", "rpe_r_deg", 1, "degrees"),
    ("focal length", "focal_error_pct", 1, "%"),
    ("depth of what is static, AbsRel", "depth_abs_rel_static", 100, "%"),
    ("depth of what moves, AbsRel", "depth_abs_rel_moving", 100, "%"),
    ("moving masks, overlap J (1 is perfect)", "mask_j", 1, ""),
    ("static 3D tracks, median error", "track_epe_median_static_m", 100, "cm"),
    ("moving 3D tracks, median error", "track_epe_median_moving_m", 100, "cm"),
)

_ABOUT_MOVERS = (
    "  one camera cannot see the depth of what moves: movers are placed where they seem to touch the ground,\n"
    "  with a sigma that says how little is known."
)


def run(
    out: Annotated[Path, arg(aliases=["-o"], metavar="OUT")] = Path("worldline_demo"),
    *,
    as_json: Annotated[bool, arg(name="json")] = False,
    quiet: bool = False,
) -> None:
    """Render a small world to clip.mp4, reconstruct it from those pixels alone, and print the errors.

    Args:
        out: output folder
        as_json: print the record and the errors as JSON, and nothing else, on stdout
        quiet: show no progress
    """
    with shown(quiet=quiet) as progress:
        truth = _filmed(out, progress)
        finished = reconstruct_into(out / RESULT, Request(out / CLIP), products=PRODUCTS, progress=progress)
        progress.stage("evaluate")
        report = evaluate(finished.scene, truth)
    if as_json:
        print(json.dumps({"out": str(finished.out), **finished.record, "report": report.as_json()}, indent=1))
    else:
        print(summary(finished) + "\n\n" + table(report))


def _filmed(out: Path, progress: Progress) -> Scene:
    """The truth of the demo world; its clip and truth are written once."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, not a folder; choose another output with -o.")
    if out.is_dir() and not (out / TRUTH).exists() and any(p.name[0] != "." for p in out.iterdir()):
        raise OutputError(f"{out} already holds other files; choose another output with -o.")
    if not (out / CLIP).exists() or not (out / TRUTH).exists():
        _render(out, progress)
    return load(out / TRUTH)


def _render(out: Path, progress: Progress) -> None:
    progress.stage("render")
    world = demo_world()
    _writable(out)
    rendered = render(world)
    save(rendered.scene, out / TRUTH, overwrite=True)
    times_s = rendered.video.times_s
    write_video(out / CLIP, rendered.video.frames, fps=(len(times_s) - 1) / float(times_s[-1] - times_s[0]))


def _writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error


def table(report: Report) -> str:
    """The errors against the truth, in words and units, after the alignment that an unknown scale needs."""
    rows = [
        f"  {label:<44}{scale * report.metrics[name]:>9.3g} {unit}"
        for label, name, scale, unit in _ROWS
        if name in report.metrics
    ]
    head = f"errors against the truth ({len(report.frames)} frames; only the clip was seen):"
    return "\n".join([head, *rows, _ABOUT_MOVERS])
