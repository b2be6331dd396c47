"""Simulated sensors: what a robot would have measured of a sample, with the faults of its devices.

The published training used exact inputs, which its authors name as a limit; all faults here are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from worldline.train.samples import Sample, unit_rays_of


@dataclass(frozen=True)
class SensorConfig:
    """Faults of the simulated devices; all zero (and probabilities 1) gives the exact truth.

    Attributes:
        depth_noise, depth_bias: standard deviations of the log of depth, per pixel and per view. depth_lost: share of
        pixels without an answer. sparse: share of samples whose depth is sparse, and sparse_removed: the share of it
        that is missing then (published: 0.5, 0.9). rings: share of the sparse samples whose depth lies on the rings of
        a LiDAR instead of anywhere; ring_deg: the angle between two of them.
        focal_error: standard deviation of the log of the focal length. centre_px: of the principal point.
        turn_deg, shift_share: standard deviations of the rotation of a pose, and of its position as a share of the
        distance between cameras.
        speed_mps: of a radial speed. radar_lost: share of pixels without a return. radar_full_m: the distance up to
        which every return is heard; beyond, the share falls with the square of the distance. radar_sparse: share of
        samples seen by a radar of a few hundred returns, radar_returns, instead of by one that sees every pixel.
    """

    depth_noise: float = 0.01
    depth_bias: float = 0.005
    depth_lost: float = 0.05
    sparse: float = 0.5
    sparse_removed: float = 0.9
    rings: float = 0.5
    ring_deg: float = 2.0
    focal_error: float = 0.005
    centre_px: float = 0.5
    turn_deg: float = 0.3
    shift_share: float = 0.01
    speed_mps: float = 0.1
    radar_lost: float = 0.1
    radar_full_m: float = 15.0
    radar_sparse: float = 0.5
    radar_returns: int = 400

    @classmethod
    def exact(cls) -> SensorConfig:
        """Devices without faults, as in the published training but for the sparse depth."""
        return cls(
            depth_noise=0, depth_bias=0, depth_lost=0, rings=0, focal_error=0, centre_px=0, turn_deg=0, shift_share=0,
            speed_mps=0, radar_lost=0, radar_full_m=np.inf, radar_sparse=0,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Measured:
    """What the devices say of V views; None: there is no such device.

    Attributes:
        intrinsics: (V, 4). depth_z: (V, H, W), 0 unknown. world_from_cam: (V, 4, 4), view 0 the identity;
        has_pose: (V,).
        speed_mps: (V, H, W) rate at which distances grow, NaN where nothing was heard (positive moves away; the
        camera's own motion is in it). range_m: (V, H, W) of those returns, 0 unknown.
    """

    intrinsics: Float[np.ndarray, "v 4"] | None
    depth_z: Float[np.ndarray, "v h w"] | None
    world_from_cam: Float[np.ndarray, "v 4 4"] | None
    has_pose: Bool[np.ndarray, "v"]
    speed_mps: Float[np.ndarray, "v h w"] | None
    range_m: Float[np.ndarray, "v h w"] | None


def measured(sample: Sample, config: SensorConfig, random: np.random.Generator) -> Measured:
    """All devices at once; each draws its own numbers, so switching one off leaves the others as they are."""
    lens, depth, motion, radar = (np.random.default_rng(s) for s in random.integers(2**63, size=4))
    heard = None if sample.speed_mps is None or sample.intrinsics is None else _radar(sample, config, radar)
    return Measured(
        intrinsics=None if sample.intrinsics is None else _intrinsics(sample.intrinsics, config, lens),
        depth_z=None if sample.depth_z is None else _depth(sample, config, depth),
        world_from_cam=None if sample.world_from_cam is None else _poses(sample, config, motion),
        has_pose=sample.posed,
        speed_mps=None if heard is None else heard[0],
        range_m=None if heard is None else heard[1],
    )


def _intrinsics(true: np.ndarray, config: SensorConfig, random: np.random.Generator) -> Float[np.ndarray, "v 4"]:
    """One calibration for all views, wrong by the same amount."""
    focal = np.exp(config.focal_error * random.normal())
    return true * [focal, focal, 1, 1] + np.array([0, 0, *(config.centre_px * random.normal(size=2))])


def _depth(sample: Sample, config: SensorConfig, random: np.random.Generator) -> Float[np.ndarray, "v h w"]:
    assert sample.depth_z is not None
    true = np.nan_to_num(sample.depth_z, posinf=0, neginf=0)
    bias = config.depth_bias * random.normal(size=(len(true), 1, 1))
    noisy = true * np.exp(bias + config.depth_noise * random.normal(size=true.shape))
    heard = random.random(true.shape) >= config.depth_lost
    sparse, ringed, level = random.random(), random.random(), random.random()
    if sparse < config.sparse and ringed < config.rings and sample.intrinsics is not None:
        heard &= on_rings(sample.intrinsics, true.shape[1:], config.ring_deg, level)
    elif sparse < config.sparse:
        heard &= random.random(true.shape) >= config.sparse_removed
    return np.where(heard & (true > 0), noisy, 0)


def on_rings(
    intrinsics: Float[np.ndarray, "v 4"], size: tuple[int, ...], step_deg: float, level: float
) -> Bool[np.ndarray, "v h w"]:
    """Pixels that a ring of a spinning LiDAR crosses, its axis upright in the camera; `level` (0 to 1) shifts them."""
    along = unit_rays_of(intrinsics, size[0], size[1])
    elevation = np.degrees(np.arcsin(-along[..., 1])) / step_deg + level
    crossed = np.floor(elevation[:, :-1]) != np.floor(elevation[:, 1:])
    return np.concatenate([np.zeros_like(crossed[:, :1]), crossed], 1)


def _poses(sample: Sample, config: SensorConfig, random: np.random.Generator) -> Float[np.ndarray, "v 4 4"]:
    """In view 0's camera, each with its own error; view 0 is where it is."""
    true = sample.first_from_cam
    turn = Rotation.from_rotvec(np.radians(config.turn_deg) * random.normal(size=(len(true), 3))).as_matrix()
    apart = np.linalg.norm(true[:, :3, 3], axis=-1).mean()
    noisy = true.copy()
    noisy[:, :3, :3] = true[:, :3, :3] @ turn
    noisy[:, :3, 3] += config.shift_share * apart * random.normal(size=(len(true), 3))
    return np.concatenate([true[:1], noisy[1:]])


def _radar(
    sample: Sample, config: SensorConfig, random: np.random.Generator
) -> tuple[Float[np.ndarray, "v h w"], Float[np.ndarray, "v h w"]]:
    """Speeds and ranges of the returns."""
    assert sample.speed_mps is not None and sample.intrinsics is not None
    speed = sample.speed_mps + config.speed_mps * random.normal(size=sample.speed_mps.shape)
    distance = _ranges(sample)
    share = (1 - config.radar_lost) * np.minimum(1, config.radar_full_m / np.maximum(distance, 1e-6)) ** 2
    if random.random() < config.radar_sparse:
        share = share * min(1.0, config.radar_returns / share[0].size)
    heard = np.isfinite(speed) & (distance > 0) & (random.random(speed.shape) < share)
    return np.where(heard, speed, np.nan), np.where(heard, distance, 0)


def _ranges(sample: Sample) -> Float[np.ndarray, "v h w"]:
    """Distances along the rays; 1 where no depth is known, so that returns are heard there."""
    assert sample.intrinsics is not None and sample.speed_mps is not None
    if sample.depth_z is None:
        return np.ones(sample.speed_mps.shape)
    along = unit_rays_of(sample.intrinsics, *sample.images.shape[1:3])
    return np.nan_to_num(sample.depth_z, posinf=0, neginf=0) / along[..., 2]
