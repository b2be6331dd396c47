"""True observations of a rendered world, with as much realistic noise as asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from worldline.scene.observations import CameraPrior, DepthMaps, MovingMasks, Observations, PixelTracks, Source
from worldline.synthetic import truth
from worldline.synthetic.rendering import Rendered

_LEAST_DEPTH_SIGMA, _LEAST_TRACK_SIGMA_PX = 1e-4, 1e-3


@dataclass(frozen=True)
class NoiseModel:
    """What is wrong with the observations; all zero is the exact truth.

    Attributes:
        depth_frame_scale: standard deviation of each frame's log scale.
        depth_bias: of a smooth log bias over image and time. depth_pixel: of independent log noise per pixel.
        track_px: of the noise per coordinate. track_drift_px: of a random walk, per square root of a frame.
        track_outliers: share of tracks that run away. track_missed: share of seen points called hidden;
        track_false: share of hidden points in the image called visible.
        mask_boundary_px: standard deviation by which outlines wander. mask_missed: share of frames in which an object
        is missed altogether. focal_error: relative error of the focal length, signed and exact.
    """

    depth_frame_scale: float = 0.0
    depth_bias: float = 0.0
    depth_pixel: float = 0.0
    track_px: float = 0.0
    track_drift_px: float = 0.0
    track_outliers: float = 0.0
    track_missed: float = 0.0
    track_false: float = 0.0
    mask_boundary_px: float = 0.0
    mask_missed: float = 0.0
    focal_error: float = 0.0

    @classmethod
    def realistic(cls) -> NoiseModel:
        """About what good networks and trackers give on ordinary video."""
        return cls(0.03, 0.03, 0.01, 0.4, 0.08, 0.03, 0.03, 0.05, 1.0, 0.0, 0.05)


def observations(
    rendered: Rendered, noise: NoiseModel | None = None, seed: int = 0, *, step_px: int = 8, every: int = 10
) -> Observations:
    """Depth, tracks, masks and camera of a rendered world, with sigmas that match the noise.

    Args:
        rendered: from `render`.
        noise: None for the exact truth.
        seed: of the noise; each item draws its own, so switching one off leaves the others as they are.
        step_px, every: grid of the tracks, and after how many frames it is seeded again.
    """
    noise = noise or NoiseModel()
    tracks = truth.pixel_tracks(rendered.world, *truth.query_grid(rendered.world, step_px, every))
    return Observations(
        depth=_depth(rendered, noise, np.random.default_rng((seed, 1))),
        tracks=_tracks(rendered, tracks, noise, np.random.default_rng((seed, 2))),
        moving=_masks(rendered, noise, np.random.default_rng((seed, 3))),
        camera=_camera(rendered, noise),
    )


def _depth(rendered: Rendered, noise: NoiseModel, random: np.random.Generator) -> DepthMaps:
    depth = rendered.scene.depth_z
    scale = noise.depth_frame_scale * random.normal(size=(len(depth), 1, 1))
    pixel = noise.depth_pixel * random.normal(size=depth.shape)
    bias = noise.depth_bias * _smooth_field(depth.shape, random)
    sigma = max(float(np.hypot(noise.depth_bias, noise.depth_pixel)), _LEAST_DEPTH_SIGMA)
    return DepthMaps(
        (depth * np.exp(scale + bias + pixel)).astype(np.float32),
        np.full(depth.shape, sigma, dtype=np.float32),
        _source(noise),
        metric=noise.depth_frame_scale == 0,
        frame_scale_sigma=noise.depth_frame_scale,
    )


def _smooth_field(shape: tuple[int, ...], random: np.random.Generator) -> Float[np.ndarray, "t h w"]:
    """Noise of unit variance that changes over about a quarter of the image and a dozen frames."""
    frames = max(2, round(shape[0] / 12) + 1)
    coarse = random.normal(size=(frames, 5, 6))
    fine = ndimage.zoom(coarse, [n / c for n, c in zip(shape, coarse.shape, strict=True)], order=3, grid_mode=False)
    return fine / max(float(fine.std()), 1e-9)


def _tracks(rendered: Rendered, exact: PixelTracks, noise: NoiseModel, random: np.random.Generator) -> PixelTracks:
    count, tracks = exact.visible.shape
    age = np.abs(np.arange(count)[:, None] - exact.query_frame)
    walk = np.cumsum(random.normal(size=(count, tracks, 2)), axis=0)
    walk -= np.take_along_axis(walk, exact.query_frame[None, :, None], axis=0)
    error = noise.track_px * random.normal(size=walk.shape) * (age > 0)[..., None] + noise.track_drift_px * walk
    runaway = np.asarray(random.random(tracks) < noise.track_outliers)
    error += 2.0 * runaway[:, None] * age[..., None] * _directions(tracks, random)
    kept = random.random(exact.visible.shape) >= noise.track_missed * (age > 0)
    size = (rendered.video.width, rendered.video.height)
    inside = np.asarray(((exact.uv >= 0) & (exact.uv <= size)).all(-1))
    invented = ~exact.visible & inside & (random.random(exact.visible.shape) < noise.track_false)
    sigma = np.maximum(np.hypot(noise.track_px, noise.track_drift_px * np.sqrt(age)), _LEAST_TRACK_SIGMA_PX)
    return replace(
        exact,
        uv=np.where(inside[..., None], exact.uv + error, exact.uv).astype(np.float32),
        visible=(exact.visible & kept) | invented,
        sigma_px=sigma.astype(np.float32),
        source=_source(noise),
    )


def _directions(count: int, random: np.random.Generator) -> Float[np.ndarray, "n 2"]:
    angle = random.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def _masks(rendered: Rendered, noise: NoiseModel, random: np.random.Generator) -> MovingMasks:
    ids = np.array(rendered.scene.moving)
    for frame in range(len(ids)) if noise.mask_boundary_px > 0 else ():
        ids[frame] = _wander(ids[frame], noise.mask_boundary_px, random)
    for number in np.unique(ids[ids > 0]):
        lost = random.random(len(ids)) < noise.mask_missed
        ids[lost[:, None, None] & (ids == number)] = 0
    return MovingMasks(ids, _source(noise))


def _wander(ids: np.ndarray, boundary_px: float, random: np.random.Generator) -> np.ndarray:
    """Move the outline of the moving pixels in and out by a smooth random distance."""
    moving = np.asarray(ids > 0)
    if not moving.any() or moving.all():
        return ids
    outside, nearest = ndimage.distance_transform_edt(~moving, return_indices=True)
    signed = outside - ndimage.distance_transform_edt(moving)
    coarse = random.normal(size=(max(3, ids.shape[0] // 12), max(3, ids.shape[1] // 12)))
    shift = ndimage.zoom(coarse, [n / c for n, c in zip(ids.shape, coarse.shape, strict=True)], order=1)
    return np.where(signed <= boundary_px * shift, ids[tuple(nearest)], 0).astype(ids.dtype)


def _camera(rendered: Rendered, noise: NoiseModel) -> CameraPrior:
    factor = np.array([1 + noise.focal_error, 1 + noise.focal_error, 1, 1])
    camera = rendered.world.camera
    wrong = replace(camera, intrinsics=camera.intrinsics * factor)
    return CameraPrior(wrong, abs(noise.focal_error), _source(noise))


def _source(noise: NoiseModel) -> Source:
    return Source("synthetic truth" if noise == NoiseModel() else "synthetic truth with noise")
