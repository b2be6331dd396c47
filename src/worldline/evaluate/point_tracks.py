"""A scene against the points of a benchmark, by one of its protocols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from worldline.data.sequence import TrackTruth, path_length
from worldline.errors import InputError
from worldline.evaluate import allocentric, motion, queries
from worldline.evaluate.protocols import PointProtocol
from worldline.evaluate.tapvid3d import tapvid3d_scores
from worldline.geometry import se3
from worldline.scene.scene import Scene


@dataclass(frozen=True, eq=False)
class PointComparison:
    """What was measured: metrics by name, what was applied to the estimate, the frames, sentences for the reader."""

    metrics: Mapping[str, float]
    alignment: str
    frames: tuple[int, ...]
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class _Asked:
    """The points that a protocol asks for: columns of the truth, and where and when they are given."""

    column: Int[np.ndarray, "n"]
    frame: Int[np.ndarray, "n"]
    uv: Float[np.ndarray, "n 2"]


def compare_points(scene: Scene, truth: TrackTruth, rules: PointProtocol) -> PointComparison:
    """Measure a scene on the points of a benchmark.

    Frame i of the scene must show what frame i of the truth shows.

    Raises:
        InputError: the scene lacks frames, the truth lacks poses that the protocol needs, or nothing is asked for.
    """
    truth = truth.first(rules.max_frames)
    frames = _frames(scene, truth)
    asked = _asked(truth, rules)
    smaller_px = min(truth.camera.width, truth.camera.height)
    assert scene.original_size is not None
    per_original = queries.scene_pixels_per_original(scene) * min(scene.original_size) / smaller_px
    answered = queries.answers(
        scene,
        frames[asked.frame],
        queries.scene_uv(scene, asked.uv, truth.camera.width, truth.camera.height),
        frames,
        match_px=rules.match_px * smaller_px / rules.resolution_px * per_original,
        behind=rules.behind,
    )
    measure = _in_each_camera if rules.measure == "tapvid3d" else _in_first_camera
    metrics, alignment = measure(scene, truth, asked, answered, frames, rules)
    counts = {"queries": float(len(asked.frame)), "answered": float((answered.by_flow | answered.by_tracks).mean())}
    note = (
        f"{answered.by_flow.sum()} of {len(asked.frame)} queries were answered by dense flow, "
        f"{answered.by_tracks.sum()} by the nearest track."
    )
    return PointComparison({**metrics, **counts}, alignment, tuple(frames.tolist()), (note,))


def _frames(scene: Scene, truth: TrackTruth) -> np.ndarray:
    """The scene's frame for each frame of the truth: the same number, if stamps or counts say that it is the same."""
    count = len(truth)
    if len(scene) < count:
        raise InputError(
            f"the scene has {len(scene)} frames but {count} are judged; reconstruct all of the clip's first {count}."
        )
    times_s = np.asarray(scene.times_s[:count]) - scene.times_s[0]
    gap = np.median(np.diff(truth.times_s)) / 2 if count > 1 else np.inf
    if len(scene) != count and np.abs(times_s - (truth.times_s - truth.times_s[0])).max() > gap:
        raise InputError(
            "the scene's frames are not those of the benchmark; reconstruct the clip from its first frame."
        )
    return np.arange(count)


def _asked(truth: TrackTruth, rules: PointProtocol) -> _Asked:
    if rules.queries == "annotated":
        column, frame, uv = np.arange(len(truth.query_frame)), truth.query_frame, truth.query_uv
    else:
        seen = truth.visible[0].copy()
        first_uv = truth.uv(0)
        seen &= ((first_uv >= 0) & (first_uv < [truth.camera.width, truth.camera.height])).all(-1)
        column = np.flatnonzero(seen)
        frame, uv = np.zeros(len(column), dtype=np.int64), first_uv[column]
    if len(column) == 0:
        raise InputError(f"{truth.name} has no points to ask for ({rules.queries}); choose another clip or protocol.")
    return _Asked(column, frame, uv.astype(np.float64))


