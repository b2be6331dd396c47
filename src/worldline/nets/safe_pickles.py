"""Tensors of a file that `torch.save` wrote, with nothing that the file names ever imported or run.

What torch's own restricted reader takes is read by it. Files of training runs often also hold settings of classes that
it refuses (OmegaConf, argparse); then the pickle is read here, where every name outside a list of four becomes an inert
placeholder. Either way tensors are mapped: the state of an optimiser in the same file is never read.
"""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldline.errors import FormatError
from worldline.nets.tensor_files import FileMap

_LOCAL_HEADER = struct.Struct("<26xHH")
_STORAGES = {
    f"{kind}Storage": dtype
    for kind, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip


def read(path: Path) -> Any:
    """What `torch.save` wrote: its containers, numbers, strings and (mapped) tensors; the rest as placeholders.

    Raises:
        FormatError: not such a file, a truncated one, or one whose pickle does not make sense.
    """
    records = _records(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # noqa: BLE001 - whatever torch refuses, for whatever reason, is read below or refused there
        return _read_inertly(path, records)


class Inert:
    """Stands for an object whose class is not imported; takes every state and every item, and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Inert:
        return self

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __setstate__(self, *_: Any) -> None: ...

    append = extend = add = __setstate__


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype


class _Rebuilt:
    """A function that the pickle may call; it cannot change it."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def __call__(self, *args: Any) -> Any:
        return self._run(*args)

    def __setstate__(self, *_: Any) -> None: ...


class _InertUnpickler(pickle.Unpickler):
    """Makes tensors and ordered dictionaries, and placeholders of all else."""

    def __init__(self, content: bytes, storage: Callable[[_Storage], Tensor]) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _Rebuilt(self._tensor),
            ("torch._utils", "_rebuild_parameter"): _Rebuilt(lambda data, *_: data),
        }
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return known.get((module, name), Inert)

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage of a kind that is not known")
        return _Storage(str(key), dtype)

    def _tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        flat = self._storage(storage)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if offset < 0 or any(n < 0 for n in (*size, *stride)) or (0 not in size and last >= flat.numel()):
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        return flat.as_strided(size, stride, offset)


def _records(path: Path) -> Mapping[str, zipfile.ZipInfo]:
    """Parts of the archive by their names below its folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, struct.error) as error:
        raise FormatError(
            f"{path} is neither a safetensors file nor a whole file of torch.save (1.6 or newer); download it again."
        ) from error
    if "constants.pkl" in found or "data.pkl" not in found:
        raise FormatError(f"{path} is an archive without weights of torch.save; give the checkpoint itself.")
    return found


def _read_inertly(path: Path, records: Mapping[str, zipfile.ZipInfo]) -> Any:
    pages, flat = FileMap(path), dict[_Storage, Tensor]()

    def storage(wanted: _Storage) -> Tensor:
        if wanted not in flat:
            record = records[f"data/{wanted.key}"]
            if record.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError("its tensors are compressed")
            flat[wanted] = pages.flat(
                _content_offset(path, record), record.file_size // wanted.dtype.itemsize, wanted.dtype
            )
        return flat[wanted]

    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(records["data.pkl"])
        return _InertUnpickler(content, storage).load()
    except Exception as error:  # noqa: BLE001 - a hostile pickle can raise anything, and all of it means the same
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FormatError(f"{path} cannot be read as a file of torch.save ({reason}); download it again.") from error


def _content_offset(path: Path, record: zipfile.ZipInfo) -> int:
    """Where a stored part begins: behind its local header, whose extra field is not that of the directory."""
    with path.open("rb") as file:
        file.seek(record.header_offset)
        name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return record.header_offset + _LOCAL_HEADER.size + name + extra
