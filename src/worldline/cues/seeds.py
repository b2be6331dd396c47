"""Where tracks start: at the most textured pixel of every cell of a grid that no live track covers."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from worldline.cues import patches
from worldline.geometry import pixels

AT_JUMP = 0.02
"""Worth of texture near a jump of the flow, where a patch sees two surfaces and follows neither."""


@dataclass(frozen=True)
class Config:
    """Where tracks may start."""

    live: int = 2500
    """Cells of the grid, which is about the number of tracks that are alive in a frame."""
    every: int = 10
    """Frames between two looks for uncovered cells."""
    start_sigma_px: float = 1.0
    """A track starts only where the texture allows this accuracy at the noise of the patches."""
    jump: float = 0.06
    """Change of the flow, in pixels per pixel, that no single surface shows between two frames."""
    border_px: float = 4.0
    """Tracks start at least so far inside the image."""


def grid_seeds(
    image: Float[np.ndarray, "h w"],
    flow: Float[np.ndarray, "h w 2"],
    live: Float[np.ndarray, "n 2"],
    config: Config,
    patch: patches.Config,
) -> Float[np.ndarray, "m 2"]:
    """uv of the most textured pixel of every cell without a live track, where it is textured enough.

    Args:
        image: smoothed grey frame. flow: of the frame to a neighbour. live: uv of the tracks that are there.
    """
    height, width = image.shape
    cell = max(np.sqrt(height * width / config.live), 4.0)
    down, across = int(height // cell), int(width // cell)
    strength = _corner_strength(image, config.border_px, patch)
    strength *= np.where(_near_jump(flow, config.jump, patch), AT_JUMP, 1.0)
    size = np.array([width / across, height / down])
    taken = np.zeros((down, across), dtype=bool)
    at = (live / size).astype(int)
    taken[at[:, 1].clip(0, down - 1), at[:, 0].clip(0, across - 1)] = True
    best = _best_of_cells(strength, down, across)
    uv = best[~taken.ravel()]
    sigma_px = patch.noise / np.sqrt(np.maximum(strength[tuple(uv.astype(int)[:, ::-1].T)], 1e-9))
    return uv[sigma_px < config.start_sigma_px].astype(np.float32)


def _near_jump(flow: np.ndarray, jump: float, patch: patches.Config) -> np.ndarray:
    """Whether the flow changes faster than on a smooth surface anywhere within the patch around each pixel."""
    steps = [cv2.Sobel(flow, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (0, 1)]
    steep = np.sqrt(sum((s**2).sum(-1) for s in steps)) > jump
    side = 2 * round(patch.window_px) + 1
    return cv2.dilate(steep.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def _corner_strength(image: np.ndarray, border_px: float, patch: patches.Config) -> np.ndarray:
    """Information on the worse-known direction of a shift of the patch around each pixel; zero near the border."""
    du, dv = cv2.Sobel(image, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(image, cv2.CV_32F, 0, 1, scale=1 / 8)
    uu, uv, vv = (cv2.GaussianBlur(x, (0, 0), patch.window_px / 2) for x in (du * du, du * dv, dv * dv))
    least = (uu + vv) / 2 - np.hypot((uu - vv) / 2, uv)
    least *= np.pi * patch.window_px**2
    edge = int(np.ceil(border_px))
    inner = np.zeros_like(least)
    inner[edge:-edge, edge:-edge] = least[edge:-edge, edge:-edge]
    return inner


def _best_of_cells(strength: np.ndarray, down: int, across: int) -> np.ndarray:
    """uv of the strongest pixel of each cell, row by row."""
    height, width = strength.shape
    row = (np.arange(height) * down // height)[:, None]
    label = (row * across + np.arange(width) * across // width).ravel()
    order = np.lexsort((-strength.ravel(), label))
    first = order[np.searchsorted(label[order], np.arange(down * across))]
    return pixels.from_integer_centres(np.stack([first % width, first // width], -1).astype(np.float64))
