"""Output that is whole or not there: written under a temporary name beside its target, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worldline.errors import OutputError
from worldline.scene.store import replace_path


@contextmanager
def written_whole(target: Path, *, overwrite: bool = False, marker: str | None = None) -> Iterator[Path]:
    """A temporary path to write a file or folder to; it takes the target's name when the block ends well.

    Args:
        marker: for folders, a name that every output of this kind holds. Only a folder with it (or an empty one) is
            ever replaced, so that `overwrite` cannot take away what somebody else put there.

    Raises:
        OutputError: the target exists (and `overwrite` is off), is something else, or cannot be written.
    """
    _check_free(target, overwrite, marker)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        replace_path(temporary, target)
    except OSError as error:
        raise OutputError(f"cannot write {target} ({error.strerror or error}); choose another output.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if temporary.is_file():
            temporary.unlink()


def _check_free(target: Path, overwrite: bool, marker: str | None) -> None:
    try:
        if not target.exists():
            return
        if not overwrite:
            raise OutputError(f"{target} already exists; choose another name or pass overwrite.")
        if target.is_dir() != (marker is not None):
            kind = "folder" if target.is_dir() else "file"
            raise OutputError(f"{target} is a {kind}, which this output cannot replace; choose another name.")
        if marker is not None and any(target.iterdir()) and not (target / marker).exists():
            raise OutputError(f"{target} holds other things, which are not overwritten; choose another name.")
    except OSError as error:
        raise OutputError(f"cannot write {target} ({error.strerror or error}); choose another output.") from error
