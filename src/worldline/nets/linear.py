"""The linear layer of all our transformers: as fast as the processor allows, in the precision of its weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """x W^T + b, computed and returned in the precision of the weights whatever that of x is.

    So a network of mixed precision is one whose linear layers were made bfloat16 (`half_linear`); sums along the
    residual stream stay in the precision of the stream. Without gradients on a CPU, float32 goes through oneDNN: torch
    itself asks MKL, which reaches half the speed on processors of other makers.
    """

    def forward(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
        x = x.to(self.weight.dtype)
        return _onednn(x, self.weight, self.bias, "none") if self._by_onednn(x) else super().forward(x)

    def with_gelu(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
        """The exact GELU of the result, in one pass over memory where that is possible."""
        x = x.to(self.weight.dtype)
        if self._by_onednn(x):
            return _onednn(x, self.weight, self.bias, "gelu")
        return functional.gelu(super().forward(x))

    def _by_onednn(self, x: Tensor) -> bool:
        return x.dtype == torch.float32 and may_use_onednn(x, self.weight, self.bias)


def half_linear(network: nn.Module) -> None:
    """Make all linear layers of a network bfloat16, in place."""
    for module in network.modules():
        if isinstance(module, Linear):
            module.to(torch.bfloat16)


def may_use_onednn(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether products of this tensor may go through oneDNN: on a CPU, where nobody wants gradients."""
    if torch.compiler.is_compiling() or not _HAS_ONEDNN:  # the compiler chooses for itself
        return False
    wanted = torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in (x, *parameters))
    return x.device.type == "cpu" and not wanted and not torch.is_autocast_enabled("cpu")


def product(x: Float[Tensor, "n c"], y: Float[Tensor, "m c"]) -> Float[Tensor, "n m"]:
    """x y^T of float32 by oneDNN; see `may_use_onednn`."""
    return _onednn(x, y, None, "none")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, then: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(
        x.contiguous(), weight, bias, then, [], "none" if then == "gelu" else None
    )


def _has_onednn() -> bool:
    """Whether this build of torch has the operator (it is how torch compiles linear layers for CPUs)."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x, weight = torch.ones(2, 4), torch.ones(3, 4)
    try:
        return bool((_onednn(x, weight, torch.ones(3), "none") == 5).all())
    except (RuntimeError, NotImplementedError):
        return False


_HAS_ONEDNN = _has_onednn()
