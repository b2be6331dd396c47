"""The any4d engine: windows of frames through the network, joined into one scene."""

from __future__ import annotations

from dataclasses import dataclass

from worldline.engines.any4d.config import Config
from worldline.errors import InputError
from worldline.scene.journal import Journal
from worldline.scene.observations import Observations
from worldline.scene.scene import Scene
from worldline.scene.video import Video


def build(config: Config | None = None) -> Any4DEngine:
    """The engine with these settings."""
    return Any4DEngine(config or Config())


@dataclass(frozen=True)
class Any4DEngine:
    """Callable engine; see `engines.Engine`."""

    config: Config
    needs: tuple[str, ...] = ()

    def wants(self, video: Video) -> tuple[str, ...]:
        """Nothing: what is known is used, the rest is predicted."""
        return ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Scene:
        """Reconstruct."""
        raise InputError("the engine any4d is not whole yet; use uni4d.")
