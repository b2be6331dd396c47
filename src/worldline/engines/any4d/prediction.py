"""What the network says of one window, in the window's own gauge and in metres as far as anything tells them.

The answer is arrays, so that a window is a stage that can be found again: maps of all its views, cameras, and the
dense motion of the reference's pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.engines.any4d.edges import Edges, trusted
from worldline.engines.any4d.network import Any4D, Prediction
from worldline.engines.any4d.observed import Conditions
from worldline.engines.any4d.pinhole import pinhole
from worldline.geometry import se3
from worldline.scene.fragment import Fragment

CONFIDENCE_PRICE, LOSS_SCALE = 0.2, 0.05
"""Of the training: the weight of -log(confidence), and where its robust loss bends (MapAnything, supplement)."""
LEAST_SIGMA = 0.005
LEAST_LEFT = 0.05
"""A surface that is torn nearly everywhere has no edges to tell from it."""
_COMPARED = 50


@dataclass(frozen=True, eq=False)
class Said:
    """One window's answer; everything of length in one unit, the metres of the network unless a sensor corrects it.

    Attributes:
        rays: (V, H, W, 3) unit; depth_ray: (V, H, W) along them; sigma: of its log. there: where there is a surface;
        valid: where it is not torn, too, so that its depth is to be used.
        confidence: (V, H, W), 1 is the least. flow: (V, H, W, 3) motion of the pixels of view 0 to each view's time.
        window_from_cam: (V, 4, 4) float64. unit: by what a depth sensor corrected the network's metres (1: by nothing).
    """

    rays: Float[Tensor, "v h w 3"]
    depth_ray: Float[Tensor, "v h w"]
    sigma: Float[Tensor, "v h w"]
    there: Bool[Tensor, "v h w"]
    valid: Bool[Tensor, "v h w"]
    confidence: Float[Tensor, "v h w"]
    flow: Float[Tensor, "v h w 3"]
    window_from_cam: Float[Tensor, "v 4 4"]
    unit: float

    @property
    def depth_z(self) -> Float[Tensor, "v h w"]:
        """Along the optical axis; 0 where not to be used."""
        return torch.where(self.valid, self.depth_ray * self.rays[..., 2], torch.zeros_like(self.depth_ray))

    @property
    def intrinsics(self) -> Float[Tensor, "v 4"]:
        """Of the pinhole that fits each view's rays best."""
        return pinhole(self.rays.double())

    def points(self, view: int) -> Float[Tensor, "h w 3"]:
        """Of a view's pixels, in the window."""
        pose = self.window_from_cam[view].to(self.rays.dtype)
        return (self.rays[view] * self.depth_ray[view][..., None]) @ pose[:3, :3].T + pose[:3, 3]


def ask(
    network: Any4D, conditions: Conditions, frames: Sequence[int], features: Tensor, edges: Edges | None
) -> Said:  # fmt: skip
    """One pass of the network over a window; two where depth or speed are known but not along which rays.

    Args:
        frames: of the window, the reference first. features: of their images, from `network.features`.
    """
    first = network(conditions.views(frames), features) if conditions.needs_first_pass else None
    said = network(conditions.views(frames, first), features)
    measured = conditions.observed.depth
    in_metres = measured is not None and measured.metric
    return _corrected(_meant(said, edges), conditions.depth_z(frames) if in_metres else None)


def _meant(said: Prediction, edges: Edges | None) -> Said:
    rays, depth, confidence = said.rays[:, 0], said.depth[:, 0], said.confidence[:, 0]
    depth_z = depth * rays[..., 2]
    seen = said.mask[:, 0] & (depth_z > 0) & depth.isfinite()
    rotation = se3.rotation_from_wxyz(se3.wxyz_from_xyzw(said.quaternion[:, 0].double()))
    cameras = se3.from_rotation_translation(se3.nearest_rotation(rotation), said.translation[:, 0].double())
    points = rays * depth[..., None]
    sigma = relative_sigma(depth, confidence, seen)
    one = [slice(v, v + 1) for v in range(len(rays))]
    valid = torch.cat([trusted(points[v], depth_z[v], seen[v], edges, doubt=sigma[v]) for v in one])
    if int(valid.sum()) < LEAST_LEFT * int(seen.sum()):
        valid = seen
    return Said(rays, depth, sigma, seen, valid, confidence, said.flow[:, 0], cameras, 1.0)


def relative_sigma(
    depth_ray: Float[Tensor, "v h w"], confidence: Float[Tensor, "v h w"], valid: Bool[Tensor, "v h w"]
) -> Float[Tensor, "v h w"]:
    """Standard deviation of log depth from the confidence C of the training loss C l - 0.2 log C.

    Where C is right, l = 0.2 / C; near zero the robust loss is (e / 0.05)^2 / 2 of the error e in log(1 + d / mean d).
    """
    mean = depth_ray[valid].mean() if bool(valid.any()) else depth_ray.mean()
    error = LOSS_SCALE * (2 * CONFIDENCE_PRICE / confidence).sqrt()
    return (error * (mean + depth_ray) / depth_ray.clamp_min(1e-8)).clamp(LEAST_SIGMA, 10.0)


def _corrected(said: Said, measured: Float[Tensor, "v h w"] | None) -> Said:
    """In the unit of a depth sensor, where there is one: the robust mean of measured over predicted depth."""
    if measured is None:
        return said
    both = said.valid & (measured > 0)
    if int(both.sum()) < _COMPARED:
        return said
    unit = float((measured[both] / (said.depth_ray * said.rays[..., 2])[both]).log().median().exp())
    if not 0 < unit < np.inf:
        return said
    cameras = said.window_from_cam.clone()
    cameras[:, :3, 3] *= unit
    return replace(said, depth_ray=said.depth_ray * unit, flow=said.flow * unit, window_from_cam=cameras, unit=unit)


def fragment(frames: Sequence[int], arrays: dict[str, np.ndarray]) -> Fragment:
    """A window's stored answer as what windows are joined by."""
    return Fragment(
        frames=np.asarray(frames),
        depth_ray=arrays["depth_z"],
        depth_sigma=arrays["sigma"],
        valid=arrays["valid"],
        world_from_cam=arrays["window_from_cam"],
        scale=float(arrays["unit"]),
    )
