"""`worldline reconstruct`: a video in, a 4D scene with a page and stills out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from worldline.cli.known_options import NOTHING_KNOWN, KnownOptions, known_of
from worldline.cli.progress import shown
from worldline.errors import InputError
from worldline.run import Finished, Reading, Request, reconstruct_into
from worldline.run.reconstruction import DEFAULT_MAX_SIDE, Product, default_output
from worldline.view.page import page
from worldline.view.snapshot import stills

PRODUCTS: dict[str, Product] = {"page.html": page, "stills": stills}


def run(
    source: Annotated[Path, arg(metavar="INPUT"), Positional],
    /,
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="OUT")] = None,
    *,
    engine: Annotated[str, arg(metavar="NAME")] = "auto",
    weights: Annotated[str | None, arg(metavar="NAME|FILE")] = None,
    commercial: bool = False,
    refine: bool = False,
    settings: Annotated[UseAppendAction[tuple[Annotated[str, arg(metavar="NAME=VALUE")], ...]], arg(name="set")] = (),
    every: Annotated[int, arg(metavar="N")] = 1,
    start: Annotated[float | None, arg(metavar="S")] = None,
    end: Annotated[float | None, arg(metavar="S")] = None,
    max_frames: Annotated[int | None, arg(metavar="N")] = None,
    max_side: Annotated[int, arg(metavar="N")] = DEFAULT_MAX_SIDE,
    topic: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="ROLE=NAME")] = (),
    fast: bool = False,
    best: bool = False,
    overwrite: bool = False,
    keep_stages: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
    quiet: bool = False,
    known: OmitArgPrefixes[KnownOptions] = NOTHING_KNOWN,
) -> None:
    """Reconstruct a video: scene/, page.html, stills/, log.txt and run.json in one folder.

    An interrupted run goes on where it was when the same command is given again.

    Args:
        source: a video file, a folder of images, an RGB-D folder, whose depth is used, or a log (ROS bag, MCAP)
        out: output folder (default: <input name>_worldline in the current directory)
        engine: the method; auto takes the best one that runs here
        weights: of the engine's network (worldline weights list); another file than its usual one
        commercial: refuse weights whose licence does not clearly allow commercial use
        refine: then make cameras, depth and tracks consistent with the images, where they bear it out
        settings: change a setting of the engine; may be repeated (docs/any4d.md lists those of any4d)
        every: use every n-th frame
        start: begin at this time, in seconds
        end: stop at this time, in seconds
        max_frames: use at most this many frames
        max_side: shrink frames whose longer side is larger
        topic: of a log, the topic to use for a role (worldline inspect lists both); may be repeated
        fast: less accurate, in about half the time
        best: more tracks, found again behind what covered them, in more time
        overwrite: replace what is in the output folder
        keep_stages: keep the intermediate arrays
        as_json: print the record of the run as JSON, and nothing else, on stdout
        quiet: show no progress
    """
    reading = Reading(every, start, end, max_frames, max_side, topic)
    chosen = (*settings, *(() if weights is None else (f"weights={weights}",)))
    request = Request(source, engine, quality_of(fast, best), chosen, commercial, refine, known_of(known), reading)
    with shown(quiet=quiet) as progress:
        finished = reconstruct_into(
            out or default_output(source),
            request,
            products=PRODUCTS,
            overwrite=overwrite,
            keep_stages=keep_stages,
            progress=progress,
        )
    record = {"out": str(finished.out), "found": finished.found, **finished.record}
    print(json.dumps(record, indent=1) if as_json else summary(finished))


def quality_of(fast: bool, best: bool) -> str:
    """The quality that the two flags mean.

    Raises:
        InputError: both.
    """
    if fast and best:
        raise InputError("both --fast and --best were given; give only one.")
    return "fast" if fast else "best" if best else "default"


def summary(finished: Finished) -> str:
    """What a run made and where, for people."""
    record, out = finished.record, finished.out
    scene = record["scene"]
    head = (
        f"already done ({record['finished']}); pass --overwrite to do it again"
        if finished.found
        else f"done in {record['wall_s']:.1f} s"
    )
    has_page = "page.html" in record.get("pieces", ("page.html",))
    look = f"look at it: {out / 'page.html'} (any browser), {out / 'stills'}; " if has_page else ""
    lines = [
        f"{out}: {head}",
        f"  {scene['frames']} frames of {scene['size'][0]}x{scene['size'][1]}, "
        f"focal length {scene['focal_px']:.0f} px ({scene['fov_deg']:.0f} degrees), "
        f"{scene['static_points']} static points, {scene['moving_tracks']} moving tracks",
        f"  {look}times in {out / 'log.txt'}",
        *(f"  note: {note}" for note in record["notes"]),
    ]
    return "\n".join(lines)
