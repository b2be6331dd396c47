"""Depth: errors of depth maps after a named alignment.

One prediction under six published alignments differs tenfold in AbsRel, so no number here goes without the name of
its alignment. An alignment is found once per video (or per frame, where the name says so) and can be applied to any
region; pixels are pooled over the video, so every valid pixel weighs the same, unless frames are asked for.
Metrics: Eigen et al., "Depth map prediction from a single image using a multi-scale deep network", NeurIPS 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from worldline.errors import InputError

DepthMap = Float[np.ndarray, "t h w"]
Where = Bool[np.ndarray, "t h w"]
Coefficients = tuple[float, float]
Weighting = Literal["pixels", "frames"]

_FLOOR = 1e-3
"""Aligned depth is kept above this share of the median true depth, aligned disparity of the true median disparity."""


@dataclass(frozen=True, eq=False)
class DepthAlignment:
    """`aligned = scale * depth_z + shift` per frame, or the same on 1 / depth where `in_disparity`.

    `floor` bounds the aligned quantity from below: a shift can make it negative.
    """

    name: str
    scale: Float[np.ndarray, "t"]
    shift: Float[np.ndarray, "t"]
    in_disparity: bool = False
    floor: float = 0.0

    def apply(self, depth_z: Float[np.ndarray, "h w"], frame: int) -> Float[np.ndarray, "h w"]:
        """Aligned depth of one frame, in the units of the truth."""
        scale, shift = self.scale[frame], self.shift[frame]
        if not self.in_disparity:
            return np.maximum(scale * depth_z + shift, self.floor)
        return 1 / np.maximum(scale / np.maximum(depth_z, 1e-12) + shift, self.floor)


@dataclass(frozen=True)
class DepthScores:
    """Errors of aligned depth; NaN where no pixel was compared.

    Attributes:
        abs_rel: mean of |d - t| / t. rmse_m: root mean square of d - t. rmse_log: of log d - log t.
        delta_1, delta_2, delta_3: shares of pixels with max(d / t, t / d) below 1.25, 1.25^2 and 1.25^3.
        pixels: how many were compared. coverage: their share of the pixels that have a true depth.
    """

    abs_rel: float
    rmse_m: float
    rmse_log: float
    delta_1: float
    delta_2: float
    delta_3: float
    pixels: int
    coverage: float


def align(depth_z: DepthMap, truth_z: DepthMap, where: Where, *, name: str = "median") -> DepthAlignment:
    """Find the alignment called `name` on the pixels `where`.

    none             the prediction as it is
    median           one scale: the median over the video of truth / prediction
    median-frame     the same, but for every frame by itself (frames without pixels take the video's)
    scale            one scale with the least sum of |scale * d - t| (exact, by the weighted median)
    scale-shift      scale and shift with the least sum of |scale * d + shift - t| (reweighted least squares)
    lsq-scale-shift  scale and shift by least squares in depth
    lsq-disparity    scale and shift by least squares in 1 / depth; far pixels may move a lot

    The two with least absolute errors bear wrong truth, but predictions much too far count with their size.

    Raises:
        InputError: no such name, shapes that differ, or no pixel to align on.
    """
    if name not in ALIGNMENTS:
        raise InputError(f"there is no depth alignment {name!r}; choose one of {', '.join(ALIGNMENTS)}.")
    if depth_z.shape != truth_z.shape or where.shape != truth_z.shape:
        raise InputError(
            f"depth {depth_z.shape} and truth {truth_z.shape} must have one shape; resize the truth first."
        )
    count = len(truth_z)
    if name == "none":
        return DepthAlignment(name, np.ones(count), np.zeros(count))
    usable = where & _usable(depth_z) & _usable(truth_z)
    if not usable.any():
        raise InputError("no pixel has both a depth and a true depth; check the masks and the validity of both.")
    if name == "median-frame":
        return DepthAlignment(name, _median_per_frame(depth_z, truth_z, usable), np.zeros(count))
    in_disparity = name == "lsq-disparity"
    d, t = depth_z[usable], truth_z[usable]
    d, t = (1 / d, 1 / t) if in_disparity else (d, t)
    scale, shift = _FITS[name](d, t)
    floor = _FLOOR * float(np.median(t)) if shift else 0.0
    return DepthAlignment(name, np.full(count, scale), np.full(count, shift), in_disparity, floor)


def scores(
    depth_z: DepthMap,
    truth_z: DepthMap,
    where: Where,
    alignment: DepthAlignment,
    *,
    cap_m: float | None = None,
    weighting: Weighting = "pixels",
) -> DepthScores:
    """Errors on the pixels `where`, after an alignment found by `align` (there or on other pixels).

    Args:
        depth_z, truth_z: depth along the optical axis; 0 or not finite where unknown.
        cap_m: pixels with a larger true depth are left out, and larger predictions count as this.
        weighting: every pixel the same, or every frame the same (frames without pixels are left out).
    """
    return scores_by_region(depth_z, truth_z, {"": where}, alignment, cap_m=cap_m, weighting=weighting)[""]


def scores_by_region(
    depth_z: DepthMap,
    truth_z: DepthMap,
    where: Mapping[str, Where],
    alignment: DepthAlignment,
    *,
    cap_m: float | None = None,
    weighting: Weighting = "pixels",
) -> dict[str, DepthScores]:
    """`scores` of several regions in one pass over the frames."""
    if any(shape != truth_z.shape for shape in (depth_z.shape, *(w.shape for w in where.values()))):
        raise InputError(
            f"depth {depth_z.shape} and truth {truth_z.shape} must have one shape; resize the truth first."
        )
    cap = np.inf if cap_m is None else cap_m
    rows: dict[str, list[np.ndarray]] = {name: [] for name in where}
    for frame in range(len(truth_z)):
        d, t = np.asarray(depth_z[frame], dtype=np.float64), np.asarray(truth_z[frame], dtype=np.float64)
        true = _usable(t) & (t <= cap)
        both = true & _usable(d)
        errors = _errors(np.minimum(alignment.apply(d, frame)[both], cap), t[both])
        for name, region in where.items():
            here = np.asarray(region[frame])
            inside = here[both]
            sums = errors.sum(1) if inside.all() else errors @ inside
            rows[name].append(np.array([*sums, inside.sum(), (true & here).sum()]))
    return {name: _summary(np.array(found), weighting) for name, found in rows.items()}


def regions(moving: np.ndarray) -> dict[str, Where]:
    """The usual regions of a video: all pixels, static ones (0 in `moving`) and moving ones."""
    moves = np.asarray(moving) != 0
    return {"all": np.ones_like(moves), "static": ~moves, "moving": moves}


def _usable(depth_z: np.ndarray) -> np.ndarray:
    return np.isfinite(depth_z) & (depth_z > 0)


def _errors(d: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(6, n): relative error, squared error, squared log error, and the three inlier tests of every pixel."""
    error, log_ratio = d - t, np.log(d / t)
    size = np.abs(log_ratio)
    inliers = [size < k * np.log(1.25) for k in (1, 2, 3)]
    return np.stack([np.abs(error) / t, error**2, log_ratio**2, *inliers])


def _summary(rows: np.ndarray, weighting: Weighting) -> DepthScores:
    """Of per-frame rows: the six sums of `_errors`, the compared pixels, the pixels with a true depth."""
    sums, pixels, wanted = rows[:, :6], rows[:, 6], int(rows[:, 7].sum())
    total = int(pixels.sum())
    if total == 0:
        nothing = float("nan")
        coverage = 0.0 if wanted else nothing
        return DepthScores(nothing, nothing, nothing, nothing, nothing, nothing, pixels=0, coverage=coverage)
    kept = pixels > 0
    means = sums[kept] / pixels[kept, None] if weighting == "frames" else sums.sum(0, keepdims=True) / total
    means[:, 1:3] = np.sqrt(means[:, 1:3])
    abs_rel, rmse, rmse_log, *deltas = means.mean(0).tolist()
    return DepthScores(abs_rel, rmse, rmse_log, deltas[0], deltas[1], deltas[2], total, total / wanted)


def named(scores: DepthScores, prefix: str, suffix: str = "") -> dict[str, float]:
    """The scores as a flat mapping: `prefix` and `suffix` around each name, without the pixel count."""
    return {f"{prefix}{k}{suffix}": v for k, v in asdict(scores).items() if k != "pixels"}


def _median_per_frame(depth_z: np.ndarray, truth_z: np.ndarray, usable: np.ndarray) -> np.ndarray:
    whole, _ = _median(depth_z[usable], truth_z[usable])
    frames = zip(depth_z, truth_z, usable, strict=True)
    return np.array([_median(d[u], t[u])[0] if u.any() else whole for d, t, u in frames])


def _median(d: np.ndarray, t: np.ndarray) -> Coefficients:
    return float(np.median(t / d)), 0.0


def _l1_scale(d: np.ndarray, t: np.ndarray) -> Coefficients:
    """sum |s d - t| = sum d |s - t / d|, so s is the median of t / d weighted by d."""
    ratio = t / d
    order = np.argsort(ratio)
    weight = np.cumsum(d[order], dtype=np.float64)
    return float(ratio[order][np.searchsorted(weight, weight[-1] / 2)]), 0.0


def _lsq(d: np.ndarray, t: np.ndarray, weight: np.ndarray | None = None) -> Coefficients:
    """Weighted line through (d, t); a scale alone where all d are equal."""
    d, t = d.astype(np.float64), t.astype(np.float64)
    w = np.ones_like(d) if weight is None else weight
    mean_d, mean_t = np.average(d, weights=w), np.average(t, weights=w)
    spread = np.sum(w * (d - mean_d) ** 2)
    if spread <= 1e-18 * np.sum(w) * mean_d**2:
        return float(mean_t / mean_d), 0.0
    scale = np.sum(w * (d - mean_d) * (t - mean_t)) / spread
    return float(scale), float(mean_t - scale * mean_d)


def _l1_scale_shift(d: np.ndarray, t: np.ndarray, *, rounds: int = 100, tolerance: float = 1e-7) -> Coefficients:
    """Reweighted least squares with weights 1 / |residual|, until scale and shift stand still."""
    scale, shift = _lsq(d, t)
    unit = float(np.median(t))
    for _ in range(rounds):
        before = scale * np.median(d), shift
        scale, shift = _lsq(d, t, 1 / np.maximum(np.abs(scale * d + shift - t), 1e-6 * unit))
        if abs(scale * np.median(d) - before[0]) + abs(shift - before[1]) < tolerance * unit:
            break
    return scale, shift


_FITS: dict[str, Callable[[np.ndarray, np.ndarray], Coefficients]] = {
    "median": _median,
    "scale": _l1_scale,
    "scale-shift": _l1_scale_shift,
    "lsq-scale-shift": _lsq,
    "lsq-disparity": _lsq,
}
ALIGNMENTS = ("none", "median", "median-frame", "scale", "scale-shift", "lsq-scale-shift", "lsq-disparity")
