"""`worldline compare`: two scenes of the same clip, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from worldline.run.compare import compare
from worldline.scene.store import load


def run(
    a: Annotated[Path, arg(metavar="A"), Positional],
    b: Annotated[Path, arg(metavar="B"), Positional],
    /,
    *,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Compare two scenes of the same clip: path, focal length, depth, masks, tracks, and the frames that differ most.

    Args:
        a: folder of a scene, or of a run
        b: folder of the other
        as_json: print JSON, with every frame
    """
    found = compare(load(a), load(b))
    print(json.dumps(found.as_json(), indent=1) if as_json else found.as_text())
