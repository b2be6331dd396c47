"""Settings of the engine, and sizes of the network: the published one, and a tiny one for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from worldline.engines.any4d.edges import Edges
from worldline.errors import InputError
from worldline.nets.vit import DinoConfig


@dataclass(frozen=True)
class NetworkConfig:
    """Widths and depths; the defaults are those of the published checkpoint.

    Attributes:
        encoder: of the images. dense, vector: widths inside the encoders of maps and of single vectors.
        width, depth, heads: of the transformer that shares information between views. taps: blocks (from 0) whose
        tokens the heads read besides the last ones. dpt_width, dpt_levels: channels of the dense heads.
        pose_width, scale_width: of the two small heads. doppler_positions: whether the Doppler encoder has a positional
        table, as the published weights seem to have been trained with.
    """

    encoder: DinoConfig = DinoConfig()
    dense: tuple[int, ...] = (588, 768, 1024)
    vector: tuple[int, ...] = (128, 256, 512)
    width: int = 768
    depth: int = 24
    heads: int = 12
    taps: tuple[int, ...] = (11, 17)
    dpt_width: int = 256
    dpt_levels: tuple[int, ...] = (96, 192, 384, 768)
    pose_width: int = 784
    scale_width: int = 196
    doppler_positions: bool = False

    @classmethod
    def tiny(cls) -> NetworkConfig:
        """The same network, small enough for tests on a CPU."""
        return cls(
            encoder=DinoConfig(width=384, depth=2, heads=6), dense=(48, 64, 96), vector=(16, 24, 32), width=96,
            depth=6, heads=4, taps=(2, 4), dpt_width=32, dpt_levels=(16, 24, 32, 48), scale_width=40,
        )  # fmt: skip


PRECISIONS = ("float32", "mixed")


@dataclass(frozen=True)
class Config:
    """Settings of the engine.

    Attributes:
        network: its sizes. weights: their name (`worldline weights list`) or a file; None: weights that follow from
        their names (`nets/hashed_weights.py`) and mean nothing, for tests. commercial: refuse weights that forbid it.
        size: (width, height) of images in the network, multiples of 14; None: that of the ten it was trained on whose
        shape is nearest to the video's.
        window: most frames that go through the network together; shared: frames that two windows have in common.
        reference: the frame in which dense motion starts; references: further frames from which points are followed.
        tracks: about how many points are followed, over the whole clip.
        edges: where a predicted surface counts as torn and is left out; None: nowhere.
        still_background: points whose motion is not told from the network's noise are taken as static.
        compiled: let torch compile the transformers; worth its minute on a GPU and long clips alone.
        precision: "float32", or "mixed": bfloat16 for the two transformers.
        device: where the network runs: "cpu", "cuda", or "auto", which is the GPU if there is one.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    weights: str | Path | None = "any4d"
    commercial: bool = False
    size: tuple[int, int] | None = None
    window: int = 16
    shared: int = 6
    reference: int = 0
    references: tuple[int, ...] = ()
    tracks: int = 12_000
    edges: Edges | None = Edges()  # noqa: RUF009 - frozen
    still_background: bool = True
    compiled: bool = False
    precision: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"there is no precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}.")
        patch = self.network.encoder.patch
        if self.size is not None and any(side < patch or side % patch for side in self.size):
            raise InputError(f"the network's images cannot be {self.size}; both sides must be multiples of {patch}.")

    @classmethod
    def tiny(cls) -> Config:
        """A small network with weights that mean nothing, for tests."""
        return cls(network=NetworkConfig.tiny(), weights=None, size=(112, 84), window=8, shared=2, tracks=400)

    @classmethod
    def fast(cls) -> Config:
        """Half the time on a CPU, and results within about two per cent."""
        return cls(precision="mixed")
