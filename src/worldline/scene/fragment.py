"""Fragment: what a network says about one window, before anyone made it consistent with other windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from worldline.geometry.camera import Camera


@dataclass(frozen=True, eq=False)
class Fragment:
    """Predictions for V frames, each optional, in the window's own frame and gauge; sigma beside each is relative.

    Attributes:
        frames: (V,) indices of the window's frames in the video.
        points: (V, h, w, 3); disparity: (V, h, w), up to scale and shift; rays: (V, h, w, 6) Pluecker coordinates;
        depth_ray: (V, h, w) along the ray; rays_cam: (V, h, w, 3) unit rays in the camera; valid: (V, h, w) where there
        is geometry. flow: (V, h, w, 3) displacement from the reference frame, world axes.
        world_from_cam: (V, 4, 4); scale: metres per unit, when the network is metric.
    """

    frames: Integer[np.ndarray, "v"]
    points: Float[np.ndarray, "v h w 3"] | None = None
    points_sigma: Float[np.ndarray, "v h w"] | None = None
    disparity: Float[np.ndarray, "v h w"] | None = None
    disparity_sigma: Float[np.ndarray, "v h w"] | None = None
    rays: Float[np.ndarray, "v h w 6"] | None = None
    rays_sigma: Float[np.ndarray, "v h w"] | None = None
    depth_ray: Float[np.ndarray, "v h w"] | None = None
    depth_sigma: Float[np.ndarray, "v h w"] | None = None
    rays_cam: Float[np.ndarray, "v h w 3"] | None = None
    valid: Bool[np.ndarray, "v h w"] | None = None
    flow: Float[np.ndarray, "v h w 3"] | None = None
    flow_sigma: Float[np.ndarray, "v h w"] | None = None
    camera: Camera | None = None
    world_from_cam: Float[np.ndarray, "v 4 4"] | None = None
    scale: float | None = None
