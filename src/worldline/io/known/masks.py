"""Moving masks from a folder of images: binary, object numbers, or one colour per object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from worldline.errors import FormatError, InputError
from worldline.io.image_folders import SUFFIXES, natural_key
from worldline.io.known.clip_frames import ClipFrames, match_files
from worldline.io.known.image_sizes import check_same_shape, nearest_pixels
from worldline.scene.observations import MovingMasks, Source
from worldline.scene.video import Video

_MOST_OBJECTS = 32
_BRIGHT = 128
_MOST = 0.7
_LUMA = np.array([77, 150, 29])


def read_masks(folder: Path, video: Video) -> MovingMasks:
    """Masks of the frames, `known` where the folder has one.

    0 (black) is static. One other value is "moves"; up to 32 different values or colours are objects of their own,
    the same over time; more come from a lossy or smoothed image, which is cut at half brightness.

    Raises:
        InputError: no folder, no images, none that belongs to a frame, other shapes. FormatError: not an image.
    """
    clip = ClipFrames.of(video)
    found = match_files(_images(folder), clip, str(folder))
    codes = [None if file is None else _codes(file, video) for file in found.files]
    there = [code for code in codes if code is not None]
    shape = there[0].shape
    if any(code.shape != shape for code in there):
        raise InputError(f"the images in {folder} have different sizes; give masks of one size.")
    ids = np.zeros((len(video), *shape), dtype=np.uint8)
    ids[found.known], kind = _numbered(there)
    known = None if found.known.all() else found.known
    share = float(np.median((ids[found.known] > 0).mean((1, 2))))
    if known is None and share == 1:
        raise InputError(f"the masks in {folder} leave nothing static; 0 (black) is static, so invert them if needed.")
    count = int(found.known.sum())
    note = f"the masks of {count} of {len(video)} frames were taken from {folder.name} ({found.how}; {kind})."
    notes = (note, *_about_share(share))
    return MovingMasks(ids, Source(folder.name, notes=notes), known=known)


def _about_share(share: float) -> tuple[str, ...]:
    """A sentence about masks under which most of the picture moves."""
    if share <= _MOST:
        return ()
    return (
        f"the given masks say that {100 * share:.0f} % of the images move; 0 (black) is static, so invert them if that "
        "is the wrong way round.",
    )


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder with an image per frame.")
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return sorted(files, key=lambda p: natural_key(p.name))


def _codes(file: Path, video: Video) -> Int[np.ndarray, "h w"]:
    """One whole number per pixel: the value, the number in the palette, or the colour; no larger than the video."""
    try:
        with Image.open(file) as image:
            plain = image if image.mode in ("1", "L", "P") or image.mode.startswith("I") else image.convert("RGB")
            values = np.asarray(plain).astype(np.int64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FormatError(f"{file} cannot be read as an image; repair or remove it.") from error
    check_same_shape(values.shape[1], values.shape[0], video, str(file))
    values = nearest_pixels(values, video.height, video.width)
    if values.ndim == 2:
        return values
    grey = (values[..., :1] == values).all()
    return values[..., 0] if grey else values @ np.array([1 << 16, 1 << 8, 1])


def _numbered(codes: Sequence[Int[np.ndarray, "h w"]]) -> tuple[UInt8[np.ndarray, "k h w"], str]:
    """Object numbers from 1 in the order of the values, and what the values were taken for."""
    values = np.unique(np.concatenate([np.unique(code) for code in codes]))
    objects = values[values != 0]
    if len(objects) > _MOST_OBJECTS:
        return np.stack([_brightness(code) >= _BRIGHT for code in codes]).astype(np.uint8), "cut at half brightness"
    numbered = np.stack([np.searchsorted(objects, code) + 1 for code in codes])
    kind = "binary" if len(objects) <= 1 else f"{len(objects)} objects"
    return np.where(np.stack(codes) == 0, 0, numbered).astype(np.uint8), kind


def _brightness(code: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    colour = np.stack([code >> 16 & 255, code >> 8 & 255, code & 255], -1)
    return np.where(code < 256, code, (colour @ _LUMA) >> 8)
