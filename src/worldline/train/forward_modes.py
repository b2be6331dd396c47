"""Ways to run the same network that cost less memory or time while it learns."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from worldline.engines.any4d.network import Any4D
from worldline.nets.vit import Block


def can_halve(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by itself."""
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))


def halve(network: Any4D, device: torch.device) -> None:
    """Let both transformers compute in bfloat16; weights, input encoders and heads stay float32, as published."""
    for part in (network.encoder["model"], network.info_sharing):
        _replace_forward(part, torch.autocast(device.type, torch.bfloat16)(part.forward))


def recompute(network: Any4D) -> None:
    """Let every block compute its activations again for the gradient, instead of keeping them."""
    for block in network.modules():
        if isinstance(block, Block):
            _replace_forward(block, partial(checkpoint, block.forward, use_reentrant=False))


def _replace_forward(module: nn.Module, forward: object) -> None:
    module.forward = forward  # type: ignore[assignment]
