"""The second step of the joint refinement: depth maps, brought to the points that the images tell.

Points of each half of the tracks, under the cameras that this half alone has found, judge the correction that the
other half asks for: a path that is bent bends the points of its own half only. The overall size of the depth is not
for the images to tell and stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.run.refining.appearance import Looks, static_looks
from worldline.run.refining.camera_step import Halves
from worldline.run.refining.depth_fields import DepthField, FieldSettings, fit_field
from worldline.run.refining.joint_cameras import Solved
from worldline.run.refining.joint_step import Stepped, done, undone
from worldline.run.refining.judging import Verdict, compared
from worldline.run.refining.sightings import BLOCKS, Sightings
from worldline.scene.observations import DepthMaps, PixelTracks, Source
from worldline.scene.scene import Scene
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_depth import depth_of_tracks

NAME = "refine depth"
_DOUBT = 0.05
"""Points whose parallax leaves more relative doubt than this say nothing: they come out nearer than they are."""
_LEAST_DOUBT = 0.006
"""And points that are at least this sure may always speak."""
_FEWEST = 200
"""Fewer sightings of points with parallax are no evidence of depth."""
_SIGMAS, _RATIO = 3.0, 0.85
"""How sure the judges must be, and the share of its error at most that must be left."""
_BLOCKS_TOLD = 6
"""Fewer blocks of the image leave too much of it aside."""
_SLIP = 0.5
"""Share of the error of depth that a slip of all tracks may make up in its place."""
_ENOUGH = 12
"""Sightings of each half that a block of the image needs for its patterns to be judged."""


@dataclass(frozen=True, eq=False)
class _Ratios:
    """By how much depth is off at sightings: log(point / map), with relative doubt, frame, place in [0, 1].

    `cell` is the block of the image that a sighting lies in, `block` that and the part of the clip.
    """

    frame: Int[np.ndarray, "m"]
    place: Float[np.ndarray, "m 2"]
    log_ratio: Float[np.ndarray, "m"]
    doubt: Float[np.ndarray, "m"]
    cell: Int[np.ndarray, "m"]
    block: Int[np.ndarray, "m"]

    def without(self, field: DepthField | None) -> _Ratios:
        """What is left of the ratios after a field."""
        if field is None:
            return self
        return replace(self, log_ratio=self.log_ratio - field.at(self.frame, self.place))

    def fitted(self, count: int, settings: FieldSettings) -> DepthField:
        """The field of `count` frames that they ask for."""
        return fit_field(self.frame, self.place, self.log_ratio, self.doubt, count, settings)


def refined_depth(
    scene: Scene, found: Sightings, solved: Halves, looks: Looks | None, *, slip_px: float = 0.0
) -> Stepped:
    """The scene with better depth maps, or as it was.

    One scale per frame is taken for every pixel; patterns only for blocks of the image in which both halves agree.

    Args:
        slip_px: by how much tracks may all be off together. No half sees this in the other, so depth that is off by
            little more than what it does to points is left alone.
    """
    slip = slip_px / StructureSettings().noise_px
    a, b, both = (_ratios(scene, found, part, slip) for part in (solved.a, solved.b, solved.both))
    if min(len(a.frame), len(b.frame)) < _FEWEST:
        return undone(scene, NAME, "too few static points have parallax")
    count, spread = len(scene), _spread(both)
    scales, patterns = FieldSettings.scales(spread), FieldSettings.patterns(spread)
    sides = [(a, b.fitted(count, scales)), (b, a.fitted(count, scales))]
    verdict = _verdict(sides)
    outcome = verdict.as_outcome("held_out_scale")
    scale = both.fitted(count, scales) if verdict.better(sigmas=_SIGMAS, ratio=_RATIO) else None
    if scale is not None:
        a, b = (mine.without(field) for mine, field in sides)
    sides = [(a, b.fitted(count, patterns)), (b, a.fitted(count, patterns))]
    gate = _agreeing(sides)
    verdict = _verdict(sides, gate)
    outcome |= {**verdict.as_outcome("held_out_pattern"), "blocks": int(gate.sum())}
    told = gate.sum() >= _BLOCKS_TOLD and verdict.better(sigmas=_SIGMAS, ratio=_RATIO)
    pattern = both.without(scale).fitted(count, patterns) if told else None
    if scale is None and pattern is None:
        return undone(scene, NAME, "held-out points do not lie nearer to corrected depth", outcome)
    after = with_fields(scene, scale, pattern, gate)
    if looks is not None and (seen := static_looks(looks, scene, after)).worse():
        return undone(scene, NAME, "the images contradict the points", {**outcome, **seen.as_outcome("images")})
    return done(after, NAME, {**outcome, "scales": scale is not None, "patterns": pattern is not None})


def with_fields(
    scene: Scene, scale: DepthField | None, pattern: DepthField | None, gate: Bool[np.ndarray, "r c"]
) -> Scene:
    """The depth maps times the fields; their median over static pixels is taken out: the overall size is kept."""
    height, width = scene.height, scene.width
    open_at = cv2.resize(gate.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    fields = np.zeros((len(scene), height, width))
    for t in range(len(scene)):
        if scale is not None:
            fields[t] += scale.over(t, height, width)
        if pattern is not None:
            fields[t] += open_at * pattern.trust(t, height, width) * pattern.over(t, height, width)
        fields[t] *= _beside_static(scene, t)
    inside = np.concatenate([f[_static(scene, t)][::7] for t, f in enumerate(fields)])
    middle = float(np.median(inside)) if len(inside) else 0.0
    depth_z = np.stack([np.asarray(z) * np.exp(f - middle) for z, f in zip(scene.depth_z, fields, strict=True)])
    return replace(scene, depth_z=depth_z.astype(np.float32))


def _beside_static(scene: Scene, frame: int) -> Float[np.ndarray, "h w"]:
    """1 on what stands still; on movers as much as there is of it around: inside of a large one nobody told."""
    static = _static(scene, frame)
    around = cv2.GaussianBlur(static.astype(np.float32), (0, 0), scene.width / 8)
    return np.where(static, 1.0, np.clip(2 * around - 0.4, 0, 1))


def _static(scene: Scene, frame: int) -> np.ndarray:
    return np.asarray(scene.valid[frame]) & (np.asarray(scene.moving[frame]) == 0)


def _ratios(scene: Scene, found: Sightings, solved: Solved, slip: float) -> _Ratios:
    """At the sightings of points that parallax tells about as well as the depth is off, where the map is smooth."""
    columns, tracks = solved.columns, found.tracks
    chosen = PixelTracks(
        tracks.uv[:, columns], found.static[:, columns], tracks.sigma_px[:, columns],
        np.asarray(tracks.query_frame)[columns], tracks.source,
    )  # fmt: skip
    depth_z = np.where(scene.valid[:], scene.depth_z[:], 0).astype(np.float32)
    maps = DepthMaps(depth_z, np.full(depth_z.shape, 1e-3, np.float32), Source(scene.name))
    at = depth_of_tracks(chosen, maps, scene.width, scene.height)
    log_ratio = solved.log_depth() - at.log_depth.numpy()
    doubt = np.hypot(solved.doubt * np.sqrt(chosen.visible.sum(0)), at.sigma.numpy())
    use = chosen.visible & np.isfinite(log_ratio) & np.isfinite(doubt)
    seen = np.sqrt(np.maximum(chosen.visible.sum(0), 1))
    limit = _usable_doubt(log_ratio, use, solved.doubt)
    use &= (solved.doubt < limit) & (solved.doubt * seen * slip < _SLIP * limit)
    frame, _ = np.nonzero(use)
    place = chosen.uv[use].astype(np.float64) / [scene.width, scene.height]
    column, row = np.clip(place * BLOCKS, 0, np.array(BLOCKS) - 1).astype(int).T
    cell = row * BLOCKS[0] + column
    block = cell + 1000 * (frame * 4 // max(len(scene), 1))
    # path and depth may differ in scale as a whole; patterns must not tell open blocks from closed ones by that
    middle = float(np.median(log_ratio[use])) if use.any() else 0.0
    return _Ratios(frame, place, log_ratio[use] - middle, doubt[use], cell, block)


def _usable_doubt(log_ratio: np.ndarray, use: np.ndarray, doubt: np.ndarray) -> float:
    """As much doubt as the depth is off, where points are surest: averages of worse ones are no better than it."""
    sure = use & (doubt <= np.quantile(doubt, 0.25)) if len(doubt) else use
    values = log_ratio[sure]
    if not len(values):
        return _LEAST_DOUBT
    off = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return float(np.clip(off, _LEAST_DOUBT, _DOUBT))


def _spread(ratios: _Ratios) -> float:
    """Robust standard deviation of the ratios."""
    return 1.4826 * float(np.median(np.abs(ratios.log_ratio - np.median(ratios.log_ratio))))


def _left(mine: _Ratios, field: DepthField) -> tuple[np.ndarray, np.ndarray]:
    """Absolute ratios of one half before and after a field of the other, the overall size aside."""
    after = mine.without(field).log_ratio
    before = np.abs(mine.log_ratio - np.median(mine.log_ratio))
    return np.minimum(before, 0.5), np.minimum(np.abs(after - np.median(after)), 0.5)


def _agreeing(sides: list[tuple[_Ratios, DepthField]]) -> Bool[np.ndarray, "r c"]:
    """Blocks of the image in which the field of either half helps the other."""
    total = BLOCKS[0] * BLOCKS[1]
    gate = np.ones(total, bool)
    for mine, field in sides:
        before, after = _left(mine, field)
        count = np.bincount(mine.cell, minlength=total)
        gain = np.bincount(mine.cell, before - after, total)
        gate &= (count >= _ENOUGH) & (gain > 0)
    return gate.reshape(BLOCKS[1], BLOCKS[0])


def _verdict(sides: list[tuple[_Ratios, DepthField]], gate: np.ndarray | None = None) -> Verdict:
    """What is left of each half's ratios after the field of the other, in the blocks that are open."""
    rows = []
    for mine, field in sides:
        before, after = _left(mine, field)
        inside = np.ones(len(before), bool) if gate is None else gate.ravel()[mine.cell]
        rows.append((before[inside], after[inside], mine.block[inside]))
    before, after, block = (np.concatenate(column) for column in zip(*rows, strict=True))
    return compared(before, after, block)
