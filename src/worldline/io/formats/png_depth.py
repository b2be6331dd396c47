"""Depth as 16-bit PNG images, one per frame: value = depth_z * scale, 0 where nothing is known.

The folder holds `000000.png` and so on, and `depth.json` with the scale, the unit, the time stamps and the camera.
The scale is 1000 (millimetres, up to 65.5 m) where lengths are metres; other readers expect 5000 (TUM RGB-D, up to
13.1 m) or 256 (KITTI, up to 256 m). Without metres it is the largest of 1, 2, 5 times a power of ten that fits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt16

from worldline.errors import FormatError, InputError, OutputError
from worldline.scene.atomic import written_whole
from worldline.scene.scene import Scene

SUFFIXES: tuple[str, ...] = ()
MILLIMETRES = 1000.0
_MOST = 65535
_USUAL_SCALES = (5000.0, 1000.0, 256.0, 100.0, 10.0, 1.0)


def write(scene: Scene, path: Path, *, overwrite: bool = False, scale: float | None = None) -> None:
    """Write the depth of a scene as a folder of images.

    Args:
        scale: values per unit of length; None chooses as described above.

    Raises:
        InputError: a valid depth is not finite, not positive, or out of the range of 16 bits at this scale.
        OutputError: the output cannot be written.
    """
    least, most = _range(scene)
    if scale is None:
        scale = MILLIMETRES if scene.metric else _largest_scale(most)
    _check_range(least, most, scale, "m" if scene.metric else "units")
    with written_whole(Path(path), overwrite=overwrite, marker="depth.json") as target:
        target.mkdir()
        for t in range(len(scene)):
            _write_png(target / f"{t:06d}.png", _encoded(scene, t, scale))
        (target / "depth.json").write_text(json.dumps(_description(scene, scale), indent=1))


def read(path: str | Path) -> tuple[Float[np.ndarray, "t h w"], dict[str, Any]]:
    """Depth maps (float32, 0 where unknown) and what `depth.json` says.

    Raises:
        FormatError: no such folder, or an image is missing or damaged.
    """
    folder = Path(path)
    try:
        description = json.loads((folder / "depth.json").read_text())
        scale, count = float(description["scale"]), len(description["times_s"])
        size = int(description["height"]), int(description["width"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{folder} has no readable depth.json; give a folder written as png-depth.") from error
    depth_z = np.empty((count, *size), dtype=np.float32)
    for t in range(count):
        depth_z[t] = _read_png(folder / f"{t:06d}.png", size) / np.float32(scale)
    return depth_z, description


def _range(scene: Scene) -> tuple[float, float]:
    """Least and largest valid depth, units of the scene."""
    least, most = np.inf, 0.0
    for t in range(len(scene)):
        depth_z = np.asarray(scene.depth_z[t])[np.asarray(scene.valid[t])]
        if not np.isfinite(depth_z).all() or (depth_z <= 0).any():
            raise InputError(f"frame {t} has valid depth that is not finite or not positive; mark it invalid first.")
        if depth_z.size:
            least, most = min(least, float(depth_z.min())), max(most, float(depth_z.max()))
    return least, most


def _largest_scale(most: float) -> float:
    if most <= 0:
        return MILLIMETRES
    power = 10.0 ** np.floor(np.log10(_MOST / most))
    return float(max(power * step for step in (1, 2, 5) if power * step * most <= _MOST))


def _check_range(least: float, most: float, scale: float, unit: str) -> None:
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(f"the scale must be positive, not {scale}; leave it out to have it chosen.")
    if round(most * scale) > _MOST:
        fits = next((s for s in _USUAL_SCALES if s < scale and round(most * s) <= _MOST), _largest_scale(most))
        raise InputError(
            f"depth reaches {most:.1f} {unit}, but 16 bits end at {_MOST / scale:.1f} {unit} with scale {scale:g}; "
            f"use scale={fits:g} (up to {_MOST / fits:.1f} {unit})."
        )
    if least * scale < 1:
        raise InputError(
            f"depth goes down to {least:.3g} {unit}, below one step at scale {scale:g}; "
            f"use scale={_largest_scale(most):g}."
        )


def _encoded(scene: Scene, frame: int, scale: float) -> UInt16[np.ndarray, "h w"]:
    depth_z = np.where(np.asarray(scene.valid[frame]), np.asarray(scene.depth_z[frame], dtype=np.float64), 0.0)
    return np.rint(depth_z * scale).astype(np.uint16)


def _description(scene: Scene, scale: float) -> dict[str, Any]:
    return {
        "scale": scale,
        "unit": "metre" if scene.metric else "scene unit (not metric)",
        "meaning": "value / scale = depth along the optical axis; 0 = unknown",
        "times_s": scene.times_s.tolist(),
        "width": scene.width,
        "height": scene.height,
        "intrinsics_fx_fy_cx_cy": scene.camera.intrinsics.tolist(),
        "pixel_centres_at": [0.5, 0.5],
        "distortion": list(scene.camera.distortion),
    }


def _write_png(path: Path, image: UInt16[np.ndarray, "h w"]) -> None:
    if not cv2.imwrite(str(path), image):  # OpenCV returns False where others raise
        raise OutputError(f"cannot write {path.parent.name} (is the disk full?); choose another output.")


def _read_png(path: Path, size: tuple[int, int]) -> UInt16[np.ndarray, "h w"]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.shape != size:
        raise FormatError(f"{path} is not a 16-bit depth image of {size[1]}x{size[0]}; write the folder again.")
    return image
