"""Two scenes of the same clip side by side: how far apart their cameras, depth, masks and tracks are, and where most.

Neither is the truth, so differences are symmetric where they can be: depth differences are logarithms, and are also
told in standard deviations of both scenes together (0.67 in the median if both sigmas are true and independent).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from worldline.errors import InputError
from worldline.evaluate import masks, motion, paths
from worldline.evaluate.calibration import error_in_sigma
from worldline.evaluate.correspondence import FramePairs, nearest_frame, paired_frames, paired_tracks, static_alignment
from worldline.scene.scene import Scene

_MATCH_PX = 1.5
"""Tracks that start within so many pixels of each other are the same."""
_OTHER_PICTURE = 30.0
"""Mean difference in grey levels from which two pictures are not of the same moment."""
_WORST = 5
_COLUMNS = ("centre", "turn_deg", "depth_pct", "depth_sigmas", "mask_j")


@dataclass(frozen=True, eq=False)
class Frames:
    """Differences in each common frame, (P,) each; NaN where a quantity is missing on one side.

    Attributes:
        centre: distance of the camera centres after the alignment, units of the second scene. turn_deg: of rotations,
            after one common rotation.
        depth_pct: median |log ratio| of common pixels after one scale, in %; depth_sigmas: the same in sigmas of both.
        mask_j: overlap of the moving masks.
    """

    first: Float[np.ndarray, "p"]
    times_s: Float[np.ndarray, "p"]
    centre: Float[np.ndarray, "p"]
    turn_deg: Float[np.ndarray, "p"]
    depth_pct: Float[np.ndarray, "p"]
    depth_sigmas: Float[np.ndarray, "p"]
    mask_j: Float[np.ndarray, "p"]

    def worst(self, count: int = _WORST) -> list[int]:
        """Places of the frames that differ most: by their mean rank over all quantities."""
        ranks = []
        for name in _COLUMNS:
            values = getattr(self, name) * (-1 if name == "mask_j" else 1)
            if np.isfinite(values).any():
                ranks.append(np.argsort(np.argsort(np.nan_to_num(values, nan=-np.inf), kind="stable")))
        order = np.argsort(-np.mean(ranks, axis=0), kind="stable") if ranks else np.arange(len(self.first))
        return [int(i) for i in order[:count]]


@dataclass(frozen=True, eq=False)
class Comparison:
    """How two scenes differ.

    Attributes:
        first, second: their names. metrics: name -> value, the unit at the end of the name; NaN where undefined.
        frames: differences per common frame. only_first, only_second: notes that one of them has. notes: for the user.
    """

    first: str
    second: str
    metrics: Mapping[str, float]
    frames: Frames
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; undefined numbers are None."""
        rows = {name: [_plain(x) for x in values.tolist()] for name, values in vars(self.frames).items()}
        return {
            "first": self.first,
            "second": self.second,
            "metrics": {name: _plain(value) for name, value in self.metrics.items()},
            "frames": rows,
            "worst_frames": [int(self.frames.first[i]) for i in self.frames.worst()],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """Tables for people: the whole clip, then the frames that differ most."""
        width = max(len(name) for name in self.metrics)
        return "\n".join(
            [
                f"A = {self.first}, B = {self.second}, {len(self.frames.first)} common frames",
                *(f"  {name:<{width}}  {_number(value):>10}" for name, value in self.metrics.items()),
                "frames that differ most:",
                "  " + "".join(f"{name:>14}" for name in ("frame of A", "time_s", *_COLUMNS)),
                *(self._row(i) for i in self.frames.worst()),
                *(f"  only A notes: {note}" for note in self.only_first),
                *(f"  only B notes: {note}" for note in self.only_second),
                *(f"  note: {note}" for note in self.notes),
            ]
        )

    def _row(self, place: int) -> str:
        values = [getattr(self.frames, name)[place] for name in ("times_s", *_COLUMNS)]
        return f"  {int(self.frames.first[place]):>14}" + "".join(f"{_number(float(v)):>14}" for v in values)


def compare(a: Scene, b: Scene) -> Comparison:
    """Compare two scenes of one clip: frames by time stamps, other sizes resampled, after one similarity of the path.

    Raises:
        InputError: no frame in common.
    """
    pairs = _common_frames(a, b)
    found = paths.path_scores(a.world_from_cam[pairs.estimate], b.world_from_cam[pairs.truth])
    aligned = found.alignment.apply_to_cameras(a.world_from_cam[pairs.estimate])
    log_scale = _depth_scale(a, b, pairs)
    rows = [_maps(a, b, int(f), int(g), log_scale) for f, g in zip(pairs.estimate, pairs.truth, strict=True)]
    depth_pct, sigmas, overlap, depth_size = (np.array(column) for column in zip(*rows, strict=True))
    frames = Frames(
        first=pairs.estimate.astype(float), times_s=a.times_s[pairs.estimate],
        centre=np.linalg.norm(aligned[:, :3, 3] - b.world_from_cam[pairs.truth, :3, 3], axis=-1),
        turn_deg=_turns_deg(a.world_from_cam[pairs.estimate], b.world_from_cam[pairs.truth]),
        depth_pct=depth_pct, depth_sigmas=sigmas, mask_j=overlap,
    )  # fmt: skip
    focal_a, focal_b = (s.camera.focal / s.width for s in (a, b))
    metrics = {
        "path_ate_pct": found.ate_pct,
        "path_scale": found.alignment.scale,
        "rpe_t_pct_of_depth": 100 * found.rpe_t_m / _nanmedian(depth_size),
        "rpe_r_deg": found.rpe_r_deg,
        "focal_a_px": _original_focal(a),
        "focal_b_px": _original_focal(b),
        "focal_difference_pct": 100 * (focal_a / focal_b - 1),
        "depth_scale": float(np.exp(log_scale)),
        "depth_difference_pct": _nanmedian(depth_pct),
        "depth_difference_sigmas": _nanmedian(sigmas),
        "mask_j": _nanmean(overlap),
        **_tracks(a, b, pairs),
    }
    return Comparison(
        a.name, b.name, metrics, frames, _missing(a.notes, b.notes), _missing(b.notes, a.notes), _notes(a, b, pairs)
    )


def _common_frames(a: Scene, b: Scene) -> FramePairs:
    pairs = paired_frames(a.times_s, b.times_s) if _overlap(a, b) else None
    if pairs is None or _furthest_s(a, b, pairs) > np.median(np.diff(a.times_s)):
        raise InputError(
            f"{a.name} ({_span(a)}) and {b.name} ({_span(b)}) have no frame in common; compare two scenes of one clip."
        )
    return pairs


def _overlap(a: Scene, b: Scene) -> bool:
    return bool(a.times_s[0] <= b.times_s[-1] and b.times_s[0] <= a.times_s[-1])


def _furthest_s(a: Scene, b: Scene, pairs: FramePairs) -> float:
    """The largest difference of stamps: frames that were paired by their count may be of other moments."""
    return float(np.abs(a.times_s[pairs.estimate] - b.times_s[pairs.truth]).max())


def _span(scene: Scene) -> str:
    return f"{scene.times_s[0]:.3f} to {scene.times_s[-1]:.3f} s"


def _turns_deg(cameras: np.ndarray, other: np.ndarray) -> Float[np.ndarray, "p"]:
    """Angle between orientations, from the trace and the skew part, which is exact for small angles.

    Under the one rotation that brings all of them together: centres on a straight line do not determine it.
    """
    common = np.einsum("tij,tkj->ik", other[:, :3, :3], cameras[:, :3, :3])
    u, _, vt = np.linalg.svd(common)
    common = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    turn = np.einsum("tji,jk,tkl->til", other[:, :3, :3], common, cameras[:, :3, :3])
    skew = turn - turn.transpose(0, 2, 1)
    sine = np.linalg.norm(np.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], -1), axis=-1) / 2
    return np.degrees(np.arctan2(sine, (np.trace(turn, axis1=1, axis2=2) - 1) / 2))


