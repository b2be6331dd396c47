"""Where to stand to see a scene: which way is up, where the floor is, and the first viewpoint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from worldline.scene.scene import Scene

_FOV_DEG = 45.0
_NEAR = 3.0


@dataclass(frozen=True, eq=False)
class Stance:
    """A viewpoint: the eye, what it looks at, which way is up (world frame), and its vertical angle of view."""

    eye_world: Float[np.ndarray, "3"]
    target_world: Float[np.ndarray, "3"]
    up_world: Float[np.ndarray, "3"]
    fov_deg: float = _FOV_DEG

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
    """Above and behind the first camera, a little to its right, as near as shows the cameras and nearly all points.

    Args:
        points_world: what there is to see; what is much further than the median depth may fall outside.
        depth: median depth, units of the scene.
    """
    first, centres = scene.world_from_cam[0], scene.centres_world
    ahead = _across(first[:3, 2], up)
    ahead = _unit(ahead) if np.linalg.norm(ahead) > 0.1 else _unit(_across(first[:3, 1], up))
    return facing(nearby(points_world, centres, depth), centres, ahead, up)


def nearby(
    points_world: Float[np.ndarray, "n 3"], centres_world: Float[np.ndarray, "t 3"], depth: float
) -> Float[np.ndarray, "m 3"]:
    """A sample of the points within a few median depths of the cameras."""
    some = points_world[:: max(1, len(points_world) // 50_000)].astype(np.float64)
    near = some[np.linalg.norm(some - centres_world.mean(0), axis=-1) < _NEAR * depth]
    return near if len(near) > 0.2 * len(some) else some


def facing(
    points_world: Float[np.ndarray, "n 3"],
    centres_world: Float[np.ndarray, "t 3"],
    ahead: Float[np.ndarray, "3"],
    up: Float[np.ndarray, "3"],
) -> Stance:
    """Looking ahead, somewhat down and to the left, from just so far that it all fits."""
    z = _unit(ahead - 0.34 * up - 0.2 * np.cross(ahead, up))
    axes = Stance(np.zeros(3), z, up).cam_from_world[:3, :3]
    half = float(np.tan(np.radians(_FOV_DEG) / 2))
    eye = axes.T @ _fitted_eye(points_world @ axes.T, centres_world @ axes.T, half)
    reach = float((np.median(points_world, axis=0) - eye) @ z)
    return Stance(eye, eye + z * max(reach, 0.1 * float(np.ptp(points_world @ z)), 1e-6), up, _FOV_DEG)


def _fitted_eye(
    points: Float[np.ndarray, "n 3"], centres: Float[np.ndarray, "t 3"], half: float
) -> Float[np.ndarray, "3"]:
    """The foremost eye, looking along z, whose picture holds the points and the camera centres.

    Each side of the picture is a plane through the eye, so the furthest point beyond each of the four gives the eye
    in closed form. `half` is the tangent of half the angle of view of the smaller side.
    """
    eye, back = np.zeros(3), []
    for axis, room in ((0, 1.25), (1, 0.8)):
        k = half * room
        reach = [
            max(
                np.percentile(side * points[:, axis] - k * points[:, 2], 98.5),
                (side * centres[:, axis] - k * centres[:, 2]).max(),
            )
            for side in (1, -1)
        ]
        eye[axis] = (reach[0] - reach[1]) / 2
        back.append(-(reach[0] + reach[1]) / 2 / k)
    eye[2] = min(back)
    return eye


def _across(vector: Float[np.ndarray, "3"], axis: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    return vector - (vector @ axis) * axis


def _unit(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
