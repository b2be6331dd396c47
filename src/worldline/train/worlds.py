"""The endless source: worlds drawn from a seed, rendered when they are asked for, with their exact truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float

from worldline.synthetic import presets, truth
from worldline.synthetic.camera_paths import PATHS
from worldline.synthetic.clutter import clutter
from worldline.synthetic.materials import Textures, textures
from worldline.synthetic.rendering import Quality, render_frame
from worldline.synthetic.world import World
from worldline.train.samples import Sample, Wanted

Maker = Callable[[int, tuple[int, int], int, float], World]
"""A world from a seed, a size (width, height), a number of frames and frames per second."""


def any_clutter(seed: int, size: tuple[int, int], frames: int, fps: float) -> World:
    """A random place full of random things."""
    return clutter(seed, frames=frames, size=size, fps=fps)


def few_things(seed: int, size: tuple[int, int], frames: int, fps: float) -> World:
    """A random place with no more in it than few pixels can show, much of which moves."""
    return clutter(seed, frames=frames, size=size, fps=fps, things=(2, 6), flying=(2, 4))


def any_preset(seed: int, size: tuple[int, int], frames: int, fps: float) -> World:
    """One of the furnished worlds, seen along one of the paths."""
    random = np.random.default_rng(seed)
    kind, path = str(random.choice(presets.KINDS)), str(random.choice(PATHS))
    return presets.build(
        kind, path, seed=seed, frames=frames, size=size, fps=fps,
        travel_m=random.uniform(0.2, 1.2), fov_deg=random.uniform(45, 85),
        subject=bool(random.random() < 0.3), hand=bool(random.random() < 0.5),
    )  # fmt: skip


@dataclass(frozen=True)
class Worlds:
    """A source of rendered samples.

    Attributes:
        make: worlds from seeds. frames, fps: of the clip that views are drawn from.
        unscaled: share of samples whose scale is hidden, as most simulated sets have it.
        forward: share of samples whose reference is the earliest view; of the others it is any view.
        quality: of the rendering. device: that renders.
    """

    make: Maker = any_clutter
    frames: int = 24
    fps: float = 12.0
    unscaled: float = 0.1
    forward: float = 0.5
    quality: Quality = field(default_factory=Quality)
    device: str = "cpu"

    def __call__(self, random: np.random.Generator, wanted: Wanted) -> Sample:
        """A world seen from the views that are wanted, at frames drawn from its clip."""
        seed, size = int(random.integers(2**31)), (wanted.width, wanted.height)
        world = self.make(seed, size, self.frames, self.fps)
        chosen = self._chosen(random, wanted.views)
        sample = rendered(world, chosen, self.quality, device=self.device)
        factor = float(np.exp(random.uniform(-2, 2)))
        return sample.rescaled(factor) if random.random() < self.unscaled else sample

    def _chosen(self, random: np.random.Generator, views: int) -> list[int]:
        """Frames in the order of time behind the reference."""
        frames = np.sort(random.choice(self.frames, views, replace=False)).tolist()
        first = 0 if random.random() < self.forward else int(random.integers(views))
        return [frames[first], *frames[:first], *frames[first + 1 :]]


def rendered(world: World, frames: list[int], quality: Quality, *, device: str = "cpu") -> Sample:
    """Frames of a world with all that is true of them; frame 0 of the list is the reference."""
    looks = textures([part.material for part in world.parts], world.seed, device=device)
    images, depths, parts = (np.stack(x) for x in zip(*_frames(world, frames, looks, quality, device), strict=True))
    solid = parts >= 0
    shape = solid.shape[1:]
    seen = truth.anchors(world, frames[0])
    start = truth.points_world(world, seen, frames[0])
    flow = torch.stack([truth.points_world(world, seen, frame) - start for frame in frames])
    moves = np.broadcast_to((world.moving[parts[0]] > 0) & solid[0], solid.shape)
    return Sample(
        images=images,
        times_s=world.times_s[frames],
        intrinsics=world.camera.frames(len(world))[frames],
        world_from_cam=world.world_from_cam[frames],
        depth_z=np.where(solid, depths, 0).astype(np.float32),
        solid=solid,
        flow=flow.reshape(len(frames), *shape, 3).float().numpy(force=True),
        moving=moves,
        speed_mps=np.stack([radial_speed_mps(world, frame) for frame in frames]).astype(np.float32),
        metric=True,
        synthetic=True,
    )


def _frames(world: World, frames: list[int], looks: Textures, quality: Quality, device: str) -> list[tuple]:
    return [render_frame(world, frame, looks, quality, device=device) for frame in frames]


def radial_speed_mps(world: World, frame: int) -> Float[np.ndarray, "h w"]:
    """How fast the distance of the point at every pixel centre grows, from this frame of the clip to the next one.

    The last frame looks back. NaN on the sky.
    """
    other = frame + 1 if frame + 1 < len(world) else frame - 1
    seen = truth.anchors(world, frame)

    def distance(at: int) -> torch.Tensor:
        centre = torch.from_numpy(world.world_from_cam[at, :3, 3])
        return (truth.points_world(world, seen, at) - centre).norm(dim=-1)

    speed = (distance(other) - distance(frame)) / (world.times_s[other] - world.times_s[frame])
    return speed.reshape(world.camera.height, world.camera.width).numpy(force=True)
