"""What is minimised: a state of named variables, and terms that each look at a few rows of them.

A variable is a tensor whose first axis counts its rows (frames, points, or one shared row). Matrices (rows, 4, 4)
are rigid motions and move on their manifold; everything else is a plain vector. `minimise` never changes its start.

    cost(state) = sum over terms, over residuals m, of loss(|r_m|^2)      r_m whitened, i.e. in standard deviations
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import SolveFailed
from worldline.geometry import se3
from worldline.solve.robust import Loss, Square

State = Mapping[str, Tensor]
Rows = Tensor | None
"""Which row of a variable each residual looks at, (M,) long; None: the one row of a shared variable."""


@dataclass(frozen=True, eq=False)
class Term:
    """M residuals of k components, each a function of one row of every variable in `uses`.

    Attributes:
        uses: (variable, rows) per argument of `residual`; the same variable may appear twice (frame t and t + 1).
        residual: takes the gathered rows, each (M, *row shape), and returns (M, k), divided by its sigma.
        jacobian: optional, returns (residual, one (M, k, d) per argument), d the tangent size; else forward-mode.
    """

    name: str
    uses: tuple[tuple[str, Rows], ...]
    residual: Callable[..., Float[Tensor, "m k"]]
    jacobian: Callable[..., tuple[Tensor, Sequence[Tensor]]] | None = None
    loss: Loss = field(default_factory=Square)

    def gather(self, state: State) -> list[Tensor]:
        """The rows every residual looks at."""
        return [state[v] if rows is None else _rows(state[v], rows) for v, rows in self.uses]

    def squares(self, state: State) -> Float[Tensor, "m"]:
        """Squared whitened norm of each residual."""
        return squared_norm(self.residual(*self.gather(state)))

    def cost(self, state: State) -> Tensor:
        """This term's share of the objective."""
        return self.loss.cost(self.squares(state)).sum()

    def linearise(self, state: State) -> tuple[Tensor, list[Tensor]]:
        """Residuals (M, k) and their Jacobian for every argument (M, k, d)."""
        rows = self.gather(state)
        if self.jacobian is None:
            return forward_jacobian(self.residual, rows)
        residual, blocks = self.jacobian(*rows)
        return residual, list(blocks)


def squared_norm(residual: Float[Tensor, "m k"]) -> Float[Tensor, "m"]:
    """Sum of squares of the few components of every residual."""
    out = residual[:, 0] ** 2
    for k in range(1, residual.shape[1]):
        out = torch.addcmul(out, residual[:, k], residual[:, k])
    return out


def _rows(variable: Tensor, rows: Tensor) -> Tensor:
    """Rows of a variable, laid out component by component: arithmetic on thousands of small matrices is then
    arithmetic on a few long vectors, several times faster; the shape is that of plain indexing."""
    flat = variable.flatten(1).T.contiguous().index_select(1, rows)
    return flat.T.unflatten(1, variable.shape[1:])


def is_motion(variable: Tensor) -> bool:
    """Whether the rows of a variable are rigid motions."""
    return variable.ndim == 3 and variable.shape[-2:] == (4, 4)


def tangent_size(variable: Tensor) -> int:
    """Degrees of freedom of one row."""
    return 6 if is_motion(variable) else int(variable[0].numel())


def retract(variable: Tensor, step: Float[Tensor, "n d"]) -> Tensor:
    """Move every row by its tangent step. Motions move in their own (camera) frame: R exp(phi), t + R rho."""
    if not is_motion(variable):
        return variable + step.reshape(variable.shape)
    rotation = variable[:, :3, :3]
    moved = (rotation @ step[:, :3, None])[..., 0] + variable[:, :3, 3]
    return se3.from_rotation_translation(rotation @ se3.so3_exp(step[:, 3:]), moved)


def forward_jacobian(residual: Callable[..., Tensor], rows: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Residuals and Jacobians by one forward-mode pass per degree of freedom."""
    zeros = tuple(row.new_zeros(len(row), tangent_size(row)) for row in rows)

    def moved(*steps: Tensor) -> Tensor:
        return residual(*(retract(row, step) for row, step in zip(rows, steps, strict=True)))

    blocks = []
    value = residual(*rows)
    for a, zero in enumerate(zeros):
        columns = []
        for i in range(zero.shape[1]):
            direction = torch.zeros_like(zero)
            direction[:, i] = 1
            tangents = tuple(direction if b == a else z for b, z in enumerate(zeros))
            columns.append(torch.func.jvp(moved, zeros, tangents)[1])
        blocks.append(torch.stack(columns, -1))
    return value, blocks


class System(Protocol):
    """The quadratic model of the objective around a state."""

    def step(self, damping: float) -> tuple[State, float]:
        """Tangent steps of all free variables at this damping, and the decrease that the model predicts."""
        ...


class Method(Protocol):
    """A way to solve the normal equations that fits a problem's sparsity."""

    def prepare(self, state: State, terms: Sequence[Term], free: frozenset[str]) -> Callable[[State], System]:
        """Analyse the sparsity once; the result linearises at any state."""
        ...


@dataclass(frozen=True)
class Stop:
    """When to stop: steps taken, or a relative decrease of the cost below `tolerance`."""

    steps: int = 30
    tolerance: float = 1e-5
    damping: float = 1e-4
    attempts: int = 6


@dataclass(frozen=True, eq=False)
class Solution:
    """A minimum and how it was reached.

    `reason` is "converged", "step limit" (not the same thing), or "no decrease" (no damped step helped).
    `costs` holds the objective before the first and after every accepted step.
    """

    state: State
    reason: str
    costs: tuple[float, ...]
    steps: int


def total_cost(state: State, terms: Iterable[Term]) -> float:
    """The objective."""
    return float(sum(term.cost(state) for term in terms))


def minimise(
    state: State, terms: Sequence[Term], free: Iterable[str], method: Method, stop: Stop | None = None
) -> Solution:
    """Levenberg-Marquardt over the variables named in `free`.

    Raises:
        SolveFailed: the objective is not finite at the start.

    Source: Nielsen, "Damping parameter in Marquardt's method", 1999, for the damping schedule.
    """
    stop = stop or Stop()
    linearise = method.prepare(state, terms, frozenset(free))
    cost = total_cost(state, terms)
    if not torch.isfinite(torch.tensor(cost)):
        raise SolveFailed("the start of the optimisation is not finite; check the tracks and depth for NaN.")
    costs, damping, grow = [cost], stop.damping, 2.0
    for step in range(stop.steps):
        system = linearise(state)
        for _ in range(stop.attempts):
            delta, predicted = system.step(damping)
            trial = {**state, **{k: retract(state[k], d) for k, d in delta.items()}}
            trial_cost = total_cost(trial, terms)
            if trial_cost < cost:
                break
            damping, grow = damping * grow, grow * 2
        else:
            return Solution(state, "no decrease", tuple(costs), step)
        gain = (cost - trial_cost) / max(predicted, 1e-30)
        damping, grow = max(damping * max(1 / 3, 1 - (2 * min(gain, 1.5) - 1) ** 3), 1e-9), 2.0
        decrease, cost, state = cost - trial_cost, trial_cost, trial
        costs.append(cost)
        if decrease <= stop.tolerance * cost:
            return Solution(state, "converged", tuple(costs), step + 1)
    return Solution(state, "step limit", tuple(costs), stop.steps)
