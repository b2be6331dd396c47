"""The folder of one run: claimed before the work, filled by renames, sealed by `run.json`.

OUT/.stages/key        which run is under way here; locked while a process works on it
OUT/.stages/*.npz      what the journal keeps
OUT/.stages/ready/     finished pieces that wait for the others
OUT/<pieces>           moved here together at the end
OUT/run.json           written last: its presence means the run is whole
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from worldline.errors import OutputError, WorldlineError
from worldline.scene.atomic import cannot_write, replace_path

RECORD = "run.json"
STAGES = ".stages"
_DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def record_of(out: Path, key: str) -> dict[str, Any] | None:
    """The record of a finished run with this key, or None."""
    try:
        record = json.loads((out / RECORD).read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and all((out / name).exists() for name in record.get("pieces", ()))
    return record if whole and record.get("key") == key else None


@contextmanager
def claimed(out: Path, key: str, *, overwrite: bool = False) -> Iterator[Path]:
    """The work folder `OUT/.stages` of the run `key`: an interrupted one, or a new one; locked until the end.

    An input that turns out to be unusable leaves nothing behind; an interruption or a full disk leaves the stages.

    Raises:
        OutputError: OUT holds something else (and `overwrite` is off), cannot be written, or is being written.
    """
    try:
        if not _is_under_way(out, key, overwrite=overwrite):
            _refuse_foreign(out, overwrite=overwrite)
        created = [p for p in (out, *out.parents) if not p.exists()]
    except OSError as error:  # a name that is too long, a parent that may not be searched
        raise cannot_write(out, error) from error
    with _locked(out / STAGES) as lock:
        _begin(out / STAGES, lock, key)
        try:
            yield out / STAGES
        except OutputError:
            raise
        except WorldlineError:
            _leave_nothing(out, created)
            raise
        except OSError as error:
            if error.errno not in _DISK_REFUSES:
                raise
            raise cannot_write(out, error) from error


def publish(out: Path, pieces: list[str], record: Mapping[str, Any], *, keep_stages: bool = False) -> None:
    """Move the finished pieces from `.stages/ready` to their names, then write the record that makes the run whole."""
    try:
        (out / RECORD).unlink(missing_ok=True)
        for name in pieces:
            replace_path(out / STAGES / "ready" / name, out / name)
        (out / STAGES / RECORD).write_text(json.dumps({**record, "pieces": pieces}, indent=1) + "\n")
        replace_path(out / STAGES / RECORD, out / RECORD)
    except OSError as error:
        raise cannot_write(out, error) from error
    (out / STAGES / "key").unlink(missing_ok=True)
    if not keep_stages:
        shutil.rmtree(out / STAGES, ignore_errors=True)


def _is_under_way(out: Path, key: str, *, overwrite: bool) -> bool:
    try:
        same = (out / STAGES / "key").read_text() == key
    except OSError:
        return False
    return same and (overwrite or not (out / RECORD).exists())


def _refuse_foreign(out: Path, *, overwrite: bool) -> None:
    if not out.is_dir():
        if out.exists() or out.is_symlink():
            raise OutputError(f"{out} is a file, not a folder; choose another output with -o.")
        return
    if overwrite:
        return
    names = {p.name for p in out.iterdir()}
    if names and names <= {STAGES}:
        raise OutputError(
            f"{out} holds an interrupted run of another input or other options; "
            "repeat that command, choose another output with -o, or pass --overwrite."
        )
    if names:
        what = "the result of another run" if RECORD in names else "other files"
        raise OutputError(f"{out} already holds {what}; choose another output with -o or pass --overwrite.")


@contextmanager
def _locked(stages: Path) -> Iterator[IO[str]]:
    try:
        stages.mkdir(parents=True, exist_ok=True)
        lock = (stages / "key").open("a+")
    except OSError as error:
        raise cannot_write(stages.parent, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"another process is writing {stages.parent}; wait for it or choose another -o."
            ) from error
        yield lock


def _begin(stages: Path, lock: IO[str], key: str) -> None:
    """Keep the stages of the same run, drop those of any other, and write the key down before the work begins."""
    lock.seek(0)
    if lock.read() == key:
        return
    try:
        for path in stages.iterdir():
            if path.name != "key":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        lock.truncate(0)
        lock.write(key)
        lock.flush()
        os.fsync(lock.fileno())
    except OSError as error:
        raise cannot_write(stages.parent, error) from error


def _leave_nothing(out: Path, created: list[Path]) -> None:
    shutil.rmtree(out / STAGES, ignore_errors=True)
    for folder in created:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
