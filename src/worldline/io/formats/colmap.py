"""A COLMAP text model at the original resolution, with images and masks, ready to open or to train splats on.

    sparse/0/cameras.txt images.txt points3D.txt     the model that every version reads
    sparse/0/rigs.txt frames.txt                     the same for COLMAP 4 (one camera per rig)
    images/000000.jpg                                colours, resized to the original resolution
    masks/000000.jpg.png                             0 where something moves (as COLMAP's mask path expects)

COLMAP stores cam_from_world, quaternions scalar first, and the centre of the top-left pixel at (0.5, 0.5), as
worldline does. Source: COLMAP documentation, "Output Format" (version 4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from worldline.errors import FormatError, OutputError
from worldline.geometry import camera as pinhole
from worldline.geometry import pixels, se3
from worldline.scene.atomic import written_whole
from worldline.scene.scene import Scene

SUFFIXES: tuple[str, ...] = ()
_MODELS = {0: "PINHOLE", 2: "OPENCV", 4: "OPENCV", 5: "FULL_OPENCV"}
_PARAMETERS = {"PINHOLE": 4, "OPENCV": 8, "FULL_OPENCV": 12}
_NO_POINT = -1


@dataclass(frozen=True, eq=False)
class Model:
    """What a COLMAP text model holds.

    Attributes:
        model: (C,) names of the camera models; size: (C, 2) width, height; parameters: per camera.
        cam_from_world: (T, 4, 4); camera_of_image: (T,) indices; names: (T,) file names.
        points_world: (N, 3); colour: (N, 3); error_px: (N,) mean reprojection error, -1 unknown.
        observations: (K, 2) image and point, both from 0, sorted by image; uv: (K, 2) pixels of the observations.
    """

    model: tuple[str, ...]
    size: Int[np.ndarray, "c 2"]
    parameters: tuple[tuple[float, ...], ...]
    cam_from_world: Float[np.ndarray, "t 4 4"]
    camera_of_image: Int[np.ndarray, "t"]
    names: tuple[str, ...]
    points_world: Float[np.ndarray, "n 3"]
    colour: UInt8[np.ndarray, "n 3"]
    error_px: Float[np.ndarray, "n"]
    observations: Int[np.ndarray, "k 2"]
    uv: Float[np.ndarray, "k 2"]


def write(scene: Scene, path: Path, *, overwrite: bool = False) -> None:
    """Write a scene as a COLMAP project folder.

    Raises:
        OutputError: the output cannot be written.
    """
    with written_whole(Path(path), overwrite=overwrite, marker="sparse") as target:
        (target / "sparse" / "0").mkdir(parents=True)
        write_model(target / "sparse" / "0", model_of(scene))
        if scene.image is not None:
            _write_images(scene, target / "images")
        _write_masks(scene, target / "masks")


def model_of(scene: Scene) -> Model:
    """Cameras of the original images, poses, the static structure, and the static tracks with their observations."""
    intrinsics = _original_intrinsics(scene)
    shared = bool((intrinsics == intrinsics[0]).all())
    distortion = scene.camera.distortion
    model = _MODELS[len(distortion)]
    extra = (*distortion, *(0.0,) * 8)[: _PARAMETERS[model] - 4]
    points, colour, error_px, observations, uv = _track_points(scene, intrinsics)
    static = np.zeros((0, 3)) if scene.static_points is None else np.asarray(scene.static_points, dtype=np.float64)
    static_colour = np.full(static.shape, 180) if scene.static_colour is None else np.asarray(scene.static_colour)
    alone = ~_among(static, points)
    static, static_colour = static[alone], static_colour[alone]
    cameras = intrinsics[:1] if shared else intrinsics
    return Model(
        model=(model,) * len(cameras),
        size=np.tile(np.array(scene.original_size), (len(cameras), 1)),
        parameters=tuple((*k.tolist(), *extra) for k in cameras),
        cam_from_world=se3.inverse(torch.from_numpy(np.array(scene.world_from_cam, dtype=np.float64))).numpy(),
        camera_of_image=np.zeros(len(scene), int) if shared else np.arange(len(scene)),
        names=tuple(f"{t:06d}.jpg" for t in range(len(scene))),
        points_world=np.concatenate([points, static]),
        colour=np.concatenate([colour, static_colour.astype(np.uint8)]),
        error_px=np.concatenate([error_px, np.full(len(static), -1.0)]),
        observations=observations,
        uv=uv,
    )


def write_model(folder: Path, model: Model) -> None:
    """Write the five text files of a model into a folder that exists; ids in the files start at 1."""
    quaternions = se3.quaternion_wxyz(torch.from_numpy(model.cam_from_world[:, :3, :3])).numpy()
    from_world = [_row([*q, *t]) for q, t in zip(quaternions, model.cam_from_world[:, :3, 3], strict=True)]
    cameras = [
        f"{c} {name} {size[0]} {size[1]} {_row(parameters)}"
        for c, (name, size, parameters) in enumerate(zip(model.model, model.size, model.parameters, strict=True), 1)
    ]
    _write_lines(folder / "cameras.txt", "CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]", cameras)
    _write_lines(folder / "images.txt", "IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; then POINTS2D[] as "
                 "(X, Y, POINT3D_ID)", _image_lines(model, from_world))  # fmt: skip
    _write_lines(folder / "points3D.txt", "POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)",
                 _point_lines(model))  # fmt: skip
    rigs = [f"{c} 1 CAMERA {c}" for c in range(1, len(cameras) + 1)]
    _write_lines(folder / "rigs.txt", "RIG_ID, NUM_SENSORS, REF_SENSOR_TYPE, REF_SENSOR_ID", rigs)
    frames = [
        f"{t} {c + 1} {motion} 1 CAMERA {c + 1} {t}"
        for t, (c, motion) in enumerate(zip(model.camera_of_image, from_world, strict=True), start=1)
    ]
    _write_lines(folder / "frames.txt", "FRAME_ID, RIG_ID, RIG_FROM_WORLD[QW, QX, QY, QZ, TX, TY, TZ], NUM_DATA_IDS, "
                 "DATA_IDS[] as (SENSOR_TYPE, SENSOR_ID, DATA_ID)", frames)  # fmt: skip


def read_model(folder: str | Path) -> Model:
    """Read cameras.txt, images.txt and points3D.txt (of any version) from a folder.

    Raises:
        FormatError: a file is missing or is not a COLMAP text model, or has a camera model other than those written.
    """
    where = Path(folder)
    try:
        return _parsed(*(_lines(where / f"{name}.txt") for name in ("cameras", "images", "points3D")))
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise FormatError(f"{where} is not a COLMAP text model that can be read ({error}); export it again.") from error


def _original_intrinsics(scene: Scene) -> Float[np.ndarray, "t 4"]:
    scale, offset = _affine(scene)
    intrinsics = scene.camera.frames(len(scene)) * np.tile(scale, 2)
    return intrinsics + np.concatenate([np.zeros(2), offset])


def _affine(scene: Scene) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
    """Scale and offset from stored to original uv."""
    matrix = np.eye(3) if scene.original_from_stored is None else scene.original_from_stored
    return np.diag(matrix)[:2], matrix[:2, 2]


def _among(points: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "m 3"]) -> Bool[np.ndarray, "n"]:
    """Which points are among the others, bit for bit in single precision."""
    whole = np.dtype((np.void, 12))
    mine, theirs = (np.ascontiguousarray(p, dtype=np.float32).view(whole).ravel() for p in (points, others))
    return np.isin(mine, theirs)


def _track_points(
    scene: Scene, intrinsics: Float[np.ndarray, "t 4"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points, colours, errors, observations and uv of static tracks that at least two frames see."""
    if scene.tracks is None or not (static := ~np.asarray(scene.tracks.moving, dtype=bool)).any():
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), np.zeros((0, 2), int), np.zeros((0, 2))
    each = np.asarray(scene.tracks.points_world, dtype=np.float64)[:, static]
    uv, in_view = _project(scene, intrinsics, each)
    seen = in_view & np.asarray(scene.tracks.visible)[:, static]
    kept = seen.sum(0) >= 2
    each, uv, seen = each[:, kept], uv[:, kept], seen[:, kept]
    points = np.nanmedian(np.where(seen[..., None], each, np.nan), axis=0) if kept.any() else np.zeros((0, 3))
    again, _ = _project(scene, intrinsics, np.broadcast_to(points, each.shape))
    distance = np.where(seen, np.linalg.norm(again - uv, axis=-1), 0)
    error_px = distance.sum(0) / np.maximum(seen.sum(0), 1)
    colour = np.asarray(scene.tracks.colour)[static][kept]
    return points, colour, error_px, np.argwhere(seen), uv[seen]


