"""Images stored as the bytes of their files in an `.npz` archive, as TAPVid-3D and WorldTrack keep them.

Such an array is either of fixed-length bytes or of Python objects. Objects are pickled, and a pickle can run any code,
so only those are read here that hold bytes and nothing else.
"""

from __future__ import annotations

import io
import pickle
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from worldline.errors import FormatError

_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, ImportError, NotImplementedError,
    SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError,
    Image.DecompressionBombError,
)  # fmt: skip
"""What numpy, zipfile, zlib, pickle and Pillow raise on damaged files."""


class _OnlyArrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return super().find_class(module, name)


def read_encoded(path: Path, key: str, count: int | None = None) -> UInt8[np.ndarray, "t h w 3"]:
    """The images (RGB) under a key of an `.npz` file, at most the first `count`.

    Raises:
        FormatError: they are not there, or are no images of one size.
    """
    try:
        files = _stored(path, key)[:count]
        return np.stack([_decoded(data) for data in files])
    except UNREADABLE as error:
        why = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        raise FormatError(f"the images ({key}) of {path.name} cannot be read ({why}); download it again.") from error


def _stored(path: Path, key: str) -> list[bytes]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read_header(stream)
        if dtype.hasobject:
            array = _OnlyArrays(stream).load()
            return [bytes(item) for item in np.asarray(array).reshape(-1)]
    with np.load(path) as arrays:
        stored = arrays[key]
    return [bytes(item) for item in stored.reshape(-1)] if stored.dtype.kind == "S" else list(stored)


def _decoded(data: Any) -> np.ndarray:
    if isinstance(data, bytes):
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    frame = np.asarray(data)
    if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"an image has shape {frame.shape}")
    return frame
