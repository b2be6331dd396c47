"""The last step: windows that have been placed, as one Scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from worldline.engines.any4d.observed import Conditions
from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.geometry.sim3 import Sim3
from worldline.scene.observations import CameraMotion

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


def given_from_found(
    motion: CameraMotion | None, world_from_cam: Float[np.ndarray, "t 4 4"], *, metric: bool
) -> tuple[Sim3, bool]:
    """The similarity that brings cameras to those that are known, and whether these gave them their scale.

    Rotations say how the world is turned, centres where it is; and how large it is, where they are metres, lie apart,
    and no depth sensor said it before (`metric`).
    """
    identity = Sim3(torch.ones((), dtype=torch.float64), torch.eye(3, dtype=torch.float64), torch.zeros(3).double())
    if motion is None or not motion.turned_frames.any():
        return identity, False
    turned, placed = motion.turned_frames, motion.given_frames
    given, found = (torch.from_numpy(np.array(m, dtype=np.float64)) for m in (motion.world_from_cam, world_from_cam))
    turns = given[turned, :3, :3] @ found[turned, :3, :3].transpose(-1, -2)
    rotation = se3.nearest_rotation(turns.mean(0))
    if not placed.any():
        return identity._replace(rotation=rotation), False
    a, b = given[placed, :3, 3], found[placed, :3, 3] @ rotation.T
    along = ((a - a.mean(0)) * (b - b.mean(0))).sum() / ((b - b.mean(0)) ** 2).sum()
    sizes = motion.metric and not metric and bool(along.isfinite()) and float(along) > 0
    scale = along if sizes else identity.scale
    return Sim3(scale, rotation, a.mean(0) - scale * b.mean(0)), sizes
