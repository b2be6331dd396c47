"""Weights to start from: a network that has learnt nothing yet, but answers with sensible depths, rays and poses."""

from __future__ import annotations

import math

import torch
from torch import nn

from worldline.engines.any4d.network import Any4D, DenseEncoder, ResidualPointwise, VectorEncoder
from worldline.nets.dpt import ResidualUnit
from worldline.nets.position import sine_table
from worldline.nets.vit import Dino, LayerScale

SPREAD = 0.02
"""Standard deviation of the weights and tokens of transformers, as they are usually begun with."""

DEEP = 18
"""Blocks from which branches are begun almost shut (Touvron et al., "Going deeper with image transformers", 2021)."""


def begin(network: Any4D, seed: int) -> None:
    """Give every parameter its first value, drawn from the seed; heads begin at rays ahead, depth 1 and no motion."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            _begin_module(module, generator)
        dino = network.encoder["model"]
        assert isinstance(dino, Dino)
        _begin_tables(dino)
        for token in (dino.cls_token, network.scale_token):
            nn.init.trunc_normal_(token, std=SPREAD, generator=generator)
        for module in network.modules():
            _shut_branches(module, deep=dino.config.depth > DEEP)
        _begin_answers(network)
    begin_motion(network)


def begin_motion(network: Any4D) -> None:
    """Let the motion head begin as a copy of the geometry head that says: nothing moves.

    Source: suggested by the released code of Any4D (a switched-off function); ours is what the last layer begins with.
    """
    with torch.no_grad():
        network.scene_flow_dpt_feature_head.load_state_dict(network.dpt_feature_head.state_dict())
        source, target = network.dpt_regressor_head, network.scene_flow_dpt_regressor_head
        target.conv1.load_state_dict(source.conv1.state_dict())
        target.conv2[0].load_state_dict(source.conv2[0].state_dict())
        last = target.conv2[2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        last.weight.zero_()
        last.bias.zero_()


def _begin_module(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=SPREAD, generator=generator)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # Transposed convolutions here do not overlap: every output sees one input of each channel.
        inputs = module.weight.shape[0] if isinstance(module, nn.ConvTranspose2d) else module.weight[0].numel()
        module.weight.normal_(0, 1 / math.sqrt(inputs), generator=generator)
    elif isinstance(module, nn.LayerNorm):
        module.weight.fill_(1)
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.LayerNorm) and module.bias is not None:
        module.bias.zero_()


def _begin_tables(dino: Dino) -> None:
    """Places of patches as sines and cosines of their row and column, as by He et al., "Masked autoencoders", 2022."""
    side, width = dino.config.table_side, dino.config.width
    along = sine_table(side, width // 2, base=1e4)
    rows, columns = along[:, None].expand(side, side, -1), along[None].expand(side, side, -1)
    dino.pos_embed.zero_()
    dino.pos_embed[0, 1:] = torch.cat([rows, columns], -1).flatten(0, 1)


def _shut_branches(module: nn.Module, *, deep: bool) -> None:
    """What is added to a residual stream is small at first, the more so the longer the stream is.

    So are the codes of all that is told besides the images, which come and go from sample to sample.
    """
    if isinstance(module, LayerScale):
        module.gamma.fill_(1e-5 if deep else 0.1)
    elif isinstance(module, ResidualUnit):
        module.conv2.weight.mul_(0.1)
    elif isinstance(module, ResidualPointwise):
        module.res_conv3.weight.mul_(0.1)
    elif isinstance(module, DenseEncoder | VectorEncoder):
        module.norm_layer.weight.fill_(0.1)


def _begin_answers(network: Any4D) -> None:
    """Last layers small, so that their biases speak: rays along the axis, no rotation, and 1 where e is raised."""
    last = network.dpt_regressor_head.conv2[2]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    last.weight.mul_(0.1)
    last.bias.copy_(torch.tensor([0.0, 0, 1, 0, 0, 0]))
    network.pose_head.fc_rot.bias.copy_(torch.tensor([0.0, 0, 0, 1]))
