"""Bundle adjustment's method: eliminate the structure, solve the cameras, substitute back.

Source: Triggs et al., "Bundle adjustment: a modern synthesis", 2000, section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldline.errors import SolveFailed
from worldline.solve.methods import (
    Layout,
    damped_solve,
    normal_equations,
    predicted_decrease,
    products,
    slopes,
    weighted,
)
from worldline.solve.problem import State, System, Term, tangent_size


@dataclass(frozen=True)
class Schur:
    """Eliminates one variable with many small independent rows (points).

    A term on that variable may look at one point, at variables of one frame, and at shared variables. Points are
    grouped by the frames that see them, so that the dense products cover only those frames.
    """

    eliminate: str
    group: int = 384

    def prepare(self, state: State, terms: Sequence[Term], free: frozenset[str]) -> Callable[[State], System]:
        """Sort the structure into groups with a common range of frames; done once per problem.

        Raises:
            SolveFailed: no term looks at any point.
        """
        layout = Layout.of(state, sorted(free - {self.eliminate}))
        on_points = [t for t in terms if any(v == self.eliminate for v, _ in t.uses)]
        others = [t for t in terms if not any(v == self.eliminate for v, _ in t.uses)]
        samples = [_Samples.of(t, self.eliminate, layout) for t in on_points]
        if not any(len(s.point) for s in samples):
            raise SolveFailed("nothing static is tracked, so there is nothing to solve; try a clip with more texture.")
        groups = _Groups.of(len(state[self.eliminate]), samples, self.group)
        size = tangent_size(state[self.eliminate])
        return lambda at: _assemble(at, on_points, others, samples, groups, layout, self.eliminate, size)


@dataclass(frozen=True, eq=False)
class _Samples:
    """For a term on points: the point and frame of each residual, and the kept arguments."""

    point: Tensor
    frame: Tensor
    framed: tuple[int, ...]
    shared: tuple[int, ...]
    eliminated: int
    per_frame: tuple[int, ...]
    order: Tensor | None
    """Residuals sorted by frame, unless they already are."""

    @classmethod
    def of(cls, term: Term, eliminate: str, layout: Layout) -> _Samples:
        position = [i for i, (v, _) in enumerate(term.uses) if v == eliminate]
        framed = [i for i, (v, rows) in enumerate(term.uses) if v in layout.start and rows is not None]
        shared = [i for i, (v, rows) in enumerate(term.uses) if v in layout.start and rows is None]
        point = term.uses[position[0]][1]
        assert point is not None and len(position) == 1, f"{term.name} must look at exactly one row of {eliminate}"
        frame = term.uses[framed[0]][1] if framed else torch.zeros_like(point)
        assert frame is not None
        assert all(term.uses[i][1] is frame for i in framed), f"{term.name} must look at one frame only"
        order = None if bool((frame.diff() >= 0).all()) else frame.argsort(stable=True)
        per_frame = tuple(torch.bincount(frame).tolist())
        return cls(point, frame, tuple(framed), tuple(shared), position[0], per_frame, order)


@dataclass(frozen=True, eq=False)
class _Groups:
    """Points in `order` (original index of each sorted place); group g is [bounds[g], bounds[g+1]).

    Group g is seen in frames [begin[g], end[g]); its couplings are rows offset[g] + place * width + frame - begin.
    `rows` holds that row for every sample of every term.
    """

    order: Tensor
    rank: Tensor
    bounds: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    offset: tuple[int, ...]
    rows: tuple[Tensor, ...]

    @classmethod
    def of(cls, count: int, samples: Sequence[_Samples], group: int) -> _Groups:
        device = samples[0].point.device
        point, frame = torch.cat([s.point for s in samples]), torch.cat([s.frame for s in samples])
        top = int(frame.max()) + 1
        first = torch.full((count,), top, device=device).scatter_reduce(0, point, frame, "amin")
        last = torch.full((count,), -1, device=device).scatter_reduce(0, point, frame, "amax")
        first = torch.where(last < 0, torch.zeros_like(first), first)
        order = torch.argsort(first * (top + 1) + last, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(count, device=device)
        bounds = [*range(0, count, group), count]
        begin, end, offset, used = [], [], [], 0
        for a, b in zip(bounds[:-1], bounds[1:], strict=True):
            begin.append(int(first[order[a:b]].min()))
            end.append(max(int(last[order[a:b]].max()), begin[-1]) + 1)
            offset.append(used)
            used += (b - a) * (end[-1] - begin[-1])
        table = torch.tensor([bounds[:-1], begin, end, offset], device=device)
        rows = []
        for s in samples:
            place = rank[s.point]
            g = table[:, torch.div(place, group, rounding_mode="floor")]
            rows.append(g[3] + (place - g[0]) * (g[2] - g[1]) + s.frame - g[1])
        return cls(order, rank, tuple(bounds), tuple(begin), tuple(end), (*offset, used), tuple(rows))


@dataclass(frozen=True, eq=False)
class _SchurSystem:
    """Hessian blocks: kept (C, C), per point (N, s, s), couplings per framed variable and per shared variable."""

    layout: Layout
    groups: _Groups
    eliminate: str
    kept: Tensor
    kept_gradient: Tensor
    points: Tensor
    points_gradient: Tensor
    framed: dict[str, Tensor]
    shared: dict[str, Tensor]

    def step(self, damping: float) -> tuple[State, float]:
        size = self.points.shape[-1]
        diagonal = self.points.diagonal(dim1=-2, dim2=-1)
        ridge = damping * diagonal + 1e-9 * diagonal.amax(-1, keepdim=True).clamp_min(1e-12)
        factor = torch.linalg.cholesky_ex(self.points + torch.diag_embed(ridge))[0]
        inverse = torch.linalg.solve_triangular(factor, torch.eye(size).to(factor).expand_as(factor), upper=False)
        whitened = (inverse @ self.points_gradient[..., None])[..., 0]
        reduced, right = self.kept.clone(), self.kept_gradient.clone()
        reduced.diagonal().add_(damping * self.kept.diagonal())
        blocks = []
        for g in range(len(self.groups.bounds) - 1):
            columns, coupling = self._coupling(g)
            a, b = self.groups.bounds[g], self.groups.bounds[g + 1]
            block = (inverse[a:b] @ coupling).flatten(0, 1)
            blocks.append((columns, block))
            reduced[columns[:, None], columns] -= _square(block)
            right[columns] -= block.T @ whitened[a:b].flatten()
        kept_step = -damped_solve(reduced, right, 0.0)
        along = whitened.clone()
        for g, (columns, block) in enumerate(blocks):
            a, b = self.groups.bounds[g], self.groups.bounds[g + 1]
            along[a:b] += (block @ kept_step[columns]).view(b - a, size)
        sorted_step = -(inverse.transpose(-1, -2) @ along[..., None])[..., 0]
        predicted = predicted_decrease(kept_step, self.kept_gradient, self.kept.diagonal(), damping)
        predicted += predicted_decrease(
            sorted_step.flatten(), self.points_gradient.flatten(), diagonal.flatten(), damping
        )
        return {**self.layout.split(kept_step), self.eliminate: sorted_step[self.groups.rank]}, predicted

    def _coupling(self, g: int) -> tuple[Tensor, Tensor]:
        """Columns of the kept system that group g touches, and its coupling (n, s, columns)."""
        gr, size = self.groups, self.points.shape[-1]
        a, b, begin, end = gr.bounds[g], gr.bounds[g + 1], gr.begin[g], gr.end[g]
        columns, parts = [], []
        for name, rows in self.framed.items():
            d, start = self.layout.size[name], self.layout.start[name]
            part = rows[:, gr.offset[g] : gr.offset[g + 1]].view(size, d, b - a, end - begin)
            parts.append(part.permute(2, 0, 3, 1).reshape(b - a, size, -1))
            columns.append(torch.arange(start + begin * d, start + end * d, device=rows.device))
        for name, rows in self.shared.items():
            parts.append(rows[:, a:b].view(size, -1, b - a).permute(2, 0, 1))
            start = self.layout.start[name]
            columns.append(torch.arange(start, start + self.layout.size[name], device=rows.device))
        if not parts:
            return torch.zeros(0, dtype=torch.long, device=self.points.device), self.points.new_zeros(b - a, size, 0)
        return torch.cat(columns), torch.cat(parts, -1)


def _assemble(
    state: State,
    on_points: Sequence[Term],
    others: Sequence[Term],
    samples: Sequence[_Samples],
    groups: _Groups,
    layout: Layout,
    eliminate: str,
    size: int,
) -> _SchurSystem:
    kept, kept_gradient = normal_equations(state, others, layout)
    like, count = state[eliminate], len(state[eliminate])
    points, points_gradient = like.new_zeros(size * size, count), like.new_zeros(size, count)
    framed: dict[str, Tensor] = {}
    shared: dict[str, Tensor] = {}
    for term, s, rows in zip(on_points, samples, groups.rows, strict=True):
        residual, jacobians = weighted(state, term)
        own = jacobians[s.eliminated]
        place = groups.rank[s.point]
        points.index_add_(1, place, _components(products(own, own)))
        points_gradient.index_add_(1, place, slopes(own, residual).T)
        _add_kept(kept, kept_gradient, term, s, residual, jacobians, layout)
        for i in s.framed:
            name = term.uses[i][0]
            block = _components(products(own, jacobians[i]))
            if name not in framed:
                framed[name] = like.new_zeros(len(block), groups.offset[-1])
            framed[name].index_add_(1, rows, block)
        for i in s.shared:
            name = term.uses[i][0]
            block = _components(products(own, jacobians[i]))
            if name not in shared:
                shared[name] = like.new_zeros(len(block), count)
            shared[name].index_add_(1, place, block)
    return _SchurSystem(
        layout, groups, eliminate, kept, kept_gradient,
        points.T.reshape(count, size, size), points_gradient.T.contiguous(), framed, shared,
    )  # fmt: skip


def _square(rows: Tensor, parts: int = 4) -> Tensor:
    """rows^T rows, computing only the blocks on and above the diagonal: about 0.6 of the products of a plain one."""
    width = rows.shape[1]
    if width < 256:
        return rows.T @ rows
    edges = [width * i // parts for i in range(parts + 1)]
    out = rows.new_empty(width, width)
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        strip = rows[:, a:b].T @ rows[:, a:]
        out[a:b, a:] = strip
        out[b:, a:b] = strip[:, b - a :].T
    return out


def _components(blocks: Tensor) -> Tensor:
    """(M, i, j) as (i * j, M), the layout in which it was computed."""
    return blocks.permute(1, 2, 0).flatten(0, 1)


def _add_kept(
    kept: Tensor,
    gradient: Tensor,
    term: Term,
    samples: _Samples,
    residual: Tensor,
    jacobians: Sequence[Tensor],
    layout: Layout,
) -> None:
    """Camera blocks of a term on points: summed per frame first, since all its samples of a frame share columns."""
    chosen = (*samples.framed, *samples.shared)
    if not chosen:
        return
    joint = torch.cat([*(jacobians[i].permute(1, 2, 0) for i in chosen), residual.T[:, None]], 1)
    if samples.order is not None:
        joint = joint[..., samples.order]
    parts = joint.split(samples.per_frame, -1)
    blocks = torch.stack([(part @ part.transpose(-1, -2)).sum(0) for part in parts])
    frames = len(parts)
    every = torch.arange(frames, device=joint.device)
    columns = torch.cat(
        [
            layout.columns(term.uses[i][0], every if i in samples.framed else None, joint.device).expand(frames, -1)
            for i in chosen
        ],
        -1,
    )
    index = columns[:, :, None] * layout.total + columns[:, None, :]
    kept.view(-1).index_add_(0, index.reshape(-1), blocks[:, :-1, :-1].reshape(-1))
    gradient.index_add_(0, columns.reshape(-1), blocks[:, :-1, -1].reshape(-1))
