"""Engines: Video and Observations in, Scene out. A folder here (or an entry point `worldline.engines`) is one engine.

An engine folder has `Config` (a frozen dataclass with the paper's defaults and a `tiny()` for CPU tests) and
`build(config) -> Engine`. Engines state what they need and never import cues or each other.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Protocol

from worldline.errors import InputError
from worldline.scene.journal import Journal
from worldline.scene.observations import Observations
from worldline.scene.scene import Scene
from worldline.scene.video import Video


class Engine(Protocol):
    """Turns a video and what is known about it into a scene."""

    needs: tuple[str, ...]
    """Names of the Observations fields that must be there."""

    least_frames: int
    """Fewer cannot be reconstructed."""

    def wants(self, video: Video) -> tuple[str, ...]:
        """Names of further fields that make the scene of this video richer."""
        ...

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Scene:
        """Reconstruct; long work goes through `journal.run`, so it can be resumed and is timed."""
        ...


def engines() -> list[str]:
    """Names of all engines: the folders here and those of installed packages."""
    here = [m.name for m in pkgutil.iter_modules(__path__) if m.ispkg]
    return sorted({*here, *(e.name for e in entry_points(group="worldline.engines"))})


def engine_module(name: str) -> ModuleType:
    """The module of an engine, with `Config` and `build`.

    Raises:
        InputError: no engine of that name.
    """
    for point in entry_points(group="worldline.engines"):
        if point.name == name:
            return point.load()
    if name not in engines():
        raise InputError(f"there is no engine {name!r}; choose one of {', '.join(engines())}.")
    return import_module(f"{__name__}.{name}")
