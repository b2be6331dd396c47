"""Published weights, downloaded: from the model hub, a mirror of it, or a folder."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import ModuleType

from worldline.errors import InputError, MissingWeights
from worldline.nets.published import Published
from worldline.nets.weights import download_folder
from worldline.scene.atomic import cannot_write

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def fetched(entry: Published, place: str | None = None) -> Path:
    """The published file, from a folder (or file) or the hub at a URL; None: the hub that $HF_ENDPOINT names.

    A whole download waits in `weights.download_folder` until the caller deletes it, and is not repeated; of one that
    was cut off nothing is kept.

    Raises:
        MissingWeights: it is not there, or the hub cannot be reached or refuses it.
        InputError: the package for downloads is not installed. OutputError: there is no room for it.
    """
    if place is not None and "://" not in place:
        return _in_folder(entry, Path(place))
    hub, target = _hub(), download_folder(entry.name)
    try:
        return Path(hub.hf_hub_download(entry.repository, entry.file, local_dir=target, endpoint=place))
    except Exception as error:  # noqa: BLE001 - the client has some twenty errors of four packages; each means: not here
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise cannot_write(target, error) from error
        reason = _first_sentence(error.__cause__ or error)
        raise MissingWeights(
            f"{entry.repository}/{entry.file} cannot be downloaded ({reason}); get the file by other means and run "
            f"worldline weights add {entry.name} FILE."
        ) from error
    finally:
        if not (target / entry.file).is_file():
            shutil.rmtree(target, ignore_errors=True)


def _in_folder(entry: Published, place: Path) -> Path:
    candidates = (place, place / entry.file, place / entry.repository / entry.file)
    for path in candidates:
        if path.is_file():
            return path
    raise MissingWeights(f"{entry.file} is not in {place}; give the folder that holds it, or the file.")


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError("downloads need huggingface_hub; pip install worldline[models].") from error
    return huggingface_hub


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).partition(". ")[0][:160].rstrip(".") or type(error).__name__
