"""`worldline export`: a scene in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from worldline.io.formats import export
from worldline.scene.store import load


def run(
    scene: Annotated[Path, arg(metavar="SCENE"), Positional],
    path: Annotated[Path, arg(metavar="PATH"), Positional],
    /,
    *,
    format: Annotated[str | None, arg(metavar="NAME")] = None,
    overwrite: bool = False,
    frame: Annotated[int | None, arg(metavar="N")] = None,
    scale: Annotated[float | None, arg(metavar="VALUES")] = None,
) -> None:
    """Write a scene in another format; the suffix of PATH chooses unless --format names one.

    Args:
        scene: folder of a scene, or of a run
        path: file or folder to write
        format: name of the format, when the suffix does not tell
        overwrite: replace what is there
        frame: all points of this frame instead of the static ones (ply)
        scale: values per unit of length, such as 256 for depth beyond 65 m (png-depth)
    """
    options = {name: value for name, value in (("frame", frame), ("scale", scale)) if value is not None}
    export(load(scene), path, format=format, overwrite=overwrite, **options)
    print(f"wrote {path}")
