"""The state of points that are being followed through a clip: where they are, what they look like, when last seen."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.cues import patches
from worldline.cues.neighbour_motion import Config as NeighbourConfig
from worldline.cues.patches import Templates


@dataclass(frozen=True, eq=False)
class Followed:
    """N points in one frame.

    Attributes:
        track: number of the track. uv: (N, 2) place. step: (N, 2) motion of the last frame, NaN at the start.
        linear: (N, 2, 2) offsets in the frame from offsets in the template; linear_query: in the query template.
        base_px: sigma of the place where the template was cut. sigma_px: that of the present place.
        alone: frames since the template was last trusted. hidden: frames since the point was seen, 0 where it is.
        seen_frame, seen_uv: when and where it was seen last. drift_uv: where the flow alone took it from there.
        past_uv: (N, P, 2) places 1, 2, ... frames ago; past_sigma_px: (N, P) their sigma, infinite where not seen.
        near, near_weight: (N, K) tracks of its neighbours when it was seen last; of hidden points only.
        original: whether `template` is that of the query frame.
        template: the look now compared with; query_template: that of the query frame.
    """

    track: Int[np.ndarray, "n"]
    uv: Float[np.ndarray, "n 2"]
    step: Float[np.ndarray, "n 2"]
    linear: Float[np.ndarray, "n 2 2"]
    linear_query: Float[np.ndarray, "n 2 2"]
    base_px: Float[np.ndarray, "n"]
    sigma_px: Float[np.ndarray, "n"]
    alone: Int[np.ndarray, "n"]
    hidden: Int[np.ndarray, "n"]
    seen_frame: Int[np.ndarray, "n"]
    seen_uv: Float[np.ndarray, "n 2"]
    drift_uv: Float[np.ndarray, "n 2"]
    past_uv: Float[np.ndarray, "n p 2"]
    past_sigma_px: Float[np.ndarray, "n p"]
    near: Int[np.ndarray, "n k"]
    near_weight: Float[np.ndarray, "n k"]
    original: Bool[np.ndarray, "n"]
    template: Templates
    query_template: Templates

    def __len__(self) -> int:
        return len(self.track)

    def __getitem__(self, chosen: np.ndarray) -> Followed:
        """Some of the points."""
        return Followed(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def put(self, chosen: np.ndarray, **values: np.ndarray | Templates) -> Followed:
        """The same points with some arrays replaced where chosen; each value has a row for every chosen point."""
        return replace(self, **{name: _put(getattr(self, name), chosen, value) for name, value in values.items()})

    def joined(self, other: Followed) -> Followed:
        """Both, one after the other."""
        return Followed(*(_joined(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


def remembering(points: Followed) -> Followed:
    """The points as the next frame begins: their present places have become the first of the past."""
    sigma = np.where(points.hidden == 0, points.sigma_px, np.inf).astype(np.float32)
    return replace(
        points,
        past_uv=np.concatenate([points.uv[:, None], points.past_uv[:, :-1]], 1),
        past_sigma_px=np.concatenate([sigma[:, None], points.past_sigma_px[:, :-1]], 1),
    )


def started(
    image: Float[np.ndarray, "h w"],
    frame: int,
    uv: Float[np.ndarray, "n 2"],
    track: Int[np.ndarray, "n"],
    patch: patches.Config,
    neighbours: NeighbourConfig,
    past: int,
) -> Followed:
    """Points that begin here; `past` is how many frames they remember."""
    count = len(uv)
    uv = uv.astype(np.float32)
    template = patches.cut(image, uv, patch)
    zero, none = np.zeros(count, np.float32), np.zeros(count, np.int64)
    linear = np.tile(np.eye(2, dtype=np.float32), (count, 1, 1))
    return Followed(
        track=track,
        uv=uv,
        step=np.full((count, 2), np.nan, np.float32),
        linear=linear,
        linear_query=linear,
        base_px=zero,
        sigma_px=zero,
        alone=none,
        hidden=none,
        seen_frame=np.full(count, frame),
        seen_uv=uv,
        drift_uv=uv,
        past_uv=np.zeros((count, past, 2), np.float32),
        past_sigma_px=np.full((count, past), np.inf, np.float32),
        near=np.zeros((count, neighbours.count), np.int64),
        near_weight=np.zeros((count, neighbours.count), np.float32),
        original=np.ones(count, bool),
        template=template,
        query_template=template,
    )


def _put(array: Any, chosen: np.ndarray, value: Any) -> Any:
    if isinstance(array, Templates):
        return array.put(chosen, value)
    out = array.copy()
    out[chosen] = value
    return out


def _joined(a: Any, b: Any) -> Any:
    return Templates.joined(a, b) if isinstance(a, Templates) else np.concatenate([a, b])