def _both(a: Scene, b: Scene, frame: int, other: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth of both scenes on the grid of the first, and the pixels where both have one."""
    size = a.height, a.width
    z, other_z = np.asarray(a.depth_z[frame]), nearest_frame(np.asarray(b.depth_z[other]), *size)
    valid = np.asarray(a.valid[frame]) & nearest_frame(np.asarray(b.valid[other]), *size)
    return z, other_z, valid & (z > 0) & (other_z > 0)


def _depth_scale(a: Scene, b: Scene, pairs: FramePairs) -> float:
    """Log of the factor that takes depths of the first to those of the second: median of the frames' medians."""
    medians = []
    for f, g in zip(pairs.estimate, pairs.truth, strict=True):
        z, other_z, both = _both(a, b, int(f), int(g))
        if both.any():
            medians.append(float(np.median(np.log(other_z[both] / z[both]))))
    return float(np.median(medians)) if medians else math.nan


def _maps(a: Scene, b: Scene, frame: int, other: int, log_scale: float) -> tuple[float, float, float, float]:
    """Depth difference in % and in sigmas, mask overlap and median depth of one pair of frames."""
    size = a.height, a.width
    z, other_z, both = _both(a, b, frame, other)
    moving, other_moving = np.asarray(a.moving[frame]), nearest_frame(np.asarray(b.moving[other]), *size)
    overlap = float(masks.region_similarity(moving[None], other_moving[None])[0])
    if not both.any():
        return math.nan, math.nan, overlap, math.nan
    off = np.log(other_z[both] / z[both]) - log_scale
    other_sigma = nearest_frame(np.asarray(b.depth_sigma[other]), *size)[both]
    sigma = np.hypot(np.asarray(a.depth_sigma[frame])[both], other_sigma)
    return 100 * float(np.median(np.abs(off))), error_in_sigma(off, sigma), overlap, float(np.median(other_z[both]))


def _tracks(a: Scene, b: Scene, pairs: FramePairs) -> dict[str, float]:
    """Distances of tracks that start together, in % of their distance from the camera; nothing without such tracks."""
    found = static_alignment(a, b, pairs, kind="sim3")
    matched = None if found is None else paired_tracks(a, b, pairs, found, match_px=_MATCH_PX)
    if matched is None:
        return {}
    away = np.linalg.norm(matched.truth - b.world_from_cam[pairs.truth, None, :3, 3], axis=-1)[..., None]
    scaled, other = matched.points / away, matched.truth / away
    metrics = {"track_matched": matched.matched}
    for name, moving in (("static", False), ("moving", True)):
        scores = motion.track_scores(scaled, other, matched.visible & (matched.moving == moving))
        metrics[f"track_difference_{name}_pct"] = 100 * scores.epe_median_m
    return metrics


def _notes(a: Scene, b: Scene, pairs: FramePairs) -> tuple[str, ...]:
    notes = [pairs.how + "."]
    if a.metric != b.metric:
        notes.append(f"only {'A' if a.metric else 'B'} is metric ({(a if a.metric else b).metric_source}).")
    if (a.width, a.height) != (b.width, b.height):
        notes.append(f"A has {a.width}x{a.height} pixels and B {b.width}x{b.height}; B was resampled to A.")
    if _pictures_differ(a, b, pairs):
        notes.append("the pictures of the common frames are not alike; are these scenes of the same clip?")
    return tuple(notes)


def _pictures_differ(a: Scene, b: Scene, pairs: FramePairs) -> bool:
    if a.image is None or b.image is None:
        return False
    middle = len(pairs) // 2
    first, second = (
        nearest_frame(np.asarray(image[int(at[middle])]), 24, 32).astype(float)
        for image, at in ((a.image, pairs.estimate), (b.image, pairs.truth))
    )
    return float(np.abs(first - second).mean()) > _OTHER_PICTURE


def _original_focal(scene: Scene) -> float:
    """Focal length in pixels of the original image."""
    assert scene.original_size is not None
    return scene.camera.focal * scene.original_size[0] / scene.width


def _missing(notes: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(note for note in notes if note not in others)


def _nanmedian(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan


def _nanmean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"
