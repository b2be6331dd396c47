"""In place of the network: one that knows the truth of a synthetic world, told in a gauge of each window's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from worldline.engines.any4d.inputs import Views
from worldline.engines.any4d.network import Prediction
from worldline.engines.any4d.observed import unit_rays
from worldline.engines.any4d.resolution import Fit, normalised
from worldline.geometry import pixels, se3
from worldline.synthetic import truth
from worldline.synthetic.rendering import Rendered

FAR = 100.0


@dataclass
class Oracle:
    """Called like the network; recognises frames by their images.

    Attributes:
        unit: (window) -> by how much its metres are wrong. asked: the views of every call.
    """

    rendered: Rendered
    size: tuple[int, int]
    unit: Callable[[int], float] = lambda window: 1.0
    confidence: float = 200.0
    asked: list[Views] = field(default_factory=list)
    encoded: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        video = self.rendered.video
        self.fit = Fit.of(video.width, video.height, self.size)
        self.images = normalised(np.stack([self.fit.image(frame) for frame in video.frames])).flatten(1)

    def features(self, views: Views) -> Tensor:
        """The number of the frame, as the feature of its only patch."""
        found = torch.cdist(views.image[:, 0].flatten(1), self.images).argmin(1)
        self.encoded += found.tolist()
        return found.view(-1, 1, 1, 1, 1).float()

    def __call__(self, views: Views, features: Tensor) -> Prediction:
        self.asked.append(views)
        frames = [int(f) for f in features.flatten()]
        rng = np.random.default_rng(frames[0])
        turn = torch.from_numpy(0.3 * rng.normal(size=6))
        window_from_world, unit = se3.exp(turn), self.unit(len(self.asked) - 1)
        world = self.rendered.world
        cameras = window_from_world @ torch.from_numpy(world.world_from_cam[frames])
        rays = self._rays(frames)
        start = self._anchors(frames[0])
        parts = {
            "rays": rays,
            "depth": torch.stack([self._depth(f, r) for f, r in zip(frames, rays, strict=True)]) * unit,
            "quaternion": se3.xyzw_from_wxyz(se3.quaternion_wxyz(cameras[:, :3, :3])),
            "translation": cameras[:, :3, 3] * unit,
            "flow": torch.stack([self._moved(start, frames[0], f, window_from_world) for f in frames]) * unit,
            "confidence": torch.full(rays.shape[:3], self.confidence),
            "mask_logit": torch.where((start.part >= 0).view(1, *rays.shape[1:3]), 5.0, -5.0).expand(rays.shape[:3]),
        }
        return Prediction(scale=torch.tensor([unit]), **{name: x[:, None].float() for name, x in parts.items()})

    def _rays(self, frames: list[int]) -> Tensor:
        intrinsics = self.fit.intrinsics(self.rendered.world.camera.frames(len(self.rendered.video))[frames])
        return unit_rays(torch.from_numpy(intrinsics), self.fit.height, self.fit.width)

    def _uv(self) -> Tensor:
        uv = pixels.centres(self.fit.height, self.fit.width, dtype=torch.float64).reshape(-1, 2)
        matrix = torch.from_numpy(self.fit.original_from_network)
        return uv @ matrix[:2, :2].T + matrix[:2, 2]

    def _anchors(self, frame: int) -> truth.Anchors:
        return truth.anchors(self.rendered.world, frame, self._uv())

    def _depth(self, frame: int, rays: Tensor) -> Tensor:
        world = self.rendered.world
        points = truth.points_world(world, self._anchors(frame), frame)
        centre = torch.from_numpy(world.world_from_cam[frame, :3, 3])
        return torch.nan_to_num((points - centre).norm(dim=-1), nan=FAR).view(rays.shape[:2])

    def _moved(self, start: truth.Anchors, reference: int, frame: int, window_from_world: Tensor) -> Tensor:
        world = self.rendered.world
        moved = truth.points_world(world, start, frame) - truth.points_world(world, start, reference)
        turned = torch.nan_to_num(moved) @ window_from_world[:3, :3].T
        return turned.view(self.fit.height, self.fit.width, 3)


def noisy(said: Prediction, share: float, seed: int) -> Prediction:
    """With independent noise on every depth."""
    random = torch.Generator().manual_seed(seed)
    return replace(said, depth=said.depth * (1 + share * torch.randn(said.depth.shape, generator=random)))
