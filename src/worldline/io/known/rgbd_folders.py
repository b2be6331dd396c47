"""Folders of colour and depth images: which depth files there are, and what their values mean by custom.

Layouts: TUM RGB-D (`rgb/` and `depth/`, time stamps as names, lists `rgb.txt` and `depth.txt`, 5000 values per metre);
7-Scenes (`frame-000000.color.png` beside `frame-000000.depth.png`, millimetres, 65535 invalid); two subfolders with
equal names or the same order (ScanNet, DeepDeform, NYU and many others, mostly millimetres).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from worldline.errors import FormatError, InputError
from worldline.io.image_folders import SUBFOLDERS, natural_key
from worldline.io.known.clip_frames import stamp_s
from worldline.io.known.number_tables import text_of

TUM_SCALE = 5000.0
MILLIMETRES = 1000.0

SUFFIXES = frozenset((".png", ".tif", ".tiff", ".pgm", ".npy"))
_DEPTH_FOLDERS = ("depth", "depths", "depth_images", "depth_image")
_DEPTH_NAME = re.compile(r"(^|[._-])depth([._-]|\d|$)", re.IGNORECASE)
_LIST = "depth.txt"


@dataclass(frozen=True)
class DepthFiles:
    """Depth images in natural order.

    Attributes:
        scale: values per metre by custom of the layout; None where the values must tell.
        stamps_s: time of each file where a list says it; None: look at the names.
        layout: its name, for people.
    """

    folder: Path
    files: tuple[Path, ...]
    layout: str
    scale: float | None = None
    stamps_s: tuple[float, ...] | None = None


def find_beside(source: Path) -> DepthFiles | None:
    """The depth images that belong to a folder of colour images, if it has any: listed, in a subfolder, or beside.

    Images of 8 bits are pictures of depth, not depth, and do not count.
    """
    if not source.is_dir():
        return None
    if (source / _LIST).is_file() and (source / "rgb").is_dir():
        return _listed(source)
    beside = _depth_files(source, named=True)
    if _is_measured(beside):
        return DepthFiles(source, beside, "colour and depth side by side")
    folders = [source / name for name in _DEPTH_FOLDERS if (source / name).is_dir()]
    found = next((found for found in map(_in_folder, folders) if _is_measured(found.files)), None)
    return found or _beside_colour_in_subfolder(source)


def _beside_colour_in_subfolder(source: Path) -> DepthFiles | None:
    """Where a folder holds no images itself and one inside it is read (`find_images`): what lies beside those."""
    for folder in (source / name for name in SUBFOLDERS if (source / name).is_dir()):
        beside = _depth_files(folder, named=True)
        if _is_measured(beside):
            return DepthFiles(folder, beside, "colour and depth side by side")
    return None


def _is_measured(files: tuple[Path, ...]) -> bool:
    """Whether there are files, and the first is not an ordinary picture of 8 bits."""
    if not files or files[0].suffix.lower() == ".npy":
        return bool(files)
    try:
        with Image.open(files[0]) as image:
            return image.mode.startswith("I") or image.mode == "F"
    except (OSError, ValueError, SyntaxError):
        return True  # damaged: it is told when it is read


def find_depth(folder: Path) -> DepthFiles:
    """The depth images of a folder that was named as such.

    Raises:
        InputError: no such folder, or no depth images in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder with a depth image per frame.")
    found = find_beside(folder) or _in_folder(folder)
    if not found.files:
        raise InputError(f"{folder} holds no depth images; give 16-bit PNG or TIFF, or .npy in metres.")
    return found


def _in_folder(folder: Path) -> DepthFiles:
    files = _depth_files(folder, named=True) or _depth_files(folder, named=False)
    stamped = bool(files) and all(stamp_s(file.stem) is not None for file in files)
    scale = TUM_SCALE if stamped and folder.name == "depth" and (folder.parent / "rgb").is_dir() else None
    return DepthFiles(folder, files, "TUM" if scale else "a folder of depth images", scale)


def _depth_files(folder: Path, *, named: bool) -> tuple[Path, ...]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    chosen = [p for p in files if not named or _DEPTH_NAME.search(p.stem)]
    return tuple(sorted(chosen, key=lambda p: natural_key(p.name)))


def _listed(source: Path) -> DepthFiles:
    """TUM's list of depth images; its paths are relative to the folder."""
    rows = [line.split("#")[0].split() for line in text_of(source / _LIST).splitlines()]
    rows = [row for row in rows if row]
    try:
        stamps_s = tuple(float(row[0]) for row in rows)
        files = tuple(source / row[1] for row in rows)
    except (ValueError, IndexError):
        raise FormatError(f"{source / _LIST} has a line that is not `time file`; correct or remove it.") from None
    if not files:
        raise FormatError(f"{source / _LIST} lists no files; remove it or fill it.")
    return DepthFiles(source, files, "TUM", TUM_SCALE, stamps_s)
