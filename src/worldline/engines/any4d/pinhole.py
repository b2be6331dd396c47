"""From the network's rays to a pinhole: the intrinsics whose pixels look along them best."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import pixels

GRID = 50
"""Rays along each side of the image that are looked at; more would say the same."""


def pinhole(rays: Float[Tensor, "*b h w 3"]) -> Float[Tensor, "*b 4"]:
    """fx, fy, cx, cy (pixel centres at +0.5) by least squares of u on x / z and of v on y / z, on a grid of rays."""
    height, width = rays.shape[-3:-1]
    rows = slice(None, None, max(1, height // GRID))
    columns = slice(None, None, max(1, width // GRID))
    uv = pixels.centres(height, width, dtype=torch.float64, device=rays.device)[rows, columns].flatten(0, 1)
    slopes = rays[..., rows, columns, :].double().flatten(-3, -2)
    slopes = slopes[..., :2] / slopes[..., 2:]
    slope_mean, uv_mean = slopes.mean(-2), uv.mean(-2)
    spread = slopes - slope_mean[..., None, :]
    focal = (spread * (uv - uv_mean)).sum(-2) / (spread * spread).sum(-2)
    return torch.cat([focal, uv_mean - focal * slope_mean], -1).to(rays.dtype)


def pinhole_of_five(rays: Float[Tensor, "*b h w 3"]) -> Float[Tensor, "*b 4"]:
    """The same from five rays: the middle of the image and half way to its four sides."""
    height, width = rays.shape[-3:-1]
    slopes = rays[..., :2] / rays[..., 2:]
    row, column = height // 2, width // 2
    middle = slopes[..., row, column, :]

    def focal(axis: int, steps: tuple[int, int], at: tuple[Tensor, Tensor]) -> Tensor:
        first, second = (step / (x[..., axis] - middle[..., axis]) for step, x in zip(steps, at, strict=True))
        return (first + second) / 2

    left, right, above, below = width // 4, 3 * width // 4, height // 4, 3 * height // 4
    fx = focal(0, (left - column, right - column), (slopes[..., row, left, :], slopes[..., row, right, :]))
    fy = focal(1, (above - row, below - row), (slopes[..., above, column, :], slopes[..., below, column, :]))
    f = torch.stack([fx, fy], -1)
    centre = pixels.from_integer_centres(middle.new_tensor([column, row]))
    return torch.cat([f, centre - f * middle], -1)
