"""Small image patches, cut in one frame and found again in another to a few hundredths of a pixel.

Inverse-compositional alignment (Baker and Matthews, "Lucas-Kanade 20 Years On", IJCV 2004, section 3.2) of all
patches at once, each with an affine map of its own (Shi and Tomasi, "Good Features to Track", CVPR 1994) and free
gain and bias. A template is never re-cut while it still fits, so its position does not drift with time.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from worldline.cues.optical_flow import sample


@dataclass(frozen=True)
class Config:
    """How patches are cut and aligned."""

    side_px: int = 11
    """Side of the square patch."""
    window_px: float = 3.0
    """Standard deviation of the Gaussian that weights the patch."""
    blur_px: float = 0.7
    """Gaussian blur of the frames before, against noise and interpolation error."""
    steps: int = 8
    """Gauss-Newton steps at most."""
    converged_px: float = 0.01
    """A shorter last step ends the alignment of a patch."""
    noise: float = 2.0
    """Standard deviation of the grey level (of 255) on top of what the residual shows."""
    structure: float = 3.0
    """How much more a residual above the noise shifts a patch than noise of its size would: it is no noise but
    another surface or shading, alike over many pixels (measured on rendered worlds)."""
    shear: float = 0.2
    """Standard deviation of the affine part per step, which keeps weakly textured patches from shearing away."""


@dataclass(frozen=True, eq=False)
class Templates:
    """Patches as they looked in the frame they were cut from, prepared for alignment.

    Attributes:
        values: (N, K) grey levels, weighted mean removed.
        steepest: (N, K, 6) change of the values with two shifts and four affine parameters, times the weights.
        solver: (N, 6, 6) inverse of the regularised normal matrix.
        shift_information: (N, 2, 2) information on the shift after the affine part is eliminated, per noise variance.
        energy: (N,) weighted sum of squares of the values.
    """

    values: Float[np.ndarray, "n k"]
    steepest: Float[np.ndarray, "n k 6"]
    solver: Float[np.ndarray, "n 6 6"]
    shift_information: Float[np.ndarray, "n 2 2"]
    energy: Float[np.ndarray, "n"]

    def __getitem__(self, chosen: np.ndarray) -> Templates:
        """Some of the templates."""
        return Templates(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def put(self, chosen: np.ndarray, fresh: Templates) -> Templates:
        """The same templates with the chosen ones replaced."""
        return Templates(*(_put(getattr(self, f.name), chosen, getattr(fresh, f.name)) for f in fields(self)))

    @staticmethod
    def joined(a: Templates, b: Templates) -> Templates:
        """Both sets, one after the other."""
        return Templates(*(np.concatenate([getattr(a, f.name), getattr(b, f.name)]) for f in fields(Templates)))


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where templates were found.

    Attributes:
        uv: (N, 2) centre; linear: (N, 2, 2) offsets in the frame from offsets in the template.
        likeness: (N,) zero-mean normalised cross correlation, 1 for equal patches up to gain and bias.
        last_step_px: (N,) length of the last shift.
        sigma_px: (N,) standard deviation per axis (the worse one), from the residual.
    """

    uv: Float[np.ndarray, "n 2"]
    linear: Float[np.ndarray, "n 2 2"]
    likeness: Float[np.ndarray, "n"]
    last_step_px: Float[np.ndarray, "n"]
    sigma_px: Float[np.ndarray, "n"]

    def __getitem__(self, chosen: np.ndarray) -> Alignment:
        """Some of the places."""
        return Alignment(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def put(self, chosen: np.ndarray, other: Alignment) -> Alignment:
        """The same places with the chosen ones replaced."""
        return Alignment(*(_put(getattr(self, f.name), chosen, getattr(other, f.name)) for f in fields(self)))


def smoothed(grey: np.ndarray, config: Config) -> Float[np.ndarray, "h w"]:
    """A grey frame as float32, slightly blurred, as `cut` and `align` take it."""
    return cv2.GaussianBlur(grey.astype(np.float32), (0, 0), config.blur_px)


def cut(image: Float[np.ndarray, "h w"], uv: Float[np.ndarray, "n 2"], config: Config) -> Templates:
    """Templates around uv."""
    grid = _offsets(config.side_px + 2)
    block = sample(image, uv[:, None] + grid).reshape(len(uv), config.side_px + 2, config.side_px + 2)
    values = block[:, 1:-1, 1:-1].reshape(len(uv), config.side_px**2)
    du = (block[:, 1:-1, 2:] - block[:, 1:-1, :-2]).reshape(values.shape) / 2
    dv = (block[:, 2:, 1:-1] - block[:, :-2, 1:-1]).reshape(values.shape) / 2
    x, y = _offsets(config.side_px).T
    jacobian = np.stack([du, dv, du * x, dv * x, du * y, dv * y], -1)
    return _prepared(values, jacobian, config)


def align(
    image: Float[np.ndarray, "h w"],
    templates: Templates,
    uv: Float[np.ndarray, "n 2"],
    linear: Float[np.ndarray, "n 2 2"],
    config: Config,
) -> Alignment:
    """The templates found in another frame, starting from a place and a linear map for each.

    Patches that have converged drop out of the next steps.
    """
    count = len(uv)
    uv, linear = uv.astype(np.float32), linear.astype(np.float32)
    last = np.full(count, np.inf, dtype=np.float32)
    rows, now = np.arange(count), templates
    for _ in range(config.steps):
        residual, _ = _residual(image, now, uv[rows], linear[rows], config)
        step = -(now.solver @ (now.steepest.transpose(0, 2, 1) @ residual[..., None]))[..., 0]
        uv[rows], linear[rows] = _composed(uv[rows], linear[rows], step)
        last[rows] = np.linalg.norm(step[:, :2], axis=-1)
        active = (last[rows] > config.converged_px) & (last[rows] < config.side_px)
        if not active.any():
            break
        if active.mean() < 0.7:  # copying templates costs more than a few needless steps
            rows, now = rows[active], now[active]
    residual, likeness = _residual(image, templates, uv, linear, config)
    return Alignment(uv, linear, likeness, last, _sigma(templates, residual, linear, config))


def likeness(
    image: Float[np.ndarray, "h w"],
    templates: Templates,
    uv: Float[np.ndarray, "n 2"],
    linear: Float[np.ndarray, "n 2 2"],
    config: Config,
) -> Float[np.ndarray, "n"]:
    """Zero-mean normalised cross correlation of templates with given places."""
    return _residual(image, templates, uv, linear, config)[1]


def misfit_px(
    image: Float[np.ndarray, "h w"],
    templates: Templates,
    uv: Float[np.ndarray, "n 2"],
    linear: Float[np.ndarray, "n 2 2"],
    config: Config,
) -> Float[np.ndarray, "n"]:
    """How far, at most, given places may be off: the shift that would explain what differs beyond the noise."""
    residual, _ = _residual(image, templates, uv, linear, config)
    structure = np.maximum((residual**2) @ _weights(config) - config.noise**2, 0.0)
    per_pixel = _least_eigenvalue(templates.shift_information) * float((_weights(config) ** 2).sum())
    return np.sqrt(structure / np.maximum(per_pixel, 1e-9))


def searched(
    image: Float[np.ndarray, "h w"],
    templates: Templates,
    uv: Float[np.ndarray, "n 2"],
    linear: Float[np.ndarray, "n 2 2"],
    config: Config,
    *,
    reach: int,
    stride: int = 2,
) -> Float[np.ndarray, "n 2"]:
    """The most alike place within `reach` template pixels of uv, to `stride` pixels: a start for `align`."""
    side, w = config.side_px, _weights(config)
    block = sample(image, uv[:, None] + _offsets(side + 2 * reach) @ linear.transpose(0, 2, 1))
    windows = sliding_window_view(block.reshape(len(uv), side + 2 * reach, -1), (side, side), (1, 2))
    windows = windows[:, ::stride, ::stride].reshape(len(uv), -1, side * side)
    product = windows @ (templates.values * w)[..., None]
    energy = (windows**2) @ w - (windows @ w) ** 2
    best = (product[..., 0] / np.sqrt(np.maximum(energy, 1e-6))).argmax(1)
    shift = (_offsets(2 * reach // stride + 1) * stride)[best]
    return uv + (linear @ shift[..., None])[..., 0]


def texture_sigma_px(templates: Templates, noise: float) -> Float[np.ndarray, "n"]:
    """Standard deviation per axis (the worse one) that image noise alone gives; large where there is no texture."""
    return noise / np.sqrt(np.maximum(_least_eigenvalue(templates.shift_information), 1e-9))


def _put(array: np.ndarray, chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
    out = array.copy()
    out[chosen] = values
    return out


def _offsets(side: int) -> Float[np.ndarray, "k 2"]:
    r = np.arange(side, dtype=np.float32) - (side - 1) / 2
    return np.stack(np.meshgrid(r, r, indexing="xy"), -1).reshape(-1, 2)


def _weights(config: Config) -> Float[np.ndarray, "k"]:
    w = np.exp(-0.5 * (_offsets(config.side_px) ** 2).sum(-1) / config.window_px**2)
    return (w / w.sum()).astype(np.float32)


def _prepared(values: np.ndarray, jacobian: np.ndarray, config: Config) -> Templates:
    """Removes from values and Jacobian what gain and bias explain, and factors the normal matrix."""
    w = _weights(config)
    values = values - (values @ w)[:, None]
    energy = (values**2) @ w + 1e-6
    jacobian = jacobian - np.einsum("nkd,k->nd", jacobian, w)[:, None]
    along = np.einsum("nkd,nk->nd", jacobian, values * w) / energy[:, None]
    jacobian = (jacobian - values[..., None] * along[:, None]).astype(np.float32)
    steepest = jacobian * w[:, None]
    normal = jacobian.transpose(0, 2, 1) @ steepest
    # per pixel of the window: the weights sum to one, so the prior is divided by the pixels behind it
    prior = config.noise**2 / config.shear**2 * float((w**2).sum())
    normal = normal + np.diag([1e-3, 1e-3, prior, prior, prior, prior]).astype(np.float32)
    solver = np.linalg.inv(normal.astype(np.float64))
    information = np.linalg.inv(solver[:, :2, :2]) / float((w**2).sum())
    return Templates(values, steepest, solver.astype(np.float32), information.astype(np.float32), energy)


def _residual(
    image: np.ndarray, templates: Templates, uv: np.ndarray, linear: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Image minus template after the best gain and bias, and their correlation."""
    w = _weights(config)
    values = sample(image, uv[:, None] + _offsets(config.side_px) @ linear.transpose(0, 2, 1))
    values = values - (values @ w)[:, None]
    energy = (values**2) @ w + 1e-6
    product = (values * templates.values) @ w
    gain = np.clip(np.sqrt(templates.energy / energy), 0.4, 2.5)
    likeness = product / np.sqrt(energy * templates.energy)
    return values * gain[:, None] - templates.values, likeness


def _composed(uv: np.ndarray, linear: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map after the inverse of a step in the template's frame; steps are held to what stays invertible.

    `step` is the negative of the template's increment, so its inverse is taken to first order on the shift and
    exactly on the linear part.
    """
    length = np.linalg.norm(step[:, :2], axis=-1, keepdims=True)
    shift = step[:, :2] / np.maximum(length / 2.0, 1.0)
    turn = np.clip(-step[:, 2:].reshape(-1, 2, 2).transpose(0, 2, 1), -0.25, 0.25)
    linear = linear @ np.linalg.inv(np.eye(2, dtype=np.float32) + turn)
    return uv + (linear @ shift[..., None])[..., 0], linear


def _sigma(templates: Templates, residual: np.ndarray, linear: np.ndarray, config: Config) -> np.ndarray:
    power = (residual**2) @ _weights(config)
    structure = np.maximum(power - config.noise**2, 0.0)
    variance = power + config.noise**2 + (config.structure**2 - 1.0) * structure
    zoom = np.sqrt(np.abs(np.linalg.det(linear)))
    return zoom * np.sqrt(variance / np.maximum(_least_eigenvalue(templates.shift_information), 1e-9))


def _least_eigenvalue(m: Float[np.ndarray, "n 2 2"]) -> Float[np.ndarray, "n"]:
    mean, half = (m[:, 0, 0] + m[:, 1, 1]) / 2, (m[:, 0, 0] - m[:, 1, 1]) / 2
    return mean - np.hypot(half, m[:, 0, 1])
