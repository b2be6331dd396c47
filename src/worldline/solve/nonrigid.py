"""Points that move: their positions at every time from pixels, a depth cue, smooth motion and local rigidity.

Unknown is a displacement of each (track, time) along a given direction: its ray (depth), or the image axes
(pixel noise). One direction at a time keeps the unknown scalar, the smoothness a penta-diagonal matrix per track
that is factorised exactly for all tracks at once, and that matrix the preconditioner of the whole problem.
Vector fields are (3, N, T), component by component: sums over a last axis of three are slow.

Source: Uni4D (arXiv 2503.21761) stage 3; here second order, with acceleration instead of velocity, edge lengths
against their median over the clip instead of the previous frame, robust weights, and depth sigma.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EASE = 16.0
"""How many times wider the robust knees are in the first step."""


@dataclass(frozen=True)
class Weights:
    """How the cues are traded; lengths in units of the scene.

    Attributes:
        pixel_sigma: pixels; depth_scale: the depth sigma is multiplied by this (errors along a track are correlated).
        smooth: weight of the acceleration term, 1 / variance after its robust knee `smooth_knee`.
        rigid, rigid_knee: the same for edge lengths. neighbours: edges per track.
        outer, inner: Gauss-Newton steps, and conjugate gradient steps within each.
    """

    pixel_sigma: float = 0.7
    pixel_knee: float = 4.0
    depth_scale: float = 1.0
    depth_knee: float = 3.0
    smooth: float = 5.0
    smooth_knee: float = 0.01
    rigid: float = 1.0
    rigid_knee: float = 0.01
    neighbours: int = 6
    outer: int = 5
    inner: int = 8

    def eased(self, step: int) -> Weights:
        """Wider knees in the first steps, so that noise beyond the knees is still pulled in (graduated convexity)."""
        ease = max(1.0, EASE / 2**step)
        return replace(self, smooth_knee=self.smooth_knee * ease, rigid_knee=self.rigid_knee * ease)


@dataclass(frozen=True, eq=False)
class MovingSamples:
    """What is seen of N moving tracks in T frames.

    Attributes:
        rays_world: (3, N, T) direction with camera z = 1 through the tracked pixel, world axes.
        centres_world: (3, T); right, down: (3, T) the image axes in the world; focal: pixels.
        depth_z, sigma: (N, T) the cue at the pixel and the standard deviation of its log.
        seen: (N, T) samples that count; active: (N, T) times at which a position is wanted.
        group: (N,) object number; edges only join tracks of one object.
    """

    rays_world: Float[Tensor, "3 n t"]
    centres_world: Float[Tensor, "3 t"]
    right: Float[Tensor, "3 t"]
    down: Float[Tensor, "3 t"]
    focal: float
    depth_z: Float[Tensor, "n t"]
    sigma: Float[Tensor, "n t"]
    seen: Bool[Tensor, "n t"]
    active: Bool[Tensor, "n t"]
    group: Int[Tensor, "n"]


@dataclass(frozen=True, eq=False)
class MovingPoints:
    """Positions (3, N, T), their standard deviation (N, T), and the cost before and after."""

    points_world: Float[Tensor, "3 n t"]
    sigma: Float[Tensor, "n t"]
    costs: tuple[float, ...]


def interpolate_gaps(values: Float[Tensor, "n t"], known: Bool[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Linear in time between known samples, constant beyond the first and last; rows without any stay as they are."""
    count = values.shape[1]
    t = torch.arange(count, device=values.device).expand_as(values)
    before = torch.where(known, t, torch.full_like(t, -1)).cummax(1).values
    after = count - 1 - torch.where(known.flip(1), t, torch.full_like(t, -1)).cummax(1).values.flip(1)
    before = torch.where(before < 0, after.clamp_max(count - 1), before)
    after = torch.where(after > count - 1, before, after)
    share = (t - before).to(values) / (after - before).clamp_min(1).to(values)
    return torch.lerp(values.gather(1, before), values.gather(1, after), share.clamp(0, 1))


def neighbours(
    points: Float[Tensor, "3 n t"], group: Int[Tensor, "n"], count: int, *, frames: int = 8, chunk: int = 1024
) -> Int[Tensor, "n k"]:
    """The tracks of the same object that stay closest over the clip (mean square distance over sampled frames)."""
    chosen = torch.linspace(0, points.shape[2] - 1, min(frames, points.shape[2]), device=points.device).round().long()
    feature = points[..., chosen].permute(1, 0, 2).flatten(1)
    feature = feature - feature.mean(0)
    far = 10 * feature.abs().max().clamp_min(1e-6) * len(chosen)
    feature = torch.cat([feature, group[:, None].to(feature) * far], 1)
    count = min(count, len(feature) - 1)
    found = []
    every = torch.arange(len(feature), device=points.device)
    for rows, index in zip(feature.split(chunk), every.split(chunk), strict=True):
        distance = torch.cdist(rows, feature)
        distance[torch.arange(len(rows), device=points.device), index] = torch.inf
        found.append(distance.topk(count, dim=1, largest=False).indices)
    return torch.cat(found)


