"""Protocols: every choice that changes a number, under one name that is stored with the number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("default"),
        Protocol("metric", path_alignment="se3", depth_alignment="none", track_alignment="se3"),
    )
}
"""default: up to one similarity and one depth scale. metric: lengths are judged as they are, in metres."""


def protocol(name_or_value: str | Protocol) -> Protocol:
    """The protocol of a name, or the value itself. Raises InputError for an unknown name."""
    if isinstance(name_or_value, Protocol):
        return name_or_value
    if name_or_value not in PROTOCOLS:
        raise InputError(f"there is no protocol {name_or_value!r}; choose one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name_or_value]
