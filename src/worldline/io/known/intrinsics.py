"""Calibration files: JSON, text, YAML and COLMAP's cameras.txt to one camera of the clip.

Sources: OpenCV, "Camera Calibration and 3D Reconstruction" (distortion); the ROS message sensor_msgs/CameraInfo;
Open3D's PinholeCameraIntrinsic (a matrix stored by columns); librealsense's rs2_intrinsics; nerfstudio's
transforms.json; COLMAP, src/colmap/sensor/models.h (order of parameters). COLMAP and nerfstudio have pixel centres at
+0.5, all others on integers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from worldline.errors import FormatError, InputError
from worldline.geometry import pixels
from worldline.geometry.camera import Camera
from worldline.io.known.number_tables import number_rows, text_of
from worldline.scene.video import Video

FILE_SIGMA = 0.005
"""Relative uncertainty of a focal length from a calibration file."""

_SAME_ASPECT = 0.01
_MOST_SKEW = 1e-3
_MATRIX_KEYS = ("k", "camera_matrix", "cameramatrix", "intrinsic_matrix", "intrinsics", "intrinsic", "matrix")
_DISTORTION_KEYS = ("d", "distortion_coefficients", "distortion_coeffs", "distortion", "dist_coeffs", "dist", "coeffs")
_NESTED_KEYS = ("camera", "cam0", "color", "colour", "rgb", "intrinsics", "intrinsic", "calibration")
_FISHEYE = ("fisheye", "equidistant", "kannala", "omni", "fov", "inverse_brown", "ftheta", "equirect", "double_sphere")


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibration file says.

    Attributes:
        intrinsics: (4,) fx, fy, cx, cy in pixels, pixel centres at +0.5.
        size: (width, height) of the calibrated images, None where the file does not say.
        distortion: OpenCV's k1 k2 p1 p2 k3, or none.
    """

    intrinsics: Float[np.ndarray, "4"]
    size: tuple[int, int] | None = None
    distortion: tuple[float, ...] = ()


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        InputError: no such file, or a lens that is not supported. FormatError: not a calibration, or impossible values.
    """
    if path.is_dir():
        if (path / "cameras.txt").is_file():
            return read_calibration(path / "cameras.txt")
        raise InputError(f"{path} is a folder without cameras.txt; give the calibration file itself.")
    return _checked(_reader(path)(path), path)


def camera_of(calibration: Calibration, video: Video, what: str) -> Camera:
    """The camera of the stored frames, from a calibration that belongs to the original ones or a resized copy.

    Raises:
        InputError: the calibration is of images of another shape, or its principal point is outside of the image.
    """
    width, height = video.original_size or (video.width, video.height)
    calibrated = calibration.size or (width, height)
    aspect = (calibrated[0] / calibrated[1]) / (width / height)
    if abs(aspect - 1) > _SAME_ASPECT:
        raise InputError(
            f"{what} is of images of {calibrated[0]}x{calibrated[1]} but those of {video.name} are {width}x{height}, "
            "of another shape; give the calibration of these images (not cropped, not turned)."
        )
    camera = Camera(calibration.intrinsics, *calibrated, calibration.distortion).resized(width, height)
    centre = camera.intrinsics[2:]
    if not ((centre > 0) & (centre < (width, height))).all():
        raise InputError(
            f"{what} has its principal point at ({centre[0]:.0f}, {centre[1]:.0f}), outside of the images of "
            f"{width}x{height}; if it is of larger ones, add their width and height to the file (as .json)."
        )
    return stored_camera(camera, video)


def stored_camera(original: Camera, video: Video) -> Camera:
    """The camera of the stored frames from that of the original images."""
    original_from_stored = np.eye(3) if video.original_from_stored is None else video.original_from_stored
    scale, shift = np.diag(original_from_stored)[:2], original_from_stored[:2, 2]
    focal, centre = original.intrinsics[..., :2] / scale, (original.intrinsics[..., 2:] - shift) / scale
    return Camera(np.concatenate([focal, centre], -1), video.width, video.height, original.distortion)


def checked_distortion(values: Sequence[float], what: str) -> tuple[float, ...]:
    """Coefficients as OpenCV orders them (k1 k2 p1 p2 k3 and higher ones), with what is zero left out.

    Raises:
        InputError: a number is missing, not finite, or belongs to a lens model that is not supported.
    """
    given = tuple(float(v) for v in values)
    if not np.isfinite(given).all():
        raise InputError(f"the distortion of {what} is not finite; correct it.")
    if any(given[5:]):
        raise InputError(
            f"{what} has {len(given)} distortion coefficients, and only k1 k2 p1 p2 k3 are supported; "
            "calibrate with five, or undistort the images first."
        )
    if len(given) in (1, 3):
        raise InputError(f"the distortion of {what} has {len(given)} numbers; give k1,k2 or k1,k2,p1,p2 or also k3.")
    return given[:5] if any(given) else ()


def _reader(path: Path) -> Callable[[Path], Calibration]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _from_json
    if suffix in (".yaml", ".yml", ".xml"):
        return _from_yaml
    if suffix in (".bin", ".db"):
        raise FormatError(f"{path} is binary; export COLMAP's model as text and give cameras.txt.")
    return _from_text


def _checked(found: Calibration, path: Path) -> Calibration:
    k = np.asarray(found.intrinsics, dtype=np.float64)
    if not np.isfinite(k).all() or (k[:2] <= 0).any():
        raise FormatError(
            f"{path} gives a focal length of ({k[0]:g}, {k[1]:g}) and a centre of ({k[2]:g}, {k[3]:g}); "
            "all must be finite and the focal length positive."
        )
    if found.size is not None and min(found.size) < 1:
        raise FormatError(f"{path} gives an image size of {found.size[0]}x{found.size[1]}; correct it.")
    return replace(found, intrinsics=k, distortion=checked_distortion(found.distortion, path.name))


def _integer_centred(fx: float, fy: float, cx: float, cy: float) -> Float[np.ndarray, "4"]:
    return np.array([fx, fy, *pixels.from_integer_centres(np.array([cx, cy], dtype=np.float64))])


def _from_json(path: Path) -> Calibration:
    try:
        content = json.loads(text_of(path))
    except ValueError as error:
        raise FormatError(f"{path} is not valid JSON; correct it.") from error
    return _from_content(content, path)


def _from_yaml(path: Path) -> Calibration:
    """YAML and XML through OpenCV's parser: its own files, ROS's camera_info, Kalibr's and EuRoC's, ORB-SLAM's."""
    text = text_of(path)
    if path.suffix.lower() != ".xml" and not text.startswith("%YAML"):
        text = "%YAML:1.0\n---\n" + text.removeprefix("---")
    try:
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        content = _plain(storage.root())
    except (cv2.error, SystemError, UnicodeError) as error:
        raise FormatError(f"{path} cannot be read as YAML; write its numbers into a .json or .txt file.") from error
    return _from_content(content, path)