def solve_points(samples: MovingSamples, weights: Weights, *, start: Tensor | None = None) -> MovingPoints:
    """Positions of moving tracks at all their active times.

    Args:
        samples: what is seen. start: optional log-depth correction (N, T) added to the cue for the start only.

    Alternates Gauss-Newton steps along the rays and along both image axes; the start is kept if that does not help.
    """
    problem = _Problem.of(samples, weights, start)
    points = problem.start
    before = problem.cost(points)
    for step in range(weights.outer):
        problem = problem.with_rest_lengths(points) if step < 3 else problem
        problem = replace(problem, weights=weights.eased(step))
        points = problem.step_along(points, "ray", weights.inner)
        if step % 2 == 0:
            for axis in ("right", "down"):
                points = problem.step_along(points, axis, max(2, weights.inner // 4))
    problem = replace(problem, weights=weights)
    after = problem.cost(points)
    if not after < before:
        points, after = problem.start, before
    return MovingPoints(points, problem.deviation(points), (before, after))


@dataclass(frozen=True, eq=False)
class _Problem:
    samples: MovingSamples
    weights: Weights
    start: Tensor
    edges: Tensor
    both: Tensor
    rest: Tensor
    smooth_on: Tensor

    @classmethod
    def of(cls, samples: MovingSamples, weights: Weights, offset: Tensor | None) -> _Problem:
        log_depth = samples.depth_z.clamp_min(1e-6).log()
        log_depth = log_depth if offset is None else log_depth + offset
        depth_z = interpolate_gaps(log_depth, samples.seen).exp()
        rays = torch.stack([interpolate_gaps(ray, samples.seen) for ray in samples.rays_world])
        points = samples.centres_world[:, None] + rays * depth_z
        edges = neighbours(points, samples.group, weights.neighbours)
        both = (
            samples.active[:, None]
            & samples.active[edges]
            & (samples.group[edges] == samples.group[:, None])[..., None]
        )
        active = samples.active
        smooth_on = (active[:, 2:] & active[:, 1:-1] & active[:, :-2]).to(points)
        rest = points.new_zeros(edges.shape)
        return cls(samples, weights, points, edges, both.to(points), rest, smooth_on).with_rest_lengths(points)

    def with_rest_lengths(self, points: Tensor) -> _Problem:
        """Edge lengths at rest: the median over (sampled) times at which both ends are active."""
        every = max(1, points.shape[2] // 24)
        length = _lengths(points[..., ::every].contiguous(), self.edges)[1]
        length = torch.where(self.both[..., ::every] > 0, length, torch.nan)
        rest = length.nanmedian(-1).values.nan_to_num(0.0)
        on = self.both * (rest > 0)[..., None]
        return _Problem(self.samples, self.weights, self.start, self.edges, on, rest, self.smooth_on)

    def _camera(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Depth, and the pixel offset from the tracked pixel along the image axes."""
        s = self.samples
        forward = torch.linalg.cross(s.right, s.down, dim=0)[:, None]
        away = points - s.centres_world[:, None]
        z = (away * forward).sum(0).clamp_min(1e-3)
        lateral = away - s.rays_world * z
        scale = s.focal / z
        return z, (lateral * s.right[:, None]).sum(0) * scale, (lateral * s.down[:, None]).sum(0) * scale

    def _data(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """z, robust weights (depth, pixel) and residuals (log depth, px right, px down)."""
        s, w = self.samples, self.weights
        z, du, dv = self._camera(points)
        log_ratio = z.log() - s.depth_z.clamp_min(1e-6).log()
        seen = s.seen.to(z)
        sigma = s.sigma * w.depth_scale
        depth_weight = seen / sigma**2 / (1 + (log_ratio / (w.depth_knee * sigma)) ** 2) ** 2
        square = (du * du + dv * dv) / w.pixel_sigma**2
        pixel_weight = seen / w.pixel_sigma**2 / (1 + square / w.pixel_knee**2) ** 2
        return z, depth_weight, pixel_weight, log_ratio, du, dv

    def cost(self, points: Tensor) -> float:
        """The robust objective (each part with the loss that belongs to its weights)."""
        s, w = self.samples, self.weights
        z, _, _, log_ratio, du, dv = self._data(points)
        seen = s.seen.to(z)
        depth = (log_ratio / (s.sigma * w.depth_scale)) ** 2
        pixel = (du * du + dv * dv) / w.pixel_sigma**2
        data = seen * (depth / (1 + depth / w.depth_knee**2) + pixel / (1 + pixel / w.pixel_knee**2))
        bend = _second_difference(points).square().sum(0)
        smooth = w.smooth * self.smooth_on * torch.log1p(bend / w.smooth_knee**2)
        stretch = (_lengths(points, self.edges)[1] - self.rest[..., None]) ** 2
        rigid = w.rigid * self.both * torch.log1p(stretch / w.rigid_knee**2)
        return float(data.sum() + smooth.sum() + rigid.sum())

    def step_along(self, points: Tensor, axis: str, inner: int) -> Tensor:
        """One Gauss-Newton step of all positions along one direction, kept only where it is finite."""
        s, w = self.samples, self.weights
        z, depth_weight, pixel_weight, log_ratio, du, dv = self._data(points)
        if axis == "ray":
            direction = (points - s.centres_world[:, None]) / z
            curvature, slope = depth_weight / z**2, depth_weight * log_ratio / z
        else:
            direction = (s.right if axis == "right" else s.down)[:, None].expand_as(points)
            scale = s.focal / z
            curvature, slope = pixel_weight * scale**2, pixel_weight * scale * (du if axis == "right" else dv)
        smooth = _Smooth.at(points, direction, self.smooth_on, w)
        rigid = _Rigid.at(points, direction, self.edges, self.both, self.rest, w)
        idle = (1 - s.active.to(z)) + 1e-6 * curvature.max()
        diagonal = curvature + idle
        gradient = (slope + smooth.gradient + rigid.gradient) * s.active.to(z)
        factor = _Penta.factorise(smooth.diagonal + diagonal + rigid.diagonal, smooth.next_one, smooth.next_two)
        step = conjugate_gradients(
            lambda v: smooth.apply(v) + rigid.apply(v) + diagonal * v, -gradient, factor.solve, inner
        )
        return points + direction * (step * s.active.to(z)).nan_to_num(0.0)

    def deviation(self, points: Tensor) -> Tensor:
        """Standard deviation of each position along its ray, from the curvature of all terms there."""
        s, w = self.samples, self.weights
        z, depth_weight, *_ = self._data(points)
        direction = (points - s.centres_world[:, None]) / z
        rigid = _Rigid.at(points, direction, self.edges, self.both, self.rest, w)
        smooth = _Smooth.at(points, direction, self.smooth_on, w)
        # the error of the cue is that of the whole object in all frames: nothing is gained by averaging it
        own = (depth_weight / z**2 + 0.1 * (rigid.diagonal + smooth.diagonal)).clamp_min(1e-12).rsqrt()
        return torch.maximum(own, s.sigma * z)


@dataclass(frozen=True, eq=False)
class _Smooth:
    """Weighted second differences in time, linearised along a direction: a penta-diagonal matrix per track."""

    weight: Tensor
    direction: Tensor
    gradient: Tensor
    diagonal: Tensor
    next_one: Tensor
    next_two: Tensor

    @classmethod
    def at(cls, points: Tensor, direction: Tensor, on: Tensor, w: Weights) -> _Smooth:
        bend = _second_difference(points)
        weight = on * w.smooth / (w.smooth_knee**2 + bend.square().sum(0))
        n, count = points.shape[1:]
        diagonal, one, two = (points.new_zeros(n, count) for _ in range(3))
        if count > 2:
            diagonal[:, :-2] += weight
            diagonal[:, 1:-1] += 4 * weight
            diagonal[:, 2:] += weight
            d = direction
            neighbouring = (d[..., :-1] * d[..., 1:]).sum(0)
            one[:, :-2] -= 2 * weight * neighbouring[:, :-1]
            one[:, 1:-1] -= 2 * weight * neighbouring[:, 1:]
            two[:, :-2] += weight * (d[..., :-2] * d[..., 2:]).sum(0)
            diagonal *= (d * d).sum(0)
        gradient = (_second_difference_transposed(bend * weight, count) * direction).sum(0)
        return cls(weight, direction, gradient, diagonal, one, two)

    def apply(self, v: Tensor) -> Tensor:
        """The matrix times one number per (track, time)."""
        out = self.diagonal * v
        out[:, :-1] += self.next_one[:, :-1] * v[:, 1:]
        out[:, 1:] += self.next_one[:, :-1] * v[:, :-1]
        out[:, :-2] += self.next_two[:, :-2] * v[:, 2:]
        out[:, 2:] += self.next_two[:, :-2] * v[:, :-2]
        return out


def _second_difference(points: Tensor) -> Tensor:
    return points[..., 2:] - 2 * points[..., 1:-1] + points[..., :-2]


def _second_difference_transposed(bend: Tensor, count: int) -> Tensor:
    out = bend.new_zeros(*bend.shape[:-1], count)
    if count > 2:
        out[..., 2:] += bend
        out[..., 1:-1] -= 2 * bend
        out[..., :-2] += bend
    return out


def _lengths(points: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors from every neighbour to its track (3, N, K, T), and their lengths (N, K, T)."""
    away = points[:, :, None] - points[:, edges]
    return away, (away[0] ** 2).addcmul_(away[1], away[1]).addcmul_(away[2], away[2]).sqrt_().clamp_min_(1e-9)


@dataclass(frozen=True, eq=False)
class _Rigid:
    """Edge lengths against their rest length, linearised along a direction."""

    edges: Tensor
    flat: Tensor
    own: Tensor
    other: Tensor
    gradient: Tensor
    diagonal: Tensor

    @classmethod
    def at(cls, points: Tensor, direction: Tensor, edges: Tensor, on: Tensor, rest: Tensor, w: Weights) -> _Rigid:
        away, length = _lengths(points, edges)
        stretch = length - rest[..., None]
        root = (on * w.rigid / (w.rigid_knee**2 + stretch**2)).sqrt()
        scale = root / length
        own, other = torch.zeros_like(length), torch.zeros_like(length)
        for part, along in zip(away, direction, strict=True):
            own.addcmul_(part, along[:, None])
            other.addcmul_(part, along[edges], value=-1)
        own *= scale
        other *= scale
        flat = edges.flatten()
        stretch *= root
        gradient = (own * stretch).sum(1).index_add_(0, flat, (other * stretch).flatten(0, 1))
        diagonal = (own * own).sum(1).index_add_(0, flat, (other * other).flatten(0, 1))
        return cls(edges, flat, own, other, gradient, diagonal)

    def apply(self, v: Tensor) -> Tensor:
        """J^T J times one number per (track, time)."""
        stretch = (self.other * v[self.edges]).addcmul_(self.own, v[:, None])
        return (self.own * stretch).sum(1).index_add_(0, self.flat, (self.other * stretch).flatten(0, 1))


@dataclass(frozen=True, eq=False)
class _Penta:
    """L D L^T of one symmetric penta-diagonal matrix per track, time along the first axis."""

    inverse: Tensor
    one: Tensor
    two: Tensor

    @classmethod
    def factorise(cls, diagonal: Tensor, next_one: Tensor, next_two: Tensor) -> _Penta:
        d, e, f = (x.T.contiguous() for x in (diagonal, next_one, next_two))
        one, two, inverse = torch.zeros_like(d), torch.zeros_like(d), torch.empty_like(d)
        pivot_1 = pivot_2 = None
        for t in range(len(d)):
            pivot = d[t].clone()
            if pivot_1 is not None:
                off = e[t - 1].clone()
                if pivot_2 is not None:
                    two[t] = f[t - 2] * inverse[t - 2]
                    off -= two[t] * pivot_2 * one[t - 1]
                    pivot -= two[t] ** 2 * pivot_2
                one[t] = off * inverse[t - 1]
                pivot -= one[t] ** 2 * pivot_1
            pivot = torch.maximum(pivot, 1e-6 * d[t]).clamp_min(1e-12)
            inverse[t] = 1 / pivot
            pivot_1, pivot_2 = pivot, pivot_1
        return cls(inverse, one, two)

    def solve(self, right: Tensor) -> Tensor:
        """Solution of every track's system, (N, T)."""
        x = right.T.contiguous()
        count = len(x)
        for t in range(1, count):
            x[t].addcmul_(self.one[t], x[t - 1], value=-1)
            if t > 1:
                x[t].addcmul_(self.two[t], x[t - 2], value=-1)
        x *= self.inverse
        for t in range(count - 2, -1, -1):
            x[t].addcmul_(self.one[t + 1], x[t + 1], value=-1)
            if t < count - 2:
                x[t].addcmul_(self.two[t + 2], x[t + 2], value=-1)
        return x.T.contiguous()


def conjugate_gradients(apply, right: Tensor, precondition, steps: int, tolerance: float = 1e-3) -> Tensor:  # type: ignore[no-untyped-def]
    """Preconditioned conjugate gradients for a symmetric positive definite operator, from zero.

    Source: Nocedal and Wright, "Numerical optimization", 2006, algorithm 5.3.
    """
    x, residual = torch.zeros_like(right), right.clone()
    z = precondition(residual)
    direction, energy = z, residual.flatten() @ z.flatten()
    first = energy
    for _ in range(steps):
        image = apply(direction)
        curvature = direction.flatten() @ image.flatten()
        if not curvature > 0:
            break
        length = energy / curvature
        x = x + length * direction
        residual = residual - length * image
        z = precondition(residual)
        new_energy = residual.flatten() @ z.flatten()
        if new_energy <= tolerance**2 * first:
            break
        direction = z + (new_energy / energy) * direction
        energy = new_energy
    return x
