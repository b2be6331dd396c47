"""worldline: a video of a moving world, back in four dimensions.

Public names are loaded on first use, so that `import worldline` and `worldline --help` stay instant.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Camera": "worldline.geometry.camera",
    "Video": "worldline.scene.video",
    "Observations": "worldline.scene.observations",
    "Fragment": "worldline.scene.fragment",
    "Scene": "worldline.scene.scene",
    "save": "worldline.scene.store",
    "load": "worldline.scene.store",
    "read_video": "worldline.io.video_files",
    "observe": "worldline.cues",
    "cue_models": "worldline.cues",
    "engines": "worldline.engines",
    "reconstruct": "worldline.run",
    "refine": "worldline.run.refine",
    "compare": "worldline.run.compare",
    "evaluate": "worldline.evaluate.report",
    "export": "worldline.io.formats",
    "page": "worldline.view.page",
    "view": "worldline.view.server",
    "snapshot": "worldline.view.snapshot",
    "WorldlineError": "worldline.errors",
}

__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'worldline' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """This package, in which `view`, `evaluate` and `engines` stay the verbs when the folders of those names load."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
