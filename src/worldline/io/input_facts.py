"""What an input is, without reading its pixels: a video file, a folder of images, an RGB-D folder, one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
from PIL import Image

from worldline.errors import FormatError, InputError
from worldline.io.image_folders import SUFFIXES, ImageFolder, find_images
from worldline.io.known.rgbd_folders import find_beside

Facts = dict[str, Any]


def input_facts(path: Path) -> Facts:
    """Kind, frames, size, and for a video codec, rate and seconds; `says` is all of it in one line. JSON-like.

    Raises:
        InputError: no such path, or nothing to read in it. FormatError: not a video or image.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give a log, a video file or a folder of images.")
    if path.is_dir():
        return _of_folder(path)
    if path.suffix.lower() in SUFFIXES:
        return _of_images(path, ImageFolder(path.stem, (path,)))
    return _of_video(path)


def _of_folder(folder: Path) -> Facts:
    found = _of_images(folder, find_images(folder))
    beside = find_beside(folder)
    if beside is None:
        return found
    says = f"{found['says']}; {len(beside.files)} depth images ({beside.layout})"
    return {**found, "kind": "RGB-D folder", "depth_images": len(beside.files), "layout": beside.layout, "says": says}


def _of_images(path: Path, found: ImageFolder) -> Facts:
    try:
        with Image.open(found.files[0]) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FormatError(f"{found.files[0]} cannot be read as an image; repair or remove it.") from error
    count = len(found.files)
    kind = "image" if path.is_file() else "folder of images"
    says = f"{count} image{'s' if count > 1 else ''} of {width}x{height} ({found.files[0].suffix.lstrip('.').lower()})"
    return {"path": str(path), "kind": kind, "frames": count, "width": width, "height": height, "says": says}


def _of_video(path: Path) -> Facts:
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            streams = container.streams.video
            if not streams or container.format.name == "tty":
                raise FormatError(f"{path} has no video in it; give a log, a video file or a folder of images.")
            stream = streams[0]
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            length = length or (container.duration / av.time_base if container.duration else None)
            facts = {"codec": stream.codec_context.name, "width": stream.width, "height": stream.height}
            frames = stream.frames or (round(length * rate) if length else None)
    except (av.FFmpegError, OSError) as error:
        raise FormatError(
            f"{path} is neither a log nor a video that can be read (damaged, or another kind of file); give another."
        ) from error
    shown = f"{length:.2f} s" if length else "of unknown length"
    says = f"{facts['codec']} {facts['width']}x{facts['height']}, {rate:.4g} frames per second, {shown}"
    return {"path": str(path), "kind": "video", "frames": frames, "fps": rate, "seconds": length, **facts, "says": says}
