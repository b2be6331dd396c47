"""CameraInfo messages to the camera of a clip.

Source: sensor_msgs/CameraInfo (K and D of the raw image, P of the rectified one; pixel centres on integers).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from worldline.errors import InputError
from worldline.geometry import pixels
from worldline.io.known.intrinsics import FILE_SIGMA, Calibration, camera_of, checked_distortion
from worldline.scene.observations import CameraPrior, Source
from worldline.scene.video import Video

_GRID = 33
_MOST_OFF_PX = 0.5
_FEWEST_SEEN = 100
_BEYOND = 1.25  # rays of the corners of a bent image, against those of a pinhole
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
    given = np.asarray(_either(message, "d"), dtype=np.float64)
    fitted = f"the {len(given)} coefficients of the lens in {topic} were brought to the nearest five."
    more = bool(given[5:].any()) and bool(camera.distortion)
    return CameraPrior(camera, FILE_SIGMA, Source(topic, notes=(note, *((fitted,) if more else ()))))


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
    given = _five(d, matrix, (int(message.width), int(message.height)), topic) if bent and d[5:].any() else d
    return Calibration(np.array([fx, fy, *centre]), size, checked_distortion(given.tolist(), topic) if bent else ())


def _five(
    coefficients: Float[np.ndarray, "n"], k: Float[np.ndarray, "3 3"], size: tuple[int, int], topic: str
) -> Float[np.ndarray, "5"]:
    """k1 k2 p1 p2 k3 that bend the image as OpenCV's rational model with up to 14 coefficients does.

    Both give where a lens puts an ideal point, and the five enter linearly, so they are found by least squares over
    the image.

    Raises:
        InputError: they cannot, or the size is not known.
    """
    focal, centre, most = np.diag(k)[:2], k[:2, 2], np.array(size) - 1
    wide, high = _BEYOND * np.maximum(centre, most - centre) / focal
    grid = np.stack(np.meshgrid(np.linspace(-wide, wide, _GRID), np.linspace(-high, high, _GRID)), -1).reshape(-1, 2)
    rays = np.c_[grid, np.ones(len(grid))]
    where = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), np.eye(3), coefficients)[0][:, 0]
    uv = where * focal + centre
    seen = ((uv >= 0) & (uv <= most)).all(1)
    xy, bent = grid[seen], where[seen]
    (x, y), r2 = xy.T, (xy**2).sum(1)
    across = np.stack([x * r2, x * r2**2, 2 * x * y, r2 + 2 * x * x, x * r2**3], -1)
    down = np.stack([y * r2, y * r2**2, r2 + 2 * y * y, 2 * x * y, y * r2**3], -1)
    normal, wanted = np.concatenate([across, down]), (bent - xy).T.ravel()
    five = np.linalg.lstsq(normal, wanted, rcond=None)[0]
    if seen.sum() < _FEWEST_SEEN or np.sqrt(np.mean((normal @ five - wanted) ** 2)) * focal[0] > _MOST_OFF_PX:
        raise InputError(
            f"{topic} describes a lens with {len(coefficients)} coefficients that k1 k2 p1 p2 k3 cannot follow; "
            "undistort first, or leave it out with --topic camera_info=none."
        )
    return five


def _either(message: Any, name: str) -> Any:
    """ROS 1 writes K where ROS 2 writes k."""
    return getattr(message, name, getattr(message, name.upper(), ()))
