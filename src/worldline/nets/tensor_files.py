"""Named tensors on disk (safetensors), read without being copied and written one at a time.

A file is mapped: its tensors are there at once, and take memory only where they are touched. Writing needs the memory
of one tensor, whatever the size of the file; the SHA-256 of all tensors goes into the header in the same pass.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldline.errors import FormatError, InputError

CHECKSUM = "checksum"
"""Name, in the metadata of a file, of the checksum of its tensors."""

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_CODES = {dtype: code for code, dtype in _TYPES.items()}
_ALIGNMENT = 64
_CHUNK = 1 << 22


class FileMap:
    """A file as memory: private (writing to it never reaches the file), and filled from the file where touched."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def flat(self, offset: int, count: int, dtype: torch.dtype) -> Tensor:
        """`count` values that begin at a byte, uncopied."""
        if count == 0:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(self._bytes, dtype=dtype, count=count, offset=offset)

    def forget(self) -> None:
        """Give back the memory of what was read; only while nobody has written to these tensors."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._bytes.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, eq=False)
class TensorFile:
    """Tensors of a file, mapped, and what the file says about itself."""

    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]
    pages: FileMap | None = None

    def forget(self) -> None:
        """See `FileMap.forget`; nothing where another library did the mapping."""
        if self.pages is not None:
            self.pages.forget()


def placed(tensor: Tensor, device: str | torch.device, dtype: torch.dtype) -> Tensor:
    """A mapped tensor where and as it is needed; uncopied if it is, and begins where sums come out the same every time.

    Vector units take another path, with other rounding, through data that does not begin at a multiple of their width.
    """
    moved = tensor.detach().to(device, dtype)
    return moved.clone() if moved.data_ptr() % _ALIGNMENT else moved


def is_safetensors(path: Path) -> bool:
    """Whether a file begins like one."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def read(path: Path) -> TensorFile:
    """All tensors of a safetensors file, mapped.

    Raises:
        FormatError: not a safetensors file, a damaged or truncated one, or one with types that torch lacks here.
    """
    start, header = _checked_header(path)
    metadata = header.pop("__metadata__", {})
    if unknown := {entry["dtype"] for entry in header.values()} - set(_TYPES):
        raise FormatError(f"{path} holds tensors of type {min(unknown)}, which cannot be read; store them as F32.")
    pages = FileMap(path)
    tensors = {}
    for name, entry in header.items():
        count = torch.Size(entry["shape"]).numel()
        flat = pages.flat(start + entry["data_offsets"][0], count, _TYPES[entry["dtype"]])
        tensors[name] = flat.view(entry["shape"])
    return TensorFile(tensors, metadata, pages)


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself; its size is checked, its tensors are not read.

    Raises:
        FormatError: as `read`.
    """
    return _checked_header(path)[1].get("__metadata__", {})


def write(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], types: Mapping[str, torch.dtype]
) -> None:
    """Write tensors as these types, with the checksum among the metadata.

    Raises:
        InputError: a tensor holds values that are not finite. OSError: the disk is full, or cannot be written.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].numel() * types[name].itemsize, name))
    table, end = {}, 0
    for name in order:
        size = tensors[name].numel() * types[name].itemsize
        table[name] = {
            "dtype": _CODES[types[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [end, end + size],
        }
        end += size
    digest = _begun(table)
    with path.open("wb") as file:
        file.write(_header(table, metadata, checksum="0" * 64))
        for name in order:
            content = _bytes(name, tensors[name].to(types[name]))
            digest.update(content)
            file.write(content)
        file.seek(0)
        file.write(_header(table, metadata, checksum=digest.hexdigest()))


def checksum(path: Path) -> str:
    """The checksum that the tensors of a file have now: SHA-256 of their table and their bytes.

    Raises:
        FormatError: as `read`.
    """
    start, table = _checked_header(path)
    table.pop("__metadata__", None)
    digest = _begun(table)
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _checked_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and the header, once the library has found both in order."""
    try:
        with safe_open(path, framework="pt"), path.open("rb") as file:
            return _parsed_header(file)
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise FormatError(f"{path} is not a whole safetensors file ({reason}); copy or download it again.") from error


def _parsed_header(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    (length,) = struct.unpack("<Q", file.read(8))
    return 8 + length, json.loads(file.read(length))


def _header(table: Mapping[str, Any], metadata: Mapping[str, str], *, checksum: str) -> bytes:
    text = json.dumps({"__metadata__": {**metadata, CHECKSUM: checksum}, **table}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _begun(table: Mapping[str, Any]) -> Any:
    return hashlib.sha256(json.dumps(table, sort_keys=True, separators=(",", ":")).encode())


def _bytes(name: str, tensor: Tensor) -> memoryview:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InputError(f"the weights {name} hold values that are not finite; the file is damaged or diverged.")
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
