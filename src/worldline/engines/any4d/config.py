"""Settings of the engine, and sizes of the network: the published one, and a tiny one for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True)
class Config:
    """Settings of the engine.

    Attributes:
        network: its sizes. weights: their name (`worldline weights list`) or a file; None: weights that follow from
        their names (`nets/hashed_weights.py`) and mean nothing, for tests. commercial: refuse weights that forbid it.
        window: most frames that go through the network together; shared: frames that two windows have in common.
        precision: "float32", or "mixed": bfloat16 for the two transformers.
        device: where the network runs.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    weights: str | Path | None = "any4d"
    commercial: bool = False
    window: int = 16
    shared: int = 4
    precision: str = "float32"
    device: str = "cpu"

    @classmethod
    def tiny(cls) -> Config:
        """A small network with weights that mean nothing, for tests."""
        return cls(network=NetworkConfig.tiny(), weights=None, window=8, shared=2)
