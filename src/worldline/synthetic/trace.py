"""Rays against primitives, in closed form: the nearest hit of every ray, with parts culled by their image rectangle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.synthetic.world import Shape, World

_NEAR = 1e-3


class View(NamedTuple):
    """All parts at one frame as one viewer (the camera, or the lamp) sees them."""

    shapes: tuple[int, ...]
    object_from_view: Float[Tensor, "p 4 4"]
    low: Float[Tensor, "p 2"]
    high: Float[Tensor, "p 2"]
    """Bounds of every part in the plane z = 1."""
    ahead: Bool[Tensor, "p"]
    """Whether any of it is in front of the viewer."""


class Hits(NamedTuple):
    """Nearest hit of N rays: depth along the viewer's z axis (inf: none) and the part (-1: none)."""

    depth_z: Float[Tensor, "n"]
    part: Int[Tensor, "n"]


def view(
    world: World,
    frame: int,
    ground_from_view: Float[np.ndarray, "4 4"],
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
) -> View:
    """Prepare one frame for tracing from one viewer; matrices are composed in float64 whatever `dtype` is."""
    view_from_object = np.linalg.inv(ground_from_view) @ world.ground_from_object(frame)
    low, high, ahead = _bounds(view_from_object, world.shapes)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=device).to(dtype)

    return View(
        tuple(world.shapes.tolist()),
        tensor(np.linalg.inv(view_from_object)),
        tensor(low),
        tensor(high),
        torch.as_tensor(ahead, device=device),
    )


def trace(seen: View, xy: Float[Tensor, "n 2"]) -> Hits:
    """First surface along rays (x, y, 1) from the viewer."""
    x, order = xy[:, 0].sort()
    y = xy[order, 1]
    depth = torch.full_like(x, torch.inf)
    part = torch.full_like(x, -1, dtype=torch.long)
    for p, rows in candidates(seen, x, y):
        t = intersect(seen.shapes[p], *object_rays(seen.object_from_view[p], x[rows], y[rows]))
        nearer = t < depth[rows]
        depth[rows] = torch.where(nearer, t, depth[rows])
        part[rows] = torch.where(nearer, p, part[rows])
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return Hits(depth[back], part[back])


def hit_points(hits: Hits, xy: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Where rays (x, y, 1) meet their surface, in the viewer's frame; the origin where nothing was hit."""
    depth = torch.where(hits.part < 0, 0.0, hits.depth_z)[:, None]
    return torch.cat([xy * depth, depth], -1)


def apply_each(motion: Float[Tensor, "n 4 4"], points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """One affine motion per point."""
    return (motion[:, :3, :3] * points[:, None]).sum(-1) + motion[:, :3, 3]


def candidates(seen: View, x: Tensor, y: Tensor, *, margin: float = 0.0) -> Iterator[tuple[int, slice | Tensor]]:
    """Pairs of a part and the rows of the rays that may meet it (a slice where all may); x must be ascending."""
    low, high = seen.low - margin, seen.high + margin
    first = torch.searchsorted(x, low[:, 0].contiguous()).tolist()
    last = torch.searchsorted(x, high[:, 0].contiguous(), right=True).tolist()
    for p, ahead in enumerate(seen.ahead.tolist()):
        if not ahead or first[p] >= last[p]:
            continue
        if low[p, 1] == -torch.inf:
            yield p, slice(None)
            continue
        column = y[first[p] : last[p]]
        rows = ((column >= low[p, 1]) & (column <= high[p, 1])).nonzero()[:, 0]
        if len(rows):
            yield p, rows + first[p]


def object_rays(object_from_view: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Origin (3,) and directions (3, n) of rays (x, y, 1) in object coordinates."""
    m = object_from_view
    return m[:3, 3], m[:3, 0:1] * x + m[:3, 1:2] * y + m[:3, 2:3]


def intersect(shape: int, origin: Float[Tensor, "3"], direction: Float[Tensor, "3 n"]) -> Float[Tensor, "n"]:
    """Smallest positive parameter at which a ray meets a canonical shape; inf where it does not."""
    if shape == Shape.SPHERE:
        near, far = sphere_span(origin, direction)
    elif shape == Shape.BOX:
        near, far = box_span(origin, direction)
    else:
        near = far = quad_hit(origin, direction)
    t = torch.where(near > _NEAR, near, far)
    return torch.where((t > _NEAR) & (far >= near), t, torch.inf)


def sphere_span(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Entry and exit of the unit ball; NaN where a ray misses. The cross product keeps far small balls exact."""
    a = (direction * direction).sum(0)
    b = (direction * origin[:, None]).sum(0)
    moment = torch.linalg.cross(origin[:, None].expand_as(direction), direction, dim=0)
    root = (a - (moment * moment).sum(0)).sqrt()
    return (-b - root) / a, (-b + root) / a


def box_span(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Entry and exit of the box (slab method); entry after exit where a ray misses."""
    inverse = direction.reciprocal()
    a, b = (-1 - origin[:, None]) * inverse, (1 - origin[:, None]) * inverse
    return torch.minimum(a, b).amax(0), torch.maximum(a, b).amin(0)


def quad_hit(origin: Tensor, direction: Tensor) -> Tensor:
    """Parameter at which a ray meets the quad; NaN where it misses."""
    t = -origin[2] / direction[2]
    x, y = origin[0] + t * direction[0], origin[1] + t * direction[1]
    return torch.where((x.abs() <= 1) & (y.abs() <= 1), t, torch.nan)


def _bounds(view_from_object: np.ndarray, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rectangles that contain each part in the plane z = 1; infinite where a part reaches behind the viewer."""
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3, indexing="ij"), -1).reshape(-1, 3)
    corners = np.repeat(signs[None], len(shapes), 0)
    corners[shapes == Shape.QUAD, :, 2] = 0
    points = corners @ view_from_object[:, :3, :3].transpose(0, 2, 1) + view_from_object[:, None, :3, 3]
    z = points[..., 2]
    behind = z.min(1) < _NEAR
    xy = points[..., :2] / np.maximum(z, _NEAR)[..., None]
    low = np.where(behind[:, None], -np.inf, xy.min(1) - 1e-6)
    high = np.where(behind[:, None], np.inf, xy.max(1) + 1e-6)
    return low, high, z.max(1) > _NEAR
