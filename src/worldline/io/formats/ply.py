"""PLY point clouds (binary, little endian): the static structure, or every point of one frame, or all frames.

Source: Greg Turk, "The PLY Polygon File Format", 1994. Vertices are float32 x y z (world axes) and uint8 colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Bool, Float, UInt8

from worldline.errors import FormatError, InputError
from worldline.scene.atomic import written_whole
from worldline.scene.scene import Scene

SUFFIXES = (".ply",)
MOST_POINTS = 2_000_000
_GREY = 180
_STATIC = "static.ply"
_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}

Points = Float[np.ndarray, "n 3"]
Colours = UInt8[np.ndarray, "n 3"]


def write(scene: Scene, path: Path, *, overwrite: bool = False, frame: int | None = None) -> None:
    """Write points of a scene.

    A path ending in `.ply` gets the static structure, or with `frame` all valid points of that frame, moving ones
    too. Any other path becomes a folder with `static.ply` and `frame_00000.ply` and so on.

    Raises:
        InputError: the scene has no such frame, or no points. OutputError: the output cannot be written.
    """
    note = f"unit {'metre' if scene.metric else 'arbitrary'} ({scene.metric_source})"
    if frame is not None and not 0 <= frame < len(scene):
        raise InputError(f"there is no frame {frame}; the scene has frames 0 to {len(scene) - 1}.")
    one_file = Path(path).suffix.lower() == ".ply"
    with written_whole(Path(path), overwrite=overwrite, marker=None if one_file else _STATIC) as target:
        if one_file:
            write_points(target, *(static_points(scene) if frame is None else frame_points(scene, frame)), note=note)
            return
        target.mkdir()
        write_points(target / _STATIC, *static_points(scene), note=note)
        for t in range(len(scene)):
            write_points(target / f"frame_{t:05d}.ply", *frame_points(scene, t), note=note)


def static_points(scene: Scene) -> tuple[Points, Colours]:
    """The scene's static structure; where it has none, its valid static pixels, thinned to a few million.

    Raises:
        InputError: there is not one static point.
    """
    if scene.static_points is not None and len(scene.static_points):
        points = np.asarray(scene.static_points)
        colour = np.full(points.shape, _GREY) if scene.static_colour is None else scene.static_colour
        return points.astype(np.float32), np.asarray(colour, dtype=np.uint8)
    step = max(1, int(np.ceil(np.sqrt(scene.depth_z.size / MOST_POINTS))))
    parts = [
        _pixels(scene, t, (np.asarray(scene.moving[t]) == 0) & _every(step, scene.height, scene.width))
        for t in range(len(scene))
    ]
    points, colours = (np.concatenate(p) for p in zip(*parts, strict=True))
    if not len(points):
        raise InputError("the scene has no valid static point to write; export one frame instead.")
    return points, colours


def frame_points(scene: Scene, frame: int) -> tuple[Points, Colours]:
    """All valid points of one frame with their colours."""
    return _pixels(scene, frame, np.ones((scene.height, scene.width), dtype=bool))


def write_points(path: Path, points: Points, colours: Colours, *, note: str = "") -> None:
    """Write one point cloud to exactly this path.

    Raises:
        InputError: a point is not finite.
    """
    if not np.isfinite(points).all():
        raise InputError("a point is not finite; remove points without a position before writing.")
    vertices = np.empty(len(points), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    vertices["xyz"], vertices["rgb"] = points, colours
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment {note or 'worldline'}",
        f"element vertex {len(points)}",
    ]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    with path.open("wb") as file:
        file.write("\n".join([*lines, "end_header", ""]).encode("ascii", "replace"))
        file.write(vertices.tobytes())


def read_points(path: str | Path) -> tuple[Points, Colours | None]:
    """Points (float32) and colours, if any, of a binary little endian PLY file.

    Raises:
        FormatError: not such a file, without x y z, or cut off.
    """
    with Path(path).open("rb") as file:
        count, layout = _read_header(file, Path(path))
        data = file.read(count * layout.itemsize)
    if len(data) < count * layout.itemsize:
        raise FormatError(f"{path} is cut off ({len(data) // layout.itemsize} of {count} points); write it again.")
    vertices = np.frombuffer(data, layout)
    names = layout.names or ()
    points = np.stack([vertices[axis].astype(np.float32) for axis in "xyz"], -1)
    coloured = all(c in names for c in ("red", "green", "blue"))
    return points, np.stack([vertices[c] for c in ("red", "green", "blue")], -1) if coloured else None


def _every(step: int, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    mask = np.zeros((height, width), dtype=bool)
    mask[step // 2 :: step, step // 2 :: step] = True
    return mask


def _pixels(scene: Scene, frame: int, mask: Bool[np.ndarray, "h w"]) -> tuple[Points, Colours]:
    points = scene.points_world(frame)
    mask = mask & np.isfinite(points).all(-1)
    if scene.image is None:
        return points[mask], np.full((int(mask.sum()), 3), _GREY, dtype=np.uint8)
    return points[mask], np.asarray(scene.image[frame])[mask]


def _read_header(file: BinaryIO, path: Path) -> tuple[int, np.dtype]:
    if file.readline().strip() != b"ply" or file.readline().split()[:2] != [b"format", b"binary_little_endian"]:
        raise FormatError(f"{path} is not a binary little endian PLY file; convert it first.")
    count, fields, element, first = 0, list[tuple[str, str]](), "", ""
    try:
        while (line := file.readline()) and line.strip() != b"end_header":
            words = line.decode("ascii").split()
            if words[:1] == ["element"]:
                element, first = words[1], first or words[1]
                count = int(words[2]) if element == "vertex" else count
            elif words[:1] == ["property"] and element == "vertex":
                fields.append((words[2], f"<{_TYPES[words[1]]}"))
        layout = np.dtype(fields)
    except (ValueError, IndexError, KeyError) as error:
        raise FormatError(f"{path} has a header that cannot be read; write it again.") from error
    if count < 0 or first != "vertex" or not {"x", "y", "z"} <= set(layout.names or ()):
        raise FormatError(f"{path} does not begin with vertices of x, y, z; give a point cloud.")
    return count, layout
