"""A folder of images as a clip: natural order, EXIF orientation and focal length, time stamps from file names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps

from worldline.errors import FormatError, InputError
from worldline.io.focal_length import focal_px_from_exif
from worldline.io.frame_store import FrameStore
from worldline.io.selection import Selection, increasing, original_from_stored
from worldline.scene.journal import Progress
from worldline.scene.video import Video

ASSUMED_FPS = 30.0
SUFFIXES = frozenset(".jpg .jpeg .jpe .png .bmp .tif .tiff .webp .ppm .pgm .pnm .jp2 .avif .heic .heif".split())
SUBFOLDERS = ("rgb", "images", "image", "color", "colour", "frames", "cam0/data", "data")
"""Where colour images may lie in a folder that has none itself."""
_COLOUR = re.compile(r"(^|[._-])(colou?r|rgb)([._-]|\d|$)", re.IGNORECASE)
_NOT_COLOUR = re.compile(
    r"(^|[._-])(depth|disp|disparity|mask|masks|seg|label|labels|normal|normals|flow|semantic|alpha|conf)([._-]|\d|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ImageFolder:
    """The images of a clip in order, and what was decided while choosing them."""

    name: str
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def natural_key(name: str) -> tuple[Any, ...]:
    """Sorting key under which frame 2 comes before frame 10."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.findall(r"\d+|\D+", name)
    )


def find_images(folder: Path) -> ImageFolder:
    """The colour images of a folder, or of its subfolder `rgb`, `images`, `color`, `frames`.

    Raises:
        InputError: there are none; the sentence says what is there instead.
    """
    files = _images_in(folder)
    if files:
        chosen, notes = _only_colour(files)
        return ImageFolder(_name(folder), chosen, notes)
    for name in SUBFOLDERS:
        if (folder / name).is_dir() and (files := _images_in(folder / name)):
            chosen, notes = _only_colour(files)
            note = f"{folder.name} holds no images itself; its folder {name} was read."
            return ImageFolder(_name(folder), chosen, (note, *notes))
    raise InputError(_nothing_here(folder))


def read_images(found: ImageFolder, selection: Selection, store: FrameStore, progress: Progress) -> Video:
    """Read the chosen images as a clip.

    Raises:
        FormatError: an image cannot be read. InputError: sizes differ, or nothing is left of the selection.
    """
    times_s, notes, stamped = _times_s(found.files)
    chosen = selection.indices(times_s - times_s[0])
    if not chosen:
        raise InputError(f"no image of {found.name} lies in the chosen time; it has {len(found.files)} images.")
    files = [found.files[i] for i in chosen]
    original, focal_px = _common_size_and_focal(files)
    stored = selection.stored_size(*original)
    seen: Counter[str] = Counter()
    for done, file in enumerate(files, start=1):
        frame, kind = _read_image(file)
        seen[kind] += 1
        store.add(frame if stored == original else cv2.resize(frame, stored, interpolation=cv2.INTER_AREA))
        progress.share(done / len(files))
    facts: dict[str, Any] = {
        "codec": files[0].suffix.lstrip(".").lower(),
        "fps": _rate(times_s[chosen]),
        "rotation": 0,
        "declared_frames": len(files),
        "decoded_frames": len(files),
        "lost_frames": 0,
        "corrupt_frames": 0,
        "files": [file.name for file in files],
        "frame_numbers": list(chosen),
        "clip_frames": len(found.files),
        "clock": "names" if stamped else "assumed",
    }
    if focal_px is not None:
        facts["focal_px"] = focal_px * stored[0] / original[0]
    notes = (*found.notes, *notes, *(f"{n} {kind}." for kind, n in sorted(seen.items()) if kind))
    return Video(
        frames=store.finish(),
        times_s=times_s[chosen],
        name=found.name,
        original_from_stored=original_from_stored(original, stored),
        original_size=original,
        facts=facts,
        notes=notes,
    )


def _images_in(folder: Path) -> tuple[Path, ...]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())
    return tuple(sorted(files, key=lambda p: natural_key(p.name)))


