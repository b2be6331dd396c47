"""Images as the network was trained on them: one of ten sizes, resized to cover it and cut around the middle.

Source: the published loading code's behaviour, pinned by fixtures; the aspect ratios are those of
MapAnything's training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from worldline.geometry import pixels

SIZES = {
    1.000: (518, 518), 1.321: (518, 392), 1.542: (518, 336), 1.762: (518, 294), 2.056: (518, 252), 3.083: (518, 168),
    0.757: (392, 518), 0.649: (336, 518), 0.567: (294, 518), 0.486: (252, 518),
}  # fmt: skip
"""(width, height) of the network by the aspect ratio of the images that are nearest to it."""

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours (0 to 1) of ImageNet, which the image encoder expects to be taken out."""

MORE = 1e-8
"""Added to the scale, so that the resized image covers the size in spite of rounding."""


def network_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) at which the network sees images of a shape."""
    aspect = width / height
    return SIZES[min(SIZES, key=lambda known: abs(known - aspect))]


@dataclass(frozen=True)
class Fit:
    """From the pixels of an image to those of the network: scaled, then cut.

    Attributes:
        width, height: of the network's image; original: (width, height) of the image that is fitted.
        scale: of the image; resized: its size then. left, top: pixels of the resized image that are cut away.
    """

    width: int
    height: int
    original: tuple[int, int]
    scale: float
    resized: tuple[int, int]
    left: int
    top: int

    @classmethod
    def of(cls, width: int, height: int, size: tuple[int, int] | None = None) -> Fit:
        """For images of a size, at the network's size for them unless it is given."""
        to = size or network_size(width, height)
        scale = max(to[0] / width, to[1] / height) + MORE
        resized = int(np.floor(width * scale)), int(np.floor(height * scale))
        return cls(*to, (width, height), scale, resized, (resized[0] - to[0]) // 2, (resized[1] - to[1]) // 2)

    def image(self, frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """A frame as the network sees it: Lanczos where it shrinks, bicubic where it grows."""
        how = Image.Resampling.LANCZOS if self.scale < 1 else Image.Resampling.BICUBIC
        picture = Image.fromarray(frame).resize(self.resized, how)
        return np.asarray(picture)[self.top : self.top + self.height, self.left : self.left + self.width]

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """A map (h, w, ...) over the same image plane, of any size: the nearest pixel, none mixed with another."""
        height, width = values.shape[:2]
        row, column = (
            np.minimum(np.arange(n) * size // n, size - 1)
            for n, size in ((self.resized[1], height), (self.resized[0], width))
        )
        rows, columns = row[self.top : self.top + self.height], column[self.left : self.left + self.width]
        return values[rows[:, None], columns[None]]

    def nearest_points(self, depth_z: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h2 w2"]:
        """A map of which few pixels are known (not 0): each goes to the pixel that holds it, the nearest one wins."""
        row, column = np.nonzero(depth_z)
        scale = np.array(self.original) / depth_z.shape[::-1]
        uv = pixels.from_integer_centres(np.stack([column, row], -1).astype(np.float64)) * scale
        network_from_original = np.linalg.inv(self.original_from_network)
        to = np.floor(uv @ network_from_original[:2, :2].T + network_from_original[:2, 2]).astype(int)
        inside = ((to >= 0) & (to < [self.width, self.height])).all(1)
        out = np.full((self.height, self.width), np.inf)
        np.minimum.at(out, (to[inside, 1], to[inside, 0]), depth_z[row, column][inside])
        return np.where(np.isfinite(out), out, 0).astype(depth_z.dtype)

    @property
    def original_from_network(self) -> Float[np.ndarray, "3 3"]:
        """From uv of the network's image to uv of the original."""
        (left, top), (width, height) = (self.left, self.top), self.resized
        scale = np.array(self.original) / [width, height]
        return np.array([[scale[0], 0, left * scale[0]], [0, scale[1], top * scale[1]], [0, 0, 1.0]])

    def intrinsics(self, fx_fy_cx_cy: Float[np.ndarray, "*t 4"]) -> Float[np.ndarray, "*t 4"]:
        """Of the network's image; pixel centres at +0.5 on both sides."""
        network_from_original = np.linalg.inv(self.original_from_network)
        scale, offset = np.diag(network_from_original)[:2], network_from_original[:2, 2]
        return np.asarray(fx_fy_cx_cy) * np.tile(scale, 2) + np.concatenate([np.zeros(2), offset])

    def trained_intrinsics(self, fx_fy_cx_cy: Float[np.ndarray, "*t 4"]) -> Float[np.ndarray, "*t 4"]:
        """As in the network's training, where the image counted as scaled, then cut; less than half a pixel off."""
        out = np.array(fx_fy_cx_cy, dtype=np.float64) * self.scale
        spare = np.array(self.original) * self.scale - self.resized
        out[..., 2:] -= spare / 2 + (self.left, self.top)
        return out


def normalised(images: UInt8[np.ndarray, "*n h w 3"]) -> Float[Tensor, "*n 3 h w"]:
    """Colours as the image encoder expects them."""
    x = torch.from_numpy(np.array(images)).float() / 255
    return ((x - x.new_tensor(MEAN)) / x.new_tensor(SPREAD)).movedim(-1, -3)


def colours(images: Float[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n 3 h w"]:
    """The inverse of `normalised`: colours from 0 to 1."""
    mean, spread = (images.new_tensor(x)[:, None, None] for x in (MEAN, SPREAD))
    return images * spread + mean
