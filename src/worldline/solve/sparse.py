"""The sparse method: chains and graphs of many small unknowns that each see only a few others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix, csc_matrix, diags
from scipy.sparse.linalg import splu
from torch import Tensor

from worldline.solve.methods import Layout, contributions, predicted_decrease
from worldline.solve.problem import State, System, Term


@dataclass(frozen=True)
class Sparse:
    """All free variables in one sparse matrix, factorised on the CPU: cheap where its graph is nearly a chain."""

    def prepare(self, state: State, terms: Sequence[Term], free: frozenset[str]) -> Callable[[State], System]:
        """Nothing to analyse but the layout."""
        layout = Layout.of(state, sorted(free))
        return lambda at: _SparseSystem(layout, *normal_equations(at, terms, layout))


@dataclass(frozen=True)
class _SparseSystem:
    layout: Layout
    hessian: csc_matrix
    gradient: Tensor

    def step(self, damping: float) -> tuple[State, float]:
        diagonal = self.hessian.diagonal()
        floor = 1e-12 * max(float(diagonal.max()), 1e-30)
        damped = self.hessian + diags(damping * diagonal + floor)
        factor = splu(csc_matrix(damped), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        solved = factor.solve(self.gradient.double().numpy(force=True))
        delta = -torch.from_numpy(solved).to(self.gradient)
        return self.layout.split(delta), predicted_decrease(
            delta, self.gradient, torch.from_numpy(diagonal).to(delta), damping
        )


def normal_equations(state: State, terms: Sequence[Term], layout: Layout) -> tuple[csc_matrix, Tensor]:
    """Gauss-Newton matrix J^T W J, sparse, and gradient J^T W r over all columns of the layout."""
    gradient = next(iter(state.values())).new_zeros(layout.total)
    rows, columns, values = [], [], []
    for at, block, slope in contributions(state, terms, layout):
        gradient.index_add_(0, at.reshape(-1), slope.reshape(-1))
        rows.append(at[:, :, None].expand_as(block).flatten().numpy(force=True))
        columns.append(at[:, None, :].expand_as(block).flatten().numpy(force=True))
        values.append(block.double().flatten().numpy(force=True))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return csc_matrix(coo_matrix(entries, shape=(layout.total, layout.total))), gradient
