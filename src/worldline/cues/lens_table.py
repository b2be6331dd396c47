"""Undistortion of many pixels by a table: a lens is smooth, so its inverse need not be iterated for every pixel."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float

from worldline.cues.optical_flow import sample
from worldline.geometry.camera import Camera, undistort

CELLS = 320
"""Cells of the table on either axis: within two hundredths of a pixel, far below the error of flow."""

BEYOND = 1.25
"""The table reaches so much farther than the corners of the image; beyond it, pixels are shifted like its border."""


def ideal_uv(
    uv: Float[np.ndarray, "*t h w 2"], camera: Camera, reference: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "*t h w 2"]:
    """Like `geometry.camera.ideal_uv`, for grids of pixels in float32."""
    own = camera.intrinsics.astype(np.float32)
    own = own.reshape(-1, *(1,) * (uv.ndim - 2), 4) if camera.per_frame else own
    xy = (uv - own[..., 2:]) / own[..., :2]
    if any(camera.distortion):
        reach = _reach(camera)
        xy = xy + sample(_shifts(camera.distortion, reach), (xy + reach) * (CELLS / (2 * reach)) + 0.5, cubic=True)
    return (xy * reference[:2] + reference[2:]).astype(np.float32)


def _reach(camera: Camera) -> float:
    """Largest normalised coordinate in the image of any frame, and some way beyond."""
    corners = np.array([[0, 0], [camera.width, camera.height]])
    intrinsics = camera.intrinsics.reshape(-1, 1, 4)
    return BEYOND * float(np.abs((corners - intrinsics[..., 2:]) / intrinsics[..., :2]).max())


@lru_cache(maxsize=4)
def _shifts(distortion: tuple[float, ...], reach: float) -> Float[np.ndarray, "n n 2"]:
    axis = torch.linspace(-reach, reach, CELLS + 1, dtype=torch.float64)
    xy = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    return (undistort(xy, distortion, steps=60) - xy).float().numpy()