def _project(
    scene: Scene, intrinsics: Float[np.ndarray, "t 4"], points_world: Float[np.ndarray, "t n 3"]
) -> tuple[Float[np.ndarray, "t n 2"], np.ndarray]:
    """Original uv of world points in their frame, and whether they lie in front of the camera and in the image."""
    cam_from_world = se3.inverse(torch.from_numpy(np.array(scene.world_from_cam, dtype=np.float64)))
    points_cam = se3.apply(cam_from_world, torch.from_numpy(np.array(points_world)))
    depth_z = points_cam[..., 2]
    xy = points_cam[..., :2] / depth_z.where(depth_z > 0, torch.nan)[..., None]
    if scene.camera.distortion:
        xy = pinhole.distort(xy, scene.camera.distortion)
    k = torch.from_numpy(np.array(intrinsics))[:, None]
    uv = xy * k[..., :2] + k[..., 2:]
    width, height = scene.original_size or (scene.width, scene.height)
    return uv.numpy(), pixels.inside(uv, height, width).numpy()


def _image_lines(model: Model, from_world: list[str]) -> Iterable[str]:
    ends = np.searchsorted(model.observations[:, 0], np.arange(1, len(model.names)))
    uv, points = np.split(model.uv, ends), np.split(model.observations[:, 1], ends)
    for t, (motion, name) in enumerate(zip(from_world, model.names, strict=True)):
        yield f"{t + 1} {motion} {model.camera_of_image[t] + 1} {name}"
        yield " ".join(f"{u:.4f} {v:.4f} {point + 1}" for (u, v), point in zip(uv[t], points[t], strict=True))


