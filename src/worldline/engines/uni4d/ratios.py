"""By how much the depth cue is off around every pixel, as solved points tell: log ratios, spread over the image.

Every point says how far the cue is off at its pixel. The ratios are spread by normalised convolution at several
scales: fine where points are dense, coarse where they are not.

Source: Uni4D (arXiv 2503.21761) asks three nearest points in 3D per pixel; this is its dense, robust form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.geometry import pixels


@dataclass(frozen=True)
class Fusing:
    """Settings: cells across the image width, blur widths in cells with their weights, outlier limit in MADs."""

    cells: int = 64
    blurs: tuple[float, ...] = (0.6, 1.6, 5.0)
    blur_weights: tuple[float, ...] = (1.0, 0.1, 0.003)
    limit: float = 4.0
    prior: float = 1e-4


@dataclass(frozen=True, eq=False)
class ControlPoints:
    """Log ratios of solved to cue depth at pixels.

    `place` is (M, 2) in [0, 1] of width and height; the rest is (M,), `variance` that of the solved log depth.
    """

    frame: Int[Tensor, "m"]
    place: Float[Tensor, "m 2"]
    log_ratio: Float[Tensor, "m"]
    weight: Float[Tensor, "m"]
    variance: Float[Tensor, "m"]

    def chosen(self, keep: Bool[Tensor, "m"]) -> ControlPoints:
        """The points in a mask."""
        fields = (self.frame, self.place, self.log_ratio, self.weight, self.variance)
        return ControlPoints(*(values[keep] for values in fields))


@dataclass(frozen=True, eq=False)
class RatioField:
    """A smooth field of log ratios on a coarse grid.

    `support` is how much evidence stands behind the value (0 none), `spread` the standard deviation of a log depth
    corrected by it: how far the points around disagree, and how well they are known themselves.
    """

    value: Float[Tensor, "t h w"]
    support: Float[Tensor, "t h w"]
    spread: Float[Tensor, "t h w"]


def ratio_field(points: ControlPoints, frames: int, aspect: float, settings: Fusing) -> RatioField:
    """Spread the ratios of all control points over the image of their frame, outliers left out.

    `aspect` is height over width. Where a frame has no point the field is zero with no support.
    """
    width, height = settings.cells, max(2, round(settings.cells * aspect))
    weight = points.weight * _inliers(points, frames, settings.limit)
    column = (points.place[:, 0] * width).long().clamp(0, width - 1)
    row = (points.place[:, 1] * height).long().clamp(0, height - 1)
    cell = (points.frame * height + row) * width + column
    size = frames * height * width
    splat = weight.new_zeros(4, size)
    for i, value in enumerate((torch.ones_like(weight), points.log_ratio, points.log_ratio**2, points.variance)):
        splat[i].index_add_(0, cell, weight * value)
    grids = splat.view(4 * frames, 1, height, width)
    total = sum(w * _blur(grids, s) for s, w in zip(settings.blurs, settings.blur_weights, strict=True))
    assert isinstance(total, Tensor)
    support, first, second, own = total.view(4, frames, height, width)
    value = first / (support + settings.prior)
    disagreement = (second / (support + settings.prior) - value**2).clamp_min(0)
    return RatioField(value, support, (disagreement + own / support.clamp_min(1e-12)).sqrt())


def held_out_errors(
    field: RatioField, held: ControlPoints, log_scale: Float[Tensor, "t"], settings: Fusing
) -> tuple[float, float]:
    """Median |log ratio| of held-out points left by a scale per frame alone, and by the field; NaN without points."""
    trust = field.support / (field.support + settings.prior)
    value = field.value * trust + log_scale[:, None, None] * (1 - trust)
    use = held.weight > 0
    off = held.log_ratio - sample_field(value, held.frame, held.place)
    before = held.log_ratio - log_scale[held.frame]
    return float(before[use].abs().median()), float(off[use].abs().median())


def _inliers(points: ControlPoints, frames: int, limit: float) -> Tensor:
    """1 for ratios within `limit` MADs of their frame's median, by sorting all frames at once."""
    order = torch.argsort(points.frame * 1e3 + points.log_ratio.clamp(-10, 10))
    count = torch.bincount(points.frame, minlength=frames)
    start = count.cumsum(0) - count
    middle = order[(start + count // 2).clamp_max(max(len(order) - 1, 0))] if len(order) else start
    if len(order) == 0:
        return points.weight
    off = (points.log_ratio - points.log_ratio[middle][points.frame]).abs()
    order = torch.argsort(points.frame * 1e3 + off.clamp_max(10))
    mad = off[order[(start + count // 2).clamp_max(len(order) - 1)]]
    return (off <= limit * 1.4826 * mad[points.frame].clamp_min(1e-3)).to(points.weight)


def _blur(grids: Tensor, sigma: float) -> Tensor:
    radius = max(1, int(3 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=grids.dtype, device=grids.device)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    across = F.conv2d(grids, kernel.view(1, 1, 1, -1), padding=(0, radius))
    return F.conv2d(across, kernel.view(1, 1, -1, 1), padding=(radius, 0))


def sample_field(field: Tensor, frame: Tensor, place: Float[Tensor, "m 2"]) -> Tensor:
    """Bilinear values of a (T, h, w) field at places in [0, 1]."""
    size = torch.tensor([field.shape[2], field.shape[1]], dtype=place.dtype, device=place.device)
    return pixels.sample_frames(field, frame, place * size)


def enlarge(field: Float[Tensor, "t h w"], height: int, width: int) -> Float[Tensor, "t height width"]:
    """Bilinear, in the convention of pixel centres at +0.5."""
    return F.interpolate(field[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
