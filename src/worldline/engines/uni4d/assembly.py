"""The last step: what the stages found, as one Scene."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Float

from worldline.engines.uni4d import health
from worldline.engines.uni4d.inputs import Inputs
from worldline.engines.uni4d.world import in_world
from worldline.geometry.camera import Camera
from worldline.scene.journal import Arrays, unpack
from worldline.scene.motion import WorldTracks
from worldline.scene.observations import Observations
from worldline.scene.scene import CameraSigma, Scene, Step
from worldline.scene.video import Video


@dataclass(frozen=True, eq=False)
class Found:
    """The arrays of every stage."""

    cameras: Arrays
    bundle: Arrays
    structure: Arrays
    ratios: Arrays
    motion: Arrays
    fusion: Arrays
    doubts: Arrays


def assemble(inputs: Inputs, found: Found) -> Scene:
    """The scene, with the history of how it was found and the health of every frame."""
    video, observed = inputs.video, inputs.observed
    fits = found.structure["misfit"] < health.FITTING
    static = {name: found.structure[name][fits] for name in ("points", "columns")}
    static["sigma"] = found.doubts["points"][fits]
    tracks = world_tracks(inputs, static, found.motion)
    checked = health.per_frame(inputs, found.bundle, found.structure, found.fusion, found.doubts)
    scene = Scene(
        times_s=video.times_s,
        camera=real_camera(inputs, found.bundle["intrinsics"]),
        world_from_cam=found.bundle["world_from_cam"],
        depth_z=found.fusion["depth_z"],
        depth_sigma=found.fusion["sigma"],
        valid=found.fusion["valid"],
        moving=found.fusion["moving"],
        image=video.frames,
        camera_sigma=_camera_sigma(found.doubts),
        tracks=tracks,
        static_points=static["points"],
        static_colour=tracks.colour[: len(static["points"])],
        health=checked,
        name=video.name,
        original_from_stored=video.original_from_stored,
        original_size=video.original_size,
        history=_history(inputs, found),
        notes=(*video.notes, *observed.notes, *_left_out(observed), *_distrusted(inputs, found, checked)),
    )
    return in_world(inputs, scene)


def _camera_sigma(doubts: Arrays) -> CameraSigma:
    turn = np.hypot(doubts["rotation_rad"], doubts["loose_rad"])
    return CameraSigma(doubts["centre"], turn, float(doubts["focal"]))


def _left_out(observed: Observations) -> tuple[str, ...]:
    return () if observed.doppler is None else ("radial speeds were left out; the engine any4d takes them.",)


def _distrusted(inputs: Inputs, found: Found, checked: dict[str, np.ndarray]) -> tuple[str, ...]:
    return health.distrusted(checked, found.doubts, given_focal_sigma=health.given_focal_sigma(inputs))


def real_camera(inputs: Inputs, intrinsics: Float[np.ndarray, "4"]) -> Camera:
    """The camera behind the ideal pinhole that was solved: its own intrinsics, with the focal length found."""
    assert inputs.observed.camera is not None
    camera = inputs.observed.camera.camera
    if not camera.per_frame:
        return replace(camera, intrinsics=intrinsics)
    factor = intrinsics[0] / inputs.intrinsics[0]
    return replace(camera, intrinsics=camera.intrinsics * np.array([factor, factor, 1, 1]))


def _history(inputs: Inputs, found: Found) -> tuple[Step, ...]:
    observed, config = inputs.observed, inputs.config
    items = {name: getattr(observed, name) for name in ("camera", "tracks", "moving", "depth", "camera_motion")}
    sources = {name: None if item is None else item.source.name for name, item in items.items()}
    return (
        *(Step("assumed", {}, {"note": note}) for note in (*inputs.video.notes, *observed.notes)),
        Step("observe", sources),
        Step("cameras", {}, unpack(found.cameras["outcome"])),
        Step("bundle", asdict(config.bundling), unpack(found.bundle["outcome"])),
        Step("motion", asdict(config.motion), unpack(found.motion["outcome"])),
        Step("fusion", asdict(config.fusing), unpack(found.ratios["outcome"])),
    )


def world_tracks(inputs: Inputs, points: Arrays, moved: Arrays) -> WorldTracks:
    """Static tracks that fit the rigid scene (one position at all times), then moving ones."""
    count = len(inputs.video)
    columns = np.concatenate([points["columns"], moved["columns"]])
    static = np.broadcast_to(points["points"], (count, *points["points"].shape))
    moving = np.where(moved["active"][..., None], moved["points"], np.nan)
    sigma = np.concatenate([np.broadcast_to(points["sigma"], static.shape[:2]), moved["sigma"]], 1)
    query = inputs.tracks.query_frame[columns]
    return WorldTracks(
        points_world=np.concatenate([static, moving], 1).astype(np.float32),
        visible=inputs.tracks.visible[:, columns],
        sigma=sigma.astype(np.float32),
        colour=_colours(inputs.video, inputs.seen_uv[query, columns], query),
        moving=np.arange(len(columns)) >= len(points["columns"]),
        query_frame=query,
        observed=columns,
        uv=_sightings(inputs, columns),
    )


def _sightings(inputs: Inputs, columns: np.ndarray) -> np.ndarray:
    """Where the tracks were seen in the images as filmed, NaN where they were not."""
    assert inputs.observed.tracks is not None
    seen = inputs.tracks.visible[:, columns, None]
    return np.where(seen, inputs.observed.tracks.uv[:, columns], np.nan).astype(np.float32)


def _colours(video: Video, uv: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The colour of every track in its query frame."""
    row = np.clip(uv[:, 1].astype(int), 0, video.height - 1)
    column = np.clip(uv[:, 0].astype(int), 0, video.width - 1)
    out = np.empty((len(uv), 3), np.uint8)
    for t in np.unique(frame):
        here = frame == t
        out[here] = np.asarray(video.frames[t])[row[here], column[here]]
    return out
