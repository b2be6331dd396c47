"""Writing what was drawn: whole or not at all, and never over something else unasked."""

from __future__ import annotations

import os
from pathlib import Path

from worldline.errors import OutputError


def write_whole(path: str | Path, content: bytes, *, overwrite: bool) -> Path:
    """Write a file under a temporary name and rename it.

    Raises:
        OutputError: the file exists (and `overwrite` is off), or cannot be written.
    """
    target = Path(path)
    refuse_existing(target, overwrite=overwrite)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {target} ({error.strerror or error}); choose another output.") from error
    return target


def refuse_existing(path: str | Path, *, overwrite: bool) -> None:
    """Called before the work as well, so that nobody waits for a refusal.

    Raises:
        OutputError: the file exists and `overwrite` is off, or it is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"{target} is a folder; give the name of a file.")
    if target.exists() and not overwrite:
        raise OutputError(f"{target} already exists; choose another name or pass overwrite.")
