"""Light on surfaces: a lamp with soft shadows, light from all sides, and a sky behind everything."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.synthetic import trace
from worldline.synthetic.materials import Textures, albedo, look_up
from worldline.synthetic.trace import Hits, View
from worldline.synthetic.world import Light, Shape, World

_SKY_LOW, _SKY_HIGH = (0.80, 0.86, 0.93), (0.30, 0.50, 0.82)
_FROM_ABOVE, _FROM_BELOW = (1.0, 1.02, 1.08), (0.80, 0.74, 0.68)
_LAMP = (1.06, 1.0, 0.92)


class Lit(NamedTuple):
    """What shading needs of one frame, all in float32."""

    camera: View
    lamp: View
    object_from_ground: Float[Tensor, "p 4 4"]
    ground_from_cam: Float[Tensor, "4 4"]
    lamp_from_ground: Float[Tensor, "4 4"]
    half_size_m: Float[Tensor, "p 3"]
    shapes: Int[Tensor, "p"]
    casts: tuple[bool, ...]
    light: Light
    focal_px: float
    sky: bool
    looks: Textures


def lit(world: World, frame: int, looks: Textures, *, device: str | torch.device = "cpu") -> Lit:
    """Prepare one frame for shading."""
    ground_from_lamp = _look_down(np.array(world.light.position), np.array(world.light.target))

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=device).float()

    return Lit(
        trace.view(world, frame, world.ground_from_cam[frame], dtype=torch.float32, device=device),
        trace.view(world, frame, ground_from_lamp, dtype=torch.float32, device=device),
        tensor(np.linalg.inv(world.ground_from_object(frame))),
        tensor(world.ground_from_cam[frame]),
        tensor(np.linalg.inv(ground_from_lamp)),
        tensor(np.stack([p.half_size_m for p in world.parts])),
        torch.as_tensor(world.shapes, device=device),
        tuple(p.casts_shadow for p in world.parts),
        world.light,
        float(world.camera.at(frame)[:2].mean()),
        world.sky,
        looks,
    )


def colours(scene: Lit, hits: Hits, xy: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Colour seen along camera rays (x, y, 1), in [0, 1]."""
    out = torch.zeros(len(xy), 3, dtype=xy.dtype, device=xy.device)
    rows = (hits.part >= 0).nonzero()[:, 0]
    out[rows] = _surface(scene, Hits(hits.depth_z[rows], hits.part[rows]), xy[rows])
    if scene.sky:
        rows = (hits.part < 0).nonzero()[:, 0]
        out[rows] = _sky(scene, xy[rows])
    return out


def faces(scene: Lit, hits: Hits, xy: Float[Tensor, "n 2"]) -> Int[Tensor, "n"]:
    """A number that changes wherever the surface does: per part, and per side of a box."""
    part = hits.part.clamp_min(0)
    points = trace.hit_points(hits, xy)
    local = trace.apply_each(scene.camera.object_from_view[part], points)
    side = local.abs().argmax(-1) * 2 + (torch.gather(local, 1, local.abs().argmax(-1, keepdim=True))[:, 0] > 0)
    return torch.where(hits.part < 0, -1, hits.part * 8 + side * (scene.shapes[part] == Shape.BOX))


def _surface(scene: Lit, hits: Hits, xy: Tensor) -> Tensor:
    points_cam = trace.hit_points(hits, xy)
    local = trace.apply_each(scene.camera.object_from_view[hits.part], points_cam)
    points_ground = points_cam @ scene.ground_from_cam[:3, :3].T + scene.ground_from_cam[:3, 3]
    eye = scene.ground_from_cam[:3, 3] - points_ground
    normal = _normals(scene, hits.part, local, eye)
    facing = (normal * torch.nn.functional.normalize(eye, dim=-1)).sum(-1).clamp_min(0.06)
    footprint = hits.depth_z / scene.focal_px / facing.sqrt()
    base = albedo(scene.looks, hits.part, local * scene.half_size_m[hits.part], footprint)
    return (base * _light(scene, hits.part, points_ground, normal)).clamp(0, 1)


def _light(scene: Lit, part: Tensor, points_ground: Tensor, normal: Tensor) -> Tensor:
    lamp = torch.tensor(scene.light.position, dtype=normal.dtype, device=normal.device) - points_ground
    distance = lamp.square().sum(-1).sqrt()
    lambert = ((normal * lamp).sum(-1) / distance).clamp_min(0)
    strength = scene.light.strength * lambert * (1 - _shadow(scene, part, points_ground, lambert))
    if scene.light.falloff_m > 0:
        strength = strength * 2 / (1 + (distance / scene.light.falloff_m) ** 2)
    above, below, warm = (normal.new_tensor(c) for c in (_FROM_ABOVE, _FROM_BELOW, _LAMP))
    ambient = scene.light.ambient * torch.lerp(below, above, (0.5 + 0.5 * normal[:, 2:]))
    return ambient + strength[:, None] * warm