def _point_lines(model: Model) -> Iterable[str]:
    image, point = model.observations.T
    index = np.arange(len(image)) - np.searchsorted(image, image)
    order = np.argsort(point, kind="stable")
    ends = np.searchsorted(point[order], np.arange(1, len(model.points_world)))
    pairs = np.split(np.column_stack([image + 1, index])[order], ends)
    for n, (xyz, rgb, error_px) in enumerate(zip(model.points_world, model.colour, model.error_px, strict=True)):
        track = " ".join(f"{t} {i}" for t, i in pairs[n])
        yield f"{n + 1} {_row(xyz)} {rgb[0]} {rgb[1]} {rgb[2]} {error_px:.4f} {track}".rstrip()


def _row(values: Iterable[float]) -> str:
    return " ".join(f"{value:.17g}" for value in values)


def _write_lines(path: Path, columns: str, lines: Iterable[str]) -> None:
    with path.open("w") as file:
        file.write(f"# {columns}\n")
        file.writelines(line + "\n" for line in lines)


def _lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]


def _parsed(cameras: list[list[str]], images: list[list[str]], points: list[list[str]]) -> Model:
    cameras, points = [c for c in cameras if c], [p for p in points if p]
    if any(len(c) != 4 + _PARAMETERS[c[1]] for c in cameras):
        raise ValueError("a camera has the wrong number of parameters")
    heads, seen = images[0::2], images[1::2]
    camera_ids, point_ids = ([int(row[0]) for row in rows] for rows in (cameras, points))
    observed = [(t, p) for t, row in enumerate(seen) for p in zip(row[0::3], row[1::3], row[2::3], strict=True)]
    observed = [(t, p) for t, p in observed if int(p[2]) != _NO_POINT]
    place = {point_id: n for n, point_id in enumerate(point_ids)}
    numbers = np.array([row[1:8] for row in heads], dtype=np.float64).reshape(-1, 7)
    rotation = se3.rotation_from_wxyz(torch.from_numpy(numbers[:, :4].copy()))
    table = np.array([row[1:8] for row in points], dtype=np.float64).reshape(-1, 7)
    return Model(
        model=tuple(row[1] for row in cameras),
        size=np.array([[int(row[2]), int(row[3])] for row in cameras]),
        parameters=tuple(tuple(float(p) for p in row[4:]) for row in cameras),
        cam_from_world=se3.from_rotation_translation(rotation, torch.from_numpy(numbers[:, 4:].copy())).numpy(),
        camera_of_image=np.array([camera_ids.index(int(row[8])) for row in heads]),
        names=tuple(" ".join(row[9:]) for row in heads),
        points_world=table[:, :3],
        colour=table[:, 3:6].astype(np.uint8),
        error_px=table[:, 6],
        observations=np.array([(t, place[int(p[2])]) for t, p in observed], dtype=int).reshape(-1, 2),
        uv=np.array([p[:2] for _, p in observed], dtype=np.float64).reshape(-1, 2),
    )


def _write_images(scene: Scene, folder: Path) -> None:
    assert scene.image is not None
    folder.mkdir()
    for t in range(len(scene)):
        image = np.asarray(scene.image[t])[..., ::-1]
        _write_image(folder / f"{t:06d}.jpg", _at_original_size(scene, image, cv2.INTER_CUBIC))


def _write_masks(scene: Scene, folder: Path) -> None:
    folder.mkdir()
    for t in range(len(scene)):
        usable = np.where(np.asarray(scene.moving[t]) == 0, 255, 0).astype(np.uint8)
        _write_image(folder / f"{t:06d}.jpg.png", _at_original_size(scene, usable, cv2.INTER_NEAREST))


def _at_original_size(scene: Scene, image: np.ndarray, interpolation: int) -> np.ndarray:
    size = scene.original_size or (scene.width, scene.height)
    scale, offset = _affine(scene)
    if size == (scene.width, scene.height) and (scale == 1).all() and (offset == 0).all():
        return np.ascontiguousarray(image)
    shift = pixels.to_integer_centres(pixels.from_integer_centres(np.zeros(2)) * scale + offset)
    matrix = np.column_stack([np.diag(scale), shift])
    return cv2.warpAffine(
        np.ascontiguousarray(image), matrix, size, flags=interpolation, borderMode=cv2.BORDER_REPLICATE
    )


def _write_image(path: Path, image: np.ndarray) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), image, quality):  # OpenCV returns False where others raise
        raise OutputError(f"cannot write {path.name} (is the disk full?); choose another output.")
