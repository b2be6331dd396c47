"""Positional tables: sine and cosine, and the resizing of a square table to another grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def sine_table(count: int, width: int, *, base: float) -> Float[Tensor, "n c"]:
    """Row p, column j: sine (even j) or cosine (odd j) of p / base^(2 floor(j / 2) / width).

    Source: Vaswani et al., "Attention is all you need", NeurIPS 2017, section 3.5.
    """
    exponent = 2 * torch.div(torch.arange(width), 2, rounding_mode="floor") / width
    angle = torch.arange(count)[:, None] / base ** exponent[None].double()
    even = torch.arange(width) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos()).float()


def resized_table(table: Float[Tensor, "s c"], side: int, grid: Sequence[int]) -> Float[Tensor, "n c"]:
    """A table of side x side positions, row by row, resized bicubically to a grid of (height, width) positions.

    It is resized by the factors (n + 0.1) / side, as DINOv2 was trained: the 0.1 moves the places that are sampled.
    """
    height, width = grid
    if (height, width) == (side, side):
        return table
    square = table.view(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((height + 0.1) / side, (width + 0.1) / side)
    resized = functional.interpolate(square.float(), scale_factor=factors, mode="bicubic", antialias=False)
    return resized[0].flatten(1).T.to(table.dtype)
