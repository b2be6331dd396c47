"""Weights by name: where they lie on this machine, under which licence, and how they get there.

One folder holds one safetensors file per name (`tensor_files`), written whole or not at all, with its origin, licence
and checksum in its header. What a published file holds is brought into that form once, by the converter of its network
(`convert` in the network's `checkpoint.py`), which is handed in: this module knows no network.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from worldline.errors import FormatError, InputError, LicenceError, MissingWeights, OutputError, WorldlineError
from worldline.nets import safe_pickles, tensor_files
from worldline.nets.published import PUBLISHED, UNKNOWN, Licence, Published, published
from worldline.nets.state_dicts import weights_in
from worldline.nets.tensor_files import TensorFile
from worldline.scene.atomic import check_free, written_whole

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""In which weights can be stored. Networks get float32 either way."""

_FORMAT = "1"
_SUFFIX = ".safetensors"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PATHLIKE = (_SUFFIX, ".pth", ".pt", ".ckpt", ".bin")
_STALE_S = 3600
_SAID = {
    "network", "source", "licence", "commercial", "licence_note", "dtype", "start", tensor_files.CHECKSUM,
}  # fmt: skip


@dataclass(frozen=True)
class WeightsFile:
    """Weights on this machine.

    Attributes:
        network: whose they are; None if the file does not say. checksum: SHA-256 of the tensors when they were
        stored; None for a file in the form in which it was published. source: where they came from.
        dtype: "fp32" or "bf16", None if not known. start: see `Published`.
    """

    name: str
    path: Path
    licence: Licence = UNKNOWN
    network: str | None = None
    checksum: str | None = None
    source: str = ""
    dtype: str | None = None
    start: bool = False


@dataclass(frozen=True, eq=False)
class Converted:
    """Tensors under the names of our network; `exact`: those never stored in less than float32; notes for the user."""

    tensors: Mapping[str, Tensor]
    exact: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


class Converter(Protocol):
    """From the tensors of a published file to ours; raises FormatError where they do not fit the network."""

    def __call__(self, tensors: Mapping[str, Tensor], *, start: bool = False, any_size: bool = False) -> Converted:
        """`start`: parts may be missing (see `Published`). `any_size`: the small sizes for tests are welcome, too."""
        ...


@dataclass(frozen=True)
class Own:
    """What is to be known of weights that nobody has published: whose network, under which licence."""

    network: str
    licence: Licence = UNKNOWN


