"""The camera of a clip, from the rays that the network predicts or from what is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from worldline.engines.any4d.observed import Conditions
from worldline.geometry.camera import Camera

ZOOM = 0.03
"""Log spread of the focal length over a clip from which every frame has its own."""
LEAST_FOV_DEG, MOST_FOV_DEG, USUAL_FOV_DEG = 5.0, 160.0, 60.0


@dataclass(frozen=True, eq=False)
class FoundCamera:
    """A camera, and a sentence where it is not what the network said."""

    camera: Camera
    note: str | None = None


def camera_of(conditions: Conditions, intrinsics: Float[np.ndarray, "t 4"]) -> FoundCamera:
    """The known camera, else one pinhole for all frames, or one each where the lens zooms.

    Args:
        intrinsics: of the pinhole that fits the rays of each frame, pixels of the network's images.
    """
    frame = conditions.fit
    if conditions.observed.camera is not None:
        known = conditions.observed.camera.camera
        return FoundCamera(Camera(frame.intrinsics(known.intrinsics), frame.width, frame.height, known.distortion))
    narrow, wide = (frame.width / 2 / np.tan(np.radians(d) / 2) for d in (LEAST_FOV_DEG, MOST_FOV_DEG))
    focal = intrinsics[:, :2]
    good = np.isfinite(intrinsics).all(1) & (focal < narrow).all(1) & (focal > wide).all(1)
    if not good.any():
        guess = Camera.from_fov_deg(USUAL_FOV_DEG, frame.width, frame.height)
        return FoundCamera(guess, f"the network's rays are those of no lens; {USUAL_FOV_DEG:.0f} degrees were assumed.")
    usual = np.median(intrinsics[good], axis=0)
    if np.std(np.log(focal[good]), axis=0).max() < ZOOM:
        return FoundCamera(Camera(usual, frame.width, frame.height))
    own = np.where(good[:, None], intrinsics, usual)
    return FoundCamera(Camera(own, frame.width, frame.height), "the focal length changes; every frame has its own.")
