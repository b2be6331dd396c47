"""Vision transformers: the pre-norm block, and DINOv2 as an encoder of image patches.

Sources: Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021; Oquab et al., "DINOv2", 2023; Touvron et al.,
"Going deeper with image transformers", ICCV 2021 (LayerScale). Key names are those of the published DINOv2 weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.nets.attention import attend
from worldline.nets.linear import Linear
from worldline.nets.position import resized_table


class Attention(nn.Module):
    """Self-attention of `heads` heads over the tokens (B, N, C); scaled by the root of a head's width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU in between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return self.fc2(self.fc1.with_gelu(x))


class LayerScale(nn.Module):
    """One learnt factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return x * self.gamma


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); with `layer_scale`, every branch is scaled per channel."""

    def __init__(self, width: int, heads: int, *, layer_scale: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


@dataclass(frozen=True)
class DinoConfig:
    """Size of a DINOv2 without register tokens; the default is ViT-L/14."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    table_side: int = 37
    """Patches along each side of the image that the positional table was learnt for."""


class PatchEmbedding(nn.Module):
    """A linear map of every patch."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        return self.proj(image)


class Dino(nn.Module):
    """DINOv2: patch tokens of images after the last norm."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.table_side**2, config.width))
        self.patch_embed = PatchEmbedding(config.width, config.patch)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, layer_scale=True) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c gh gw"]:
        """Features of the patches of images whose sides are multiples of the patch, normalised as in ImageNet."""
        patches = self.patch_embed(image)
        b, _, *grid = patches.shape
        table = resized_table(self.pos_embed[0, 1:], self.config.table_side, grid)
        x = patches.flatten(2).transpose(1, 2) + table
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(b, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 1:]).unflatten(1, grid).permute(0, 3, 1, 2)