def _only_colour(files: tuple[Path, ...]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    colour = tuple(f for f in files if _COLOUR.search(f.stem))
    others = tuple(f for f in files if not _NOT_COLOUR.search(f.stem))
    chosen = colour or others or files
    if len(chosen) == len(files):
        return files, ()
    left = len(files) - len(chosen)
    return chosen, (f"{len(chosen)} colour images were used; {left} others beside them (such as depth) were left out.",)


def _nothing_here(folder: Path) -> str:
    if (folder / "manifest.json").is_file():
        return f"{folder} is a saved scene, not a clip; use worldline.load to open it."
    videos = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".mp4", ".mov", ".mkv", ".webm", ".avi"))
    if videos:
        return f"{folder} holds no images but videos ({', '.join(videos[:3])}); give one of them."
    return f"{folder} holds no images; give a folder of images (such as {folder.name}/0001.jpg) or a video file."


def _name(folder: Path) -> str:
    resolved = folder.resolve()
    generic = resolved.name in SUBFOLDERS or resolved.name.lower() in ("rgb", "frames", "images")
    return resolved.parent.name if generic and resolved.parent.name else resolved.name


def _times_s(files: Sequence[Path]) -> tuple[Float[np.ndarray, "t"], tuple[str, ...], bool]:
    """Times of the images, notes, and whether the names are time stamps."""
    stems = [f.stem for f in files]
    step_s = 1 / ASSUMED_FPS
    if all(re.fullmatch(r"\d+\.\d+", s) for s in stems):
        stamps, unit = np.array([float(s) for s in stems]), "seconds"
    elif all(re.fullmatch(r"\d{18,19}", s) for s in stems):
        stamps, unit = np.array([int(s) for s in stems], dtype=np.float64) / 1e9, "nanoseconds"
    else:
        note = f"the images carry no time stamps; {ASSUMED_FPS:.0f} frames per second were assumed."
        return np.arange(len(files)) * step_s, (note,), False
    times_s, changed = increasing(stamps, step_s)
    repeated = (f"{changed} time stamps were repeated and have been spread out.",) if changed else ()
    return times_s, (f"the file names were read as time stamps in {unit}.", *repeated), True


def _rate(times_s: Float[np.ndarray, "t"]) -> float:
    return float((len(times_s) - 1) / (times_s[-1] - times_s[0])) if len(times_s) > 1 else ASSUMED_FPS


def _common_size_and_focal(files: Sequence[Path]) -> tuple[tuple[int, int], float | None]:
    headers = [_header(file) for file in files]
    sizes = Counter(size for size, _ in headers)
    size = sizes.most_common(1)[0][0]
    if len(sizes) > 1:
        odd = next(i for i, (other, _) in enumerate(headers) if other != size)
        raise InputError(
            f"{files[odd].name} is {_by(headers[odd][0])} but most images are {_by(size)}; "
            "give images of one size (remove or resize the odd ones)."
        )
    focals = [focal for _, focal in headers if focal is not None]
    return size, float(np.median(focals)) if len(focals) == len(headers) else None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _header(file: Path) -> tuple[tuple[int, int], float | None]:
    """Upright (width, height) and focal length in pixels, without decoding the pixels."""
    try:
        with Image.open(file) as image:
            exif = image.getexif()
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error
    focal_px = focal_px_from_exif(exif, width, height)
    turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height), focal_px


def _read_image(file: Path) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """Upright RGB of one image, and what had to be given up (for a note), or an empty text."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode == "F":
                raise FormatError(f"{file.name} holds floating-point values, not a picture; give 8- or 16-bit images.")
            if image.mode.startswith("I"):
                return _from_16_bit(np.asarray(image)), "images had 16 bits per pixel and were reduced to 8"
            alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
            return np.array(image.convert("RGB")), "images had transparency, which was ignored" if alpha else ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _from_16_bit(grey: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    eight = (np.clip(grey.astype(np.int64), 0, 65535) >> 8).astype(np.uint8)
    return np.repeat(eight[..., None], 3, axis=-1)


def _unreadable(file: Path, error: Exception) -> FormatError:
    if file.suffix.lower() in (".heic", ".heif"):
        return FormatError(f"{file.name} is a HEIC image, which needs pillow-heif; convert it to JPEG or PNG.")
    if isinstance(error, PermissionError):
        return FormatError(f"{file.name} cannot be read (permission denied); change its permissions.")
    if isinstance(error, Image.DecompressionBombError):
        return FormatError(f"{file.name} is larger than any camera image; resize it first.")
    return FormatError(f"{file.name} cannot be read as an image (damaged or not an image); repair or remove it.")
