"""The joint refinement of a scene by its own images: cameras, then depth, then tracks, each kept only if judged better.

Source: Any4D (as front end of a joint optimisation) couples feed-forward depth, cameras and tracks with a solver that
keeps whatever it finds; here a step starts from the last one that was kept, is judged on evidence that it has not
seen, quantity by quantity, and what is undone keeps the bits it had. Lengths are never made metric here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from worldline.run.refining import motion_step
from worldline.run.refining.appearance import Looks
from worldline.run.refining.camera_step import CONTRADICTED, refined_cameras, solved_halves
from worldline.run.refining.depth_step import refined_depth
from worldline.run.refining.joint_cameras import CameraSettings
from worldline.run.refining.joint_step import Stepped
from worldline.run.refining.sightings import Sightings, gathered, images
from worldline.run.refining.slipping import LEAST_PX, MOST_PX, OWN_PX, shared_slip_px
from worldline.scene.journal import Journal
from worldline.scene.observations import PixelTracks
from worldline.scene.scene import Scene, Step
from worldline.scene.video import Video

NOTHING_SEEN = "the scene was not refined by itself: there are no images and no sightings; give its video."


@dataclass(frozen=True)
class JointSettings:
    """Settings of the joint refinement; what a step takes part in can be switched off."""

    cameras: CameraSettings = field(default_factory=CameraSettings)
    depth: bool = True
    motion: bool = True


def refined_jointly(
    scene: Scene,
    tracks: PixelTracks | None = None,
    video: Video | None = None,
    settings: JointSettings | None = None,
    journal: Journal | None = None,
) -> Scene:
    """The scene made consistent with where its points were seen; what cannot be made better for sure is left alone.

    Args:
        tracks: 2D tracks in pixels of the scene's images, else they are followed in the video, or in the scene's own
            images, or those are taken that the scene kept.
        video: the clip of the scene at any size.

    Raises:
        InputError: tracks or a video of another count of frames.
    """
    settings = settings or JointSettings()
    frames = images(scene, video)
    looks = None if frames is None else Looks.of(frames, scene.width, scene.height)
    scene, found, slip_px = _evidence(scene, tracks, video, looks, journal)
    if found is None:
        return scene
    solved = solved_halves(scene, found, settings.cameras)
    done = scene
    if solved is not None:
        done = _after(done, lambda now: refined_cameras(now, found, solved, looks, settings.cameras, slip_px=slip_px))
    else:
        done = _noted(done, Step("refine cameras", {}, {"kept": "start", "why": "too few static tracks"}))
    contradicted = done.history[-1].outcome.get("why") == CONTRADICTED
    if contradicted:
        done = _noted(done, Step("refine depth", {}, {"kept": "start", "why": "the tracks are not borne out"}))
    elif solved is not None and settings.depth:
        done = _after(done, lambda now: refined_depth(now, found, solved, looks, slip_px=slip_px))
    if scene.tracks is None or len(scene.tracks) == 0 or not settings.motion:
        return done
    done = _after(done, lambda now: motion_step.carried_starts(scene, now))
    done = _after(done, lambda now: motion_step.still_tracks(now, found, looks))
    done = _after(done, lambda now: motion_step.seen_tracks(now, found, looks))
    return _after(done, lambda now: motion_step.deep_tracks(now, found))


def _evidence(
    scene: Scene, tracks: PixelTracks | None, video: Video | None, looks: Looks | None, journal: Journal | None
) -> tuple[Scene, Sightings | None, float]:
    """The scene told what is taken as evidence; sightings, given or our own, that do not slip; how much they may."""
    found = gathered(scene, tracks, video, journal)
    if found is None:
        step = Step("refine jointly", {}, {"kept": "start", "why": "no sightings"})
        return _noted(scene, step, NOTHING_SEEN), None, 0.0
    slip = float("nan") if looks is None else shared_slip_px(found, looks)
    outcome: dict[str, Any] = {"sightings": found.source, "tracks": len(found.group)}
    if not np.isnan(slip):
        outcome["slip_px"] = round(slip, 3)
    if not slip > MOST_PX:
        least = OWN_PX if tracks is None or np.isnan(slip) else LEAST_PX
        return _noted(scene, Step("refine jointly", {}, outcome)), found, float(np.fmax(slip, least))
    why = (
        f"the tracks of {found.source} slide over the images by {slip:.1f} px together, so nothing was refined by them."
    )
    step = Step("refine jointly", {}, {**outcome, "kept": "start", "why": "the tracks slip"})
    return _noted(scene, step, why), None, 0.0


def _after(scene: Scene, step: Callable[[Scene], Stepped]) -> Scene:
    made = step(scene)
    return _noted(made.scene, made.step, *made.notes)


def _noted(scene: Scene, step: Step, *notes: str) -> Scene:
    return replace(scene, history=(*scene.history, step), notes=tuple(dict.fromkeys((*scene.notes, *notes))))
