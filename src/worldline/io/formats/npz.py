"""Everything in one compressed numpy file, with plain arrays (no pickle), readable with `numpy.load` alone.

times_s (T,)                   seconds
intrinsics (4,) or (T, 4)      fx fy cx cy in pixels; the centre of the top-left pixel is (0.5, 0.5)
distortion (0, 2, 4 or 5,)     OpenCV's k1 k2 [p1 p2 [k3]]
image_size (2,)                width, height
world_from_cam (T, 4, 4)       camera-to-world, OpenCV axes (x right, y down, z forward)
depth_z (T, H, W)              along the optical axis, metres if `metric`; 0 where unknown
depth_sigma (T, H, W)          standard deviation of log depth
valid (T, H, W)                where depth means anything
moving (T, H, W)               object ids, 0 static
image (T, H, W, 3)             colours, if there are any
static_points, static_colour   (M, 3)
tracks/points_world (T, N, 3), tracks/visible (T, N), tracks/sigma (T, N),
tracks/colour (N, 3), tracks/moving (N,), tracks/query_frame (N,)
flow/reference (), flow/displacement (T, H, W, 3), flow/valid (T, H, W)
health/NAME (T,)               per-frame self-check; health/trust in [0, 1]
original_from_stored (3, 3), original_size (2,)   back to pixels of the original image
metric (), metric_source (), name (), notes (n,), history ()   the last as JSON text
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from worldline.errors import FormatError, InputError
from worldline.geometry.camera import Camera
from worldline.scene.atomic import written_whole
from worldline.scene.motion import Flow, WorldTracks
from worldline.scene.scene import CameraSigma, Scene, Step

SUFFIXES = (".npz",)
_MAPS = ("depth_z", "depth_sigma", "valid", "moving", "image")
_OPTIONAL = ("image", "static_points", "static_colour")
_PLAIN = ("times_s", "world_from_cam", "static_points", "static_colour", "original_from_stored")


def write(scene: Scene, path: Path, *, overwrite: bool = False) -> None:
    """Write all of a scene; maps that are still on disk go through memory frame by frame.

    Raises:
        OutputError: the output cannot be written.
    """
    with (
        written_whole(Path(path), overwrite=overwrite) as target,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in _arrays(scene):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": np.dtype(array.dtype).str, "fortran_order": False, "shape": tuple(array.shape)}
                np.lib.format.write_array_header_2_0(file, header)
                for part in array if len(array.shape) > 2 else [array]:
                    file.write(np.ascontiguousarray(part).tobytes())


def read(path: str | Path) -> Scene:
    """The scene in such a file.

    Raises:
        InputError: no such file. FormatError: damaged, or not written by `write`.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return _scene(arrays)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give a scene exported as .npz.") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(f"{path} is not a whole scene exported as .npz ({error}); export it again.") from error


def _arrays(scene: Scene) -> Iterator[tuple[str, Any]]:
    for name in (*_PLAIN, *_MAPS):
        if getattr(scene, name) is not None:
            yield name, getattr(scene, name)
    yield "intrinsics", scene.camera.intrinsics
    yield "distortion", np.array(scene.camera.distortion, dtype=np.float64)
    yield "image_size", np.array([scene.width, scene.height])
    yield "original_size", np.array(scene.original_size)
    yield "metric", np.array(scene.metric)
    yield "metric_source", np.array(scene.metric_source)
    yield "name", np.array(scene.name)
    yield "notes", np.array(scene.notes, dtype=np.str_)
    yield "history", np.array(json.dumps([asdict(step) for step in scene.history]))
    for name, values in scene.health.items():
        yield f"health/{name}", np.asarray(values)
    for group in ("tracks", "flow", "camera_sigma"):
        value = getattr(scene, group)
        held = vars(value).items() if value is not None else ()
        for name, array in ((name, array) for name, array in held if array is not None):
            yield f"{group}/{name}", np.asarray(array) if isinstance(array, int | float) else array


def _scene(arrays: dict[str, np.ndarray]) -> Scene:
    def group(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    tracks, flow, sigma = group("tracks/"), group("flow/"), group("camera_sigma/")
    width, height = (int(n) for n in arrays["image_size"])
    maps: dict[str, Any] = {name: arrays[name] for name in (*_PLAIN, *_MAPS) if name not in _OPTIONAL or name in arrays}
    return Scene(
        camera=Camera(arrays["intrinsics"], width, height, tuple(arrays["distortion"])),
        camera_sigma=CameraSigma(**{**sigma, "focal": float(sigma["focal"])}) if sigma else None,
        tracks=WorldTracks(**tracks) if tracks else None,
        flow=Flow(int(flow["reference"]), flow["displacement"], flow["valid"]) if flow else None,
        metric=bool(arrays["metric"]),
        metric_source=str(arrays["metric_source"]),
        health=group("health/"),
        name=str(arrays["name"]),
        original_size=(int(arrays["original_size"][0]), int(arrays["original_size"][1])),
        history=tuple(Step(**step) for step in json.loads(str(arrays["history"]))),
        notes=tuple(str(note) for note in arrays["notes"]),
        **maps,
    )
