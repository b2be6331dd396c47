"""A world as a clip with its truth: colours with antialiased outlines and sensor noise, exact depth and masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from worldline.scene.scene import Scene, Step
from worldline.scene.video import Video
from worldline.synthetic import shade, trace, truth
from worldline.synthetic.materials import Textures, textures
from worldline.synthetic.trace import Hits
from worldline.synthetic.world import World

_SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))


@dataclass(frozen=True)
class Quality:
    """How a clip is rendered.

    Attributes:
        antialias: four more rays per pixel on outlines. sensor_noise: standard deviation in grey levels of 255.
        track_step_px, track_every: the grid of truth tracks, and after how many frames it is seeded again.
    """

    antialias: bool = True
    sensor_noise: float = 1.2
    track_step_px: int = 8
    track_every: int = 10


@dataclass(frozen=True, eq=False)
class Rendered:
    """A clip, its exact scene (metric, world = first camera, sky not valid), and the world behind both."""

    world: World
    video: Video
    scene: Scene


def render(world: World, quality: Quality | None = None, *, device: str | torch.device = "cpu") -> Rendered:
    """Ray-trace all frames of a world; the same world gives the same pixels every time."""
    quality = quality or Quality()
    looks = textures([p.material for p in world.parts], world.seed, device=device)
    frames = [render_frame(world, t, looks, quality, device=device) for t in range(len(world))]
    images, depths, parts = (np.stack(arrays) for arrays in zip(*frames, strict=True))
    video = Video(images, world.times_s, name=world.name)
    return Rendered(world, video, _scene(world, video, depths, parts, quality, device))


def render_frame(
    world: World, frame: int, looks: Textures, quality: Quality, *, device: str | torch.device = "cpu"
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """Image, depth_z (float32, inf on the sky) and part (-1 on the sky) of one frame."""
    size = (world.camera.height, world.camera.width)
    xy = truth.rays(world, frame, device=device)
    exact = trace.trace(trace.view(world, frame, world.ground_from_cam[frame], device=device), xy)
    hits = Hits(exact.depth_z.float(), exact.part)
    scene = shade.lit(world, frame, looks, device=device)
    colour = shade.colours(scene, hits, xy.float())
    if quality.antialias:
        rows = _outlines(shade.faces(scene, hits, xy.float()).reshape(size)).nonzero()[:, 0]
        colour[rows] = _finer(scene, xy[rows].float(), hits, rows)
    image = _digitise(colour.reshape(*size, 3), quality.sensor_noise, world.seed * 100_003 + frame)
    return image, hits.depth_z.reshape(size).numpy(force=True), exact.part.reshape(size).numpy(force=True)


def _finer(scene: shade.Lit, xy: Float[Tensor, "n 2"], hits: Hits, rows: Tensor) -> Float[Tensor, "n 3"]:
    """Mean colour of four rays per pixel."""
    offsets = xy.new_tensor(_SUBPIXELS) / scene.focal_px
    spread = (xy[:, None] + offsets).reshape(-1, 2)
    colour = shade.colours(scene, trace.trace(scene.camera, spread), spread)
    return colour.reshape(-1, len(_SUBPIXELS), 3).mean(1)


def _outlines(face: Int[Tensor, "h w"]) -> Tensor:
    """Pixels whose neighbour lies on another surface, flat."""
    edge = torch.zeros_like(face, dtype=torch.bool)
    across, down = face[:, 1:] != face[:, :-1], face[1:] != face[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge.reshape(-1)


def _digitise(colour: Float[Tensor, "h w 3"], noise: float, seed: int) -> UInt8[np.ndarray, "h w 3"]:
    """8-bit pixels: a gentle film curve, then noise that grows a little with brightness."""
    curve = colour * (1.25 - 0.25 * colour)
    level = 255 * curve.clamp(0, 1).cpu()
    if noise > 0:
        random = torch.randn(level.shape, generator=torch.Generator().manual_seed(seed))
        level = level + noise * random * (0.6 + 0.4 * (level / 128).sqrt())
    return level.round().clamp(0, 255).to(torch.uint8).numpy()


def _scene(
    world: World, video: Video, depths: np.ndarray, parts: np.ndarray, quality: Quality, device: str | torch.device
) -> Scene:
    valid = parts >= 0
    grid = truth.query_grid(world, quality.track_step_px, quality.track_every)
    return Scene(
        times_s=world.times_s,
        camera=world.camera,
        world_from_cam=world.world_from_cam,
        depth_z=np.where(valid, depths, 0).astype(np.float32),
        depth_sigma=np.zeros(depths.shape, dtype=np.float32),
        valid=valid,
        moving=np.where(valid, world.moving[parts], 0).astype(np.uint8),
        image=video.frames,
        tracks=truth.world_tracks(world, *grid, video.frames, device=device),
        metric=True,
        metric_source="synthetic truth",
        health={"trust": np.ones(len(world))},
        name=world.name,
        history=(Step("synthetic", {"world": world.name, "seed": world.seed}),),
    )
