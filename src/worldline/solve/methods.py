"""The dense method, and what all methods share: the layout of unknowns and the damped solve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.solve.problem import State, System, Term, squared_norm, tangent_size


@dataclass(frozen=True)
class Layout:
    """Where the tangent of each kept variable sits in one long vector: start + row * size."""

    start: dict[str, int]
    size: dict[str, int]
    rows: dict[str, int]
    total: int

    @classmethod
    def of(cls, state: State, names: Sequence[str]) -> Layout:
        """Variables one after the other."""
        start, size, rows, total = {}, {}, {}, 0
        for name in names:
            start[name], size[name], rows[name] = total, tangent_size(state[name]), len(state[name])
            total += size[name] * rows[name]
        return cls(start, size, rows, total)

    def columns(self, name: str, rows: Tensor | None, device: torch.device) -> Tensor:
        """Columns of the given rows, (M or 1, size)."""
        index = torch.zeros(1, dtype=torch.long, device=device) if rows is None else rows
        return self.start[name] + index[:, None] * self.size[name] + torch.arange(self.size[name], device=device)

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """The long vector as one (rows, size) tensor per variable."""
        return {
            n: vector[s : s + self.rows[n] * self.size[n]].reshape(self.rows[n], self.size[n])
            for n, s in self.start.items()
        }


@dataclass(frozen=True)
class Dense:
    """All free variables in one dense matrix: for up to a few thousand unknowns."""

    def prepare(self, state: State, terms: Sequence[Term], free: frozenset[str]) -> Callable[[State], System]:
        """Nothing to analyse but the layout."""
        layout = Layout.of(state, sorted(free))
        return lambda at: _DenseSystem(layout, *normal_equations(at, terms, layout))


@dataclass(frozen=True)
class _DenseSystem:
    layout: Layout
    hessian: Tensor
    gradient: Tensor

    def step(self, damping: float) -> tuple[State, float]:
        delta = -damped_solve(self.hessian, self.gradient, damping)
        return self.layout.split(delta), predicted_decrease(delta, self.gradient, self.hessian.diagonal(), damping)


def normal_equations(state: State, terms: Sequence[Term], layout: Layout) -> tuple[Tensor, Tensor]:
    """Gauss-Newton matrix J^T W J and gradient J^T W r over all columns of the layout."""
    like = next(iter(state.values()))
    hessian = like.new_zeros(layout.total, layout.total)
    gradient = like.new_zeros(layout.total)
    for columns, block, slope in contributions(state, terms, layout):
        index = columns[:, :, None] * layout.total + columns[:, None, :]
        hessian.view(-1).index_add_(0, index.reshape(-1), block.reshape(-1))
        gradient.index_add_(0, columns.reshape(-1), slope.reshape(-1))
    return hessian, gradient


def contributions(
    state: State, terms: Sequence[Term], layout: Layout
) -> Iterator[tuple[Int[Tensor, "m k"], Float[Tensor, "m k k"], Float[Tensor, "m k"]]]:
    """What the residuals of each term add to the normal equations: at which columns, J^T W J there, and J^T W r."""
    for term in terms:
        chosen = [i for i, (name, _) in enumerate(term.uses) if name in layout.start]
        if not chosen:
            continue
        residual, jacobians = weighted(state, term)
        joint = torch.cat([jacobians[i] for i in chosen], -1)
        columns = torch.cat(
            [layout.columns(*term.uses[i], device=residual.device).expand(len(residual), -1) for i in chosen], -1
        )
        yield columns, products(joint, joint), slopes(joint, residual)


def weighted(state: State, term: Term) -> tuple[Tensor, list[Tensor]]:
    """Residuals and Jacobians of a term, both times the root of the robust weight."""
    residual, jacobians = term.linearise(state)
    root = term.loss.weight(squared_norm(residual)).sqrt()
    return residual * root[:, None], [j * root[:, None, None] for j in jacobians]


def products(a: Float[Tensor, "m k i"], b: Float[Tensor, "m k j"]) -> Float[Tensor, "m i j"]:
    """a^T b of every residual, component by component (see `problem`: the layout is components first)."""
    first, second = a.permute(1, 2, 0), b.permute(1, 2, 0)
    out = first[0][:, None] * second[0]
    for k in range(1, len(first)):
        out.addcmul_(first[k][:, None], second[k])
    return out.permute(2, 0, 1)


def slopes(a: Float[Tensor, "m k i"], residual: Float[Tensor, "m k"]) -> Float[Tensor, "m i"]:
    """a^T r of every residual."""
    first, second = a.permute(1, 2, 0), residual.T
    out = first[0] * second[0]
    for k in range(1, len(first)):
        out.addcmul_(first[k], second[k])
    return out.T


def damped_solve(hessian: Tensor, gradient: Tensor, damping: float) -> Tensor:
    """Damped solve in double precision; a direction without information gets a step of zero, not of infinity."""
    if len(gradient) == 0:
        return gradient
    h = hessian.double()
    d = h.diagonal()
    damped = h + torch.diag(damping * d + 1e-12 * d.max().clamp_min(1e-30))
    factor, info = torch.linalg.cholesky_ex(damped)
    if int(info) != 0:
        factor = torch.linalg.cholesky_ex(damped + torch.diag(1e-4 * d + 1e-8 * d.max()))[0]
    return torch.cholesky_solve(gradient.double()[:, None], factor)[:, 0].to(gradient.dtype)


def predicted_decrease(delta: Tensor, gradient: Tensor, diagonal: Tensor, damping: float) -> float:
    """Decrease of the sum of squares: the gradient holds J^T r, so the model falls by -d.g + damping d.D.d."""
    return float(-(delta @ gradient) + damping * (delta * delta * diagonal).sum())
