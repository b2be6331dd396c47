"""The uni4d engine: evidence, cameras, bundle, points, ratios, motion, fusion, each a resumable stage.

Source: Uni4D (arXiv 2503.21761); what differs from the release is said in each stage's file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from worldline.engines.uni4d import stages
from worldline.engines.uni4d.assembly import Found, assemble
from worldline.engines.uni4d.dense_motion import dense_motion
from worldline.engines.uni4d.doubts import find_doubts
from worldline.engines.uni4d.fusion import fuse
from worldline.engines.uni4d.inputs import Config, Inputs
from worldline.engines.uni4d.motion import follow_moving_points
from worldline.engines.uni4d.polish import polished
from worldline.errors import InputError
from worldline.scene.journal import Journal
from worldline.scene.motion import Flow
from worldline.scene.observations import Observations
from worldline.scene.scene import Scene
from worldline.scene.video import Video


def build(config: Config | None = None) -> Uni4D:
    """The engine with these settings."""
    return Uni4D(config or Config())


@dataclass(frozen=True)
class Uni4D:
    """Callable engine; see `engines.Engine`."""

    config: Config
    needs: tuple[str, ...] = ("camera", "tracks", "moving", "depth")
    least_frames: int = 2

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Scene:
        """Reconstruct.

        Raises:
            MissingObservation: camera, tracks, moving masks or depth are not there. InputError: fewer than two frames.
        """
        observed.require(self.needs)
        if len(video) < 2:
            raise InputError("a reconstruction needs at least two frames; this video has one.")
        inputs, settings = Inputs.of(self.config, video, observed), self.config
        cameras = journal.run("cameras", lambda: stages.find_cameras(inputs), settings=settings)
        rough = journal.run("bundle", lambda: stages.bundle(inputs, cameras), settings=settings)
        bundled = journal.run("polish", lambda: polished(inputs, rough), settings=settings)
        points = journal.run("points", lambda: stages.find_structure(inputs, bundled), settings=settings)
        doubts = journal.run("uncertainty", lambda: find_doubts(inputs, bundled, points), settings=settings)
        ratios = journal.run("ratios", lambda: stages.find_ratios(inputs, bundled, points), settings=settings)
        moved = journal.run("motion", lambda: follow_moving_points(inputs, bundled, ratios), settings=settings)
        fused = journal.run_by_frame(
            "fusion", lambda: fuse(inputs, bundled, ratios, moved, doubts), len(video), settings=settings
        )
        scene = assemble(inputs, Found(cameras, bundled, points, ratios, moved, fused, doubts))
        return replace(scene, flow=self._flow(scene, observed, journal))

    def wants(self, video: Video) -> tuple[str, ...]:
        """Dense motion of clips that are short enough for it."""
        return ("flow",) if len(video) <= self.config.dense_motion_frames else ()

    def _flow(self, scene: Scene, observed: Observations, journal: Journal) -> Flow | None:
        if observed.flow is None:
            return None
        flow = observed.flow
        found = journal.run("dense motion", lambda: dense_motion(scene, flow), settings=self.config)
        return Flow(flow.reference, found["displacement"], found["valid"])
