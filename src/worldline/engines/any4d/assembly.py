"""The last step: windows that have been placed, in the world and unit of what is known, as one Scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from worldline.engines.any4d.asking import Asking, device_of
from worldline.engines.any4d.camera import FoundCamera, camera_of
from worldline.engines.any4d.chaining import PlacedTracks, chained
from worldline.engines.any4d.joining import Seam, cameras
from worldline.engines.any4d.prediction import fragment
from worldline.geometry import se3
from worldline.geometry.sim3 import Sim3
from worldline.scene.journal import Arrays
from worldline.scene.motion import Flow
from worldline.scene.observations import CameraMotion
from worldline.scene.scene import Scene, Step


def assemble(asked: Asking, seams: Sequence[Seam], places: Sequence[Sim3]) -> Scene:
    """The scene of windows that lie where `places` has them, with the history of how it was found."""
    video, observed = asked.video, asked.observed
    found = PerFrame.of(asked, places)
    camera = camera_of(asked.conditions, found.intrinsics)
    depth_sizes = observed.depth is not None and observed.depth.metric
    given, poses_size = given_from_found(observed.camera_motion, found.world_from_cam, metric=depth_sizes)
    places = [_after(given, place) for place in places]
    maps = asked.journal.run_by_frame(
        "maps", lambda: _maps(asked, places), len(video), settings=(asked.settings, float(given.scale))
    )
    placed = (
        PlacedTracks.of(window.frames, window.own, asked.arrays(number), places[number])
        for number, window in enumerate(asked.windows)
    )
    tracks = chained(placed, len(video))
    assert video.original_from_stored is not None
    return Scene(
        times_s=video.times_s,
        camera=camera.camera,
        world_from_cam=given.apply_to_cameras(torch.from_numpy(found.world_from_cam)).numpy(),
        depth_z=maps["depth_z"],
        depth_sigma=maps["sigma"],
        valid=maps["valid"],
        moving=maps["moving"],
        image=maps["image"],
        tracks=tracks,
        static_points=None if tracks is None else tracks.points_world[0][~tracks.moving],
        static_colour=None if tracks is None else tracks.colour[~tracks.moving],
        flow=_flow(asked, places[0]) if asked.all_at_once else None,
        metric=True,
        metric_source=_metric_source(asked, depth_sizes, poses_size),
        health=_health(asked, seams, found.confidence),
        name=video.name,
        original_from_stored=video.original_from_stored @ asked.conditions.fit.original_from_network,
        original_size=video.original_size,
        history=_history(asked, seams),
        notes=(*video.notes, *observed.notes, *asked.notes, *_notes(camera, seams)),
    )


@dataclass(frozen=True, eq=False)
class PerFrame:
    """What every frame has from the window that it belongs to.

    Attributes:
        world_from_cam: (T, 4, 4). intrinsics: (T, 4) of the pinhole that fits its rays. confidence: (T,) mean.
    """

    world_from_cam: Float[np.ndarray, "t 4 4"]
    intrinsics: Float[np.ndarray, "t 4"]
    confidence: Float[np.ndarray, "t"]

    @classmethod
    def of(cls, asked: Asking, places: Sequence[Sim3]) -> PerFrame:
        """From all windows."""
        count = len(asked.video)
        found = cls(np.zeros((count, 4, 4)), np.zeros((count, 4)), np.zeros(count))
        for number, window in enumerate(asked.windows):
            if window.own:
                arrays, own, views = asked.arrays(number), list(window.own), window.own_views
                found.world_from_cam[own] = cameras(fragment(window.frames, arrays), places[number])[views]
                found.intrinsics[own], found.confidence[own] = arrays["intrinsics"][views], arrays["confidence"][views]
        return found


def given_from_found(
    motion: CameraMotion | None, world_from_cam: Float[np.ndarray, "t 4 4"], *, metric: bool
) -> tuple[Sim3, bool]:
    """The similarity that brings cameras to their world, and whether known cameras gave them their scale.

    The world is that of the cameras that are known; without any, the first camera. Of known ones, rotations say how the
    world is turned, centres where it is; and how large it is, where they are metres, lie apart, and no depth sensor
    said it before (`metric`).
    """
    first = se3.inverse(torch.from_numpy(world_from_cam[0]))
    from_first = Sim3(torch.ones((), dtype=torch.float64), first[:3, :3], first[:3, 3])
    if motion is None or not motion.turned_frames.any():
        return from_first, False
    turned, placed = motion.turned_frames, motion.given_frames
    given, found = (torch.from_numpy(np.array(m, dtype=np.float64)) for m in (motion.world_from_cam, world_from_cam))
    turns = given[turned, :3, :3] @ found[turned, :3, :3].transpose(-1, -2)
    rotation = se3.nearest_rotation(turns.mean(0))
    if not placed.any():
        return Sim3(from_first.scale, rotation, -(rotation @ found[0, :3, 3])), False
    a, b = given[placed, :3, 3], found[placed, :3, 3] @ rotation.T
    along = ((a - a.mean(0)) * (b - b.mean(0))).sum() / ((b - b.mean(0)) ** 2).sum()
    sizes = motion.metric and not metric and bool(along.isfinite()) and float(along) > 0
    scale = along if sizes else from_first.scale
    return Sim3(scale, rotation, a.mean(0) - scale * b.mean(0)), sizes


def _after(outer: Sim3, inner: Sim3) -> Sim3:
    """First the inner, then the outer similarity."""
    return Sim3(outer.scale * inner.scale, outer.rotation @ inner.rotation, outer.apply(inner.translation[None])[0])


def _maps(asked: Asking, places: Sequence[Sim3]) -> Iterator[Arrays]:
    """Depth, sigma, masks and colours frame by frame; one window is in memory at a time."""
    owner = {frame: number for number, window in enumerate(asked.windows) for frame in window.own}
    current, arrays = -1, Arrays()
    for frame in range(len(asked.video)):
        if owner[frame] != current:
            current = owner[frame]
            arrays = asked.arrays(current)
        view = asked.windows[current].frames.index(frame)
        yield {
            "depth_z": (arrays["depth_z"][view] * float(places[current].scale)).astype(np.float32),
            "sigma": arrays["sigma"][view].astype(np.float32),
            "valid": arrays["valid"][view],
            "moving": arrays["moving"][view].astype(np.uint8),
            "image": asked.conditions.pictures([frame])[0],
        }
        asked.journal.progress.share((frame + 1) / len(asked.video))


def _flow(asked: Asking, place: Sim3) -> Flow:
    """Dense motion of a clip that is one window."""
    arrays, frames = asked.arrays(0), list(asked.windows[0].frames)
    turned = (place.scale * place.rotation).numpy().astype(np.float32)
    displacement = np.empty_like(arrays["flow"])
    displacement[frames] = arrays["flow"] @ turned.T
    return Flow(frames[0], displacement, np.broadcast_to(arrays["valid"][0], displacement.shape[:3]).copy())


def _metric_source(asked: Asking, depth_sizes: bool, poses_size: bool) -> str:
    if depth_sizes:
        assert asked.observed.depth is not None
        return f"depth: {asked.observed.depth.source.name}"
    if poses_size:
        assert asked.observed.camera_motion is not None
        return f"camera poses: {asked.observed.camera_motion.source.name}"
    return "predicted by any4d"


def _notes(camera: FoundCamera, seams: Sequence[Seam]) -> tuple[str, ...]:
    """What was assumed of the lens, and frames on which windows do not agree."""
    said = () if camera.note is None else (camera.note,)
    frames = sorted({f for seam in seams for f in seam.set_aside})
    if not frames:
        return said
    named = ", ".join(map(str, frames[:5])) + (f" and {len(frames) - 5} more" if len(frames) > 5 else "")
    return (*said, f"windows disagree about frame {named}; they were joined by the others.")


def _history(asked: Asking, seams: Sequence[Seam]) -> tuple[Step, ...]:
    config, conditions = asked.config, asked.conditions
    plain = replace(config, weights=None if config.weights is None else str(config.weights))
    facts = {
        "device": device_of(config), "size": [conditions.fit.width, conditions.fit.height],
        "windows": [len(window) for window in asked.windows],
    }  # fmt: skip
    agreed = [seam.agreed / max(seam.pixels, 1) for seam in seams[1:]]
    return (
        *(Step("assumed", {}, {"note": note}) for note in (*asked.video.notes, *asked.observed.notes)),
        Step("observe", {}, {name: getattr(asked.observed, name).source.name for name in conditions.used}),
        Step("network", asdict(plain), facts),
        Step("join windows", {}, {"agreed_share": agreed, "references": [w.reference for w in asked.windows]}),
    )


def _health(asked: Asking, seams: Sequence[Seam], confidence: np.ndarray) -> dict[str, np.ndarray]:
    """Per frame: the network's mean confidence, how well its window fits to the others, and trust from both."""
    agreement = np.ones(len(confidence))
    for window, seam in zip(asked.windows, seams, strict=True):
        if seam.pixels:
            agreement[list(window.own)] = seam.agreed / seam.pixels
        agreement[[f for f in seam.set_aside if f in window.own]] *= 0.5
    sure = 1 - np.exp(-np.nan_to_num(confidence))
    return {"trust": agreement * sure, "confidence": confidence, "agreement": agreement}
