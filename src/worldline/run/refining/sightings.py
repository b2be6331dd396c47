"""Where points of the clip were seen: the evidence that a scene is refined with, and which of it may judge.

It comes from 2D tracks that are given, from the images by our own tracker, or from sightings that the scene kept.
Positions that are only the scene's own 3D tracks seen by its own cameras say nothing new and do not count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from worldline import cues
from worldline.engines.uni4d.evidence import Labelling, collect
from worldline.errors import InputError
from worldline.geometry import camera, se3
from worldline.scene.journal import Journal
from worldline.scene.motion import WorldTracks
from worldline.scene.observations import MovingMasks, PixelTracks, Source
from worldline.scene.scene import Scene
from worldline.scene.video import Video

_OWN_PX = 0.02
"""Sightings closer than this to the projection of the scene's own tracks (median) are that projection."""
BLOCKS = (6, 4)
"""Columns and rows of the blocks of the image that are told apart: what goes wrong nearby goes wrong together."""


@dataclass(frozen=True, eq=False)
class Sightings:
    """2D tracks in pixels of the scene's images as filmed, and what each sighting is of.

    Attributes:
        tracks: positions, visibility, sigma. static, moving: (T, N) sightings of the static world, and of movers.
        group: (N,) number of the mover, 0 for static tracks, -1 for tracks that are neither.
        block: (N,) block of the image in which a track is first seen.
        frames: (T, H, W, 3) images to look at, or None. source: what found them.
    """

    tracks: PixelTracks
    static: Bool[np.ndarray, "t n"]
    moving: Bool[np.ndarray, "t n"]
    group: Int[np.ndarray, "n"]
    block: Int[np.ndarray, "n"]
    source: str


def gathered(
    scene: Scene, given: PixelTracks | None, video: Video | None, journal: Journal | None = None
) -> Sightings | None:
    """The best evidence there is: tracks given, else those of the images, else those that the scene kept.

    Raises:
        InputError: tracks or a video of another count of frames than the scene.
    """
    clip = _clip(scene, video)
    found = given
    if given is None:
        found = _kept(scene) if clip is None else _followed(scene, clip, journal)
    if found is None:
        return None
    if len(found.uv) != len(scene):
        raise InputError(f"tracks of {len(found.uv)} frames but {len(scene)} frames in the scene; give the same clip.")
    masks = MovingMasks(np.asarray(scene.moving[:]), Source(scene.name))
    labelled = collect(found, masks, scene.width, scene.height, Labelling())
    block = blocks(found, scene.width, scene.height)
    return Sightings(found, labelled.static, labelled.moving, labelled.group, block, found.source.name)


def images(scene: Scene, video: Video | None) -> np.ndarray | None:
    """(T, H, W, 3) frames of the clip, of any size; None where neither the video nor the scene has them."""
    clip = _clip(scene, video)
    return None if clip is None else clip.frames


def blocks(tracks: PixelTracks, width: int, height: int) -> Int[np.ndarray, "n"]:
    """The block of the image in which each track is first seen."""
    first = tracks.visible.argmax(0)
    uv = np.nan_to_num(tracks.uv[first, np.arange(len(first))])
    column = np.clip(uv[:, 0] / width * BLOCKS[0], 0, BLOCKS[0] - 1).astype(int)
    row = np.clip(uv[:, 1] / height * BLOCKS[1], 0, BLOCKS[1] - 1).astype(int)
    return row * BLOCKS[0] + column


def halves(found: Sightings) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Tracks in two halves that share no patch of the image: the fields of a chess board, six times as fine as blocks.

    Tracks that start late change sides with their start, so that no place in the image is always on one side.
    """
    tracks = found.tracks
    first = tracks.visible.argmax(0)
    uv = np.nan_to_num(tracks.uv[first, np.arange(len(first))])
    size = np.ptp(uv, axis=0).max() / 12 + 1e-9
    side = (np.floor(uv / size).sum(1) + np.asarray(tracks.query_frame)) % 2 == 0
    return side, ~side


def projected(scene: Scene, tracks: WorldTracks) -> tuple[Float[np.ndarray, "t n 2"], Float[np.ndarray, "t n"]]:
    """Where the cameras of a scene see 3D tracks (pixels as filmed), and at which depth; NaN where they do not."""
    cam_from_world = se3.inverse(torch.from_numpy(np.array(scene.world_from_cam)))
    points_cam = se3.apply(cam_from_world, torch.from_numpy(tracks.points_world.astype(np.float64)))
    reference = scene.camera.frames(len(scene)).mean(0)
    uv = camera.real_uv(camera.project(points_cam, torch.from_numpy(reference)).numpy(), scene.camera, reference)
    depth_z = points_cam[..., 2].numpy()
    ahead = depth_z > 0
    return np.where(ahead[..., None], uv, np.nan), np.where(ahead, depth_z, np.nan)


def _clip(scene: Scene, video: Video | None) -> Video | None:
    if video is not None:
        if len(video) != len(scene):
            raise InputError(
                f"the video has {len(video)} frames, the scene {len(scene)}; give the clip that the scene was made of."
            )
        return video
    if scene.image is None:
        return None
    return Video(np.asarray(scene.image[:]), scene.times_s, scene.name)


def _followed(scene: Scene, video: Video, journal: Journal | None) -> PixelTracks | None:
    """Tracks of our own tracker, in pixels of the scene."""
    tracks = cues.observe(video, needs=("tracks",), journal=journal).tracks
    if tracks is None or tracks.uv.shape[1] == 0:
        return None
    factor = np.array([scene.width / video.width, scene.height / video.height], np.float32)
    return replace(tracks, uv=tracks.uv * factor, sigma_px=tracks.sigma_px * np.float32(factor.mean()))


def _kept(scene: Scene) -> PixelTracks | None:
    """Sightings that the scene kept, if they are more than its own tracks seen by its own cameras."""
    tracks = scene.tracks
    if tracks is None or tracks.uv is None:
        return None
    seen = tracks.visible & np.isfinite(tracks.uv).all(-1)
    off = np.linalg.norm(projected(scene, tracks)[0] - tracks.uv, axis=-1)[seen]
    off = off[np.isfinite(off)]
    if not len(off) or float(np.median(off)) < _OWN_PX:
        return None
    sigma = np.full(seen.shape, 0.5, np.float32)
    return PixelTracks(np.nan_to_num(tracks.uv), seen, sigma, np.asarray(tracks.query_frame), Source("the scene"))