Measured = tuple[dict[str, float], str]


def _in_each_camera(
    scene: Scene, truth: TrackTruth, asked: _Asked, answered: queries.Answers, frames: np.ndarray, rules: PointProtocol
) -> Measured:
    """TAPVid-3D."""
    cam_from_world = se3.inverse(torch.from_numpy(np.array(scene.world_from_cam[frames], dtype=np.float64)))
    points_cam = se3.apply(cam_from_world, torch.from_numpy(answered.points_world)).numpy()
    intrinsics = truth.camera.frames(len(truth))
    shrunk = rules.resolution_px / min(truth.camera.width, truth.camera.height)
    found = tapvid3d_scores(
        points_cam,
        answered.visible,
        truth.points_cam[:, asked.column],
        truth.visible[:, asked.column],
        focal_px=shrunk * np.sqrt(intrinsics[:, 0] * intrinsics[:, 1]) if rules.threshold_unit == "px" else None,
        thresholds=rules.thresholds,
        scaling=rules.alignment,
        query_frame=asked.frame,
        neighbourhood_m=rules.neighbourhood_m,
    )
    each = {
        f"{name}_{threshold:g}{rules.threshold_unit}": value
        for name, values in (("jaccard", found.jaccard), ("within", found.within))
        for threshold, value in zip(rules.thresholds, values, strict=True)
    }
    whole = {"average_jaccard": found.average_jaccard, "apd": found.apd, "occlusion_accuracy": found.occlusion_accuracy}
    return {**whole, **each}, f"scaling {rules.alignment}"


def _in_first_camera(
    scene: Scene, truth: TrackTruth, asked: _Asked, answered: queries.Answers, frames: np.ndarray, rules: PointProtocol
) -> Measured:
    """WorldTrack and Any4D's measures."""
    points = allocentric.in_first_camera(answered.points_world, scene.world_from_cam[frames[0]])
    true = truth.points_first[:, asked.column]
    where = np.isfinite(true).all(-1)
    if rules.judged == "visible":
        where &= truth.visible[:, asked.column]
    metrics = {}
    if scene.metric:
        first = where & np.isfinite(points).all(-1) & (np.arange(len(true)) == 0)[:, None]
        if first.any():
            distances = (allocentric.median_distance(side, first) for side in (points, true))
            metrics["scale_error"] = allocentric.scale_error(*distances)
    if rules.measure == "allocentric":
        moved, how = allocentric.aligned(points, true, where, name=rules.alignment, seed=rules.seed)
        inlier, outlier = rules.thresholds
        scores = allocentric.allocentric_scores(moved, true, where, inlier=inlier, outlier=outlier)
        found = {"epe_m": scores.epe_m, "inlier": scores.inlier, "outlier": scores.outlier, "coverage": scores.coverage}
        return {**found, **metrics}, how
    moving = path_length(true) > rules.moves_m
    overall, how = _worldtrack(points, true, where, rules, "")
    dynamic, _ = _worldtrack(points[:, moving], true[:, moving], where[:, moving], rules, "_moving")
    return {**overall, **dynamic, **metrics}, how


def _worldtrack(
    points: np.ndarray, truth: np.ndarray, where: Bool[np.ndarray, "t n"], rules: PointProtocol, suffix: str
) -> Measured:
    """APD and EPE after an alignment of these points by themselves."""
    moved, how = allocentric.aligned(points, truth, where, name=rules.alignment, seed=rules.seed)
    scores = motion.track_scores(moved, truth, where, thresholds_m=rules.thresholds)
    found = {"apd": scores.apd, "epe_m": scores.epe_m, "coverage": scores.coverage, "points": float(truth.shape[1])}
    return {f"{_before_unit(name, suffix)}": value for name, value in found.items()}, how


def _before_unit(name: str, suffix: str) -> str:
    return f"{name.removesuffix('_m')}{suffix}_m" if name.endswith("_m") else f"{name}{suffix}"
