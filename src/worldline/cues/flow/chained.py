"""Where every pixel of the first frame goes: the flow between neighbouring frames, chained."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from worldline.cues import optical_flow
from worldline.cues.optical_flow import dense_flow
from worldline.cues.parallax import FlowChain
from worldline.scene.journal import Arrays, Journal
from worldline.scene.observations import Observations, PixelFlow, Source
from worldline.scene.video import Video


@dataclass(frozen=True)
class Config:
    """Settings; the flow is that of the other cues, so it is computed once."""

    side: int = 640
    """Longer side of the maps."""
    lost_px: float = 8.0
    """A pixel whose place is less certain than this is lost."""
    flow: optical_flow.Config = field(default_factory=optical_flow.fine)

    @classmethod
    def fast(cls) -> Config:
        """Half the resolution, on faster flow."""
        return cls(side=320, flow=optical_flow.fast())


@dataclass(frozen=True)
class ChainedFlow:
    """The cue."""

    config: Config
    needs: tuple[str, ...] = ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> PixelFlow:
        """Flow from the first frame to all frames."""
        flow = dense_flow(video, journal, config=self.config.flow)
        height, width = optical_flow.reduced_size(video.height, video.width, self.config.side)

        def compute() -> Arrays:
            chain = FlowChain.of(flow, height, width)
            seen = chain.follow(0, range(1, len(video)))
            still = np.zeros((1, height, width), np.float32)
            displacement = np.concatenate([still[..., None].repeat(2, -1), seen.uv - chain.grid_uv])
            sigma = np.concatenate([still, seen.sigma_px])
            sigma[sigma > self.config.lost_px] = np.inf
            return {"displacement_px": displacement.astype(np.float32), "sigma_px": sigma.astype(np.float32)}

        found = journal.run("flow/chained", compute, settings=self.config)
        return PixelFlow(0, found["displacement_px"], found["sigma_px"], Source("flow/chained"))


def build(config: Config) -> ChainedFlow:
    """The cue with these settings."""
    return ChainedFlow(config)
