"""`worldline page`: one HTML file from a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from worldline.scene.store import load
from worldline.view.page import page


def run(
    scene: Annotated[Path, arg(metavar="SCENE"), Positional],
    out: Annotated[Path, arg(metavar="OUT.html"), Positional],
    /,
    *,
    overwrite: bool = False,
) -> None:
    """Write one HTML file with the scene's points over time, cameras and tracks; it needs no server and no network.

    Args:
        scene: folder of a scene, or of a run
        out: the file to write
        overwrite: replace the file if it is there
    """
    page(load(scene), out, overwrite=overwrite)
    print(f"wrote {out}")
