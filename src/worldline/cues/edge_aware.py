"""Smoothing that stops at the edges of an image: a sparse solver in bilateral space, and the guided filter.

Sources: Barron and Poole, "The Fast Bilateral Solver", ECCV 2016 (the simplified grid of section 2, solved here as a
plain graph Laplacian with conjugate gradients); He, Sun and Tang, "Guided Image Filtering", PAMI 2013.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import cg


@dataclass(frozen=True, eq=False)
class BilateralGrid:
    """The pixels of one image, gathered into cells of similar place and colour.

    Attributes:
        cell: (h, w) the cell of every pixel. mass: (V,) its pixels. links: (V, V) 1 between cells one step apart.
    """

    cell: Int[np.ndarray, "h w"]
    mass: Float[np.ndarray, "v"]
    links: csr_array

    @classmethod
    def of(
        cls, image: UInt8[np.ndarray, "h w 3"], *, place_px: float = 16.0, luma: float = 12.0, chroma: float = 8.0
    ) -> BilateralGrid:
        """Cells of `place_px` pixels, `luma` and `chroma` grey levels (YCrCb)."""
        height, width = image.shape[:2]
        colour = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(np.float32)
        v, u = np.mgrid[:height, :width].astype(np.float32)
        place = np.stack([v / place_px, u / place_px, colour[..., 0] / luma], -1)
        steps = np.concatenate([place, colour[..., 1:] / chroma], -1).astype(np.int64).reshape(-1, 5)
        sizes = steps.max(0) + 2
        strides = np.concatenate([np.cumprod(sizes[::-1])[::-1][1:], [1]])
        keys, cell, mass = np.unique(steps @ strides, return_inverse=True, return_counts=True)
        return cls(cell.reshape(height, width), mass.astype(np.float64), _links(keys, strides))

    def solve(
        self,
        target: Float[np.ndarray, "h w"],
        confidence: Float[np.ndarray, "h w"],
        *,
        smoothness: float,
        steps: int = 60,
    ) -> Float[np.ndarray, "h w"]:
        """The map closest to `target` where `confidence` is high, and smooth between similar neighbouring cells."""
        c = self._sum(confidence) + 1e-6
        wanted = self._sum(confidence * target)
        root = diags_array(np.sqrt(self.mass))
        links = root @ self.links @ root
        degree = np.asarray(links.sum(1)).reshape(-1)
        system = diags_array(c + smoothness * degree) - smoothness * links
        start = np.full(len(c), wanted.sum() / c.sum())
        inverse = diags_array(1 / (c + smoothness * degree))
        solved, _ = cg(system, wanted, x0=start, rtol=1e-4, maxiter=steps, M=inverse)
        return solved[self.cell].astype(np.float32)

    def mean(self, values: Float[np.ndarray, "h w"], weight: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "v"]:
        """Weighted mean of a map in every cell."""
        return self._sum(values * weight) / np.maximum(self._sum(weight), 1e-9)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.cell.reshape(-1), values.reshape(-1), minlength=len(self.mass))


def guided(
    guide: Float[np.ndarray, "h w"], values: Float[np.ndarray, "h w"], *, radius: int, edge: float
) -> Float[np.ndarray, "h w"]:
    """`values` as local linear functions of a guide in [0, 1]; steps of the guide below `edge` count as flat."""
    size = (2 * radius + 1, 2 * radius + 1)

    def box(x: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(x, cv2.CV_32F, size, borderType=cv2.BORDER_REFLECT)

    mean_guide, mean_values = box(guide), box(values)
    slope = (box(guide * values) - mean_guide * mean_values) / (box(guide * guide) - mean_guide**2 + edge**2)
    return box(slope) * guide + box(mean_values - slope * mean_guide)


def _links(keys: np.ndarray, strides: np.ndarray) -> csr_array:
    count = len(keys)
    rows, columns = [], []
    for stride in strides:
        at = np.searchsorted(keys, keys + stride)
        found = np.flatnonzero((at < count) & (keys[np.minimum(at, count - 1)] == keys + stride))
        rows.append(found)
        columns.append(at[found])
    i, j = np.concatenate(rows), np.concatenate(columns)
    ones = np.ones(2 * len(i))
    return csr_array((ones, (np.concatenate([i, j]), np.concatenate([j, i]))), shape=(count, count))
