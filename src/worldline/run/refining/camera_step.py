"""The first step of the joint refinement: cameras, kept only where three judges agree that they have become better.

Two halves of the tracks are solved apart. Where the two paths are closer to each other than to the start, the start
was the odd one out: |A - B|^2 is twice the squared error of a half, |start - B|^2 that of the start plus that of a
half. This sees errors of the path itself, where a reprojection error is blind to what points can absorb. The tracks
of one half judge the cameras of the other, and the images judge both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from worldline.geometry import se3
from worldline.run.refining.appearance import Looks, static_looks
from worldline.run.refining.joint_cameras import CameraSettings, Solved, in_gauge, solve_cameras, static_samples
from worldline.run.refining.joint_step import Stepped, done, undone
from worldline.run.refining.judging import Verdict, compared
from worldline.run.refining.sightings import Sightings, halves
from worldline.scene.scene import CameraSigma, Scene
from worldline.solve.robust import GemanMcClure
from worldline.solve.triangulation import triangulate

NAME = "refine cameras"
CONTRADICTED = "all tracks ask for others, but held-out ones or the images do not bear them out"
"""Then something is wrong with the tracks that they share, and they say nothing of depth either."""
_BOUND_PX = 3.0
"""A held-out sighting counts as at most this far off."""
_FOCAL = 0.01
"""Relative change of the focal length below which it stays: depth that is bent a little moves it as much."""
_LEAST_GAIN = 0.7
"""Share of the squared distance to the start that the distance between the halves may have."""
_SLIPS = 2.0
"""Times what a shared slip of the tracks does that cameras must be off by."""
_BAD = 5.0
"""A frame this many times as far from its solution as frames usually are is bad by itself."""


@dataclass(frozen=True, eq=False)
class Halves:
    """The structure from one half of the tracks, from the other, and from all, all in the world of the start."""

    a: Solved
    b: Solved
    both: Solved


def solved_halves(scene: Scene, found: Sightings, settings: CameraSettings) -> Halves | None:
    """Solve each half and all; the focal length stays where the halves do not agree that it is off."""
    sides = halves(found)
    parts = [solve_cameras(scene, found, use, settings) for use in (*sides, sides[0] | sides[1])]
    focal = float(scene.camera.frames(len(scene)).mean(0)[0])
    off = [np.log(part.focal / focal) for part in parts if part is not None]
    if settings.focal_sigma > 0 and len(off) == 3 and abs(off[2]) < max(_FOCAL, 3 * abs(off[0] - off[1])):
        return solved_halves(scene, found, replace(settings, focal_sigma=0.0))
    a, b, both = (None if p is None else in_gauge(scene.world_from_cam, p, settings) for p in parts)
    return None if a is None or b is None or both is None else Halves(a, b, both)


def refined_cameras(
    scene: Scene,
    found: Sightings,
    solved: Halves,
    looks: Looks | None,
    settings: CameraSettings,
    *,
    slip_px: float = 0.0,
) -> Stepped:
    """The scene with the cameras of the solution: of all frames, of those that are bad by themselves, or of none.

    Args:
        slip_px: by how much tracks may all be off together; cameras that differ by what this does are left alone.
    """
    if _as_good(scene, solved, slip_px):
        return undone(scene, NAME, "they are as good as tracks can tell", {"slip_px": round(slip_px, 3)})
    whole = _whole_path(scene, found, solved, looks, settings)
    if whole.kept or whole.step.outcome["why"] == CONTRADICTED:
        return whole
    mended = _with_bad_frames(scene, found, solved, looks, settings)
    if mended is None:
        return whole
    again = _whole_path(mended.scene, found, solved, looks, settings)
    return done(again.scene, NAME, {**again.step.outcome, **mended.step.outcome}) if again.kept else mended


def _as_good(scene: Scene, solved: Halves, slip_px: float) -> bool:
    """Whether every camera is as near to its solution as a shared slip of the tracks would move it."""
    start, both = scene.world_from_cam, solved.both.world_from_cam
    turn = _SLIPS * slip_px / solved.both.focal
    depth = float(np.median(np.asarray(scene.depth_z[:])[np.asarray(scene.valid[:])][::97]))
    usual = [float(np.sqrt(values.mean())) for values in (_apart(start, both), _turned(start, both))]
    return usual[0] < turn * depth and usual[1] < turn


def _whole_path(
    scene: Scene, found: Sightings, solved: Halves, looks: Looks | None, settings: CameraSettings
) -> Stepped:
    """The cameras of all frames."""
    path, turns = path_verdicts(scene, solved)
    fit = held_out_fit(scene, found, solved, settings)
    outcome = {**path.as_outcome("path"), **turns.as_outcome("rotation"), **fit.as_outcome("held_out_px")}
    better = path.better(ratio=_LEAST_GAIN) or turns.better(ratio=_LEAST_GAIN)
    neither_worse = not path.worse(sigmas=1.0, ratio=1.0) and not turns.worse(sigmas=1.0, ratio=1.0)
    if not (better and neither_worse):
        return undone(scene, NAME, "the halves of the tracks do not agree on better ones", outcome)
    if not fit.better(ratio=0.99):
        return undone(scene, NAME, CONTRADICTED, outcome)
    after = with_cameras(scene, solved)
    if looks is not None and (seen := static_looks(looks, scene, after)).worse():
        return undone(scene, NAME, CONTRADICTED, {**outcome, **seen.as_outcome("images")})
    return done(after, NAME, outcome)


def path_verdicts(scene: Scene, solved: Halves) -> tuple[Verdict, Verdict]:
    """Of centres and of rotations: squared distances between the halves against those to the start."""
    block = np.arange(len(scene)) * 8 // max(len(scene), 8)
    start, a, b = scene.world_from_cam, solved.a.world_from_cam, solved.b.world_from_cam
    return (
        compared(_apart(start, a) + _apart(start, b), 2 * _apart(a, b), block, fewest=1),
        compared(_turned(start, a) + _turned(start, b), 2 * _turned(a, b), block, fewest=1),
    )


def held_out_fit(scene: Scene, found: Sightings, solved: Halves, settings: CameraSettings) -> Verdict:
    """Reprojection errors of the tracks of each half under the cameras of the other, against those of the start."""
    rows = []
    for use, cameras in zip(halves(found), (solved.b, solved.a), strict=True):
        samples, columns, reference = static_samples(scene, found, use, settings.structure)
        focal = torch.tensor(reference, dtype=torch.float64)
        changed = torch.cat([focal[:2] * (cameras.focal / focal[0]), focal[2:]])
        before = _misfit(samples.uv, samples.weight, _tensor(scene.world_from_cam), focal)
        after = _misfit(samples.uv, samples.weight, _tensor(cameras.world_from_cam), changed)
        rows.append((before, after, found.block[columns]))
    before, after, block = (np.concatenate(column) for column in zip(*rows, strict=True))
    return compared(before, after, block)


def with_cameras(scene: Scene, solved: Halves, only: Bool[np.ndarray, "t"] | None = None) -> Scene:
    """The scene with new cameras in all frames or in some; their doubt is what the halves differ by."""
    chosen = np.ones(len(scene), bool) if only is None else only
    factor = solved.both.focal / float(scene.camera.frames(len(scene)).mean(0)[0]) if only is None else 1.0
    camera = replace(scene.camera, intrinsics=scene.camera.intrinsics * np.array([factor, factor, 1.0, 1.0]))
    motions = np.where(chosen[:, None, None], solved.both.world_from_cam, scene.world_from_cam)
    return replace(
        scene, world_from_cam=motions, camera=scene.camera if factor == 1.0 else camera,
        camera_sigma=_doubt(scene, solved) if only is None else scene.camera_sigma,
    )  # fmt: skip


def _with_bad_frames(
    scene: Scene, found: Sightings, solved: Halves, looks: Looks | None, settings: CameraSettings
) -> Stepped | None:
    """Only the frames that are far off by themselves, each judged by the tracks and the images that see it."""
    start, both = scene.world_from_cam, solved.both.world_from_cam
    off = np.sqrt(_apart(start, both)) / max(float(np.sqrt(np.median(_apart(start, both)))), 1e-12)
    turned = np.sqrt(_turned(start, both)) / max(float(np.sqrt(np.median(_turned(start, both)))), 1e-12)
    sure = 3 * np.sqrt(_apart(solved.a.world_from_cam, solved.b.world_from_cam)) < np.sqrt(_apart(start, both))
    bad = np.flatnonzero((np.maximum(off, turned) > _BAD) & sure)
    mended = [t for t in bad if _mends(scene, found, solved, settings, int(t))]
    if not mended:
        return None
    after = with_cameras(scene, solved, np.isin(np.arange(len(scene)), mended))
    if looks is not None and static_looks(looks, scene, after).worse():
        return None
    return done(after, NAME, {"frames": [int(t) for t in mended]})


def _mends(scene: Scene, found: Sightings, solved: Halves, settings: CameraSettings, frame: int) -> bool:
    """Whether tracks placed by the other frames fit this one better under its new pose."""
    every = np.ones(len(found.group), bool)
    samples, columns, reference = static_samples(scene, found, every, settings.structure)
    focal, cameras = _tensor(reference), _tensor(scene.world_from_cam)
    without = samples.weight.clone()
    without[frame] = 0
    new = cameras.clone()
    new[frame] = _tensor(solved.both.world_from_cam[frame])
    seen = (samples.weight[frame] > 0).numpy()
    before, after = (
        np.minimum(triangulate(samples.uv, without, m, focal).residual_px[frame].numpy()[seen], 20.0)
        for m in (cameras, new)
    )
    return compared(before, after, found.block[columns[seen]]).better(ratio=0.7)


def _misfit(uv: torch.Tensor, weight: torch.Tensor, cameras: torch.Tensor, focal: torch.Tensor) -> np.ndarray:
    """Root mean bounded square of every track's reprojection error, pixels."""
    residual = triangulate(uv, weight, cameras, focal).residual_px
    cost = GemanMcClure(_BOUND_PX).cost(residual.square().clamp_max(1e12)) * (weight > 0)
    return (cost.sum(0) / (weight > 0).sum(0).clamp_min(1)).sqrt().numpy()


def _apart(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "t"]:
    """Squared distance of centres."""
    return ((a[:, :3, 3] - b[:, :3, 3]) ** 2).sum(1)


def _turned(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "t"]:
    """Squared angle between rotations."""
    turn = _tensor(a[:, :3, :3]).transpose(-1, -2) @ _tensor(b[:, :3, :3])
    return se3.so3_log(turn).square().sum(-1).numpy()


def _doubt(scene: Scene, solved: Halves) -> CameraSigma:
    """Per axis: half of what the halves differ by, of a frame and of the whole clip."""
    a, b = solved.a.world_from_cam, solved.b.world_from_cam
    square = [0.5 * (values + values.mean()) / 3 / 4 for values in (_apart(a, b), _turned(a, b))]
    focal = CameraSettings().focal_sigma if scene.camera_sigma is None else scene.camera_sigma.focal
    return CameraSigma(np.sqrt(square[0]), np.sqrt(square[1]), focal)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))
