"""Solid textures: band-limited noise in several octaves, and tiles, planks or bricks, all in object metres.

Every octave fades out before its features fall below a few pixels, so nothing aliases and everything can be tracked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Colour = tuple[float, float, float]
_OCTAVES, _RATIO = 6, 2.3
_VOXELS_PER_WAVE = 6
_PATCH_ROUGH = 0.6


@dataclass(frozen=True)
class Material:
    """How a surface looks; colours in [0, 1], lengths in metres of the object at rest.

    Attributes:
        dark, light: ends of the main colour ramp. accent: colour of patches that cover about `accent_share`.
        grain_m: size of the main features; one octave is coarser, the others finer, each `rough` times as strong as
        the one before. stretch: elongates them along the object's axes. contrast: of the noise.
        cell_m: size of tiles along each axis, 0 for none. cell_contrast: random tone per tile.
        check: chequerboard tone. joint_m: width of the dark line between tiles.
    """

    dark: Colour
    light: Colour
    accent: Colour
    accent_share: float = 0.15
    grain_m: float = 0.5
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    rough: float = 0.8
    cell_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    cell_contrast: float = 0.0
    check: float = 0.0
    joint_m: float = 0.0


class Textures(NamedTuple):
    """The materials of P parts as tensors, with the noise they share."""

    volume: Float[Tensor, "1 3 s s s"]
    turns: Float[Tensor, "octaves 3 3"]
    offset: Float[Tensor, "p 3"]
    dark: Float[Tensor, "p 3"]
    light: Float[Tensor, "p 3"]
    accent: Float[Tensor, "p 3"]
    stretch: Float[Tensor, "p 3"]
    cell_m: Float[Tensor, "p 3"]
    scalars: Float[Tensor, "p 7"]
    """accent_share, grain_m, contrast, rough, cell_contrast, check, joint_m"""


def textures(materials: Sequence[Material], seed: int, *, device: str | torch.device = "cpu") -> Textures:
    """Tensors of one material per part; equal materials get different places in the noise."""
    generator = torch.Generator().manual_seed(seed)

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(m, name) for m in materials], device=device)

    names = ("accent_share", "grain_m", "contrast", "rough", "cell_contrast", "check", "joint_m")
    return Textures(
        volume=noise_volume(generator).to(device),
        turns=torch.linalg.qr(torch.randn(_OCTAVES, 3, 3, generator=generator))[0].to(device),
        offset=(torch.rand(len(materials), 3, generator=generator) * 20 + 0.137).to(device),
        dark=column("dark"),
        light=column("light"),
        accent=column("accent"),
        stretch=column("stretch"),
        cell_m=column("cell_m"),
        scalars=torch.stack([column(n) for n in names], -1),
    )


def noise_volume(generator: torch.Generator, size: int = 64) -> Float[Tensor, "1 3 s s s"]:
    """Periodic isotropic noise of three channels, unit variance, one octave wide, wrapped by one voxel."""
    frequency = torch.fft.fftfreq(size) * size
    k = torch.linalg.vector_norm(torch.stack(torch.meshgrid(*[frequency] * 3, indexing="ij")), dim=0)
    centre = size / _VOXELS_PER_WAVE
    band = torch.exp(-0.5 * ((k - centre) / (0.3 * centre)) ** 2) * (k > 0)
    white = torch.randn(3, size, size, size, generator=generator)
    noise = torch.fft.ifftn(torch.fft.fftn(white, dim=(1, 2, 3)) * band, dim=(1, 2, 3)).real
    noise = noise / noise.std(dim=(1, 2, 3), keepdim=True)
    return F.pad(noise[None], (0, 1) * 3, mode="circular").contiguous()


def look_up(volume: Float[Tensor, "1 3 s s s"], waves: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Noise at positions counted in wavelengths."""
    size = volume.shape[-1] - 1
    share = torch.frac(waves * (_VOXELS_PER_WAVE / size))
    share = torch.where(share < 0, share + 1, share)
    found = F.grid_sample(volume, (share * 2 - 1)[None, None, None], align_corners=True, padding_mode="border")
    return found[0, :, 0, 0].T


