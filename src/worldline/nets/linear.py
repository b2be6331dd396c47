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
        return _onednn(x, self.weight, self.bias, "none") if _may_use_onednn(x, self) else super().forward(x)

    def with_gelu(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
        """The exact GELU of the result, in one pass over memory where that is possible."""
        x = x.to(self.weight.dtype)
        if _may_use_onednn(x, self):
            return _onednn(x, self.weight, self.bias, "gelu")
        return functional.gelu(super().forward(x))


def half_linear(network: nn.Module) -> None:
    """Make all linear layers of a network bfloat16, in place."""
    for module in network.modules():
        if isinstance(module, Linear):
            module.to(torch.bfloat16)


def _may_use_onednn(x: Tensor, layer: nn.Linear) -> bool:
    if torch.compiler.is_compiling():  # the compiler chooses for itself
        return False
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and layer.weight.dtype == torch.float32
    wants_gradients = torch.is_grad_enabled() and (x.requires_grad or layer.weight.requires_grad)
    return plain and not wants_gradients and not torch.is_autocast_enabled("cpu") and _HAS_ONEDNN


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, then: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none" if then == "gelu" else None)


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
