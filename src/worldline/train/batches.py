"""Batches: which worlds a step sees, at which size, and what of them the network is told; a function of the step alone.

Draws come from (seed, purpose, step, rank, ...) and from nothing else, so a step can be made again anywhere: by a run
that was interrupted, or by a worker in the background.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from worldline.engines.any4d import resolution
from worldline.engines.any4d.inputs import Views
from worldline.engines.any4d.observed import normalised_quaternions
from worldline.geometry import doppler
from worldline.train.colours import ColourConfig, recoloured
from worldline.train.samples import Sample, Source, Wanted, truth_of, unit_rays_of
from worldline.train.sensors import Measured, SensorConfig, measured
from worldline.train.truth import Truth, joined

_SHAPE, _WORLD, _VIEW = range(3)
"""Purposes of draws."""


@dataclass(frozen=True)
class InputConfig:
    """How often the network is told more than the images.

    Attributes:
        multimodal: share of samples that come with anything else at all (paper: 0.7). rays, depth, poses, radial:
        of those, the shares with each. dropped: share of their views that nothing is told of. scale_hidden: share of
        the views with depth or poses that are not said to be in metres (the published code's values).
    """

    multimodal: float = 0.7
    rays: float = 0.5
    depth: float = 0.5
    poses: float = 0.5
    radial: float = 0.5
    dropped: float = 0.05
    scale_hidden: float = 0.05

    @classmethod
    def images_only(cls) -> InputConfig:
        """Nothing but images."""
        return cls(multimodal=0)


@dataclass(frozen=True)
class BatchConfig:
    """What a batch is made of.

    Attributes:
        images: of one process; their number over that of the views is the number of samples. views: least and most of
        a sample. sizes: (width, height), one of which a batch has. inputs, sensors, colours: see there.
        repeats: steps in a row that a stream uses the same worlds for (0: always), each time with other
        sensors and colours, since rendering costs more than a step. streams: that take turns with their worlds.
        workers: processes that make batches in the background; results do not depend on them.
    """

    images: int = 48
    views: tuple[int, int] = (2, 4)
    sizes: tuple[tuple[int, int], ...] = tuple(resolution.SIZES.values())
    inputs: InputConfig = InputConfig()
    sensors: SensorConfig = SensorConfig()
    colours: ColourConfig = ColourConfig()
    repeats: int = 8
    streams: int = 8
    workers: int = 8


@dataclass(frozen=True, eq=False)
class Batch:
    """What the network is given, and what is true."""

    views: Views
    truth: Truth

    def to(self, device: str | torch.device) -> Batch:
        """The same on another device."""
        given: dict[str, Any] = {f.name: getattr(self.views, f.name) for f in fields(Views)}
        moved: dict[str, Any] = {name: x if x is None else x.to(device, non_blocking=True) for name, x in given.items()}
        return Batch(Views(**moved), self.truth.to(device))


@dataclass
class Batches(Dataset[Batch]):
    """The batch of every step, for one process of many."""

    source: Source
    config: BatchConfig
    seed: int = 0
    rank: int = 0
    _kept: dict[int, tuple[int, list[Sample]]] = field(default_factory=dict, repr=False)

    def __getitem__(self, step: int) -> Batch:
        """Worlds of the step's stream, seen by sensors that are drawn for this step."""
        drawn = [
            given_and_true(sample, self.config, np.random.default_rng((self.seed, _VIEW, step, self.rank, k)))
            for k, sample in enumerate(self.samples(step))
        ]
        return Batch(stacked([views for views, _ in drawn]), joined([true for _, true in drawn]))

    def samples(self, step: int) -> list[Sample]:
        """The samples of a step, made when their stream comes to them."""
        stream, turn = step % self.config.streams, step // self.config.streams
        group = turn // self.config.repeats if self.config.repeats else 0
        if stream not in self._kept or self._kept[stream][0] != group:
            self._kept[stream] = group, self._made(stream, group)
        return self._kept[stream][1]

    def wanted(self, stream: int, group: int) -> Wanted:
        """Views and size, the same on all ranks, so that none waits for another."""
        random = np.random.default_rng((self.seed, _SHAPE, stream, group))
        views = int(random.integers(self.config.views[0], self.config.views[1] + 1))
        return Wanted(views, *self.config.sizes[random.integers(len(self.config.sizes))])

    def _made(self, stream: int, group: int) -> list[Sample]:
        wanted = self.wanted(stream, group)
        count = max(1, self.config.images // wanted.views)
        seeds = ((self.seed, _WORLD, stream, group, self.rank, k) for k in range(count))
        return [self.source(np.random.default_rng(seed), wanted) for seed in seeds]

    def from_step(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of the steps from `start` until `stop`, made in the background where there are workers."""
        steps, workers = range(start, stop), self.config.workers
        return iter(DataLoader(self, None, sampler=steps, num_workers=workers, worker_init_fn=_work_quietly))


def _work_quietly(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the main one decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def given_and_true(sample: Sample, config: BatchConfig, random: np.random.Generator) -> tuple[Views, Truth]:
    """One sample through its sensors, as a batch of one."""
    images = recoloured(sample.images, config.colours, random)
    devices = measured(sample, config.sensors, random)
    return told(images, sample, devices, config.inputs, random), truth_of(sample)


def told(
    images: np.ndarray, sample: Sample, devices: Measured, config: InputConfig, random: np.random.Generator
) -> Views:
    """What the network is told of V views of one sample, whose masks say what it is not told."""
    views, height, width = images.shape[:3]
    given = _drawn_modalities(config, random, views)
    metric = np.full(views, sample.metric) & (random.random(views) >= config.scale_hidden)
    lens_known = devices.intrinsics is not None
    lens = np.full((views, 4), max(width, height) / 2) if devices.intrinsics is None else devices.intrinsics
    along = unit_rays_of(lens, height, width)
    empty = np.zeros((views, height, width))
    depth = empty if devices.depth_z is None else devices.depth_z / along[..., 2]
    poses = np.tile(np.eye(4), (views, 1, 1)) if devices.world_from_cam is None else devices.world_from_cam
    speed = empty * np.nan if devices.speed_mps is None else devices.speed_mps
    has_depth = given["depth"] & lens_known & (depth > 0).any((1, 2))
    unit = _radial_unit(depth[0] if has_depth[0] else empty[0], devices, sample)
    return Views(
        image=resolution.normalised(images)[:, None],
        rays=_batched(along),
        has_rays=_mask(given["rays"] & lens_known),
        depth=_batched(depth),
        has_depth=_mask(has_depth),
        quaternion=normalised_quaternions(torch.from_numpy(poses[:, :3, :3])).float()[:, None],
        translation=_batched(poses[:, :3, 3]),
        has_pose=_mask(given["poses"] & devices.has_pose & (devices.world_from_cam is not None)),
        metric=_mask(metric),
        radial=_radial_m(speed, sample.times_s, along),
        radial_unit=torch.tensor([unit], dtype=torch.float32),
        has_radial=_mask(given["radial"] & lens_known & np.isfinite(speed).any((1, 2))),
    )


def _drawn_modalities(config: InputConfig, random: np.random.Generator, views: int) -> dict[str, Bool[np.ndarray, "v"]]:
    """For every modality, of which views it is told."""
    some = random.random() < config.multimodal
    spoken = random.random(views) >= config.dropped
    names = ("rays", "depth", "poses", "radial")
    chosen = random.random(len(names)) < [getattr(config, name) for name in names]
    return {name: spoken & bool(some and given) for name, given in zip(names, chosen, strict=True)}


def _mask(flags: np.ndarray) -> Bool[Tensor, "v 1"]:
    return torch.from_numpy(flags.copy())[:, None]


def _radial_m(speed: np.ndarray, times_s: np.ndarray, along: np.ndarray) -> Float[Tensor, "v 1 h w 3"]:
    """Radial displacements until the next view, by the speeds (m/s, NaN unknown)."""
    seconds = doppler.intervals_s(torch.from_numpy(times_s))[:, None, None]
    return doppler.radial_displacement(torch.from_numpy(speed), seconds, torch.from_numpy(along)).float()[:, None]


def _radial_unit(depth: Float[np.ndarray, "h w"], devices: Measured, sample: Sample) -> float:
    """Mean distance in view 0: by the depth that is told, else by what the radar saw then or at all, else the truth."""
    ranges = np.zeros((1, *depth.shape)) if devices.range_m is None else devices.range_m
    true = np.zeros_like(depth) if sample.depth_z is None else np.nan_to_num(sample.depth_z[0], posinf=0)
    return next((float(x[x > 0].mean()) for x in (depth, ranges[0], ranges, true) if (x > 0).any()), 1.0)


def stacked(samples: Sequence[Views]) -> Views:
    """Samples as one batch; a modality that none of them has is None, so that its encoder rests."""
    every: dict[str, Any] = {f.name: [getattr(views, f.name) for views in samples] for f in fields(Views)}
    batch: dict[str, Any] = {
        name: None if values[0] is None else torch.cat(values, dim=0 if name == "radial_unit" else 1)
        for name, values in every.items()
    }
    return Views(**batch)


def _batched(x: np.ndarray) -> Float[Tensor, "v 1 *n"]:
    return torch.from_numpy(np.ascontiguousarray(x)).float()[:, None]
