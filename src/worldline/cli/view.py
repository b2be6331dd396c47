"""`worldline view`: scenes in the browser, served from here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from worldline.errors import InputError
from worldline.scene.store import load
from worldline.view.server import view


def run(
    scenes: Annotated[tuple[Path, ...], arg(metavar="SCENE"), Positional],
    /,
    *,
    port: Annotated[int, arg(metavar="PORT")] = 8080,
) -> None:
    """Show scenes in the browser until Ctrl-C.

    Args:
        scenes: folders of scenes, or of runs
        port: port of the local server
    """
    if not scenes:
        raise InputError("no scene was named; give the folder of at least one.")
    view(*(load(folder) for folder in scenes), port=port)
