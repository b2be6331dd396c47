"""Weights that follow from their names alone: the same on every machine, with no file and no random generator.

For tests, parity fixtures and dry runs: such a network computes, but what it says means nothing.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

_WRAP = 2**64 - 1
_STEP, _FIRST, _SECOND, _BASE = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD1342543DE82EF95
_AROUND_ONE = ("norm.weight", "norm1.weight", "norm2.weight", "norm_layer.weight")


def hashed_uniform(name: str, count: int) -> Float[np.ndarray, "n"]:
    """Numbers in [-1, 1), a function of the name: splitmix64 (Steele et al., OOPSLA 2014) begun at its CRC-32."""
    base = np.uint64(zlib.crc32(name.encode()) * _BASE & _WRAP)
    z = base + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_STEP)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1


def fill(network: nn.Module) -> None:
    """Give every parameter its hashed weights, of a size that keeps activations near one."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            offset, amplitude = _spread(name, parameter)
            values = offset + amplitude * hashed_uniform(name, parameter.numel())
            parameter.copy_(torch.from_numpy(values.astype(np.float32)).view(parameter.shape))


def _spread(name: str, parameter: nn.Parameter) -> tuple[float, float]:
    if name.endswith(".gamma"):
        return 0.3, 0.1
    if name.endswith(_AROUND_ONE):
        return 1.0, 0.2
    if name.endswith(("cls_token", "pos_embed")):
        return 0.0, 0.5
    if name == "scale_token":
        return 0.0, 1.0
    if parameter.ndim == 1:
        return 0.0, 0.1
    return 0.0, float(np.sqrt(3 / (parameter.numel() / parameter.shape[0])))
