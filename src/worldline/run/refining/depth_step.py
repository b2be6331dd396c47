"""The second step of the joint refinement: depth maps, brought to the points that the images tell.

Points of each half of the tracks, under the cameras that this half alone has found, judge the correction that the
other half asks for: a path that is bent bends the points of its own half only. The overall size of the depth is not
for the images to tell and stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from worldline.run.refining.appearance import Looks, static_looks
from worldline.run.refining.camera_step import Halves
from worldline.run.refining.depth_fields import DepthField, FieldSettings, fit_field
from worldline.run.refining.joint_cameras import Solved
from worldline.run.refining.joint_step import Stepped, done, undone
from worldline.run.refining.judging import NOTHING, Verdict, compared
from worldline.run.refining.sightings import Sightings
from worldline.scene.observations import DepthMaps, PixelTracks, Source
from worldline.scene.scene import Scene
from worldline.solve.track_depth import depth_of_tracks

NAME = "refine depth scales and fields"
_DOUBT = 0.05
"""Points whose parallax leaves more relative doubt than this say nothing: they come out nearer than they are."""
_FEWEST = 200
"""Fewer sightings of points with parallax are no evidence of depth."""
_SIGMAS, _RATIO = 3.0, 0.95
"""How sure the judges must be, and the share of its error at most that must be left."""


@dataclass(frozen=True, eq=False)
class _Ratios:
    """By how much depth is off at sightings: log(point / map), with relative doubt, frame, place in [0, 1], block."""

    frame: Int[np.ndarray, "m"]
    place: Float[np.ndarray, "m 2"]
    log_ratio: Float[np.ndarray, "m"]
    doubt: Float[np.ndarray, "m"]
    block: Int[np.ndarray, "m"]


def refined_depth(scene: Scene, found: Sightings, solved: Halves, looks: Looks | None) -> Stepped:
    """The scene with better depth maps (and points of tracks that hang on them), or as it was."""
    a, b, both = (_ratios(scene, found, part) for part in (solved.a, solved.b, solved.both))
    if min(len(part.frame) for part in (a, b)) < _FEWEST:
        return undone(scene, NAME, "too few static points have parallax")
    verdicts = {name: _held_out(a, b, len(scene), kind) for name, kind in _kinds().items()}
    name = min(verdicts, key=lambda key: verdicts[key].ratio)
    outcome = {"kind": name, **verdicts[name].as_outcome("held_out_depth")}
    if not verdicts[name].better(sigmas=_SIGMAS, ratio=_RATIO):
        return undone(scene, NAME, "held-out points do not lie nearer to corrected depth", outcome)
    field = fit_field(both.frame, both.place, both.log_ratio, both.doubt, len(scene), _kinds()[name])
    after = with_field(scene, field, verdicts[name].ratio)
    if looks is not None and (seen := static_looks(looks, scene, after)).worse():
        return undone(scene, NAME, "the images contradict the points", {**outcome, **seen.as_outcome("images")})
    return done(after, NAME, outcome)


def with_field(scene: Scene, field: DepthField, surer: float) -> Scene:
    """The depth maps times the field, its median over static pixels taken out: the overall size is kept."""
    height, width = scene.height, scene.width
    static = [_static(scene, t) for t in range(len(scene))]
    fields = [field.over(t, height, width) * field.trust(t, height, width) for t in range(len(scene))]
    inside = np.concatenate([f[use][::7] for f, use in zip(fields, static, strict=True)])
    middle = float(np.median(inside)) if len(inside) else 0.0
    depth_z = np.stack([np.asarray(z) * np.exp(f - middle) for z, f in zip(scene.depth_z, fields, strict=True)])
    sigma = np.asarray(scene.depth_sigma[:]) * np.float32(np.clip(surer, 0.3, 1.0))
    return replace(scene, depth_z=depth_z.astype(np.float32), depth_sigma=sigma)


def _kinds() -> dict[str, FieldSettings]:
    return {"scales": FieldSettings.scales(), "fields": FieldSettings()}


def _static(scene: Scene, frame: int) -> np.ndarray:
    return np.asarray(scene.valid[frame]) & (np.asarray(scene.moving[frame]) == 0)


def _ratios(scene: Scene, found: Sightings, solved: Solved) -> _Ratios:
    """At the sightings of points that parallax tells well enough, where the map is smooth."""
    columns, tracks = solved.columns, found.tracks
    chosen = PixelTracks(
        tracks.uv[:, columns], found.static[:, columns], tracks.sigma_px[:, columns],
        np.asarray(tracks.query_frame)[columns], tracks.source,
    )  # fmt: skip
    depth_z = np.where(scene.valid[:], scene.depth_z[:], 0).astype(np.float32)
    maps = DepthMaps(depth_z, np.full(depth_z.shape, 1e-3, np.float32), Source(scene.name))
    at = depth_of_tracks(chosen, maps, scene.width, scene.height)
    log_ratio = solved.log_depth() - at.log_depth.numpy()
    times = np.sqrt(chosen.visible.sum(0))
    doubt = np.hypot(solved.doubt * times, at.sigma.numpy())
    use = chosen.visible & np.isfinite(log_ratio) & (solved.doubt < _DOUBT) & np.isfinite(doubt)
    frame, track = np.nonzero(use)
    place = chosen.uv[use].astype(np.float64) / [scene.width, scene.height]
    block = found.block[columns][track] + 1000 * (frame * 4 // max(len(scene), 1))
    return _Ratios(frame, place, log_ratio[use], doubt[use], block)


def _held_out(a: _Ratios, b: _Ratios, count: int, kind: FieldSettings) -> Verdict:
    """What is left of each half's ratios after the field of the other, the overall size aside."""
    rows = []
    for mine, other in ((a, b), (b, a)):
        field = fit_field(other.frame, other.place, other.log_ratio, other.doubt, count, kind)
        sure = mine.doubt <= np.median(mine.doubt)
        before, after = mine.log_ratio[sure], (mine.log_ratio - field.at(mine.frame, mine.place))[sure]
        rows.append((np.abs(before - np.median(before)), np.abs(after - np.median(after)), mine.block[sure]))
    if not all(len(row[0]) for row in rows):
        return NOTHING
    before, after, block = (np.concatenate(column) for column in zip(*rows, strict=True))
    return compared(np.minimum(before, 0.5), np.minimum(after, 0.5), block)
