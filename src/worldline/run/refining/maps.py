"""What is known per pixel, put into a finished scene: moving masks on the frames given, depth where it was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer

from worldline.geometry import camera as pinhole
from worldline.geometry import se3
from worldline.run.refining.similarity import on_grid
from worldline.scene.motion import WorldTracks
from worldline.scene.observations import DepthMaps, MovingMasks
from worldline.scene.scene import Scene

_DISAGREE = 2.0
"""Standard deviations from which two depths of a pixel make the sigma of their mean larger."""
_EXACT = 1e-4
"""Depth that is claimed exact counts as this sure (relative)."""
_MOVES = 0.5
"""Probability, and share of a track's sightings, from which something moves."""


def with_masks(scene: Scene, masks: MovingMasks) -> Scene:
    """The moving map replaced on the frames that are known, objects keeping the scene's numbers; tracks follow."""
    known = np.ones(len(scene), dtype=bool) if masks.known is None else np.asarray(masks.known, dtype=bool)
    given = np.stack([_given(masks, t, scene) for t in range(len(scene))])
    if not known.all():
        given = _renumbered(given, np.asarray(scene.moving[:]), known)
    moving = np.where(known[:, None, None], given, np.asarray(scene.moving[:])).astype(np.uint8)
    changed = replace(scene, moving=moving)
    health = {**scene.health, "moving_share": (moving > 0).mean((1, 2)).astype(np.float32)}
    return replace(_with_relabelled_tracks(changed, known), health=health)


def with_depth(scene: Scene, depth: DepthMaps) -> Scene:
    """Every pixel the mean of reconstructed and measured depth, each weighted by its uncertainty."""
    frames = [_fused(scene, depth, t) for t in range(len(scene))]
    depth_z, sigma, valid = (np.stack(column) for column in zip(*frames, strict=True))
    fused = replace(scene, depth_z=depth_z, depth_sigma=sigma, valid=valid)
    return fused if scene.tracks is None else _with_measured_tracks(fused, scene.tracks, depth)


def _given(masks: MovingMasks, frame: int, scene: Scene) -> Integer[np.ndarray, "h w"]:
    ids = np.asarray(masks.ids[frame])
    if masks.probability is not None:
        ids = np.where(np.asarray(masks.probability[frame]) >= _MOVES, np.maximum(ids, 1), 0)
    return on_grid(ids.astype(np.uint8), scene.height, scene.width)


def _renumbered(given: np.ndarray, old: np.ndarray, known: Bool[np.ndarray, "t"]) -> np.ndarray:
    """Objects of the given frames under the number of the old object that they overlap most, else under a new one."""
    out, free = np.zeros_like(given), int(old.max(initial=0)) + 1
    for number in np.unique(given[known]):
        if number == 0:
            continue
        here = (given == number) & known[:, None, None]
        votes = np.bincount(old[here], minlength=2)[1:]
        taken = int(votes.argmax()) + 1 if votes.any() else free
        free += int(not votes.any())
        out[here] = taken
    return out


def _with_relabelled_tracks(scene: Scene, known: Bool[np.ndarray, "t"]) -> Scene:
    """Tracks that the masks put on the other side: what now moves is where its depth is, what stands is one point."""
    tracks = scene.tracks
    if tracks is None or tracks.uv is None:
        return scene
    inside, seen = _on_moving(scene, tracks, known)
    judged = seen.sum(0) > 0
    share = (inside & seen).sum(0) / np.maximum(seen.sum(0), 1)
    was = np.asarray(tracks.moving, dtype=bool)
    now = np.where(judged, share > _MOVES, was)
    points = tracks.points_world.copy()
    starts, stops = np.flatnonzero(now & ~was), np.flatnonzero(was & ~now)
    points[:, starts] = _on_surface(scene, tracks, starts)
    claimed = np.isfinite(points[:, stops]).any((0, 2))
    stops = stops[claimed]
    points[:, stops] = np.nanmedian(points[:, stops], axis=0) if len(stops) else points[:, stops]
    now[was & ~now & ~np.isin(np.arange(len(now)), stops)] = True
    static_points, colour = _without(scene, starts)
    return replace(
        scene, tracks=replace(tracks, points_world=points, moving=now), static_points=static_points,
        static_colour=colour,
    )  # fmt: skip


