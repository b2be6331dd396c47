"""Protocols: every choice that changes a number, under one name that is stored with the number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from worldline.errors import InputError
from worldline.evaluate.alignment import Kind


@dataclass(frozen=True)
class Protocol:
    """How a scene is compared with the truth.

    Attributes:
        path_alignment: of camera centres, see `alignment.align_poses`. rpe_delta: frames between relative poses.
        depth_alignment: a name of `depth.align`, found on the truly static pixels, or on all.
        depth_cap_m: pixels truly further away are left out; None keeps all.
        depth_weighting: every pixel of the video the same, or every frame.
        mask_skip_ends: leave out the first and the last frame of J, as DAVIS does.
        track_alignment: kind of the trimmed alignment on truly static pixels that is applied to tracks.
        match_px: a predicted and a true track belong together when this close in the predicted track's query frame.
        cover_px: a true sample counts as covered when an estimated track has a position this close in its frame.
        max_gap_s: time stamps further apart are not paired; None is half a frame.
    """

    name: str
    path_alignment: Kind = "sim3"
    rpe_delta: int = 1
    depth_alignment: str = "median"
    depth_fit_on: Literal["static", "all"] = "static"
    depth_cap_m: float | None = None
    depth_weighting: Literal["pixels", "frames"] = "pixels"
    mask_skip_ends: bool = False
    track_alignment: Kind = "sim3"
    match_px: float = 1.5
    cover_px: float = 10.0
    max_gap_s: float | None = None


@dataclass(frozen=True)
class PointProtocol:
    """How points followed through a clip are compared with those of a benchmark.

    Results are comparable when their protocols are equal, in every item.

    Attributes:
        measure: "tapvid3d" (AJ, APD, OA in the axes of each camera), "worldtrack" (APD and EPE in the axes of the first
            camera, of all points and of those that move) or "allocentric" (EPE, inliers, outliers there).
        alignment: what is applied to the estimate first; each measure has its own names.
        thresholds: of a hit: pixels at the point's depth ("px"), metres ("m"), or inlier and outlier as shares of the
            point's distance ("share").
        queries: "annotated": every point from the frame and pixel that the benchmark gives; "first frame": the points
            that are visible in frame 0, from where they truly are in it. The prediction is read at floor(uv), uv scaled
            to its size.
        judged: the samples that count: truly "visible" ones, or "all" that the truth has.
        max_frames: the clip is its first frames; None: all. Query frames are judged like the others.
        resolution_px: smaller side of the image in which pixels of thresholds and of match_px count.
        match_px: where a scene has tracks and no dense flow, a query is answered by the nearest track that is seen in
            its frame, if within this distance; else it is not answered, which counts as a miss.
        behind: where a scene has dense flow, a point is said to be visible where it lies in the image and at most this
            share of its depth behind the depth map.
        neighbourhood_m: of the alignment local_neighborhood. moves_m: points whose path is longer move.
        seed: of alignments that sample.
    """

    name: str
    measure: Literal["tapvid3d", "worldtrack", "allocentric"]
    alignment: str
    thresholds: tuple[float, ...]
    threshold_unit: Literal["px", "m", "share"]
    queries: Literal["annotated", "first frame"] = "first frame"
    judged: Literal["visible", "all"] = "all"
    max_frames: int | None = 64
    resolution_px: int = 256
    match_px: float = 8.0
    behind: float = 0.05
    neighbourhood_m: float = 0.05
    moves_m: float = 0.01
    seed: int = 0


AnyProtocol = Protocol | PointProtocol

_PIXELS = (1.0, 2.0, 4.0, 8.0, 16.0)
_METRES = (0.01, 0.04, 0.16, 0.64, 2.56)
_TAPVID3D = (
    "median", "mean", "none", "per_trajectory", "local_neighborhood", "median_on_queries", "reproduce_2d",
)  # fmt: skip
_WORLDTRACK = ("median", "none", "per_trajectory", "sim3", "sim3_ransac")
_ALLOCENTRIC = ("none", "median", "sim3")


def _tapvid3d(alignment: str, *, first: bool = False, fixed: bool = False) -> PointProtocol:
    """The published scorer's; `first`: as methods are judged that start from the first frame; `fixed`: in metres."""
    name = f"tapvid3d-{alignment.replace('_', '-')}" + "-fixed" * fixed + "-first" * first
    rules = PointProtocol(name, "tapvid3d", alignment, _METRES if fixed else _PIXELS, "m" if fixed else "px")
    rules = replace(rules, judged="visible")
    return rules if first else replace(rules, queries="annotated", max_frames=None)


def _in_first_camera(measure: Literal["worldtrack", "allocentric"], alignment: str) -> PointProtocol:
    name = f"{measure}-{alignment.replace('_', '-')}"
    if measure == "allocentric":
        return PointProtocol(name, measure, alignment, (0.10, 0.15), "share")
    return PointProtocol(name, measure, alignment, (0.1, 0.3, 0.5, 1.0), "m")


_OF_SCENES = (
    Protocol("default"),
    Protocol("metric", path_alignment="se3", depth_alignment="none", track_alignment="se3"),
)
_OF_POINTS = (
    *(_tapvid3d(alignment) for alignment in _TAPVID3D),
    *(_tapvid3d(alignment, first=True) for alignment in ("median", "none")),
    *(_tapvid3d(alignment, fixed=True) for alignment in ("median", "none")),
    *(_in_first_camera("worldtrack", alignment) for alignment in _WORLDTRACK),
    *(_in_first_camera("allocentric", alignment) for alignment in _ALLOCENTRIC),
)
PROTOCOLS: dict[str, AnyProtocol] = {
    **{rules.name: rules for rules in _OF_SCENES},
    **{rules.name: rules for rules in _OF_POINTS},
}
"""default: up to one similarity and one depth scale. metric: lengths are judged as they are, in metres. The others
belong to benchmarks; their names are the measure and what is applied to the estimate."""


def protocol(name_or_value: str | AnyProtocol) -> AnyProtocol:
    """The protocol of a name, or the value itself. Raises InputError for an unknown name."""
    if isinstance(name_or_value, AnyProtocol):
        return name_or_value
    if name_or_value not in PROTOCOLS:
        raise InputError(f"there is no protocol {name_or_value!r}; choose one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name_or_value]


def protocol_from_json(plain: Mapping[str, Any]) -> AnyProtocol:
    """The protocol stored with a number. Raises TypeError for one with other items than today's."""
    if "measure" in plain:
        return PointProtocol(**{**plain, "thresholds": tuple(plain["thresholds"])})
    return Protocol(**plain)
