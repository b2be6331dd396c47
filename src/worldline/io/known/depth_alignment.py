"""Whether depth images are in the view of the colour camera, judged by edges, and how to bring them there.

Two cameras side by side see different pictures. Where depth was not registered to colour (the 7-Scenes recordings, raw
Kinect streams), a depth pixel belongs `scale` times as far from the middle of the colour image, moved by a constant
and by the parallax of the baseline: uv_colour = middle + scale (uv_depth - middle) + shift + parallax / z. The edges of
what is in front must then fall on edges of the colour images; half of the frames finds the numbers, the other half
must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.optimize import minimize

from worldline.geometry import pixels

_JUMP = 0.08
_MOST_EDGES = 1500
_FEWEST_EDGES = 500
_COARSE = 6
_FAINTEST = 0.05
_AGREEMENT_SHARE = 0.01
_BLUR_SHARE = 1 / 250
_STEP_SHARE = 0.003
_SCALES = np.arange(0.85, 1.18, 0.03)
_DRAWN_PX = 1.05
_NO_GAPS_BELOW = 0.95
_SIDEWAYS = np.array([-10.0, -5.0, 0.0, 5.0, 10.0])


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where depth pixels are in the colour image, both of one size.

    Attributes:
        scale: ratio of the focal lengths, colour over depth. shift_px: (2,). parallax: (2,) pixels times metres.
        better: how many times better the edges of held-out frames agree than without it.
    """

    scale: float
    shift_px: Float[np.ndarray, "2"]
    parallax: Float[np.ndarray, "2"]
    better: float = 1.0

    def moved(
        self, uv: Float[np.ndarray, "n 2"], depth_z: Float[np.ndarray, "n"], middle: Float[np.ndarray, "2"]
    ) -> Float[np.ndarray, "n 2"]:
        """uv in the colour image of depth pixels."""
        kind = uv.dtype
        offset = (middle * (1 - self.scale) + self.shift_px).astype(kind)
        return uv * kind.type(self.scale) + offset + self.parallax.astype(kind) / depth_z[:, None].astype(kind)


@dataclass(frozen=True, eq=False)
class _Evidence:
    """Edges of what is in front in one depth map, and how strongly the colour image has edges near each pixel."""

    uv: Float[np.ndarray, "n 2"]
    depth_z: Float[np.ndarray, "n"]
    strength: Float[np.ndarray, "h w"]


def find_alignment(
    depth_z: Sequence[Float[np.ndarray, "h w"]], images: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> Alignment | None:
    """How depth maps lie in colour images of the same size; None where the edges do not say.

    Args:
        depth_z: metres, 0 unknown; images: of the same frames. At least four, spread over the clip.
    """
    evidence = [_evidence(z, image) for z, image in zip(depth_z, images, strict=True)]
    halves = evidence[::2], evidence[1::2]
    if any(sum(len(e.uv) for e in half) < _FEWEST_EDGES for half in halves):
        return None
    found = [_fitted(half) for half in halves]
    height, width = evidence[0].strength.shape
    apart = _displacement(found[0], found[1], evidence)
    if apart > _AGREEMENT_SHARE * width:
        return None
    whole = _refined(evidence, found[0])
    if _score(whole, evidence) < _FAINTEST:
        return None
    better = min(_score(found[i], halves[1 - i]) / _score(_NONE, halves[1 - i]) for i in (0, 1))
    return Alignment(whole.scale, whole.shift_px, whole.parallax, float(better))


def displacement_px(found: Alignment, depth_z: Sequence[Float[np.ndarray, "h w"]]) -> float:
    """Root mean square of how far the alignment moves the known pixels of depth maps."""
    moved = [_moved_by(found, z) for z in depth_z]
    return float(np.sqrt(np.mean(np.concatenate(moved))))


def aligned(
    found: Alignment, depth_z: Float[np.ndarray, "h w"], sigma: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """A depth map and its sigma in the view of the colour camera: every pixel is moved, the nearest one wins."""
    height, width = depth_z.shape
    row, column = np.nonzero(depth_z > 0)
    millimetres = np.minimum(depth_z[row, column] * 1000, 65535).astype(np.uint16)
    far_first = np.argsort(~millimetres, kind="stable")  # whole numbers of 16 bits sort in linear time
    row, column = row[far_first], column[far_first]
    z = depth_z[row, column]
    middle = np.array([width, height], dtype=np.float32) / 2
    uv = found.moved(_uv(row, column), z, middle)[:, None] + _corners(found.scale)
    at = np.floor(uv).astype(np.int32)
    inside = (at[..., 0] >= 0) & (at[..., 0] < width) & (at[..., 1] >= 0) & (at[..., 1] < height)
    flat = at[inside] @ np.array([1, width], dtype=np.int32)
    which = np.broadcast_to(np.arange(len(z))[:, None], inside.shape)[inside]
    new_z, new_sigma = np.zeros_like(depth_z), np.ones_like(sigma)
    new_z.reshape(-1)[flat] = z[which]  # of values for the same pixel the last one stays, which is the nearest
    new_sigma.reshape(-1)[flat] = sigma[row, column][which]
    return new_z, new_sigma


def _corners(scale: float) -> Float[np.ndarray, "c 2"]:
    """What is drawn of a moved pixel: its middle, or where the view is magnified its corners, so that no gaps open."""
    if scale < _NO_GAPS_BELOW:
        return np.zeros((1, 2), dtype=np.float32)
    reach = _DRAWN_PX / 2 * max(scale, 1.0)
    return reach * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)], dtype=np.float32)