def _without(scene: Scene, columns: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The static structure without the points of tracks that turned out to move."""
    points, colour = scene.static_points, scene.static_colour
    if points is None or scene.tracks is None or not len(columns):
        return points, colour
    gone = {tuple(p) for p in scene.tracks.points_world[0, columns].tolist()}
    keep = np.array([tuple(p) not in gone for p in points.tolist()], dtype=bool)
    return points[keep], None if colour is None else colour[keep]


def _on_moving(scene: Scene, tracks: WorldTracks, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, N): whether a sighting lies on something that moves, and whether there is one in a frame that is known."""
    row, column, seen = _pixels_of(scene, tracks)
    frame = np.broadcast_to(np.arange(len(scene))[:, None], seen.shape)
    return np.asarray(scene.moving)[frame, row, column] > 0, seen & known[:, None]


def _pixels_of(scene: Scene, tracks: WorldTracks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column (T, N) of every sighting, and which there are."""
    assert tracks.uv is not None
    seen = tracks.visible & np.isfinite(tracks.uv).all(-1)
    uv = np.where(seen[..., None], tracks.uv, 0.0)
    row = np.clip(uv[..., 1].astype(int), 0, scene.height - 1)
    return row, np.clip(uv[..., 0].astype(int), 0, scene.width - 1), seen


def _on_surface(scene: Scene, tracks: WorldTracks, columns: np.ndarray) -> Float[np.ndarray, "t k 3"]:
    """World points of tracks where they were seen, by the depth of the scene there; NaN elsewhere."""
    assert tracks.uv is not None
    row, column, seen = (values[:, columns] for values in _pixels_of(scene, tracks))
    out = np.full((*row.shape, 3), np.nan, np.float32)
    for t in range(len(scene)):
        at = row[t], column[t]
        use = seen[t] & np.asarray(scene.valid[t])[at]
        depth_z = np.asarray(scene.depth_z[t])[at][use].astype(np.float64)
        uv = tracks.uv[t, columns][use].astype(np.float64)
        rays = pinhole.rays_z1(torch.from_numpy(uv), torch.tensor(scene.camera.at(t)), scene.camera.distortion)
        points = rays * torch.from_numpy(depth_z)[:, None]
        out[t, use] = se3.apply(torch.from_numpy(scene.world_from_cam[t].copy()), points).numpy()
    return out


def _with_measured_tracks(scene: Scene, tracks: WorldTracks, depth: DepthMaps) -> Scene:
    """Tracks put on the depth where it was measured under them; static ones at the median of all such places."""
    if tracks.uv is None:
        return scene
    row, column, seen = _pixels_of(scene, tracks)
    measured = np.zeros(seen.shape, dtype=bool)
    for t in range(len(scene)):
        known = on_grid(np.asarray(depth.depth_z[t]), scene.height, scene.width)
        measured[t] = seen[t] & (np.nan_to_num(known[row[t], column[t]]) > 0)
    surface = np.where(measured[..., None], _on_surface(scene, tracks, np.arange(len(tracks))), np.nan)
    moving = np.asarray(tracks.moving, dtype=bool)
    points = np.where(np.isfinite(surface) & moving[:, None], surface, tracks.points_world)
    placed = np.flatnonzero(~moving & np.isfinite(surface).any((0, 2)))
    points[:, placed] = np.nanmedian(surface[:, placed], axis=0)
    return replace(scene, tracks=replace(tracks, points_world=points.astype(np.float32)))


def _fused(scene: Scene, depth: DepthMaps, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, sigma and validity of one frame: weighted mean in the logarithm, wider where the two disagree."""
    own, sigma = np.asarray(scene.depth_z[frame]), np.asarray(scene.depth_sigma[frame])
    valid = np.asarray(scene.valid[frame])
    measured = on_grid(np.asarray(depth.depth_z[frame]), scene.height, scene.width)
    error = on_grid(np.asarray(depth.sigma[frame]), scene.height, scene.width)
    known = np.isfinite(measured) & (measured > 0) & np.isfinite(error) & (error > 0)
    both = known & valid & (own > 0)
    log_own, log_measured = (np.log(np.where(both, z, 1.0)) for z in (own, measured))
    w_own, w_measured = (1 / np.where(both, s, 1.0).clip(_EXACT).astype(np.float64) ** 2 for s in (sigma, error))
    mean = np.exp((w_own * log_own + w_measured * log_measured) / (w_own + w_measured))
    apart = np.abs(log_own - log_measured) / np.sqrt(1 / w_own + 1 / w_measured)
    spread = np.maximum(apart / _DISAGREE, 1) / np.sqrt(w_own + w_measured)
    depth_z = np.where(both, mean, np.where(known, measured, own)).astype(np.float32)
    new_sigma = np.where(both, spread, np.where(known, error, sigma)).astype(np.float32)
    return depth_z, new_sigma, valid | known
