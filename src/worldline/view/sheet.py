"""A contact sheet: for a few frames the picture, its depth, what moves, and how sure the depth is."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from worldline.scene.scene import Scene
from worldline.view import colours
from worldline.view.layers import frame_colour

_GAP = 8
_HEAD = 34
_SIDE = 64
_FOOT = 44
_UNKNOWN = (38, 41, 47)


def sheet(scene: Scene, *, rows: int = 4, cell_width: int = 360) -> UInt8[np.ndarray, "h w 3"]:
    """Columns image, depth, moving, uncertainty; one row for each of `rows` frames spread over the clip.

    Depth has one colour scale for all rows (2nd to 98th percentile, linear in inverse depth), and so has sigma.
    Cells are `cell_width` pixels wide, narrower where they would be more than half again as high.
    """
    frames = np.unique(np.linspace(0, len(scene) - 1, min(rows, len(scene))).round().astype(int))
    scale = cell_width * min(1 / scene.width, 1.5 / scene.height)
    size = (max(1, round(scale * scene.width)), max(1, round(scale * scene.height)))
    near, far = _depth_range(scene, frames)
    doubt = _doubt(scene, frames)
    cells = [_cells(scene, int(t), size, (near, far), doubt) for t in frames]
    canvas = _laid_out(cells, size)
    pen = ImageDraw.Draw(canvas)
    _write_heads(pen, size, [int(t) for t in frames], scene)
    _write_scales(canvas, pen, size, len(frames), scene, (near, far), doubt)
    return np.asarray(canvas)


def depth_colour(
    depth_z: Float[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], near: float, far: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Near bright, far dark, linear in inverse depth between the two ends; grey where unknown."""
    share = (1 / np.maximum(depth_z, 1e-9) - 1 / far) / max(1 / near - 1 / far, 1e-12)
    return _mapped(np.where(valid, share, np.nan), cv2.COLORMAP_INFERNO)


def sigma_colour(
    sigma: Float[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], most: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Sure dark, unsure bright; grey where there is no depth."""
    return _mapped(np.where(valid, sigma / most, np.nan), cv2.COLORMAP_VIRIDIS)


def mask_overlay(image: UInt8[np.ndarray, "h w 3"], ids: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture greyed, moving objects tinted in their colours and outlined."""
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, -1) * 0.6
    tint = colours.OBJECTS[(np.maximum(ids, 1) - 1) % len(colours.OBJECTS)]
    inside = (ids != 0)[..., None]
    mixed = np.where(inside, 0.45 * image + 0.55 * tint, grey)
    rim = cv2.morphologyEx((ids != 0).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return np.where(rim[..., None], tint, mixed).astype(np.uint8)


def _mapped(share: Float[np.ndarray, "h w"], palette: int) -> UInt8[np.ndarray, "h w 3"]:
    levels = (np.nan_to_num(share).clip(0, 1) * 255).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(levels, palette), cv2.COLOR_BGR2RGB)
    coloured[np.isnan(share)] = _UNKNOWN
    return coloured


def _cells(
    scene: Scene, frame: int, size: tuple[int, int], depth_range: tuple[float, float], doubt: float
) -> list[UInt8[np.ndarray, "h w 3"]]:
    image = frame_colour(scene, frame)
    depth_z, sigma = np.asarray(scene.depth_z[frame]), np.asarray(scene.depth_sigma[frame])
    valid = np.asarray(scene.valid[frame]) & (depth_z > 0)
    drawn = (
        image,
        depth_colour(depth_z, valid, *depth_range),
        mask_overlay(image, np.asarray(scene.moving[frame])),
        sigma_colour(sigma, valid, doubt),
    )
    return [cv2.resize(cell, size, interpolation=cv2.INTER_AREA) for cell in drawn]


def _depth_range(scene: Scene, frames: Int[np.ndarray, "r"]) -> tuple[float, float]:
    known = [np.asarray(scene.depth_z[t])[np.asarray(scene.valid[t])] for t in frames]
    values = np.concatenate([depth_z[depth_z > 0] for depth_z in known])
    if not values.size:
        return 1.0, 2.0
    near, far = np.percentile(values, [2, 98])
    return float(near), float(max(far, near * 1.001))


def _doubt(scene: Scene, frames: Int[np.ndarray, "r"]) -> float:
    known = np.concatenate([np.asarray(scene.depth_sigma[t])[np.asarray(scene.valid[t])] for t in frames])
    return max(*np.percentile(known, [95, 50]) * (1, 1.6), 1e-3) if known.size else 1e-3


def _laid_out(cells: Sequence[Sequence[np.ndarray]], size: tuple[int, int]) -> Image.Image:
    width, height = size
    total = (_SIDE + 4 * (width + _GAP), _HEAD + len(cells) * (height + _GAP) + _FOOT)
    canvas = Image.new("RGB", total, colours.BACKGROUND)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            canvas.paste(Image.fromarray(cell), (_SIDE + j * (width + _GAP), _HEAD + i * (height + _GAP)))
    return canvas


def _write_heads(pen: ImageDraw.ImageDraw, size: tuple[int, int], frames: list[int], scene: Scene) -> None:
    bold, small = ImageFont.load_default(size=17), ImageFont.load_default(size=14)
    for j, head in enumerate((scene.name, "depth", "moving", "uncertainty of depth")):
        pen.text((_SIDE + j * (size[0] + _GAP), 8), head, fill=colours.INK, font=bold)
    for i, frame in enumerate(frames):
        y = _HEAD + i * (size[1] + _GAP)
        pen.text((12, y + 4), f"{frame}", fill=colours.INK, font=bold)
        pen.text((12, y + 26), f"{scene.times_s[frame]:.2f} s", fill=colours.FAINT_INK, font=small)


def _write_scales(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    rows: int,
    scene: Scene,
    depth_range: tuple[float, float],
    doubt: float,
) -> None:
    """Under the depth and the sigma column a bar with its two ends."""
    y, font = _HEAD + rows * (size[1] + _GAP), ImageFont.load_default(size=14)
    unit = " m" if scene.metric else ""
    near, far = depth_range
    bars = (
        (1, cv2.COLORMAP_INFERNO, f"{far:.3g}{unit}", f"{near:.3g}{unit}"),
        (3, cv2.COLORMAP_VIRIDIS, "0 %", f"{100 * doubt:.0f} %"),
    )
    for column, palette, low, high in bars:
        x = _SIDE + column * (size[0] + _GAP)
        ramp = np.repeat(np.linspace(0, 1, size[0])[None], 8, 0)
        canvas.paste(Image.fromarray(_mapped(ramp, palette)), (x, y))
        pen.text((x, y + 13), low, fill=colours.FAINT_INK, font=font)
        pen.text((x + size[0], y + 13), high, fill=colours.FAINT_INK, font=font, anchor="ra")
    pen.text((_SIDE, y + 13), "grey: no depth", fill=colours.FAINT_INK, font=font)