def _plain(node: Any) -> Any:
    """OpenCV's node as Python's own values."""
    if node.isMap():
        return {key: _plain(node.getNode(key)) for key in node.keys()}
    if node.isSeq():
        return [_plain(node.at(i)) for i in range(node.size())]
    return node.string() if node.isString() else node.real()


def _from_content(content: Any, path: Path) -> Calibration:
    if isinstance(content, list):
        return Calibration(_from_matrix(content, path))
    if isinstance(content, Mapping):
        named = {_short(str(key)): value for key, value in content.items()}
        nested = [named[key] for key in _NESTED_KEYS if isinstance(named.get(key), Mapping)]
        for mapping in (named, *({_short(str(k)): v for k, v in m.items()} for m in nested)):
            found = _from_mapping(mapping, path)
            if found is not None:
                return found
    raise FormatError(f"{path} holds neither fx, fy, cx, cy nor a camera matrix K; see docs/known.md for the formats.")


def _short(key: str) -> str:
    """Keys in lower case, without ORB-SLAM's prefix."""
    return key.lower().removeprefix("camera1.").removeprefix("camera.")


def _from_mapping(named: Mapping[str, Any], path: Path) -> Calibration | None:
    intrinsics = _named_intrinsics(named, path)
    if intrinsics is None:
        return None
    model = " ".join(str(named.get(key, "")) for key in ("camera_model", "distortion_model", "model")).lower()
    distortion = _named_distortion(named, path)
    if any(word in model for word in _FISHEYE) and (any(distortion) or "fisheye" in model or "equi" in model):
        raise InputError(
            f"{path} describes a lens of the model {model.strip()}, which is not supported; undistort first."
        )
    return Calibration(intrinsics, _named_size(named, path), distortion)


def _named_intrinsics(named: Mapping[str, Any], path: Path) -> Float[np.ndarray, "4"] | None:
    if "fl_x" in named:  # nerfstudio, whose pixel centres are at +0.5 as COLMAP's
        keys = ("fl_x", "fl_y" if "fl_y" in named else "fl_x", "cx", "cy")
        return np.array([_number(named.get(key), key, path) for key in keys])
    if "fx" in named:
        centre = ("ppx", "ppy") if "ppx" in named else ("cx", "cy")
        keys = ("fx", "fy" if "fy" in named else "fx", *centre)
        return _integer_centred(*(_number(named.get(key), key, path) for key in keys))
    for key in _MATRIX_KEYS:
        value = named.get(key)
        if isinstance(value, Mapping) and "data" in value:
            value = value["data"]
        if isinstance(value, list):
            return _from_matrix(value, path)
    return None


def _named_distortion(named: Mapping[str, Any], path: Path) -> tuple[float, ...]:
    for key in _DISTORTION_KEYS:
        value = named.get(key)
        value = value["data"] if isinstance(value, Mapping) and "data" in value else value
        if isinstance(value, list):
            return tuple(_number(v, key, path) for v in np.ravel(np.array(value, dtype=object)))
    keys = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    return tuple(_number(named.get(key, 0.0), key, path) for key in keys) if "k1" in named else ()


