"""The any4d engine: windows of frames through the network, placed in one world, assembled to a scene.

Source: Karhade et al., "Any4D", CVPR 2026. The network is theirs; windows, masks, tracks and uncertainty are not: the
release handles as many frames as fit into memory at once, and gives none of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldline.engines.any4d.asking import Asking
from worldline.engines.any4d.assembly import assemble
from worldline.engines.any4d.config import Config
from worldline.engines.any4d.joining import join, settled
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
    least_frames: int = 1

    def wants(self, video: Video) -> tuple[str, ...]:
        """Nothing: what is known is used, the rest is predicted."""
        return ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Scene:
        """Reconstruct.

        Raises:
            InputError: what is known does not belong to this video. MissingWeights, LicenceError: as `weights.find`.
            SolveFailed: windows of a long clip have nothing in common.
        """
        asked = Asking(self.config, video, observed, journal)
        asked.check()
        fragments = (asked.fragment(number) for number in range(len(asked.windows)))
        seams = [placed.seam for placed in join(fragments, asked.windows)]
        return assemble(asked, seams, settled(seams))
