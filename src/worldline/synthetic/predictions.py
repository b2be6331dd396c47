"""What a feed-forward network would say of a window of frames: the truth, as wrong as networks are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage

from worldline.geometry import se3
from worldline.scene.fragment import Fragment
from worldline.synthetic import trace, truth
from worldline.synthetic.world import World


@dataclass(frozen=True)
class WindowNoise:
    """What is wrong with the prediction of a window; all zero is the exact truth, in metres, about its first frame.

    Attributes:
        unit: standard deviation of the log of the window's unit. depth_bias: of a log error of depth that is smooth
        over the image, another one in each frame; depth_pixel: of one per pixel; outliers: share of pixels whose depth
        is off by half.
        turn_rad, turn_far_rad: rms angle of a rotation's error, in every frame, and what it grows to at the far end of
        the window. centre: rms error of a camera's centre as a share of the path from the reference to it, half of it
        common to the window.
        bad: share of frames with a wrong camera (ten times these errors) and wrong depth.
        gauge_rad, gauge_m: where the first camera is, which is not the identity; the others are relative to it.
    """

    unit: float = 0.0
    depth_bias: float = 0.0
    depth_pixel: float = 0.0
    outliers: float = 0.0
    turn_rad: float = 0.0
    turn_far_rad: float = 0.0
    centre: float = 0.0
    centre_depth: float = 0.0
    bad: float = 0.0
    gauge_rad: float = 0.0
    gauge_m: float = 0.0

    @classmethod
    def realistic(cls) -> WindowNoise:
        """About what good networks give on ordinary video."""
        return cls(
            unit=0.03, depth_bias=0.025, depth_pixel=0.02, outliers=0.02, turn_rad=0.002, turn_far_rad=0.002,
            centre=0.01, centre_depth=0.0005, bad=0.03, gauge_rad=0.01, gauge_m=0.02,
        )  # fmt: skip


class Oracle:
    """Predictions of windows of one world; the true depth of a frame is traced once and kept."""

    def __init__(self, world: World, noise: WindowNoise) -> None:
        """Nothing is traced yet."""
        self.world, self.noise = world, noise
        self._depth: dict[int, Float[np.ndarray, "h w"]] = {}

    def predicted(self, frames: Sequence[int], random: np.random.Generator) -> Fragment:
        """A window of frames, the reference first, in a gauge and a unit of its own that pretends to be metres."""
        noise = self.noise
        unit = float(np.exp(noise.unit * random.normal()))
        bad = np.asarray(random.random(len(frames)) < noise.bad)
        depth = np.stack([self.true_depth_ray(frame) for frame in frames])
        valid = np.isfinite(depth)
        said = np.where(valid, depth, 0) * unit * np.exp(_depth_error(depth.shape, noise, bad, random))
        cameras = _wrong_cameras(self.world.world_from_cam[list(frames)], self.usual_depth, noise, bad, random)
        cameras[:, :3, 3] *= unit
        sigma = np.full(depth.shape, max(float(np.hypot(noise.depth_bias, noise.depth_pixel)), 1e-4), dtype=np.float32)
        return Fragment(
            np.array(frames), depth_ray=said.astype(np.float32), depth_sigma=sigma, valid=valid,
            world_from_cam=cameras, scale=1.0,
        )  # fmt: skip

    def true_depth_ray(self, frame: int) -> Float[np.ndarray, "h w"]:
        """Distance from the camera along the ray of every pixel; inf where there is nothing."""
        if frame not in self._depth:
            xy = truth.rays(self.world, frame)
            hits = trace.trace(trace.view(self.world, frame, self.world.ground_from_cam[frame]), xy)
            depth = hits.depth_z * (1 + (xy**2).sum(1)).sqrt()
            self._depth[frame] = depth.reshape(self.world.camera.height, self.world.camera.width).numpy()
        return self._depth[frame]

    @property
    def usual_depth(self) -> float:
        """Median over the first frame (metres)."""
        depth = self.true_depth_ray(0)
        return float(np.median(depth[np.isfinite(depth)]))


def _depth_error(
    shape: tuple[int, ...], noise: WindowNoise, bad: Bool[np.ndarray, "v"], random: np.random.Generator
) -> Float[np.ndarray, "v h w"]:
    coarse = random.normal(size=(shape[0], 4, 5))
    smooth = ndimage.zoom(coarse, (1, shape[1] / 4, shape[2] / 5), order=1, grid_mode=True, mode="nearest")
    error = noise.depth_bias * smooth / max(float(smooth.std()), 1e-9) + noise.depth_pixel * random.normal(size=shape)
    error += np.where(random.random(shape) < noise.outliers, random.choice([-0.7, 0.4], shape), 0)
    return error + np.where(bad, 0.2 * random.choice([-1, 1], shape[0]), 0)[:, None, None]


def _wrong_cameras(
    world_from_cam: Float[np.ndarray, "v 4 4"],
    depth: float,
    noise: WindowNoise,
    bad: Bool[np.ndarray, "v"],
    random: np.random.Generator,
) -> Float[np.ndarray, "v 4 4"]:
    """Cameras in the gauge of the window."""
    true = torch.from_numpy(np.linalg.inv(world_from_cam[0]) @ world_from_cam)
    count = len(true)
    far = travelled(world_from_cam)
    worse = (np.where(bad, 10, 1) * (np.arange(count) > 0))[:, None]
    drift = noise.turn_far_rad * (far / max(far.max(), 1e-9))[:, None] * random.normal(size=(1, 3))
    turn = worse * (noise.turn_rad * random.normal(size=(count, 3)) + drift) / 3**0.5
    apart = (random.normal(size=(1, 3)) + random.normal(size=(count, 3))) / 6**0.5
    about = noise.centre_depth * depth * random.normal(size=(count, 3)) / 3**0.5
    true[:, :3, 3] += torch.from_numpy(worse * (noise.centre * far[:, None] * apart + about))
    true[:, :3, :3] = true[:, :3, :3] @ se3.so3_exp(torch.from_numpy(turn))
    gauge = np.concatenate([noise.gauge_m * random.normal(size=3), noise.gauge_rad * random.normal(size=3)])
    return (se3.exp(torch.from_numpy(gauge)) @ true).numpy()


def travelled(world_from_cam: Float[np.ndarray, "v 4 4"]) -> Float[np.ndarray, "v"]:
    """Distance from the first camera to every other; for ordered frames nearly the way between them."""
    return np.linalg.norm(world_from_cam[:, :3, 3] - world_from_cam[0, :3, 3], axis=-1)
