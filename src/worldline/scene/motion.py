"""Motion in the world: point tracks over time, and dense flow from a reference frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from worldline.errors import InputError
from worldline.scene.lazy import LazyArray


@dataclass(frozen=True, eq=False)
class WorldTracks:
    """Points followed through the clip, in world coordinates.

    Attributes:
        points_world: (T, N, 3) float32, units of the scene; NaN where no position is claimed.
        visible: (T, N) bool, seen by the camera in that frame.
        sigma: (T, N) float32, standard deviation of the position, units of the scene.
        colour: (N, 3) uint8. moving: (N,) bool. query_frame: (N,) int.
        observed: (N,) int, the column of the 2D tracks this one was made from; -1 for none.
        uv: (T, N, 2) float32, where the track was seen, pixels of the scene's images as filmed (lens included); NaN
            where it was not. What a refinement takes as evidence; None where it was not kept.
    """

    points_world: Float[np.ndarray, "t n 3"]
    visible: Bool[np.ndarray, "t n"]
    sigma: Float[np.ndarray, "t n"]
    colour: UInt8[np.ndarray, "n 3"]
    moving: Bool[np.ndarray, "n"]
    query_frame: Integer[np.ndarray, "n"]
    observed: Integer[np.ndarray, "n"] | None = None
    uv: Float[np.ndarray, "t n 2"] | None = None

    def __post_init__(self) -> None:
        if self.observed is None:
            object.__setattr__(self, "observed", np.full(self.points_world.shape[1], -1))
        shape = self.points_world.shape[:2]
        if self.visible.shape != shape or self.sigma.shape != shape or len(self.colour) != shape[1]:
            raise InputError("tracks, visibility, sigma and colour disagree in shape; give (T, N) for each.")
        if self.uv is not None and self.uv.shape[:2] != shape:
            raise InputError("tracks and their uv disagree in shape; give (T, N, 2).")

    def __len__(self) -> int:
        return int(self.points_world.shape[1])


@dataclass(frozen=True, eq=False)
class Flow:
    """Dense 3D motion from one frame: `displacement[t]` moves the points of frame `reference` to time t.

    Attributes:
        displacement: (T, H, W, 3) float32, world axes, units of the scene. valid: (T, H, W) bool.
    """

    reference: int
    displacement: Float[LazyArray, "t h w 3"]
    valid: Bool[LazyArray, "t h w"]
