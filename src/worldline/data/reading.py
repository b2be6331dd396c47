"""Which dataset a path belongs to, by what is in it."""

from __future__ import annotations

from pathlib import Path

from worldline.data import dynamic_replica, tapvid3d, worldtrack
from worldline.data.sequence import Sequence
from worldline.errors import InputError


def read(path: str | Path, *, max_frames: int | None = None) -> Sequence:
    """A clip of TAPVid-3D or WorldTrack (`.npz`), or of Dynamic Replica (the folder of a sequence).

    Args:
        max_frames: read the first frames only.

    Raises:
        InputError: no such path, or nothing that is known. FormatError: a file is not what it should be.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give an .npz file or the folder of a Dynamic Replica sequence.")
    if path.suffix == ".npz":
        dense = worldtrack.is_dense(tapvid3d.load(path))
        return (worldtrack if dense else tapvid3d).read(path, max_frames=max_frames)
    if dynamic_replica.belongs(path):
        return dynamic_replica.read(path, max_frames=max_frames)
    raise InputError(f"{path} is of no dataset that is known; give an .npz file or a Dynamic Replica sequence.")


def known(path: Path) -> bool:
    """Whether `read` would try to read this."""
    return path.suffix == ".npz" if path.is_file() else dynamic_replica.belongs(path)
