"""CameraInfo messages to the camera of a clip.

Source: sensor_msgs/CameraInfo (K and D of the raw image, P of the rectified one; pixel centres on integers).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from worldline.errors import InputError
from worldline.geometry import pixels
from worldline.io.known.intrinsics import FILE_SIGMA, Calibration, camera_of, checked_distortion
from worldline.scene.observations import CameraPrior, Source
from worldline.scene.video import Video

_PINHOLE = ("", "plumb_bob", "rational_polynomial", "radtan", "radial-tangential", "brown_conrady", "none", "pinhole")


def camera_prior(message: Any, topic: str, video: Video, *, rectified: bool) -> CameraPrior | None:
    """The camera that a CameraInfo message describes, for the stored frames; None where it is not calibrated.

    Args:
        rectified: whether the frames are already without distortion, so that P holds.

    Raises:
        InputError: a lens that is not supported, or a calibration of other images.
    """
    calibration = calibration_of(message, topic, rectified=rectified)
    if calibration is None:
        return None
    camera = camera_of(calibration, video, topic)
    lens = f" and the distortion {', '.join(f'{d:g}' for d in camera.distortion)}" if camera.distortion else ""
    note = f"the camera was taken from {topic}: a focal length of {camera.focal:.1f} px of the frames used{lens}."
    return CameraPrior(camera, FILE_SIGMA, Source(topic, notes=(note,)))


def calibration_of(message: Any, topic: str, *, rectified: bool) -> Calibration | None:
    """Intrinsics, size and distortion of the original images; None where the focal length is zero.

    Raises:
        InputError: a lens that is not supported.
    """
    k, p, d = (np.asarray(_either(message, name), dtype=np.float64).ravel() for name in "kpd")
    matrix = p.reshape(3, 4)[:, :3] if rectified and len(p) == 12 and p[0] > 0 else k.reshape(3, 3)
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    if not (np.isfinite([fx, fy, cx, cy]).all() and min(fx, fy) > 0):
        return None
    model = str(message.distortion_model).lower()
    bent = not rectified and bool(d.any())
    if bent and model not in _PINHOLE:
        raise InputError(f"{topic} describes a lens of the model {model}, which is not supported; undistort first.")
    centre = pixels.from_integer_centres(np.array([cx, cy]))
    size = (int(message.width), int(message.height)) if message.width and message.height else None
    return Calibration(np.array([fx, fy, *centre]), size, checked_distortion(d.tolist(), topic) if bent else ())


def _either(message: Any, name: str) -> Any:
    """ROS 1 writes K where ROS 2 writes k."""
    return getattr(message, name, getattr(message, name.upper(), ()))
