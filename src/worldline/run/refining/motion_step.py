"""The last steps of the joint refinement: tracks in the world, on better depth, through where they were seen.

Tracks of a network start on the depth of a reference frame and follow from there what the network takes for motion.
First they move along with the place they start from. Then tracks of the static world stand still, and tracks of movers
go through the pixels where they were seen; sightings left out of the fit judge it, and so do the images, since a
tracker that slips agrees with itself. Along the ray a track follows the depth maps only where it is off them by much
more than still points are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.spatial import cKDTree

from worldline.geometry import camera as pinhole
from worldline.geometry import se3
from worldline.run.refining.appearance import Looks
from worldline.run.refining.joint_step import Stepped, done, undone
from worldline.run.refining.judging import Verdict, compared
from worldline.run.refining.sightings import Sightings, projected
from worldline.scene.motion import WorldTracks
from worldline.scene.scene import Scene

CARRIED, STILL, SEEN, DEEP = "refine track starts", "refine static tracks", "refine moving tracks", "refine track depth"
_TIED = 0.02
"""Relative difference to the depth of its reference frame up to which a track hangs on it."""
_NEAR = 0.012
"""Share of the image width within which a sighting belongs to a track that starts there."""
_SMOOTH = 1.0
"""Frames over which what sightings say about a moving track is evened out (standard deviation)."""
_DRIFTS = 6.0
"""Times as large as of still points the squared distance of tracks to the depth maps must be, for tracks to drift."""
_FIT, _ALIKE = 0.6, 0.87
"""Share that must be left at most of the distance to sightings, and of the difference in looks, to move them."""
_MATTERS = 0.3
"""Share of the doubt of depth below which it does not matter that still tracks move."""
_WIDE = 0.15
"""Share of the image width beyond which a sighting is of something else."""


@dataclass(frozen=True, eq=False)
class _Followed:
    """Where the tracks of a scene were seen: uv (T, N, 2), NaN where not; which of them (N,) have sightings."""

    uv: Float[np.ndarray, "t n 2"]
    any: Bool[np.ndarray, "n"]


def carried_starts(before: Scene, scene: Scene) -> Stepped:
    """Tracks moved along with the places they start from, where these hang on the depth of their reference frame."""
    old, tracks = before.tracks, scene.tracks
    assert old is not None and tracks is not None
    start = _own(old.points_world, old)
    uv, depth_z = (_own(values, old) for values in projected(before, old))
    was, now = (_depth_at(s, np.asarray(old.query_frame), uv) for s in (before, scene))
    tied = np.abs(np.log(depth_z / was)) < _TIED
    if not tied.any() or (np.array_equal(before.world_from_cam, scene.world_from_cam) and (was == now)[tied].all()):
        return undone(scene, CARRIED, "nothing that tracks start from has moved")
    new = _unprojected(scene, np.asarray(old.query_frame), uv, depth_z * now / was)
    shift = np.where((tied & np.isfinite(new).all(-1))[:, None], new - start, 0.0)
    moved = replace(tracks, points_world=(tracks.points_world + shift).astype(np.float32))
    return done(replace(scene, tracks=moved), CARRIED, {"tracks": int(tied.sum())})


def still_tracks(scene: Scene, found: Sightings, looks: Looks | None) -> Stepped:
    """Static tracks held where they start; what looks worse there keeps its way."""
    tracks = scene.tracks
    assert tracks is not None
    if looks is None:
        return undone(scene, STILL, "there are no images to judge by")
    static = ~np.asarray(tracks.moving, dtype=bool)
    still = np.where(static[:, None], np.broadcast_to(_own(tracks.points_world, tracks), tracks.points_world.shape), 0)
    after = np.where(static[None, :, None], still, tracks.points_world).astype(np.float32)
    if np.array_equal(after, tracks.points_world, equal_nan=True):
        return undone(scene, STILL, "they stand still already")
    drift = _drift(scene, tracks, after)
    doubt = _spread(_still_off_map(scene, found)) ** 0.5
    if drift < _MATTERS * doubt:
        return undone(scene, STILL, "they move by less than their depth is in doubt", {"drift": round(drift, 4)})
    changed = replace(scene, tracks=replace(tracks, points_world=after))
    unlike = [_unlike(looks, s, static) for s in (scene, changed)]
    verdict = compared(unlike[0].ravel(), unlike[1].ravel(), _block_of(scene, tracks))
    outcome = verdict.as_outcome("images")
    if not verdict.better(ratio=0.99):
        return undone(scene, STILL, "the images do not show them stand still", outcome)
    worse = _mean(unlike[1]) > _mean(unlike[0]) + 2.0
    points = np.where(worse[None, :, None], tracks.points_world, after)
    outcome |= {"tracks": int((static & ~worse).sum())}
    return done(replace(scene, tracks=replace(tracks, points_world=points)), STILL, outcome)


def seen_tracks(scene: Scene, found: Sightings, looks: Looks | None) -> Stepped:
    """Moving tracks through where they were seen; each keeps its depth."""
    tracks = scene.tracks
    assert tracks is not None
    if looks is None:
        return undone(scene, SEEN, "there are no images to judge by")
    follow = _follow(scene, found)
    if int(follow.any.sum()) < 8:
        return undone(scene, SEEN, "too few of them were seen elsewhere")
    after = _through(scene, follow.uv)
    fit = _held_out_in_time(scene, follow)
    changed = replace(scene, tracks=replace(tracks, points_world=after))
    known = np.isfinite(follow.uv).all(-1)
    unlike = [np.where(known, _unlike(looks, s, follow.any), np.nan) for s in (scene, changed)]
    seen = compared(unlike[0].ravel(), unlike[1].ravel(), _block_of(scene, tracks))
    outcome = {"tracks": int(follow.any.sum()), **fit.as_outcome("held_out_px"), **seen.as_outcome("images")}
    if not fit.better(ratio=_FIT):
        return undone(scene, SEEN, "sightings that were left out do not fit better", outcome)
    if not seen.better(ratio=_ALIKE):
        return undone(scene, SEEN, "the images do not look more alike there", outcome)
    worse = _mean(unlike[1]) > _mean(unlike[0]) + 1.0
    points = np.where(worse[None, :, None], tracks.points_world, after)
    return done(replace(scene, tracks=replace(tracks, points_world=points)), SEEN, outcome)


def deep_tracks(scene: Scene, found: Sightings) -> Stepped:
    """Moving tracks drawn along their rays to the depth maps, by as much as still points say that these are truer."""
    tracks = scene.tracks
    assert tracks is not None
    off = _off_map(scene, tracks, np.asarray(tracks.moving, dtype=bool))
    still = _still_off_map(scene, found)
    if min(int(np.isfinite(off).sum()), len(still)) < 100:
        return undone(scene, DEEP, "too few places to compare at")
    ratio = _spread(off[np.isfinite(off)]) / max(_spread(still), 1e-4**2)
    outcome = {"times_still": round(ratio, 2)}
    if ratio < _DRIFTS:
        return undone(scene, DEEP, "tracks are off the depth maps no more than still points are", outcome)
    pull = _smoothed(off, np.isfinite(off)) * (1 - 2 / ratio)
    points = _along_rays(scene, tracks, np.nan_to_num(pull))
    after = replace(scene, tracks=replace(tracks, points_world=points))
    rigid = _rigidity(scene, after, found)
    outcome |= rigid.as_outcome("lengths")
    if not rigid.better(ratio=0.95):
        return undone(scene, DEEP, "movers would not keep their shape better", outcome)
    return done(after, DEEP, outcome)


def _drift(scene: Scene, tracks: WorldTracks, after: Float[np.ndarray, "t n 3"]) -> float:
    """Usual distance between two positions of the tracks that differ, as a share of their depth."""
    away = np.linalg.norm(after - tracks.points_world, axis=-1) / projected(scene, tracks)[1]
    away = away[np.isfinite(away) & (away > 0) & tracks.visible]
    return float(np.median(away)) if len(away) else 0.0


def _own(values: Float[np.ndarray, "t n *k"], tracks: WorldTracks) -> Float[np.ndarray, "n *k"]:
    """The values of every track in its reference frame."""
    return values[np.asarray(tracks.query_frame), np.arange(values.shape[1])].astype(np.float64)


def _depth_at(scene: Scene, frame: Int[np.ndarray, "*m"], uv: Float[np.ndarray, "*m 2"]) -> Float[np.ndarray, "*m"]:
    """Depth of the pixels that hold uv; NaN outside and where it is not valid."""
    inside = (np.nan_to_num(uv, nan=-1) >= 0).all(-1) & (np.nan_to_num(uv, nan=1e9) < [scene.width, scene.height]).all(
        -1
    )
    at = np.where(inside[..., None], uv, 0).astype(int)
    frame = np.broadcast_to(frame, inside.shape)
    depth_z, valid = np.asarray(scene.depth_z[:]), np.asarray(scene.valid[:])
    good = inside & valid[frame, at[..., 1], at[..., 0]]
    return np.where(good, depth_z[frame, at[..., 1], at[..., 0]], np.nan).astype(np.float64)


def _unprojected(
    scene: Scene, frame: Int[np.ndarray, "m"], uv: Float[np.ndarray, "m 2"], depth_z: Float[np.ndarray, "m"]
) -> Float[np.ndarray, "m 3"]:
    """World points of pixels at a depth, each in its own frame."""
    own = scene.camera.frames(len(scene))[frame]
    rays = pinhole.rays_z1(_tensor(uv), _tensor(own), scene.camera.distortion).numpy()
    motion = scene.world_from_cam[frame]
    return np.einsum("mij,mj->mi", motion[:, :3, :3], rays * depth_z[:, None]) + motion[:, :3, 3]


def _cast(
    scene: Scene, uv: Float[np.ndarray, "t n 2"], depth_z: Float[np.ndarray, "t n"]
) -> Float[np.ndarray, "t n 3"]:
    count, tracks = depth_z.shape
    frame = np.repeat(np.arange(count), tracks)
    return _unprojected(scene, frame, uv.reshape(-1, 2), depth_z.ravel()).reshape(count, tracks, 3)


def _follow(scene: Scene, found: Sightings) -> _Followed:
    """Sightings of the 2D track that passes nearest to where each moving track starts."""
    tracks = scene.tracks
    assert tracks is not None
    uv = np.full(tracks.points_world.shape[:2] + (2,), np.nan)
    place = projected(scene, tracks)[0]
    for t in np.unique(tracks.query_frame):
        mine = np.flatnonzero((tracks.query_frame == t) & tracks.moving & np.isfinite(place[t]).all(-1))
        theirs = np.flatnonzero(found.moving[t] & (found.moving.sum(0) >= 3))
        if not len(mine) or not len(theirs):
            continue
        distance, nearest = cKDTree(found.tracks.uv[t, theirs]).query(place[t, mine])
        near = distance < _NEAR * scene.width
        mine, theirs = mine[near], theirs[nearest[near]]
        shift = place[t, mine] - found.tracks.uv[t, theirs]
        seen = np.where(found.moving[:, theirs, None], found.tracks.uv[:, theirs] + shift, np.nan)
        far = np.linalg.norm(seen - place[:, mine], axis=-1) > _WIDE * scene.width
        uv[:, mine] = np.where(far[..., None], np.nan, seen)
    return _Followed(uv, np.isfinite(uv).all(-1).sum(0) >= 3)


def _through(scene: Scene, uv: Float[np.ndarray, "t n 2"]) -> Float[np.ndarray, "t n 3"]:
    """Positions moved sideways by what sightings say, evened out and carried over the times between."""
    tracks = scene.tracks
    assert tracks is not None
    points = tracks.points_world.astype(np.float64)
    away = _cast(scene, uv, projected(scene, tracks)[1]) - points
    known = np.asarray(np.isfinite(away).all(-1))
    return (points + np.stack([_smoothed(away[..., i], known) for i in range(3)], -1)).astype(np.float32)


def _smoothed(values: Float[np.ndarray, "t n"], known: Bool[np.ndarray, "t n"]) -> Float[np.ndarray, "t n"]:
    """Evened out over time and filled between known times, constant beyond; 0 for tracks that know nothing."""
    every = np.arange(len(values))
    out = np.zeros(values.shape)
    for n in np.flatnonzero(known.any(0)):
        at = np.flatnonzero(known[:, n])
        out[:, n] = np.interp(every, at, values[at, n])
    return ndimage.gaussian_filter1d(out, _SMOOTH, axis=0, mode="nearest")


def _held_out_in_time(scene: Scene, follow: _Followed) -> Verdict:
    """How far sightings are from tracks that go through every other of them, against the tracks as they were."""
    tracks = scene.tracks
    assert tracks is not None
    order = np.cumsum(np.isfinite(follow.uv).all(-1), axis=0)
    before = np.linalg.norm(projected(scene, tracks)[0] - follow.uv, axis=-1)
    after = np.full(before.shape, np.nan)
    for side in (0, 1):
        fitted = np.where((order % 2 == side)[..., None], follow.uv, np.nan)
        moved = replace(tracks, points_world=_through(scene, fitted))
        off = np.linalg.norm(projected(scene, moved)[0] - follow.uv, axis=-1)
        after = np.where(order % 2 != side, off, after)
    bound = 0.05 * scene.width
    return compared(np.minimum(before, bound).ravel(), np.minimum(after, bound).ravel(), _block_of(scene, tracks))


def _unlike(looks: Looks, scene: Scene, chosen: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "t n"]:
    """How much the places of tracks differ from where they start, in frames that see them."""
    tracks = scene.tracks
    assert tracks is not None
    uv = projected(scene, tracks)[0]
    query = np.asarray(tracks.query_frame)
    age = np.abs(np.arange(len(scene))[:, None] - query)
    use = (
        np.asarray(tracks.visible)
        & chosen
        & (age > 0)
        & np.isfinite(uv).all(-1)
        & np.isfinite(_own(uv, tracks)).all(-1)
    )
    frame, track = np.nonzero(use)
    out = np.full(use.shape, np.nan)
    out[use] = looks.unlike(query[track], _own(uv, tracks)[track], frame, uv[use])
    return out


def _block_of(scene: Scene, tracks: WorldTracks) -> Int[np.ndarray, "m"]:
    """Place in the image where a track starts (six by four) and half of the clip, of every time and track in turn."""
    uv = np.nan_to_num(_own(projected(scene, tracks)[0], tracks))
    cell = np.clip(uv / [scene.width, scene.height] * [8, 6], 0, [7, 5]).astype(int)
    half = 2 * np.arange(len(scene)) // max(len(scene), 1)
    return (half[:, None] * 1000 + cell[:, 1] * 8 + cell[:, 0]).ravel()


def _mean(values: Float[np.ndarray, "t n"]) -> Float[np.ndarray, "n"]:
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)


def _off_map(scene: Scene, tracks: WorldTracks, chosen: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "t n"]:
    """log(depth map / track) where chosen tracks are seen on a mover, away from its border."""
    uv, depth_z = projected(scene, tracks)
    moving = np.stack([ndimage.binary_erosion(np.asarray(m) > 0, iterations=2) for m in scene.moving])
    frame = np.arange(len(scene))[:, None]
    at = np.clip(np.nan_to_num(uv), 0, [scene.width - 1, scene.height - 1]).astype(int)
    use = tracks.visible & chosen & moving[frame, at[..., 1], at[..., 0]]
    off = np.log(_depth_at(scene, frame, uv) / depth_z)
    return np.where(use & (np.abs(off) < 0.5), off, np.nan)


def _still_off_map(scene: Scene, found: Sightings) -> Float[np.ndarray, "m"]:
    """The same of static points that stand where their first frame has them: what the maps do not agree on."""
    columns = np.flatnonzero((found.group == 0) & (found.static.sum(0) >= 3))[:3000]
    uv, seen = found.tracks.uv[:, columns].astype(np.float64), found.static[:, columns]
    first = seen.argmax(0)
    start_uv = uv[first, np.arange(len(columns))]
    points = _unprojected(scene, first, start_uv, _depth_at(scene, first, start_uv))
    cam_from_world = se3.inverse(_tensor(scene.world_from_cam)).numpy()
    depth_z = np.einsum("ti,ni->tn", cam_from_world[:, 2, :3], points) + cam_from_world[:, 2, 3][:, None]
    ahead = np.where(depth_z > 0, depth_z, np.nan)
    off = np.log(_depth_at(scene, np.arange(len(scene))[:, None], uv) / ahead)
    off[~seen | (np.arange(len(scene))[:, None] == first)] = np.nan
    return off[np.isfinite(off)]


def _spread(values: Float[np.ndarray, "m"]) -> float:
    """Robust mean square."""
    return float((1.4826 * np.median(np.abs(values))) ** 2) if len(values) else 0.0


def _along_rays(scene: Scene, tracks: WorldTracks, pull: Float[np.ndarray, "t n"]) -> Float[np.ndarray, "t n 3"]:
    centre = scene.world_from_cam[:, None, :3, 3]
    return (centre + (tracks.points_world - centre) * np.exp(pull)[..., None]).astype(np.float32)


def _rigidity(before: Scene, after: Scene, found: Sightings) -> Verdict:
    """How much the distances between neighbouring moving tracks change over time, before and after."""
    tracks = before.tracks
    assert tracks is not None and after.tracks is not None
    columns = np.flatnonzero(tracks.moving)
    start = _own(tracks.points_world, tracks)[columns]
    usable = np.isfinite(start).all(-1)
    columns, start = columns[usable], start[usable]
    key = np.concatenate([start, 1e6 * np.asarray(tracks.query_frame)[columns, None]], 1)
    if len(columns) < 4:
        return compared(np.zeros(0), np.zeros(0), np.zeros(0, int))
    pairs = cKDTree(key).query(key, k=4)[1][:, 1:]
    one, other = np.repeat(columns, 3), columns[pairs.ravel()]
    first, second = _change(tracks, one, other), _change(after.tracks, one, other)
    block = _block_of(before, tracks).reshape(len(before), -1)[:, one].ravel()
    return compared(first.ravel(), second.ravel(), block)


def _change(tracks: WorldTracks, one: np.ndarray, other: np.ndarray) -> Float[np.ndarray, "t m"]:
    """|log length / median length| of pairs where both are seen."""
    length = np.linalg.norm(tracks.points_world[:, one].astype(np.float64) - tracks.points_world[:, other], axis=-1)
    both = tracks.visible[:, one] & tracks.visible[:, other] & (length > 0)
    log_length = np.where(both, np.log(np.where(both, length, 1.0)), np.nan)
    enough = both.sum(0) >= 3
    middle = np.full(len(one), np.nan)
    middle[enough] = np.nanmedian(log_length[:, enough], axis=0)
    return np.minimum(np.abs(log_length - middle), 0.5)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))
