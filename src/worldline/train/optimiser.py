"""How weights move: AdamW, a lower rate for the image encoder, no decay of vectors, a warm-up and a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

ENCODER = "encoder.model."
"""Parameters of the image encoder, which comes trained already."""


@dataclass(frozen=True)
class OptimiserConfig:
    """Settings; the defaults are MapAnything's for eight GPUs.

    Attributes:
        rate: learning rate at its highest. encoder_rate: of the image encoder; 0 freezes it. last_share: of the rates,
        at the end. warm_up: share of the steps in which the rates rise. decay: of weights, not of biases and other
        vectors. betas: of the moments. clip: longest gradient.
    """

    rate: float = 1e-4
    encoder_rate: float = 5e-6
    last_share: float = 0.01
    warm_up: float = 0.1
    decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0


def optimiser(network: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that are not frozen; every group knows its highest rate as `top`."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        in_encoder = name.startswith(ENCODER)
        if in_encoder and config.encoder_rate == 0:
            parameter.requires_grad_(False)
            continue
        groups.setdefault((in_encoder, parameter.ndim > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "top": config.encoder_rate if in_encoder else config.rate,
            "weight_decay": config.decay if decays else 0.0,
        }
        for (in_encoder, decays), parameters in sorted(groups.items())
    ]
    return torch.optim.AdamW(settings, lr=config.rate, betas=config.betas, fused=True)


def share(step: int, steps: int, config: OptimiserConfig) -> float:
    """Of the highest rate, in one step of so many: a straight line up, then half a cosine down to `last_share`."""
    rising = max(1, round(config.warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return config.last_share + (1 - config.last_share) * 0.5 * (1 + math.cos(math.pi * done))


def set_rates(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Let every group learn at this share of its highest rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["top"] * share