def _shadow(scene: Lit, part: Tensor, points_ground: Tensor, lambert: Tensor) -> Tensor:
    """Share of the lamp that is hidden from each point: soft, growing with the distance to what hides it."""
    points = points_ground @ scene.lamp_from_ground[:3, :3].T + scene.lamp_from_ground[:3, 3]
    x, order = (points[:, 0] / points[:, 2]).sort()
    z = points[order, 2]
    y = points[order, 1] / z
    own = torch.where(lambert > 0, part, -1)[order]
    hidden = torch.zeros_like(z)
    margin = scene.light.radius_m / float(z.min()) if len(z) else 0.0
    for p, rows in trace.candidates(scene.lamp, x, y, margin=margin):
        if not scene.casts[p]:
            continue
        cover = _cover(scene, p, x[rows], y[rows], z[rows])
        hidden[rows] = torch.maximum(hidden[rows], torch.where(own[rows] == p, 0.0, cover))
    return torch.empty_like(hidden).scatter_(0, order, hidden)


def _cover(scene: Lit, p: int, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Share of the lamp hidden by one part; an approximation by how deep the ray to the lamp's centre cuts it."""
    origin, direction = trace.object_rays(scene.lamp.object_from_view[p], x, y)
    size = float(scene.half_size_m[p].mean())
    if scene.lamp.shapes[p] == Shape.SPHERE:
        a = (direction * direction).sum(0)
        middle = -(direction * origin[:, None]).sum(0) / a
        gap = (origin[:, None] + middle * direction).square().sum(0).sqrt()
        blur = (scene.light.radius_m * (z - middle) / middle / size).clamp(0.05, 1.5)
        before = ((z - middle) / size * 2).clamp(0, 1)
        return _smooth((1 + blur - gap) / (2 * blur)) * before
    near, far = trace.box_span(origin, direction)
    if scene.lamp.shapes[p] == Shape.QUAD:
        near = trace.quad_hit(origin, direction)
        far = torch.where(near > 0, near + 1.0, near)
    blur = (scene.light.radius_m * (z - near) / near.clamp_min(1e-3)).clamp(0.02, 0.5)
    depth = torch.minimum(far, z) - near
    return torch.nan_to_num(_smooth(depth / (2 * blur))) * (near < z * (1 - 1e-4))


def _normals(scene: Lit, part: Tensor, local: Tensor, eye: Tensor) -> Tensor:
    """Unit normals in the ground frame, turned towards the eye."""
    shape = scene.shapes[part][:, None]
    axis = local.abs().argmax(-1)
    side = torch.nn.functional.one_hot(axis, 3) * local.sign()
    up = local.new_tensor([0.0, 0.0, 1.0])
    normal = torch.where(shape == Shape.SPHERE, local, torch.where(shape == Shape.BOX, side, up))
    linear = scene.object_from_ground[part, :3, :3]
    normal = torch.nn.functional.normalize((linear * normal[:, :, None]).sum(1), dim=-1)
    return normal * torch.where((normal * eye).sum(-1, keepdim=True) < 0, -1.0, 1.0)


def _sky(scene: Lit, xy: Tensor) -> Tensor:
    rays = torch.cat([xy, torch.ones_like(xy[:, :1])], -1) @ scene.ground_from_cam[:3, :3].T
    rays = torch.nn.functional.normalize(rays, dim=-1)
    height = rays[:, 2:].clamp(0, 1)
    colour = torch.lerp(xy.new_tensor(_SKY_LOW), xy.new_tensor(_SKY_HIGH), height.sqrt())
    cloud = 0.6 * look_up(scene.looks.volume, rays * 3.1) + 0.4 * look_up(scene.looks.volume, rays * 7.7 + 0.3)
    cloud = cloud + 0.25 * look_up(scene.looks.volume, rays * 19.0 + 0.7)
    return torch.lerp(colour, torch.ones_like(colour), 0.75 * _smooth(0.5 * cloud[:, :1] + 0.35))


def _smooth(share: Tensor) -> Tensor:
    share = share.clamp(0, 1)
    return share * share * (3 - 2 * share)


def _look_down(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """ground_from_lamp with the z axis from the lamp to its target."""
    z = (target - position) / np.linalg.norm(target - position)
    x = np.cross(z, [0.0, 1.0, 0.3])
    x /= np.linalg.norm(x)
    motion = np.eye(4)
    motion[:3] = np.stack([x, np.cross(z, x), z, position], -1)
    return motion