def folder() -> Path:
    """Where weights lie: $WORLDLINE_WEIGHTS, or in the user's cache folder."""
    if named := os.environ.get("WORLDLINE_WEIGHTS"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")).expanduser() / "worldline" / "weights"
    cache = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "worldline" / "weights"


def path_of(name: str) -> Path:
    """Where weights of a name lie, or would.

    Raises:
        InputError: it cannot be a name.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a name of weights; use small letters, digits, '-', '_' and '.'.")
    return folder() / f"{name}{_SUFFIX}"


def stored() -> list[str]:
    """Names of the weights on this machine."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in folder().glob(f"[!.]*{_SUFFIX}") if path.is_file())


def find(name_or_path: str | Path, *, commercial: bool = False) -> WeightsFile:
    """Weights by their name, or a file by its path; of stored ones the size is checked, not yet the checksum.

    Raises:
        MissingWeights: not on this machine. FormatError: a damaged file.
        LicenceError: commercial use was asked for, and the licence does not clearly allow it.
    """
    is_path = isinstance(name_or_path, Path) or _looks_like_a_path(name_or_path)
    entry = None if is_path else published(str(name_or_path))
    if entry is not None:
        _check_licence(entry.name, entry.licence, commercial)
    found = _file_at(Path(name_or_path)) if is_path else _file_named(str(name_or_path), entry)
    _check_licence(found.name, found.licence, commercial)
    return found


def read(path: Path) -> TensorFile:
    """Tensors of a file in any form that is understood: safetensors, or what `torch.save` wrote.

    Raises:
        MissingWeights: there is no such file. FormatError: neither of the two, or a damaged one.
    """
    _check_file(path)
    try:
        if tensor_files.is_safetensors(path):
            return tensor_files.read(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check its permissions.") from error
    return TensorFile(weights_in(safe_pickles.read(path)), {})


def add(
    name: str, path: Path, converter_of: Callable[[str], Converter], *, own: Own | None = None, dtype: str = "fp32",
    source: str = "", overwrite: bool = False,
) -> tuple[WeightsFile, tuple[str, ...]]:  # fmt: skip
    """Bring a published file (or one of your own) into the stored form, under a name; returns it, and notes.

    Args:
        converter_of: the converter of a network, by its name. source: where the file came from, if not its name.
        own: needed for, and only for, a name that nobody publishes.
        dtype: "fp32", or "bf16" for half the size; tensors of one dimension (norms, biases) stay float32.

    Raises:
        InputError: an impossible name, a name without `own`. MissingWeights: there is no such file.
        FormatError: it is not what it should be. OutputError: it cannot be written, or the name is taken.
    """
    entry, target = published(name), path_of(name)
    about = _about(name, entry, own)
    check_new(name, overwrite=overwrite)
    converted = _converted(path, converter_of(about.network), start=about.start, any_size=entry is None)
    types = {name: _stored_type(name, tensor, converted, dtype) for name, tensor in converted.tensors.items()}
    _check_room(target, sum(t.numel() * types[name].itemsize for name, t in converted.tensors.items()))
    _sweep(target)
    header = _header(about, source or path.name, dtype)
    with written_whole(target, overwrite=overwrite) as temporary:
        tensor_files.write(temporary, converted.tensors, header, types)
    return find(name), converted.notes


def check(file: WeightsFile) -> None:
    """Compare the tensors of stored weights with their checksum.

    Raises:
        FormatError: they have changed, or the file has none.
    """
    if file.checksum is None:
        raise FormatError(f"{file.path} holds no checksum of worldline; add it with worldline weights add.")
    if tensor_files.checksum(file.path) != file.checksum:
        raise FormatError(f"the weights {file.name} have changed since they were stored; {_renewal(file.name)}.")


def remove(name: str) -> Path:
    """Delete stored weights and what remained of their download.

    Raises:
        MissingWeights: there are none of that name. OutputError: they cannot be deleted.
    """
    path, download = path_of(name), download_folder(name)
    if not path.is_file() and not download.is_dir():
        raise MissingWeights(f"there are no weights {name} in {path.parent}; worldline weights list names those there.")
    try:
        path.unlink(missing_ok=True)
        shutil.rmtree(download, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be deleted ({error.strerror or error}); check its permissions.") from error
    return path


def check_new(name: str, *, overwrite: bool = False) -> None:
    """Raise what `add` would raise about the name, before a long download.

    Raises:
        OutputError: weights of that name are stored, and `overwrite` is off.
    """
    path = path_of(name)
    if path.exists() and not overwrite:
        raise OutputError(f"the weights {name} are stored already ({path}); say --overwrite to replace them.")
    check_free(path, overwrite=overwrite)


def forget_download(name: str) -> None:
    """Delete a download."""
    shutil.rmtree(download_folder(name), ignore_errors=True)


def download_folder(name: str) -> Path:
    """Where a download of that name waits until it is whole and converted."""
    return folder() / f".{name}.download"


def _looks_like_a_path(text: str) -> bool:
    return os.sep in text or "/" in text or text.lower().endswith(_PATHLIKE)


def _check_licence(name: str, licence: Licence, commercial: bool) -> None:
    if commercial and not licence.commercial:
        raise LicenceError(f"the licence of the weights {name} is {licence}; choose others for a commercial use.")


def _check_file(path: Path) -> None:
    if not path.exists():
        raise MissingWeights(f"{path} does not exist; give the file of the weights.")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise FormatError(f"{path} is {kind}, where a file of weights is needed; give that file.")
    if not path.stat().st_size:
        raise FormatError(f"{path} is empty; download it again.")


def _file_named(name: str, entry: Published | None) -> WeightsFile:
    path = path_of(name)
    if path.is_file():
        return _as_stored(name, path, entry)
    if entry is None:
        raise MissingWeights(f"there are no weights named {name!r}; worldline weights list names those that are known.")
    raise MissingWeights(
        f"the weights {name} are not on this machine; worldline weights fetch {name} downloads them "
        f"({entry.megabytes / 1000:.1f} GB), worldline weights add {name} FILE takes a file that you have."
    )


def _file_at(path: Path) -> WeightsFile:
    _check_file(path)
    if path.suffix == _SUFFIX and "worldline" in tensor_files.metadata(path):
        return _as_stored(path.stem, path, None)
    return WeightsFile(path.name, path)


def _as_stored(name: str, path: Path, entry: Published | None) -> WeightsFile:
    try:
        said = tensor_files.metadata(path)
    except FormatError as error:
        raise FormatError(f"the weights {name} ({path}) are damaged; {_renewal(name)}.") from error
    if said.get("worldline") != _FORMAT or not _SAID <= said.keys():
        raise FormatError(f"{path} was not stored by this version of worldline; {_renewal(name)}.")
    own = Licence(said["licence"], said["commercial"] == "yes", said["licence_note"])
    return WeightsFile(
        name, path, entry.licence if entry else own, said["network"], said[tensor_files.CHECKSUM], said["source"],
        said["dtype"], said["start"] == "yes",
    )  # fmt: skip


def _renewal(name: str) -> str:
    return f"worldline weights remove {name}, then fetch or add them again"


def _about(name: str, entry: Published | None, own: Own | None) -> Published:
    if entry is not None and own is not None:
        raise InputError(f"{name} is the name of published weights; choose another for weights of your own.")
    if entry is not None:
        return entry
    if own is None:
        known = ", ".join(entry.name for entry in PUBLISHED)
        raise InputError(f"nobody publishes weights {name!r}; choose one of {known}, or say --network for your own.")
    return Published(name, own.network, "", "", 0, own.licence)


def _converted(path: Path, convert: Converter, *, start: bool, any_size: bool) -> Converted:
    tensors = read(path).tensors
    try:
        return convert(tensors, start=start, any_size=any_size)
    except WorldlineError as error:
        raise type(error)(f"{path}: {error}") from error


def _stored_type(name: str, tensor: Tensor, converted: Converted, dtype: str) -> torch.dtype:
    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.float32 if tensor.ndim < 2 or name in converted.exact else DTYPES[dtype]


def _header(about: Published, source: str, dtype: str) -> dict[str, str]:
    def yes(said: bool) -> str:
        return "yes" if said else "no"

    return {
        "format": "pt", "worldline": _FORMAT, "name": about.name, "network": about.network, "source": source,
        "licence": about.licence.name, "commercial": yes(about.licence.commercial),
        "licence_note": about.licence.note, "dtype": dtype, "start": yes(about.start),
    }  # fmt: skip


def _check_room(target: Path, needed: int) -> None:
    place = next(parent for parent in target.absolute().parents if parent.exists())
    if (free := shutil.disk_usage(place).free) < needed:
        raise OutputError(
            f"{place} has {free / 1e9:.1f} GB left and {needed / 1e9:.1f} GB are needed; free some space, or name "
            "another folder in WORLDLINE_WEIGHTS."
        )


def _sweep(target: Path) -> None:
    """Delete what a run that was killed left behind; younger files may belong to one that is still at work."""
    for left in target.parent.glob(f".{target.stem}.*.tmp{_SUFFIX}"):
        if time.time() - left.stat().st_mtime > _STALE_S:
            left.unlink(missing_ok=True)