def _named_size(named: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    if isinstance(named.get("resolution"), list) and len(named["resolution"]) == 2:
        width, height = named["resolution"]
        return int(_number(width, "resolution", path)), int(_number(height, "resolution", path))
    for wide, high in (("w", "h"), ("width", "height"), ("image_width", "image_height")):
        if wide in named and high in named:
            return int(_number(named[wide], wide, path)), int(_number(named[high], high, path))
    return None


def _number(value: Any, key: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise FormatError(f"{key} of {path} is missing or no number; correct it.")
    return float(value)


def _from_matrix(values: Any, path: Path) -> Float[np.ndarray, "4"]:
    """fx, fy, cx, cy of K (3x3, 3x4 or 4x4; flat by rows or columns), or of the four numbers themselves."""
    try:
        matrix = np.array(values, dtype=np.float64)
    except (ValueError, TypeError):
        raise FormatError(f"the camera matrix of {path} holds something that is no number; correct it.") from None
    if matrix.shape == (4,):
        return _integer_centred(*matrix)
    if matrix.size in (9, 16) and matrix.ndim == 1:
        matrix = matrix.reshape(2 * (int(np.sqrt(matrix.size)),))
        matrix = matrix.T if not matrix[0, 2] and matrix[2, 0] else matrix
    return _integer_centred(*_from_square(matrix, path))


def _from_square(matrix: Float[np.ndarray, "*s"], path: Path) -> tuple[float, float, float, float]:
    if matrix.shape not in ((3, 3), (3, 4), (4, 4)) or not np.isfinite(matrix).all():
        raise FormatError(f"{path} holds no camera matrix K of 3x3 finite numbers; check that it is the right file.")
    k = matrix[:3, :3]
    if np.abs(k[2] - (0, 0, 1)).max() > 1e-6 or abs(k[1, 0]) > 1e-6 or matrix[:3, 3:].any():
        raise FormatError(f"{path} holds a matrix that is not fx 0 cx, 0 fy cy, 0 0 1; check that it is a calibration.")
    if abs(k[0, 1]) > _MOST_SKEW * abs(k[0, 0]):
        raise InputError(f"{path} has a skew of {k[0, 1]:g}, which is not supported; calibrate without skew.")
    return float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])


def _from_text(path: Path) -> Calibration:
    if any(len(words) > 4 and words[1] in _COLMAP_MODELS or _is_fisheye(words) for words in _words(path)):
        return _from_colmap(path)
    rows = number_rows(path)
    if len(rows) == 1 and len(rows[0]) in (4, 6, 8, 9) and not _is_flat_matrix(rows[0]):
        return Calibration(_integer_centred(*rows[0][:4]), None, _text_distortion(rows[0][4:], path))
    if len(rows) == 1:
        return Calibration(_from_matrix(list(rows[0]), path))
    if len({len(row) for row in rows}) > 1:
        raise FormatError(f"{path} has rows of unlike lengths; give K as 3x3 or 4x4, or one line `fx fy cx cy`.")
    return Calibration(_from_matrix(rows, path))


def _text_distortion(values: tuple[float, ...], path: Path) -> tuple[float, ...]:
    if len(values) == 2 and min(values) > 10:
        raise FormatError(f"{path} seems to give the image size after fx fy cx cy; write it as .json with w and h.")
    return values


def _is_flat_matrix(row: Sequence[float]) -> bool:
    return len(row) == 9 and row[8] == 1 and row[1] == row[3] == 0


def _words(path: Path) -> list[list[str]]:
    rows = (line.split("#")[0].split() for line in text_of(path).splitlines())
    return [words for words in rows if words]


_COLMAP_MODELS: dict[str, tuple[int, ...]] = {
    "SIMPLE_PINHOLE": (0, 0, 1, 2),
    "PINHOLE": (0, 1, 2, 3),
    "SIMPLE_RADIAL": (0, 0, 1, 2),
    "RADIAL": (0, 0, 1, 2),
    "OPENCV": (0, 1, 2, 3),
    "FULL_OPENCV": (0, 1, 2, 3),
}
"""Where fx, fy, cx, cy are among the parameters; what follows is distortion in OpenCV's order."""


def _is_fisheye(words: Sequence[str]) -> bool:
    return len(words) > 4 and words[0].isdigit() and words[1].isupper() and words[1] not in _COLMAP_MODELS


def _from_colmap(path: Path) -> Calibration:
    lines = _words(path)
    if len({tuple(words[1:]) for words in lines}) != 1:
        raise InputError(f"{path} has {len(lines)} cameras; leave only the line of the one that took this clip.")
    model = lines[0][1]
    if model not in _COLMAP_MODELS:
        raise InputError(
            f"{path} has a camera of the model {model}, which is not supported; undistort the images first."
        )
    try:
        width, height, *parameters = [float(word) for word in lines[0][2:]]
    except ValueError:
        raise FormatError(f"{path} has a camera whose parameters are no numbers; export it again.") from None
    where = _COLMAP_MODELS[model]
    if len(parameters) <= max(where):
        raise FormatError(f"{path} has too few parameters for a camera of the model {model}; export it again.")
    distortion = tuple(parameters[max(where) + 1 :])
    if len(distortion) == 1:
        distortion = (*distortion, 0.0)
    return Calibration(np.array([parameters[i] for i in where]), (int(width), int(height)), distortion)
