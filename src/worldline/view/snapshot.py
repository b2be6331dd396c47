"""Stills of a scene without a window or a graphics card: points as discs, lines over them, text beside them."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from worldline.errors import InputError
from worldline.geometry import camera, se3
from worldline.scene.atomic import check_free, write_whole
from worldline.scene.scene import Scene
from worldline.view import colours, stance
from worldline.view.layers import Cloud, Detail, Layers, extract
from worldline.view.sheet import sheet

ViewName = Literal["camera", "orbit", "top", "side"]
_FINER = 2
_MOST_DISC_PX = 7
_TRAIL_FRAMES = 14
_FAR_AWAY = 20
_GRID_CELLS = 10
_GRID_PIECES = 12


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """A pinhole camera anywhere: `cam_from_world` (4, 4) and fx, fy, cx, cy in pixels of a `width` x `height` still."""

    cam_from_world: Float[np.ndarray, "4 4"]
    intrinsics: Float[np.ndarray, "4"]
    width: int
    height: int

    def finer(self, times: int) -> Viewpoint:
        """The same view with `times` as many pixels each way."""
        return Viewpoint(self.cam_from_world, self.intrinsics * times, self.width * times, self.height * times)

    def project(
        self, points_world: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n"]]:
        """uv and depth; points behind the eye have a depth that is not positive."""
        points = torch.from_numpy(np.ascontiguousarray(points_world, dtype=np.float64))
        points_cam = se3.apply(torch.from_numpy(self.cam_from_world), points)
        depth_z = points_cam[:, 2].numpy().copy()
        points_cam[:, 2].clamp_(min=1e-9)
        return camera.project(points_cam, torch.from_numpy(self.intrinsics)).numpy(), depth_z


def snapshot(
    scene: Scene,
    path: str | Path,
    *,
    frame: int | None = None,
    view: ViewName = "camera",
    size: tuple[int, int] = (960, 600),
    overwrite: bool = False,
) -> Path:
    """Write one PNG of a scene.

    Args:
        frame: which moment is shown; the middle one if not given.
        view: through the camera of that frame, from above and behind ("orbit"), from the top, or from the side.
        size: width and height, pixels. overwrite: replace an existing file.

    Raises:
        InputError: no such frame or view. OutputError: the file exists or cannot be written.
    """
    check_free(Path(path), overwrite=overwrite)
    moment = len(scene) // 2 if frame is None else frame
    if not 0 <= moment < len(scene):
        raise InputError(f"the scene has frames 0 to {len(scene) - 1}, not {moment}; choose one of those.")
    if view not in ("camera", "orbit", "top", "side"):
        raise InputError(f"there is no view {view!r}; choose camera, orbit, top or side.")
    return write_whole(Path(path), _png(picture(extract(scene, _detail()), moment, view, size)), overwrite=overwrite)


def stills(scene: Scene, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write `overview.png`, `top.png`, `camera.png` and `sheet.png` (image, depth, mask and sigma of four frames).

    Raises:
        OutputError: one of them exists (and `overwrite` is off), or cannot be written.
    """
    target, moment, size = Path(folder), len(scene) // 2, (1200, 750)
    as_filmed = _within(1200, 1200, scene)
    names = ("overview.png", "top.png", "camera.png", "sheet.png")
    for name in names:
        check_free(target / name, overwrite=overwrite)
    layers = extract(scene, _detail())
    pictures = [
        picture(layers, moment, "orbit", size),
        picture(layers, moment, "top", size),
        picture(layers, moment, "camera", as_filmed),
        sheet(scene),
    ]
    return [
        write_whole(target / name, _png(drawn), overwrite=overwrite)
        for name, drawn in zip(names, pictures, strict=True)
    ]


def _within(width: int, height: int, scene: Scene) -> tuple[int, int]:
    """The largest size of the scene's shape in a frame of `width` x `height` pixels; no side is nothing."""
    scale = min(width / scene.width, height / scene.height)
    return max(16, round(scene.width * scale)), max(16, round(scene.height * scale))


