"""`worldline refine`: a finished scene and something newly known in, a better scene out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from worldline.cli.known_options import NOTHING_KNOWN, KnownOptions, known_of
from worldline.cli.progress import shown
from worldline.cli.reconstruct import PRODUCTS, summary
from worldline.run.refine import refine_into


def run(
    scene: Annotated[Path, arg(metavar="SCENE"), Positional],
    /,
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="OUT")] = None,
    *,
    video: Path | None = None,
    by_itself: bool = False,
    stages: Literal["joint", "similarity"] = "joint",
    no_page: bool = False,
    overwrite: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
    quiet: bool = False,
    known: OmitArgPrefixes[KnownOptions] = NOTHING_KNOWN,
) -> None:
    """Make a finished scene better: by its images, or by what is now known (lens, some poses, depth, masks, a length).

    A step that held-out evidence does not bear out is undone and told; scene.history says what was done.

    Args:
        scene: folder of a scene, or of a run
        out: output folder (default: <name of SCENE>_refined in the current directory)
        video: the video (or folder of images) that the scene was made of; cameras, depth and tracks are made consistent
            with where its points are seen
        by_itself: the same with the images that the scene has kept
        stages: similarity only scales and turns the scene; joint goes on with a bundle adjustment
        no_page: leave out the page and the stills
        overwrite: replace what is in the output folder
        as_json: print the record of the run as JSON, and nothing else, on stdout
        quiet: show no progress
    """
    with shown(quiet=quiet) as progress:
        finished = refine_into(
            out or Path(f"{scene.resolve().name}_refined"),
            scene,
            known_of(known),
            video=video,
            by_itself=by_itself,
            stages=stages,
            products={} if no_page else PRODUCTS,
            overwrite=overwrite,
            progress=progress,
        )
    record = {"out": str(finished.out), "found": finished.found, **finished.record}
    print(json.dumps(record, indent=1) if as_json else summary(finished))
