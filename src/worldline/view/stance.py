"""Where to stand to see a scene: which way is up, where the floor is, and the first viewpoint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from worldline.scene.scene import Scene


@dataclass(frozen=True, eq=False)
class Stance:
    """A viewpoint: the eye, what it looks at, which way is up (world frame), and its vertical angle of view."""

    eye_world: Float[np.ndarray, "3"]
    target_world: Float[np.ndarray, "3"]
    up_world: Float[np.ndarray, "3"]
    fov_deg: float = 45.0

    @property
    def cam_from_world(self) -> Float[np.ndarray, "4 4"]:
        """The OpenCV camera (x right, y down, z forward) of this viewpoint."""
        z = _unit(self.target_world - self.eye_world)
        x = _unit(np.cross(-self.up_world, z))
        motion = np.eye(4)
        motion[:3, :3] = np.stack([x, np.cross(z, x), z])
        motion[:3, 3] = -motion[:3, :3] @ self.eye_world
        return motion


def up_world(
    world_from_cam: Float[np.ndarray, "t 4 4"], normals_world: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "3"]:
    """Up: the normal of the ground where one is seen, else against the cameras' mean y axis.

    People hold cameras upright, so the ground's normal is looked for within 40 degrees of that mean; the mode of the
    normals there is found by mean shift and believed when at least a twelfth of all normals agree with it.
    """
    guess = _unit(-world_from_cam[:, :3, 1].mean(0))
    if len(normals_world) < 50:
        return guess
    towards = normals_world * np.sign(normals_world @ guess)[:, None]
    near = towards[towards @ guess > np.cos(np.radians(40))]
    up, width = guess, 40.0
    for width in (30.0, 20.0, 12.0, 8.0, 8.0, 8.0):
        close = near[near @ up > np.cos(np.radians(width))]
        if len(close) * 12 < len(normals_world):
            return guess
        up = _unit(close.mean(0))
    return up


def floor_height(
    points_world: Float[np.ndarray, "n 3"], centres_world: Float[np.ndarray, "t 3"], up: Float[np.ndarray, "3"]
) -> float:
    """Height along `up` just under the ground: where the points begin, a few outliers aside."""
    margin = 0.012 * float(np.ptp(points_world @ up))
    return -margin + float(min(np.percentile(points_world @ up, 1.5), (centres_world @ up).min()))


def home(scene: Scene, points_world: Float[np.ndarray, "n 3"], up: Float[np.ndarray, "3"], depth: float) -> Stance:
    """A little above and behind the first camera, looking at the median point.

    Args:
        points_world: what there is to see. depth: median depth, units of the scene.
    """
    first = scene.world_from_cam[0]
    ahead = first[:3, 2] - (first[:3, 2] @ up) * up
    ahead = _unit(ahead) if np.linalg.norm(ahead) > 0.1 else _unit(first[:3, 1])
    target = np.median(points_world, axis=0).astype(np.float64)
    centre = scene.centres_world[0]
    target = centre + ahead * max((target - centre) @ ahead, 0.5 * depth) + 0.7 * _across(target - centre, ahead)
    aside = np.cross(ahead, up)
    eye = centre - 0.7 * depth * ahead + 0.5 * depth * up + 0.3 * depth * aside
    return Stance(eye, target, up)


def _across(vector: Float[np.ndarray, "3"], axis: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    return vector - (vector @ axis) * axis


def _unit(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