def picture(layers: Layers, frame: int, view: ViewName, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """One still as RGB."""
    nearest = int(np.abs(layers.frames - frame).argmin())
    viewpoint = look(layers, int(layers.frames[nearest]), view, size)
    fine = viewpoint.finer(_FINER)
    image, depth_z = splat(_visible_cloud(layers, nearest, view), fine)
    image = _shaded(image, depth_z)
    if view != "camera":
        _draw_grid(image, depth_z, layers, fine)
        _draw_cameras(image, depth_z, layers, nearest, fine)
    _draw_trails(image, depth_z, layers, nearest, fine)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return _captioned(small, layers, int(layers.frames[nearest]), view)


def look(layers: Layers, frame: int, view: ViewName, size: tuple[int, int]) -> Viewpoint:
    """Where a still is taken from."""
    width, height = size
    if view == "camera":
        return _through(layers.scene, frame, width, height)
    if view != "orbit":
        return _from_afar(layers, view, width, height)
    standing = layers.stance
    focal = min(width, height) / 2 / np.tan(np.radians(standing.fov_deg) / 2)
    return Viewpoint(standing.cam_from_world, np.array([focal, focal, width / 2, height / 2]), width, height)


def splat(cloud: Cloud, viewpoint: Viewpoint) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Points as opaque discs, nearest on top: the picture, and its depth (inf where nothing is)."""
    width, height = viewpoint.width, viewpoint.height
    uv, depth_z = viewpoint.project(cloud.points_world)
    near = (depth_z > 1e-6) & (np.abs(uv - (width / 2, height / 2)) < (width, height)).all(-1)
    chosen = np.flatnonzero(near)[np.argsort(-depth_z[near])]
    radius_px = cloud.radius[chosen] * viewpoint.intrinsics[1] / depth_z[chosen]
    column, row = np.floor(uv[chosen]).astype(np.int64).T
    winner = _nearest_disc(row, column, radius_px.clip(0.5, _MOST_DISC_PX), height, width)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = colours.BACKGROUND
    drawn = winner >= 0
    image[drawn] = cloud.colour[chosen[winner[drawn]]]
    depth = np.full((height, width), np.inf)
    depth[drawn] = depth_z[chosen[winner[drawn]]]
    return image, depth


def _nearest_disc(
    row: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"], radius_px: Float[np.ndarray, "n"], height: int, width: int
) -> Int[np.ndarray, "h w"]:
    """For every pixel the last of the given discs (sorted far to near) that covers it, or -1.

    One pass for each offset within the largest disc; within a pass the last write to a pixel is the nearest.
    """
    winner = np.full(height * width, -1, np.int64)
    reach = int(np.ceil(radius_px.max(initial=0.5)))
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            covers = radius_px >= max(np.hypot(down, right), 0.5)
            r, c = row + down, column + right
            index = np.flatnonzero(covers & (r >= 0) & (r < height) & (c >= 0) & (c < width))
            pixel = r[index] * width + c[index]
            wins = index > winner[pixel]
            winner[pixel[wins]] = index[wins]
    return winner.reshape(height, width)


def _shaded(image: UInt8[np.ndarray, "h w 3"], depth_z: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Darker where neighbours lie in front (eye-dome lighting, Boucheny 2009), so that shapes stand out."""
    here = np.log2(np.where(np.isfinite(depth_z), depth_z, 1e9)).astype(np.float32)
    darker = np.zeros_like(here)
    for down, right in ((0, 2), (0, -2), (2, 0), (-2, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        darker += (here - np.roll(here, (down, right), (0, 1))).clip(0, 0.16)
    darker[~np.isfinite(depth_z)] = 0
    return (image * np.exp(-1.0 * darker)[..., None]).astype(np.uint8)


def _through(scene: Scene, frame: int, width: int, height: int) -> Viewpoint:
    fx, fy, cx, cy = scene.camera.at(frame)
    scale = min(width / scene.width, height / scene.height)
    left, top = (width - scale * scene.width) / 2, (height - scale * scene.height) / 2
    cam_from_world = se3.inverse(torch.from_numpy(scene.world_from_cam[frame])).numpy()
    lens = np.array([fx * scale, fy * scale, cx * scale + left, cy * scale + top])
    return Viewpoint(cam_from_world, lens, width, height)


def _from_afar(layers: Layers, view: ViewName, width: int, height: int) -> Viewpoint:
    """From far away with a long lens, nearly without perspective: plan ("top") or elevation ("side")."""
    up = layers.up_world
    ahead = layers.scene.world_from_cam[0, :3, 2]
    ahead = ahead - (ahead @ up) * up
    ahead = ahead / max(float(np.linalg.norm(ahead)), 1e-9)
    away, above = (up, ahead) if view == "top" else (np.cross(ahead, up), up)
    axes = np.stack([np.cross(above, away), above, away])
    low, high = _box(_all_points(layers) @ axes.T, layers.scene.centres_world @ axes.T)
    middle, half = axes.T @ ((low + high) / 2), np.maximum((high - low) / 2, 1e-9)
    distance = _FAR_AWAY * float(np.linalg.norm(half))
    focal = 0.86 * (distance - half[2]) * min(width / 2 / half[0], height / 2 / half[1])
    standing = stance.Stance(middle + distance * away, middle, above)
    return Viewpoint(standing.cam_from_world, np.array([focal, focal, width / 2, height / 2]), width, height)


def _box(
    points: Float[np.ndarray, "n 3"], centres: Float[np.ndarray, "t 3"]
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Holds all cameras and nearly all points; around the cameras where there is no point."""
    if not len(points):
        room = max(float(np.ptp(centres, axis=0).max()), 1.0)
        return centres.min(0) - room, centres.max(0) + room
    low, high = np.percentile(points, [1, 99], axis=0)
    return np.minimum(low, centres.min(0)), np.maximum(high, centres.max(0))


def _all_points(layers: Layers) -> Float[np.ndarray, "n 3"]:
    return np.concatenate([layers.static.points_world, *(c.points_world for c in layers.moving)])


def _visible_cloud(layers: Layers, nearest: int, view: ViewName) -> Cloud:
    """Static and present moving points; a plan is cut just above the cameras, so that a ceiling hides nothing."""
    static, moving = layers.static, layers.moving[nearest]
    keep = np.ones(len(static), bool)
    if view == "top":
        top = (layers.scene.centres_world @ layers.up_world).max() + 0.03 * layers.median_depth
        keep = static.points_world @ layers.up_world < top
    return Cloud(
        np.concatenate([static.points_world[keep], moving.points_world]),
        np.concatenate([static.colour[keep], moving.colour]),
        np.concatenate([static.radius[keep], moving.radius]),
    )


def _detail() -> Detail:
    return Detail(static_points=600_000, moving_points=900_000, trails=150)


def _draw_cameras(
    image: UInt8[np.ndarray, "h w 3"], depth_z: Float[np.ndarray, "h w"], layers: Layers, nearest: int, at: Viewpoint
) -> None:
    """The path, some cameras along it, and the present one."""
    eyes = layers.scene.centres_world[layers.frames]
    _strokes(image, depth_z, at, eyes[:-1], eyes[1:], colours.CAMERA, 2, hidden=0.5)
    every = max(1, -(-len(eyes) // 14))
    shown = [_frustum_edges(layers.frustum_world(int(t)), 0.6) for t in layers.frames[::every]]
    starts, ends = (np.concatenate(side) for side in zip(*shown, strict=True))
    _strokes(image, depth_z, at, starts, ends, colours.CAMERA, 1, hidden=0.25, strength=0.7)
    now = _frustum_edges(layers.frustum_world(int(layers.frames[nearest])), 1.0)
    _strokes(image, depth_z, at, *now, colours.CURRENT, 3, hidden=0.6)


def _frustum_edges(
    corners_world: Float[np.ndarray, "5 3"], size: float
) -> tuple[Float[np.ndarray, "8 3"], Float[np.ndarray, "8 3"]]:
    corners = corners_world[:1] + size * (corners_world - corners_world[:1])
    return corners[[0, 0, 0, 0, 1, 2, 3, 4]], corners[[1, 2, 3, 4, 2, 3, 4, 1]]


def _draw_trails(
    image: UInt8[np.ndarray, "h w 3"], depth_z: Float[np.ndarray, "h w"], layers: Layers, nearest: int, at: Viewpoint
) -> None:
    """The last frames of every moving track, coloured by speed, fading with age."""
    if layers.trails is None:
        return
    for age in range(min(_TRAIL_FRAMES, nearest) - 1, -1, -1):
        last = nearest - age
        start, end = layers.trails.points_world[last - 1], layers.trails.points_world[last]
        share = layers.trails.speed[last] / max(layers.trails.fast, 1e-12)
        fade = 0.15 + 0.8 * (1 - age / _TRAIL_FRAMES) ** 1.5
        _strokes(image, depth_z, at, start, end, colours.speed_colour(share), 2, hidden=0.15, strength=fade)


def _draw_grid(
    image: UInt8[np.ndarray, "h w 3"], depth_z: Float[np.ndarray, "h w"], layers: Layers, at: Viewpoint
) -> None:
    cell = grid_cell(layers)
    across = np.cross(layers.scene.world_from_cam[0, :3, 2], layers.up_world)
    across = across / max(float(np.linalg.norm(across)), 1e-9)
    along = np.cross(layers.up_world, across)
    target = layers.stance.target_world
    middle = target + (layers.floor - target @ layers.up_world) * layers.up_world
    i, j = (
        m.ravel() for m in np.meshgrid(np.arange(-_GRID_CELLS, _GRID_CELLS + 1), np.arange(-_GRID_CELLS, _GRID_CELLS))
    )
    piece = cell / _GRID_PIECES
    for a, b in ((across, along), (along, across)):
        inside = np.hypot(i, j + 0.5) < _GRID_CELLS
        cells = middle + cell * (i[inside, None] * a + j[inside, None] * b)
        start = (cells[:, None] + piece * np.arange(_GRID_PIECES)[:, None] * b).reshape(-1, 3)
        _strokes(image, depth_z, at, start, start + piece * b, colours.GRID, 1, hidden=0.0)


def grid_cell(layers: Layers) -> float:
    """A round length, about half the median depth: 1, 2 or 5 times a power of ten."""
    wanted = 0.5 * layers.median_depth
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(max(step * power for step in (1, 2, 5) if step * power <= wanted * (1 + 1e-9)))


def _strokes(
    image: UInt8[np.ndarray, "h w 3"],
    depth_z: Float[np.ndarray, "h w"],
    at: Viewpoint,
    start_world: Float[np.ndarray, "n 3"],
    end_world: Float[np.ndarray, "n 3"],
    colour: tuple[int, int, int] | UInt8[np.ndarray, "n 3"],
    width_px: int,
    *,
    hidden: float,
    strength: float = 1.0,
) -> None:
    """Draw lines into the image; what lies behind the points is drawn at `hidden` times the strength."""
    (a, near), (b, far) = at.project(start_world), at.project(end_world)
    finite = np.isfinite(a).all(-1) & np.isfinite(b).all(-1) & (near > 1e-6) & (far > 1e-6)
    finite &= (np.abs(np.concatenate([a, b], -1)) < 30_000).all(-1)
    if not finite.any():
        return
    length = float(np.linalg.norm(end_world - start_world, axis=-1)[finite].max())
    behind = _behind(depth_z, (a + b)[finite] / 2, (near + far)[finite] / 2, slack=0.1 * length)
    ink = np.broadcast_to(np.asarray(colour, np.uint8), (len(a), 3))[finite]
    ends = np.stack([a, b], 1)[finite]
    for which, alpha in ((behind, hidden * strength), (~behind, strength)):
        if which.any() and alpha > 0:
            _blend_lines(image, ends[which], ink[which], width_px, alpha)


def _behind(
    depth_z: Float[np.ndarray, "h w"], uv: Float[np.ndarray, "n 2"], depth_of_line: Float[np.ndarray, "n"], slack: float
) -> Bool[np.ndarray, "n"]:
    height, width = depth_z.shape
    column, row = np.floor(uv.clip((0, 0), (width - 1, height - 1))).astype(int).T
    return depth_of_line > depth_z[row, column] + slack


def _blend_lines(
    image: UInt8[np.ndarray, "h w 3"],
    ends: Float[np.ndarray, "n 2 2"],
    ink: UInt8[np.ndarray, "n 3"],
    width_px: int,
    alpha: float,
) -> None:
    fixed = (ends * 16).round().astype(np.int32)
    shades, group = np.unique(ink // 16, axis=0, return_inverse=True)
    drawn = image.copy() if alpha < 1 else image
    for k in range(len(shades)):
        mine = group.ravel() == k
        shade = tuple(int(v) for v in ink[mine].mean(0))
        cv2.polylines(drawn, list(fixed[mine]), False, shade, width_px * _FINER, cv2.LINE_AA, shift=4)
    if alpha < 1:
        cv2.addWeighted(drawn, alpha, image, 1 - alpha, 0, dst=image)


def _captioned(
    image: UInt8[np.ndarray, "h w 3"], layers: Layers, frame: int, view: ViewName
) -> UInt8[np.ndarray, "h w 3"]:
    """The name and the moment top left, the length of a grid cell bottom left, each on a dark plate."""
    scene, size = layers.scene, max(11, image.shape[0] // 38)
    drawn = Image.fromarray(image)
    told = {"camera": "camera view", "orbit": "overview", "top": "from above", "side": "from the side"}[view]
    heading = [(scene.name, colours.INK), (f"{told}, frame {frame} of {len(scene)}", colours.FAINT_INK)]
    _plate(drawn, heading, size, top=True)
    if view != "camera":
        cell = f"grid {grid_cell(layers):.3g}" + (" m" if scene.metric else ", scale unknown")
        _plate(drawn, [(cell, colours.FAINT_INK)], size, top=False)
    return np.asarray(drawn)


def _plate(drawn: Image.Image, lines: list[tuple[str, tuple[int, int, int]]], size: int, *, top: bool) -> None:
    """Lines of text on a translucent plate in the left corner."""
    pen, font = ImageDraw.Draw(drawn, "RGBA"), ImageFont.load_default(size=size)
    width = max(pen.textlength(text, font=font) for text, _ in lines) + 1.4 * size
    height = (1.35 * len(lines) + 0.75) * size
    x, y = 0.8 * size, 0.8 * size if top else drawn.height - height - 0.8 * size
    pen.rounded_rectangle((x, y, x + width, y + height), 0.5 * size, fill=(*colours.BACKGROUND, 190))
    for i, (text, ink) in enumerate(lines):
        pen.text((x + 0.7 * size, y + (0.35 + 1.35 * i) * size), text, fill=ink, font=font)


def _png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
