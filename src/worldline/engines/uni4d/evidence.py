"""Which tracks are evidence for the static world, which for moving objects, and which for neither.

Source: Uni4D (arXiv 2503.21761) section 3 and its release: masks are eroded, a track is static when all its samples
lie on the static side. Unlike the release a track is moving when most (not all) of its samples are, and objects
keep their identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.geometry import pixels
from worldline.scene.observations import MovingMasks, PixelTracks

STATIC, MOVING, UNSURE = 0, 1, 2


@dataclass(frozen=True)
class Labelling:
    """Margins are shares of the image width; a track needs `least` samples (fewer in a shorter clip),
    `share` of them on its side."""

    static_margin: float = 0.012
    moving_margin: float = 0.004
    least: int = 3
    share: float = 0.85


@dataclass(frozen=True, eq=False)
class Evidence:
    """Per-sample use (T, N) and per-track label.

    Attributes:
        static: sightings that may hold cameras and structure. moving: sightings on a moving object.
        group: (N,) object number of moving tracks, 0 for static ones, -1 for tracks that are neither.
    """

    static: Bool[np.ndarray, "t n"]
    moving: Bool[np.ndarray, "t n"]
    group: Int[np.ndarray, "n"]


def collect(tracks: PixelTracks, masks: MovingMasks, width: int, height: int, labelling: Labelling) -> Evidence:
    """Look up every visible sighting in the eroded masks and label the tracks."""
    rows, columns, ok = _lookup(tracks.uv, tracks.visible, masks.ids.shape[1:], width, height)
    frame, track = np.nonzero(ok)
    where = (frame, rows[ok], columns[ok])
    ids = masks.ids[where]
    zone = zones(masks.ids, labelling)[where]
    count = tracks.visible.shape[1]
    per_zone = [np.bincount(track[zone == z], minlength=count) for z in (STATIC, MOVING)]
    sure = per_zone[STATIC] + per_zone[MOVING]
    enough = sure >= min(labelling.least, len(ok))
    is_static = enough & (per_zone[STATIC] >= labelling.share * sure)
    is_moving = enough & ~is_static & (per_zone[MOVING] >= labelling.share * sure)
    group = np.where(is_static, 0, -1)
    group[is_moving] = _commonest(ids, track, count)[is_moving]
    static, moving = np.zeros_like(ok), np.zeros_like(ok)
    keep = (zone == STATIC) & is_static[track]
    static[frame[keep], track[keep]] = True
    keep = (zone == MOVING) & is_moving[track]
    moving[frame[keep], track[keep]] = True
    return Evidence(static, moving & _has_company(moving), group)


def _lookup(
    uv: Float[np.ndarray, "t n 2"], visible: Bool[np.ndarray, "t n"], shape: tuple[int, ...], width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask row and column of every sighting, and which sightings are visible and inside the image."""
    ok = visible & (uv[..., 0] >= 0) & (uv[..., 0] < width) & (uv[..., 1] >= 0) & (uv[..., 1] < height)
    scale_x, scale_y = shape[1] / width, shape[0] / height
    columns = np.clip(uv[..., 0] * scale_x, 0, shape[1] - 1).astype(np.int32)
    rows = np.clip(uv[..., 1] * scale_y, 0, shape[0] - 1).astype(np.int32)
    return rows, columns, ok


def zones(ids: Int[np.ndarray, "t h w"], labelling: Labelling) -> np.ndarray:
    """0 static, 1 moving, 2 too close to a mask border to tell."""

    def kernel(margin: float) -> np.ndarray:
        radius = max(1, round(margin * ids.shape[2]))
        return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)

    out = np.full(ids.shape, UNSURE, np.uint8)
    wide, narrow = kernel(labelling.static_margin), kernel(labelling.moving_margin)
    for t, frame in enumerate(ids):
        moving = (np.asarray(frame) > 0).astype(np.uint8)
        out[t][cv2.dilate(moving, wide) == 0] = STATIC
        out[t][cv2.erode(moving, narrow) > 0] = MOVING
    return out


def _has_company(seen: Bool[np.ndarray, "t n"]) -> Bool[np.ndarray, "t n"]:
    """Sightings with at least two more within two frames: a lone one is more often a slip behind the object."""
    padded = np.pad(seen, ((2, 2), (0, 0))).astype(np.int8)
    count = len(seen)
    around = sum(padded[i : i + count] for i in (0, 1, 3, 4))
    return np.asarray(around >= min(2, count - 1))


def _commonest(ids: np.ndarray, track: np.ndarray, count: int) -> np.ndarray:
    """The object number most of a track's samples lie on (background not counted)."""
    top = int(ids.max(initial=0)) + 1
    votes = np.bincount(track * top + ids, minlength=count * top).reshape(count, top)
    votes[:, 0] = 0
    return votes.argmax(1)


def log_depth_at(
    depth_z: Float[np.ndarray, "t h w"], frame: np.ndarray, uv: np.ndarray, width: int, height: int
) -> Float[np.ndarray, "m"]:
    """Log of the depth cue at sightings (bilinear); NaN where any neighbour is unknown."""
    import torch

    maps = torch.from_numpy(np.ascontiguousarray(depth_z))
    scale = torch.tensor([depth_z.shape[2] / width, depth_z.shape[1] / height], dtype=torch.float32)
    at = torch.from_numpy(np.ascontiguousarray(uv)).float() * scale
    value = pixels.sample_frames(maps, torch.from_numpy(frame), at)
    return torch.where(value > 0, value, torch.nan).log().numpy()


def nearest_at(maps: np.ndarray, frame: np.ndarray, uv: np.ndarray, width: int, height: int) -> np.ndarray:
    """Values of maps (T, h, w) at the pixel that holds each sighting."""
    column = np.clip(uv[:, 0] * (maps.shape[2] / width), 0, maps.shape[2] - 1).astype(np.int32)
    row = np.clip(uv[:, 1] * (maps.shape[1] / height), 0, maps.shape[1] - 1).astype(np.int32)
    return maps[frame, row, column]
