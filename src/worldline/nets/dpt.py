"""Dense prediction from the tokens of a transformer: four levels of features, fused from coarse to fine.

Source: Ranftl et al., "Vision transformers for dense prediction", ICCV 2021, section 3; written from its formulas.
Key names are those that MapAnything and Any4D publish.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.conv2(functional.relu_(self.conv1(functional.relu(x))))


class Fusion(nn.Module):
    """Adds a finer level to what comes from the coarser ones, and doubles the size."""

    def __init__(self, width: int, *, joins: bool) -> None:
        super().__init__()
        if joins:
            self.resConfUnit1 = ResidualUnit(width)
        self.resConfUnit2 = ResidualUnit(width)
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"], finer: Tensor | None = None) -> Float[Tensor, "b c h2 w2"]:
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        # A 1x1 convolution and a weighted mean of pixels change places: a quarter of the work, the same result.
        x = self.out_conv(self.resConfUnit2(x))
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Levels(nn.Module):
    """One map of `width` channels per level, and their fusion."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        for k, channels in enumerate(widths, start=1):
            self.add_module(f"layer{k}_rn", nn.Conv2d(channels, width, 3, padding=1, bias=False))
            self.add_module(f"refinenet{k}", Fusion(width, joins=k < len(widths)))

    def forward(self, levels: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        x: Tensor | None = None
        for k in range(len(levels), 0, -1):
            level = getattr(self, f"layer{k}_rn")(levels[k - 1])
            fuse = getattr(self, f"refinenet{k}")
            x = fuse(level) if x is None else fuse(x[..., : level.shape[-2], : level.shape[-1]], level)
        assert x is not None
        return x


class DptFeatures(nn.Module):
    """Four maps of tokens (patch grid h x w) to one map of `width` channels at 8h x 8w."""

    def __init__(self, inputs: Sequence[int], widths: Sequence[int], width: int) -> None:
        super().__init__()
        first, second, third, fourth = widths
        resizing: tuple[list[nn.Module], ...] = (
            [nn.ConvTranspose2d(first, first, 4, 4)], [nn.ConvTranspose2d(second, second, 2, 2)], [],
            [nn.Conv2d(fourth, fourth, 3, 2, padding=1)],
        )  # fmt: skip
        self.input_process = nn.ModuleList(
            nn.Sequential(nn.Sequential(nn.Conv2d(c, w, 1), *more))
            for c, w, more in zip(inputs, widths, resizing, strict=True)
        )
        self.scratch = Levels(widths, width)

    def forward(self, levels: Sequence[Float[Tensor, "b _ h w"]]) -> Float[Tensor, "b c h8 w8"]:
        return self.scratch([process(level) for process, level in zip(self.input_process, levels, strict=True)])


class DptRegressor(nn.Module):
    """The map of features to `channels` values for every pixel of an image of a size."""

    def __init__(self, width: int, hidden: Sequence[int], channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, hidden[0], 3, padding=1)
        self.conv2 = nn.Sequential(
            nn.Conv2d(hidden[0], hidden[1], 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(hidden[1], channels, 1)
        )

    def forward(self, x: Float[Tensor, "b c h8 w8"], size: tuple[int, int]) -> Float[Tensor, "b d h w"]:
        return self.conv2(functional.interpolate(self.conv1(x), size, mode="bilinear", align_corners=True))
