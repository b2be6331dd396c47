"""Export: a scene as files that other tools read. A module here with `SUFFIXES` and `write` is one format.

`write(scene, path, *, overwrite, ...)` takes the format's own options; a format without suffixes writes a folder.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

from worldline.errors import InputError
from worldline.scene.scene import Scene


def formats() -> list[str]:
    """Names of all formats that a scene can be exported to."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__))


def export(
    scene: Scene, path: str | Path, *, format: str | None = None, overwrite: bool = False, **options: Any
) -> Path:
    """Write a scene for other tools, whole or not at all; the suffix chooses the format unless `format` does.

    Args:
        path: `.ply`, `.tum` or `.txt`, `.npz`, or the name of a folder together with `format`.
        format: one of `formats()`.
        options: the format's own, such as `scale` for png-depth or `frame` for ply.

    Raises:
        InputError: no such format, or the scene holds nothing that it could store.
        OutputError: the output exists (and `overwrite` is off), or cannot be written.
    """
    target = Path(path)
    module = _by_name(format) if format is not None else _by_suffix(target)
    known = list(signature(module.write).parameters)[3:]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"this format has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}.")
    module.write(scene, target, overwrite=overwrite, **options)
    return target


def _by_name(name: str) -> ModuleType:
    if name not in formats():
        raise InputError(f"there is no format {name!r}; choose one of {', '.join(formats())}.")
    return import_module(f"{__name__}.{name.replace('-', '_')}")


def _by_suffix(path: Path) -> ModuleType:
    modules = {name: _by_name(name) for name in formats()}
    for module in modules.values():
        if path.suffix.lower() in module.SUFFIXES:
            return module
    files = ", ".join(suffix for module in modules.values() for suffix in module.SUFFIXES)
    folders = " or ".join(name for name, module in modules.items() if not module.SUFFIXES)
    raise InputError(
        f"{path.name!r} does not say which format is wanted; end it in {files}, or name the format {folders}."
    )
