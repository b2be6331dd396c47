"""Output that is whole or not there: written under a temporary name beside its target, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worldline.errors import OutputError


@contextmanager
def written_whole(target: Path, *, overwrite: bool = False, marker: str | None = None) -> Iterator[Path]:
    """A temporary path to write a file or folder to; it takes the target's name when the block ends well.

    Args:
        marker: for folders, a name that every output of this kind holds. Only a folder with it (or an empty one) is
            ever replaced, so that `overwrite` cannot take away what somebody else put there.

    Raises:
        OutputError: the target exists (and `overwrite` is off), is something else, or cannot be written.
    """
    check_free(target, overwrite=overwrite, marker=marker)
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        replace_path(temporary, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if temporary.is_file():
            temporary.unlink()


def write_whole(target: Path, content: bytes | str, *, overwrite: bool = False) -> Path:
    """Write a file of these bytes, or of this text in UTF-8, as `written_whole` does; returns the target."""
    with written_whole(target, overwrite=overwrite) as temporary:
        temporary.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    return target


def check_free(target: Path, *, overwrite: bool = False, marker: str | None = None) -> None:
    """Raise what `written_whole` would raise at its beginning; called before long work, so that nobody waits for it.

    Raises:
        OutputError: the target exists (and `overwrite` is off), or is something that is never replaced.
    """
    try:
        if not target.exists():
            return
        if target.is_dir() != (marker is not None):
            kind = "folder" if target.is_dir() else "file"
            raise OutputError(f"{target} is a {kind}, which this output cannot replace; choose another name.")
        if not overwrite:
            raise OutputError(f"{target} already exists; choose another name or pass overwrite.")
        if marker is not None and any(target.iterdir()) and not (target / marker).exists():
            raise OutputError(f"{target} holds other things, which are not overwritten; choose another name.")
    except OSError as error:
        raise cannot_write(target, error) from error


def replace_path(temporary: Path, target: Path) -> None:
    """Rename a finished file or folder onto its name; what was there before goes only once the new one is ready."""
    if target.is_dir() and not target.is_symlink():
        old = target.with_name(f".{target.name}.{os.getpid()}.old")
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old)
    else:
        temporary.replace(target)


def temporary_beside(target: Path) -> Path:
    """A hidden name in the target's folder, of its suffix (some writers choose a format by it), of this process."""
    return target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")


def cannot_write(target: Path, error: OSError) -> OutputError:
    """What the operating system said, as a sentence for the user."""
    return OutputError(f"cannot write {target} ({error.strerror or error}); choose another output or free some space.")