_NONE = Alignment(1.0, np.zeros(2), np.zeros(2))


def _uv(row: np.ndarray, column: np.ndarray) -> Float[np.ndarray, "n 2"]:
    return pixels.from_integer_centres(np.stack([column, row], -1).astype(np.float32))


def _evidence(depth_z: Float[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"]) -> _Evidence:
    row, column = np.nonzero(_front_edges(depth_z))
    step = max(1, len(row) // _MOST_EDGES)
    row, column = row[::step], column[::step]
    return _Evidence(_uv(row, column), depth_z[row, column].astype(np.float64), _edge_strength(image))


def _front_edges(depth_z: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels beside which something known is farther by more than a jump."""
    known = depth_z > 0
    log_z = np.where(known, np.log(np.where(known, depth_z, 1.0)), -np.inf).astype(np.float32)
    farthest = cv2.dilate(np.where(known, log_z, -1e3).astype(np.float32), np.ones((3, 3), np.uint8))
    return known & (farthest - log_z > _JUMP)


def _edge_strength(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """The gradient of the image in [0, 1], blurred so that near misses count too."""
    blur = max(1.0, image.shape[1] * _BLUR_SHARE)
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), blur / 2)
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    strong = np.minimum(gradient / max(float(np.percentile(gradient, 95)), 1e-6), 1.0)
    return cv2.GaussianBlur(strong, (0, 0), blur)


def _score(found: Alignment, evidence: Sequence[_Evidence]) -> float:
    """Mean strength of the colour edges on which the depth edges fall, of those that fall into the image."""
    total, count = 1e-9, 1
    for e in evidence:
        height, width = e.strength.shape
        uv = found.moved(e.uv, e.depth_z, np.array([width, height]) / 2)
        inside = (uv[:, 0] > 0) & (uv[:, 0] < width) & (uv[:, 1] > 0) & (uv[:, 1] < height)
        u, v = pixels.to_integer_centres(uv[inside]).astype(np.float32).T[:, None]
        total += float(cv2.remap(e.strength, u, v, cv2.INTER_LINEAR).sum()) if inside.any() else 0.0
        count += int(inside.sum())
    return total / count


def _fitted(evidence: Sequence[_Evidence]) -> Alignment:
    """A coarse search over scale, shift and parallax to the side, then all five numbers."""
    some = [replace(e, uv=e.uv[::_COARSE], depth_z=e.depth_z[::_COARSE]) for e in evidence]
    step_px = _STEP_SHARE * evidence[0].strength.shape[1]
    sideways = step_px * np.stack([_SIDEWAYS, np.zeros_like(_SIDEWAYS)], -1)
    grid = [
        Alignment(float(scale), shift, parallax) for scale in _SCALES for shift in sideways for parallax in sideways
    ]
    return _refined(evidence, max(grid, key=lambda found: _score(found, some)))


def _refined(evidence: Sequence[_Evidence], start: Alignment) -> Alignment:
    """The best alignment near another, by Nelder and Mead's simplex, which needs no gradient."""
    steps = np.array([0.01, *(_STEP_SHARE * evidence[0].strength.shape[1],) * 4])
    first = np.array([start.scale, *start.shift_px, *start.parallax]) / steps
    simplex = first + np.vstack([np.zeros(5), np.diag([2.0, 2, 2, 2, 2])])
    options = {"initial_simplex": simplex, "maxiter": 300, "xatol": 0.02, "fatol": 1e-5}
    best = minimize(lambda x: -_score(_of(x * steps), evidence), first, method="Nelder-Mead", options=options)
    return _of(best.x * steps)


def _of(x: Float[np.ndarray, "5"]) -> Alignment:
    return Alignment(float(x[0]), x[1:3].copy(), x[3:5].copy())


def _displacement(a: Alignment, b: Alignment, evidence: Sequence[_Evidence]) -> float:
    """Root mean square of the difference of two alignments at the edges."""
    squares = []
    for e in evidence:
        middle = np.array(e.strength.shape[::-1]) / 2
        squares.append(((a.moved(e.uv, e.depth_z, middle) - b.moved(e.uv, e.depth_z, middle)) ** 2).sum(1))
    return float(np.sqrt(np.mean(np.concatenate(squares))))


def _moved_by(found: Alignment, depth_z: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "n"]:
    row, column = np.nonzero(depth_z > 0)
    uv = _uv(row, column)
    middle = np.array(depth_z.shape[::-1]) / 2
    return ((found.moved(uv, depth_z[row, column].astype(np.float64), middle) - uv) ** 2).sum(1)
