"""One static HTML file with a scene in it: opens from disk, loads nothing, needs no server.

The parts beside this file (markup, style, scripts) are joined with the scene's data: a JSON manifest, and one
deflated block of little-endian arrays in base64. Positions are uint16 within the box around what is shown.
"""

from __future__ import annotations

import base64
import html
import json
import zlib
from dataclasses import replace
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int, Integer, UInt8, UInt16
from PIL import Image

from worldline.scene.atomic import check_free, write_whole
from worldline.scene.scene import Scene
from worldline.view.colours import OBJECTS
from worldline.view.layers import Cloud, Detail, Layers, Trails, extract, frame_colour

_SCRIPTS = ("data.js", "matrix.js", "shaders.js", "renderer.js", "stance.js", "panel.js", "main.js")
_LEVELS = 65535
_RADIUS_STEPS_PER_OCTAVE = 12
_PICTURE_WIDTH = 288
_PICTURE_PIXELS = 6_000_000
_JPEG_QUALITY = 70


def page(
    scene: Scene,
    path: str | Path,
    *,
    title: str | None = None,
    overwrite: bool = False,
    max_points: int = 430_000,
) -> Path:
    """Write a scene as one HTML file that opens anywhere: time slider, layers, camera view; no network.

    Args:
        scene: what to show. path: the file to write. title: heading; the scene's name if not given.
        overwrite: replace an existing file. max_points: static and moving points of all frames together.

    Raises:
        OutputError: the file exists or cannot be written. InputError: nothing in the scene can be shown.
    """
    check_free(Path(path), overwrite=overwrite)
    layers = extract(scene, _detail(max_points, moving=scene.tracks is not None or _any_moving(scene)))
    return write_whole(Path(path), render(layers, title or scene.name), overwrite=overwrite)


