"""How wrong a depth sensor is, per pixel: its noise along the axis, and what happens at edges.

Sources: Khoshelham and Elberink, "Accuracy and resolution of Kinect depth data for indoor mapping applications",
Sensors 2012, eq. 10 with the constants of section 4 (structured light: sigma = 1.425e-3 z^2 metres); Fankhauser et al.,
"Kinect v2 for mobile robot navigation", ICAR 2015, section IV (time of flight, along the axis).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float

from worldline.errors import InputError

SENSORS = ("kinect", "tof")

_KINECT_PER_M = 1.425e-3
_KINECT_REACH_M = 4.5
_TOF_REACH_M = 4.5
_FLOOR = 0.01
_EDGE_REACH_PX = 1
_BESIDE_HOLE = 0.03


@dataclass(frozen=True)
class DepthNoise:
    """The noise of a sensor.

    Attributes:
        sensor: "kinect" (structured light), "tof" (time of flight), or "relative".
        relative: standard deviation of log depth for "relative"; for the others the floor, which covers what does not
            average out: warped calibration, reflections, several paths of light.
        reach_px: an edge may be displaced by so many pixels, as colour and depth come from two cameras.
    """

    sensor: str = "kinect"
    relative: float = _FLOOR
    reach_px: int = _EDGE_REACH_PX

    @classmethod
    def named(cls, text: str) -> DepthNoise:
        """What a user calls it: kinect, tof, or a share such as 0.02.

        Raises:
            InputError: none of these.
        """
        if text in SENSORS:
            return cls(text)
        try:
            share = float(text)
        except ValueError:
            share = np.nan
        if not 0 < share < 1:
            raise InputError(f"the depth noise {text!r} is unknown; give kinect, tof, or a share such as 0.02.")
        return cls("relative", share)

    def axial(self, depth_z: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """Standard deviation of log depth from the distance alone; depth in metres."""
        z = np.maximum(depth_z, 1e-3)
        if self.sensor == "kinect":
            far = np.maximum(z / _KINECT_REACH_M, 1.0)
            return np.hypot(self.relative, _KINECT_PER_M * z) * far**2
        if self.sensor == "tof":
            far = np.maximum(z / _TOF_REACH_M, 1.0)
            return np.hypot(self.relative, (1.5 - 0.5 * z + 0.3 * z * z) * 1e-3 / z) * far**2
        return np.full_like(z, self.relative)


def relative_sigma(
    depth_z: Float[np.ndarray, "h w"], noise: DepthNoise, step_m: float = 0.0
) -> Float[np.ndarray, "h w"]:
    """Standard deviation of log depth of every pixel of one map, metres; 0 means unknown.

    Beside the noise along the axis: half the range of log depth among the neighbours, because at an edge either side
    may be meant; a share beside holes, which open at edges; and the rounding to `step_m`.
    """
    known = depth_z > 0
    z = np.where(known, depth_z, 1.0)
    half_range = _range(np.log(z), known, noise.reach_px) / 2
    beside_hole = cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    square = noise.axial(z) ** 2 + half_range**2 + (step_m / np.sqrt(12) / z) ** 2 + (beside_hole * _BESIDE_HOLE) ** 2
    return np.sqrt(square).astype(np.float32)


def _range(value: Float[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"], reach: int) -> Float[np.ndarray, "h w"]:
    """Largest minus smallest known value within `reach` pixels; 0 where nothing is known."""
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    high = cv2.dilate(np.where(known, value, -1e3).astype(np.float32), window)
    low = cv2.erode(np.where(known, value, 1e3).astype(np.float32), window)
    return np.where(known, high - low, 0.0)
