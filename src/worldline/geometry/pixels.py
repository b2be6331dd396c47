"""Pixels: the only file with a half in it.

Inside worldline the centre of the top-left pixel is (0.5, 0.5) and the image spans (0, 0) to (W, H), so a
resize is a pure scale. Formats and systems with integer centres convert here, once, at their border.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)
HALF = 0.5


def centres(
    height: int, width: int, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Tensor:
    """uv of all pixel centres, shape (H, W, 2), u to the right and v down."""
    u = torch.arange(width, dtype=dtype, device=device) + HALF
    v = torch.arange(height, dtype=dtype, device=device) + HALF
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)


def from_integer_centres(uv: Array) -> Array:
    """uv in the convention of OpenCV and the published systems (centres on integers) to ours."""
    return uv + HALF


def to_integer_centres(uv: Array) -> Array:
    """Our uv to the convention with centres on integers (cv2.remap, DIS flow, array indices)."""
    return uv - HALF


def indices(uv: Float[Tensor, "*n 2"], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column of the pixel that holds uv, clamped to the image."""
    column = uv[..., 0].floor().long().clamp(0, width - 1)
    row = uv[..., 1].floor().long().clamp(0, height - 1)
    return row, column


def inside(uv: Float[Tensor, "*n 2"], height: int, width: int, *, margin: float = 0.0) -> Tensor:
    """Whether uv lies in the image, at least `margin` pixels from its border."""
    u, v = uv[..., 0], uv[..., 1]
    return (u >= margin) & (v >= margin) & (u <= width - margin) & (v <= height - margin)


def sample(image: Float[Tensor, "h w *c"], uv: Float[Tensor, "*n 2"]) -> Tensor:
    """Bilinear value of an image at uv (clamped at the border), shape (*n, *c). `uv` is in pixels of `image`."""
    height, width = image.shape[:2]
    x = (uv[..., 0] - HALF).clamp(0, width - 1)
    y = (uv[..., 1] - HALF).clamp(0, height - 1)
    x0, y0 = x.floor().long().clamp(max=max(width - 2, 0)), y.floor().long().clamp(max=max(height - 2, 0))
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    extra = (1,) * (image.ndim - 2)
    a, b = (x - x0).reshape((*x.shape, *extra)), (y - y0).reshape((*y.shape, *extra))
    top = image[y0, x0] * (1 - a) + image[y0, x1] * a
    bottom = image[y1, x0] * (1 - a) + image[y1, x1] * a
    return top * (1 - b) + bottom * b


def sample_frames(maps: Float[Tensor, "t h w"], frame: Tensor, uv: Float[Tensor, "*n 2"]) -> Tensor:
    """Bilinear values of a stack of maps, each uv in its own frame: `frame` (*n,) long. Shape (*n,)."""
    _, height, width = maps.shape
    x = (uv[..., 0] - HALF).clamp(0, width - 1)
    y = (uv[..., 1] - HALF).clamp(0, height - 1)
    x0, y0 = x.floor().long().clamp(max=max(width - 2, 0)), y.floor().long().clamp(max=max(height - 2, 0))
    right, down = int(width > 1), width * int(height > 1)
    a, b = x - x0, y - y0
    flat, first = maps.reshape(-1), (frame * height + y0) * width + x0
    top = torch.lerp(flat[first], flat[first + right], a)
    bottom = torch.lerp(flat[first + down], flat[first + down + right], a)
    return torch.lerp(top, bottom, b)