def albedo(
    looks: Textures, part: Int[Tensor, "n"], points_object_m: Float[Tensor, "n 3"], footprint_m: Float[Tensor, "n"]
) -> Float[Tensor, "n 3"]:
    """Colour of surface points before light.

    Args:
        looks: from `textures`.
        part: which part each point lies on.
        points_object_m: object coordinates times the half size at rest (metres).
        footprint_m: size of a pixel on the surface (metres).
    """
    share, grain, contrast, rough, cell_contrast, check, joint = looks.scalars[part].unbind(-1)
    place = points_object_m + looks.offset[part]
    noise = _noise(looks, place / (looks.stretch[part] * grain[:, None]), footprint_m / grain, rough)
    ramp = torch.sigmoid(1.6 * contrast * noise[:, 0])[:, None]
    colour = torch.lerp(looks.dark[part], looks.light[part], ramp)
    patch = torch.sigmoid(8 * (noise[:, 1] - 1.35 + 2.6 * share))[:, None]
    colour = torch.lerp(colour, looks.accent[part], patch * (share > 0)[:, None])
    tone = 1 + 0.16 * contrast * noise[:, 2]
    has_cells = cell_contrast + check + joint > 0
    if bool(has_cells.any()):
        which = has_cells.nonzero()[:, 0]
        tone[which] *= _cells(
            place[which], looks.cell_m[part[which]], footprint_m[which],
            cell_contrast[which], check[which], joint[which],
        )  # fmt: skip
    return (colour * tone[:, None]).clamp(0, 1.2)


def _noise(looks: Textures, place: Tensor, footprint: Tensor, rough: Tensor) -> Tensor:
    """Octaves of unit variance in total, each faded where a wave is under three to six pixels."""
    total = torch.zeros_like(place)
    power = torch.zeros_like(footprint)
    for octave in range(_OCTAVES):
        scale = _RATIO ** (octave - 1)
        weight = rough ** abs(octave - 1)
        power += weight * weight
        fade = ((1 / (footprint * scale).clamp_min(1e-9) - 3) / 3).clamp(0, 1)
        shown = (fade > 0).nonzero()[:, 0]
        waves = place[shown] @ (looks.turns[octave] * scale)
        strength = (fade * weight)[shown, None] * place.new_tensor([1.0, _PATCH_ROUGH ** max(octave - 1, 0), 1.0])
        total.index_add_(0, shown, look_up(looks.volume, waves) * strength)
    return total * (1.2 / power.sqrt())[:, None]


def _cells(place: Tensor, cell_m: Tensor, footprint: Tensor, contrast: Tensor, check: Tensor, joint: Tensor) -> Tensor:
    """Factor on brightness: a random tone per cell, a chequerboard, and dark joints; softened to one pixel."""
    tiled = cell_m > 0
    position = torch.where(tiled, place / cell_m.clamp_min(1e-6), torch.full_like(place, 0.5))
    # every second row is shifted by half a cell, so that joints do not run through
    row = torch.where(tiled[:, 1], position[:, 1], position[:, 2]).floor()
    position = torch.cat([(position[:, 0] + 0.5 * (row % 2) * (check == 0))[:, None], position[:, 1:]], -1)
    index = position.floor()
    to_joint_m = torch.where(tiled, (0.5 - (position - index - 0.5).abs()) * cell_m, torch.full_like(place, 1e3))
    distance = to_joint_m.amin(-1)
    line = ((joint / 2 + 0.7 * footprint - distance) / (1.4 * footprint).clamp_min(1e-6)).clamp(0, 1)
    smallest = torch.where(tiled, cell_m, torch.full_like(cell_m, 1e3)).amin(-1)
    fade = ((smallest / footprint.clamp_min(1e-9) - 2) / 3).clamp(0, 1)
    parity = (index.sum(-1) % 2) * 2 - 1
    tone = 1 + fade * (contrast * _hash(index) + check * parity)
    return tone * (1 - 0.55 * line * fade * (joint > 0))


def _hash(index: Tensor) -> Tensor:
    """A random number in [-1, 1] for every integer triple."""
    k = index.long()
    mixed = (k[:, 0] * 73856093) ^ (k[:, 1] * 19349663) ^ (k[:, 2] * 83492791)
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0x7FFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFF).to(index.dtype) / 32767.5 - 1