def render(layers: Layers, title: str) -> str:
    """The text of the page."""
    parts = files("worldline.view") / "page_parts"
    manifest, block = pack(layers)
    manifest["title"] = title
    filled = {
        "{{title}}": html.escape(title),
        "{{style}}": (parts / "page.css").read_text(),
        "{{script}}": "\n".join((parts / name).read_text() for name in _SCRIPTS),
        "{{manifest}}": json.dumps(manifest, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "{{block}}": base64.b64encode(block).decode(),
    }
    text = (parts / "page.html").read_text()
    head, *tails = text.split("{{")
    return head + "".join(filled["{{" + tail[: tail.index("}}") + 2]] + tail[tail.index("}}") + 2 :] for tail in tails)


def pack(layers: Layers) -> tuple[dict[str, Any], bytes]:
    """What the scripts need: a JSON-ready manifest, and the deflated block its `arrays` point into."""
    arrays = _arrays(layers)
    manifest = _facts(layers)
    manifest["arrays"], offset = {}, 0
    for name, array in arrays.items():
        manifest["arrays"][name] = {"type": array.dtype.name, "shape": list(array.shape), "offset": offset}
        offset += -(-array.nbytes // 4) * 4
    padded = (array.tobytes() + bytes(-array.nbytes % 4) for array in arrays.values())
    return manifest, zlib.compress(b"".join(padded), 6)


def quantise(points_world: Float[np.ndarray, "*n 3"], bounds: Float[np.ndarray, "2 3"]) -> UInt16[np.ndarray, "*n 3"]:
    """Positions as steps of a 65535th of the box `bounds` (its low and its high corner)."""
    size = np.maximum(bounds[1] - bounds[0], 1e-12)
    share = (points_world.astype(np.float64) - bounds[0]) / size
    return (share.clip(0, 1) * _LEVELS).round().astype(np.uint16)


def dequantise(levels: UInt16[np.ndarray, "*n 3"], bounds: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "*n 3"]:
    """The inverse of `quantise`, as the page does it."""
    return bounds[0] + levels / _LEVELS * (bounds[1] - bounds[0])


def _detail(max_points: int, *, moving: bool) -> Detail:
    share = 0.4 if moving else 0.0
    return replace(Detail(), static_points=int(max_points * (1 - share)), moving_points=int(max_points * share))


def _any_moving(scene: Scene) -> bool:
    return any(np.asarray(scene.moving[t]).any() for t in range(len(scene)))


def _arrays(layers: Layers) -> dict[str, np.ndarray]:
    moving = _joined(layers.moving)
    smallest = _smallest_radius(layers)
    arrays: dict[str, np.ndarray] = {}
    for name, cloud in (("static", layers.static), ("moving", moving)):
        arrays[f"{name}_position"] = quantise(cloud.points_world, layers.bounds)
        arrays[f"{name}_colour"] = cloud.colour
        arrays[f"{name}_radius"] = _radius_levels(cloud.radius, smallest)
    arrays["moving_first"] = np.cumsum([0, *(len(c) for c in layers.moving)]).astype(np.uint32)
    if layers.trails is not None:
        arrays |= _trail_arrays(layers.trails, layers)
    return arrays


def _trail_arrays(trails: Trails, layers: Layers) -> dict[str, np.ndarray]:
    """`trail_state`: 0 no position, 1 hidden from the camera, 2 seen."""
    points, (low, high) = trails.points_world, layers.bounds
    claimed = ((points >= low) & (points <= high)).all(-1)
    share = trails.speed / max(trails.fast, 1e-12)
    return {
        "trail_position": quantise(np.where(claimed[..., None], points, low), layers.bounds),
        "trail_speed": (np.nan_to_num(share).clip(0, 1) * 254).round().astype(np.uint8),
        "trail_state": np.where(claimed, 1 + trails.seen, 0).astype(np.uint8),
    }


def _joined(clouds: tuple[Cloud, ...]) -> Cloud:
    return Cloud(
        np.concatenate([c.points_world for c in clouds]),
        np.concatenate([c.colour for c in clouds]),
        np.concatenate([c.radius for c in clouds]),
    )


def _smallest_radius(layers: Layers) -> float:
    radii = [c.radius.min() for c in (layers.static, *layers.moving) if len(c)]
    return max(float(min(radii, default=0.0)), 1e-9)


def _radius_levels(radius: Float[np.ndarray, "n"], smallest: float) -> UInt8[np.ndarray, "n"]:
    octaves = np.log2(np.maximum(radius / smallest, 1))
    return (octaves * _RADIUS_STEPS_PER_OCTAVE).round().clip(0, 255).astype(np.uint8)


def _facts(layers: Layers) -> dict[str, Any]:
    return {**_clip_facts(layers.scene, layers.frames), **_view_facts(layers), **_words_facts(layers.scene)}


def _clip_facts(scene: Scene, frames: Int[np.ndarray, "f"]) -> dict[str, Any]:
    pictures, masks = _pictures(scene, frames)
    trust = scene.health.get("trust")
    return {
        "frames": [int(t) for t in frames],
        "frame_count": len(scene),
        "times_s": np.asarray(scene.times_s)[frames].round(4).tolist(),
        "width": scene.width,
        "height": scene.height,
        "intrinsics": scene.camera.frames(len(scene))[frames].round(3).tolist(),
        "fov_deg": round(scene.camera.fov_deg, 2),
        "focal": round(scene.camera.focal, 1),
        "world_from_cam": [_digits(scene.world_from_cam[t, :3].ravel()) for t in frames],
        "trust": None
        if trust is None
        else np.nan_to_num(np.asarray(trust, float)[frames]).clip(0, 1).round(3).tolist(),
        "pictures": pictures,
        "masks": masks,
    }


def _view_facts(layers: Layers) -> dict[str, Any]:
    return {
        "bounds": [_digits(corner) for corner in layers.bounds],
        "smallest_radius": _smallest_radius(layers),
        "radius_steps_per_octave": _RADIUS_STEPS_PER_OCTAVE,
        "stance": {
            "eye": _digits(layers.stance.eye_world),
            "target": _digits(layers.stance.target_world),
            "up": _digits(layers.up_world),
            "fov_deg": layers.stance.fov_deg,
        },
        "floor": float(layers.floor),
        "median_depth": layers.median_depth,
        "frustum_depth": layers.frustum_depth,
        "fast": layers.trails.fast if layers.trails else 0.0,
    }


def _words_facts(scene: Scene) -> dict[str, Any]:
    steps = [{"name": s.name, "settings": _words(s.settings), "outcome": _words(s.outcome)} for s in scene.history]
    return {
        "name": scene.name,
        "metric": scene.metric,
        "metric_source": scene.metric_source,
        "notes": list(scene.notes),
        "history": steps,
    }


def _digits(values: Float[np.ndarray, "n"]) -> list[float]:
    return [float(f"{v:.7g}") for v in np.asarray(values, dtype=np.float64)]


def _words(values: Any) -> dict[str, str]:
    return {str(key): f"{v:.4g}" if isinstance(v, float) else str(v) for key, v in dict(values).items()}


def _pictures(scene: Scene, frames: Int[np.ndarray, "f"]) -> tuple[list[str], list[str | None]]:
    """Small JPEGs of the frames, and PNGs of their moving masks (transparent where static), as data URIs."""
    affordable = int(np.sqrt(_PICTURE_PIXELS / len(frames) * scene.width / scene.height))
    width = min(_PICTURE_WIDTH, scene.width, affordable)
    size = (width, max(1, round(width * scene.height / scene.width)))
    pictures = [_jpeg(frame_colour(scene, int(t)), size) for t in frames]
    return pictures, [_mask_png(np.asarray(scene.moving[int(t)]), size) for t in frames]


def _jpeg(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> str:
    buffer = BytesIO()
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    Image.fromarray(small).save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _mask_png(ids: Integer[np.ndarray, "h w"], size: tuple[int, int]) -> str | None:
    if not ids.any():
        return None
    small = cv2.resize(ids.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    picture = Image.fromarray(np.where(small > 0, (small - 1) % len(OBJECTS) + 1, 0).astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, *OBJECTS.ravel().tolist()])
    buffer = BytesIO()
    picture.save(buffer, "PNG", transparency=0, optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
