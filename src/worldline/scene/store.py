"""A scene on disk: one folder with zarr arrays and a manifest, written beside and renamed into place.

    SCENE/manifest.json     version, camera, history, names of the arrays; its presence means the scene is whole
    SCENE/arrays.zarr/      one chunk per frame for per-frame maps, so a frame is read without the others

Reading is lazy: per-frame maps stay zarr arrays until indexed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from worldline.errors import FormatError, InputError
from worldline.geometry.camera import Camera
from worldline.scene.atomic import written_whole
from worldline.scene.motion import Flow, WorldTracks
from worldline.scene.scene import CameraSigma, Scene, Step

VERSION = 1
_MANIFEST = "manifest.json"
_MAPS = ("depth_z", "depth_sigma", "valid", "moving", "image")
_WHOLE = ("times_s", "world_from_cam", "static_points", "static_colour", "original_from_stored")


def save(scene: Scene, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a scene as a folder; whole or not at all.

    Raises:
        OutputError: the folder exists (and `overwrite` is off), is not a scene, or cannot be written.
    """
    target = Path(folder)
    with written_whole(target, overwrite=overwrite, marker=_MANIFEST) as temporary:
        temporary.mkdir()
        _write_arrays(scene, temporary / "arrays.zarr")
        (temporary / _MANIFEST).write_text(json.dumps(_manifest(scene), indent=1))
    return target


def load(folder: str | Path) -> Scene:
    """Read a scene; its per-frame maps stay on disk until they are indexed.

    Raises:
        InputError: no such folder. FormatError: not a scene, half a scene, or one of a newer version.
    """
    import zarr

    path = Path(folder)
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder of a saved scene.")
    if (path / "scene" / _MANIFEST).is_file():
        path = path / "scene"
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        version = manifest["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is not a worldline scene (no readable manifest); run reconstruct again.") from error
    if version > VERSION:
        raise FormatError(f"{path} was written by a newer worldline (format {version}); upgrade worldline to read it.")
    try:
        group = zarr.open_group(path / "arrays.zarr", mode="r")
        return _scene(manifest, group)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is damaged ({error}); run reconstruct again.") from error


def _write_arrays(scene: Scene, path: Path) -> None:
    import zarr
    from zarr.codecs import BloscCodec

    group = zarr.open_group(path, mode="w")

    def put(name: str, array: Any, *, by_frame: bool) -> None:
        shape = tuple(array.shape)
        chunks = (1, *shape[1:]) if by_frame else tuple(max(1, s) for s in shape)
        codec = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
        stored = group.create_array(name, shape=shape, dtype=array.dtype, chunks=chunks, compressors=codec)
        if by_frame:
            for t in range(shape[0]):
                stored[t] = np.asarray(array[t])
        else:
            stored[...] = np.asarray(array)

    for name in _MAPS:
        if getattr(scene, name) is not None:
            put(name, getattr(scene, name), by_frame=True)
    for name in _WHOLE:
        if getattr(scene, name) is not None:
            put(name, np.asarray(getattr(scene, name)), by_frame=False)
    put("intrinsics", scene.camera.intrinsics, by_frame=False)
    for folder, arrays in _small(scene).items():
        for name, values in arrays.items():
            put(f"{folder}/{name}", np.atleast_1d(np.asarray(values)), by_frame=False)
    if scene.flow is not None:
        put("flow/displacement", scene.flow.displacement, by_frame=True)
        put("flow/valid", scene.flow.valid, by_frame=True)


def _small(scene: Scene) -> dict[str, Mapping[str, Any]]:
    """Arrays that are read whole, by the group they are stored in."""
    parts = {"camera_sigma": scene.camera_sigma, "tracks": scene.tracks}
    known = {name: _known(vars(part)) for name, part in parts.items() if part is not None}
    return {"health": scene.health, **known}


def _known(items: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in items.items() if value is not None}


def _manifest(scene: Scene) -> dict[str, Any]:
    return {
        "version": VERSION,
        "name": scene.name,
        "frames": len(scene),
        "width": scene.camera.width,
        "height": scene.camera.height,
        "distortion": list(scene.camera.distortion),
        "metric": scene.metric,
        "metric_source": scene.metric_source,
        "original_size": list(scene.original_size or ()),
        "flow_reference": None if scene.flow is None else scene.flow.reference,
        "has_tracks": scene.tracks is not None,
        "health": sorted(scene.health),
        "history": [asdict(step) for step in scene.history],
        "notes": list(scene.notes),
    }


def _scene(manifest: dict[str, Any], group: Any) -> Scene:
    maps = {name: group[name] for name in _MAPS if name in group}
    whole = {name: group[name][...] for name in _WHOLE if name in group}
    tracks = flow = sigma = None
    if "camera_sigma" in group:
        found = {name: values[...] for name, values in group["camera_sigma"].arrays()}
        sigma = CameraSigma(found["centre"], found["rotation_rad"], float(found["focal"][0]))
    if manifest["has_tracks"]:
        tracks = WorldTracks(**{name: values[...] for name, values in group["tracks"].arrays()})
    if manifest["flow_reference"] is not None:
        flow = Flow(manifest["flow_reference"], group["flow/displacement"], group["flow/valid"])
    camera = Camera(group["intrinsics"][...], manifest["width"], manifest["height"], tuple(manifest["distortion"]))
    return Scene(
        camera=camera,
        camera_sigma=sigma,
        tracks=tracks,
        flow=flow,
        metric=manifest["metric"],
        metric_source=manifest["metric_source"],
        health={name: group[f"health/{name}"][...] for name in manifest["health"]},
        name=manifest["name"],
        original_size=tuple(manifest["original_size"]),
        history=tuple(Step(**step) for step in manifest["history"]),
        notes=tuple(manifest["notes"]),
        **maps,
        **whole,
    )
