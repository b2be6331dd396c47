"""The report: a scene against the truth, every number with the protocol, alignments and frames it was taken on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from worldline.data.sequence import TrackTruth, track_truth
from worldline.errors import FormatError, InputError
from worldline.evaluate import calibration, depth, masks, motion, paths
from worldline.evaluate.correspondence import (
    FramePairs,
    nearest_frame,
    paired_frames,
    paired_tracks,
    static_alignment,
    track_coverage,
)
from worldline.evaluate.point_tracks import compare_points
from worldline.evaluate.protocols import AnyProtocol, PointProtocol, Protocol, protocol_from_json
from worldline.evaluate.protocols import protocol as named_protocol
from worldline.scene.scene import Scene

_BY_REGION = ("abs_rel", "delta_1", "coverage")
"""What is told of the static and of the moving part by itself."""
_CALIBRATION_PIXELS = 4_000_000
"""Pixels on which sigma is judged, spread evenly over the video: more do not change a median."""


@dataclass(frozen=True)
class Report:
    """Numbers and all that is needed to compare them with others.

    Attributes:
        scene, truth: names. metrics: name -> value, the unit at the end of the name (`ate_m`, `rpe_r_deg`,
        `focal_error_pct`; without one a share or a ratio); NaN where a quantity is not defined.
        protocol: how it was compared. alignment: what was applied to the estimate, per quantity.
        frames: indices of the scene's frames that were compared. notes: sentences for the reader.
    """

    scene: str
    truth: str
    metrics: Mapping[str, float]
    protocol: AnyProtocol
    alignment: Mapping[str, str] = field(default_factory=dict)
    frames: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; undefined numbers are None."""
        plain = asdict(self)
        plain["metrics"] = {k: v if math.isfinite(v) else None for k, v in self.metrics.items()}
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Report:
        """The report behind `as_json`.

        Raises:
            FormatError: these are not the values of a report.
        """
        try:
            return cls(
                plain["scene"],
                plain["truth"],
                {k: math.nan if v is None else float(v) for k, v in plain["metrics"].items()},
                protocol_from_json(plain["protocol"]),
                dict(plain["alignment"]),
                tuple(plain["frames"]),
                tuple(plain["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"this is no report ({error!r}); write one with worldline evaluate --json.") from error

    def as_text(self) -> str:
        """A table for people."""
        width = max((len(name) for name in self.metrics), default=0)
        rows = [f"  {name:<{width}}  {_number(value):>10}" for name, value in self.metrics.items()]
        how = [f"  {what} alignment: {name}" for what, name in self.alignment.items()]
        head = f"{self.scene} against {self.truth}, protocol {self.protocol.name}, {len(self.frames)} frames"
        return "\n".join([head, *rows, *how, *(f"  note: {note}" for note in self.notes)])


def evaluate(scene: Scene, truth: Scene | TrackTruth, *, protocol: str | AnyProtocol = "default") -> Report:
    """Compare a scene with the true one, quantity by quantity.

    Frames are paired by time stamps, or by count where no stamps agree. True maps are brought to the scene's grid
    by nearest pixel. Depth and tracks are judged on truly static and truly moving parts by themselves. Tracks are
    compared where they start within `match_px` of a true track, after one alignment on static pixels. `_in_sigma` is a
    median |error| / sigma (0.67 is perfect), `depth_sigma_halves` the error of the surer half of the pixels over that
    of the other.

    A protocol of a benchmark (`PointProtocol`) compares points only; `truth` may then be that of a dataset.

    Raises:
        InputError: no common frames, an unknown protocol, or a truth without what the protocol compares.
    """
    rules = named_protocol(protocol)
    if isinstance(rules, PointProtocol):
        return _point_report(scene, truth, rules)
    truth = truth.as_scene() if isinstance(truth, TrackTruth) else truth
    pairs = paired_frames(scene.times_s, truth.times_s, max_gap_s=rules.max_gap_s)
    parts = [
        _path_part(scene, truth.world_from_cam[pairs.truth], pairs, rules),
        _camera_part(scene, truth, pairs),
        _map_part(scene, truth, pairs, rules),
        _track_part(scene, truth, pairs, rules),
    ]
    return _report(scene, truth.name, pairs, rules, parts)


def evaluate_path(
    scene: Scene,
    times_s: Float[np.ndarray, "t"],
    world_from_cam: Float[np.ndarray, "t 4 4"],
    *,
    protocol: str | Protocol = "default",
    truth_name: str = "path",
) -> Report:
    """Compare a scene's cameras with a true path (seconds, camera to world), where nothing else is known.

    Raises:
        InputError: no common time stamps, poses that are not finite, or an unknown protocol.
    """
    rules = named_protocol(protocol)
    if isinstance(rules, PointProtocol):
        raise InputError(f"the protocol {rules.name} needs true points, not only a path; choose default or metric.")
    paths.checked(world_from_cam, "the true path")
    pairs = paired_frames(scene.times_s, np.asarray(times_s, dtype=np.float64), max_gap_s=rules.max_gap_s)
    return _report(scene, truth_name, pairs, rules, [_path_part(scene, world_from_cam[pairs.truth], pairs, rules)])


def _point_report(scene: Scene, truth: Scene | TrackTruth, rules: PointProtocol) -> Report:
    points = truth if isinstance(truth, TrackTruth) else track_truth(truth)
    found = compare_points(scene, points, rules)
    return Report(scene.name, truth.name, found.metrics, rules, {"points": found.alignment}, found.frames, found.notes)


@dataclass(frozen=True)
class _Part:
    metrics: Mapping[str, float]
    alignment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _report(scene: Scene, truth_name: str, pairs: FramePairs, rules: Protocol, parts: list[_Part]) -> Report:
    return Report(
        scene=scene.name,
        truth=truth_name,
        metrics={name: value for part in parts for name, value in part.metrics.items()},
        protocol=rules,
        alignment={what: name for part in parts for what, name in part.alignment.items()},
        frames=tuple(int(f) for f in pairs.estimate),
        notes=(pairs.how + ".", *(note for part in parts for note in part.notes)),
    )


def _path_part(scene: Scene, truth: np.ndarray, pairs: FramePairs, rules: Protocol) -> _Part:
    estimate = scene.world_from_cam[pairs.estimate]
    found = paths.path_scores(estimate, truth, alignment=rules.path_alignment, delta=rules.rpe_delta)
    names = ("ate_m", "ate_pct", "rpe_t_m", "rpe_r_deg", "path_length_m")
    metrics = {name: getattr(found, name) for name in names}
    if scene.metric and rules.path_alignment == "sim3":
        metrics["ate_se3_m"] = paths.path_scores(estimate, truth, alignment="se3").ate_m
        metrics["scale_error_pct"] = 100 * (1 / found.alignment.scale - 1)
    if (sigma := scene.camera_sigma) is not None:
        here = replace(sigma, centre=sigma.centre[pairs.estimate], rotation_rad=sigma.rotation_rad[pairs.estimate])
        judged = calibration.camera_calibration(estimate, truth, here, metric=scene.metric)
        metrics |= {"centre_error_in_sigma": judged.centre, "rotation_error_in_sigma": judged.rotation}
    return _Part(metrics, {"path": found.alignment.name})


def _camera_part(scene: Scene, truth: Scene, pairs: FramePairs) -> _Part:
    """Focal length in image widths, so that the two may have different sizes."""
    focal = scene.camera.frames(len(scene))[pairs.estimate, 0].mean() / scene.width
    true_focal = truth.camera.frames(len(truth))[pairs.truth, 0].mean() / truth.width
    metrics = {"focal_error_pct": float(100 * (focal / true_focal - 1))}
    if scene.camera_sigma is not None:
        off = np.log(np.array([focal / true_focal]))
        metrics["focal_error_in_sigma"] = calibration.error_in_sigma(off, np.array([scene.camera_sigma.focal]))
    return _Part(metrics)


def _map_part(scene: Scene, truth: Scene, pairs: FramePairs, rules: Protocol) -> _Part:
    size = scene.height, scene.width
    frames, true_frames = pairs.estimate.tolist(), pairs.truth.tolist()
    true_z = np.stack([nearest_frame(_known_depth(truth, g), *size) for g in true_frames])
    true_moving = np.stack([nearest_frame(np.asarray(truth.moving[g]), *size) for g in true_frames])
    depth_z = np.stack([_known_depth(scene, f) for f in frames])
    similarity = masks.region_similarity(np.stack([np.asarray(scene.moving[f]) for f in frames]), true_moving)
    metrics = {"mask_j": masks.mean_over_frames(similarity, skip_ends=rules.mask_skip_ends)}
    where = depth.regions(true_moving)
    fit_on = where[rules.depth_fit_on]
    if not ((true_z > 0) & (depth_z > 0) & fit_on).any():
        return _Part(metrics, notes=("depth is not compared: no pixel has both a depth and a true depth.",))
    found = depth.align(depth_z, true_z, fit_on, name=rules.depth_alignment)
    compared = depth.scores_by_region(
        depth_z, true_z, where, found, cap_m=rules.depth_cap_m, weighting=rules.depth_weighting
    )
    metrics |= depth.named(compared["all"], "depth_")
    for region in ("static", "moving"):
        part = depth.named(compared[region], "depth_", f"_{region}")
        metrics |= {name: part[name] for name in (f"depth_{kind}_{region}" for kind in _BY_REGION)}
    if scene.metric and truth.metric and rules.depth_alignment != "none":
        raw = depth.scores(depth_z, true_z, where["all"], depth.align(depth_z, true_z, fit_on, name="none"))
        metrics["depth_abs_rel_unaligned"] = raw.abs_rel
    metrics |= _depth_in_sigma(scene, frames, depth_z, true_z, found, where["moving"])
    return _Part(metrics, {"depth": f"{found.name}, found on {rules.depth_fit_on} pixels"})


def _depth_in_sigma(
    scene: Scene,
    frames: list[int],
    depth_z: np.ndarray,
    true_z: np.ndarray,
    alignment: depth.DepthAlignment,
    moving: np.ndarray,
) -> dict[str, float]:
    """Calibration of the depth of compared frames, on an even choice of the pixels that are known on both sides."""
    step = max(1, depth_z.size // _CALIBRATION_PIXELS)
    rows = []
    for i, frame in enumerate(frames):
        chosen = np.flatnonzero((depth_z[i] > 0) & (true_z[i] > 0))[::step]
        aligned = alignment.apply(depth_z[i].astype(np.float64), i).reshape(-1)[chosen]
        log_error = np.log(aligned / true_z[i].reshape(-1)[chosen])
        sigma = np.asarray(scene.depth_sigma[frame]).reshape(-1)[chosen].astype(np.float64)
        rows.append((log_error, sigma, moving[i].reshape(-1)[chosen]))
    log_error, sigma, moves = (np.concatenate(column) for column in zip(*rows, strict=True))
    found = calibration.depth_calibration(log_error, sigma, moves)
    return {
        "depth_error_in_sigma_static": found.static,
        "depth_error_in_sigma_moving": found.moving,
        "depth_sigma_halves": found.halves,
        "depth_abs_rel_sure": found.abs_rel_sure,
    }


def _track_part(scene: Scene, truth: Scene, pairs: FramePairs, rules: Protocol) -> _Part:
    if scene.tracks is None or truth.tracks is None:
        return _Part({})
    found = static_alignment(scene, truth, pairs, kind=rules.track_alignment)
    how = "on static pixels"
    if found is None:
        estimate, true = scene.world_from_cam[pairs.estimate], truth.world_from_cam[pairs.truth]
        found = paths.path_scores(estimate, true, alignment=rules.track_alignment).alignment
        how = "of the path"
    matched = paired_tracks(scene, truth, pairs, found, match_px=rules.match_px)
    if matched is None:
        return _Part({}, notes=("tracks are not compared: no track starts where a true one is.",))
    metrics = {"track_matched": matched.matched}
    for name, moving in (("static", False), ("moving", True)):
        scores = motion.track_scores(matched.points, matched.truth, matched.visible & (matched.moving == moving))
        metrics |= {
            f"track_epe_{name}_m": scores.epe_m,
            f"track_epe_median_{name}_m": scores.epe_median_m,
            f"track_apd_{name}": scores.apd,
            f"track_flow_epe_{name}_m": scores.flow_epe_m,
            f"track_samples_{name}": scores.samples,
            f"track_coverage_{name}": track_coverage(scene, truth, pairs, moving=moving, cover_px=rules.cover_px),
        }
    return _Part(metrics, {"tracks": f"{found.name} {how}"})


def _known_depth(scene: Scene, frame: int) -> np.ndarray:
    """Depth of a frame, 0 where it is not known."""
    return np.where(np.asarray(scene.valid[frame]), np.asarray(scene.depth_z[frame]), 0.0).astype(np.float32)


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"
