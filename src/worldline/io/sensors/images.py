"""Image messages to pictures and depth maps.

Sources: sensor_msgs/image_encodings (names and layouts), compressed_depth_image_transport (its header of 12 bytes).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from worldline.errors import InputError

_BAYER = {
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}
_PLAIN: dict[str, tuple[str, int, int | None]] = {
    "rgb8": ("u1", 3, None),
    "8uc3": ("u1", 3, cv2.COLOR_BGR2RGB),
    "bgr8": ("u1", 3, cv2.COLOR_BGR2RGB),
    "rgba8": ("u1", 4, cv2.COLOR_RGBA2RGB),
    "bgra8": ("u1", 4, cv2.COLOR_BGRA2RGB),
    "8uc4": ("u1", 4, cv2.COLOR_BGRA2RGB),
    "rgb16": ("u2", 3, None),
    "bgr16": ("u2", 3, cv2.COLOR_BGR2RGB),
    "mono8": ("u1", 1, cv2.COLOR_GRAY2RGB),
    "8uc1": ("u1", 1, cv2.COLOR_GRAY2RGB),
    "mono16": ("u2", 1, cv2.COLOR_GRAY2RGB),
    "16uc1": ("u2", 1, cv2.COLOR_GRAY2RGB),
    "yuv422": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_uyvy": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": ("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": ("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    **{f"bayer_{name}8": ("u1", 1, code) for name, code in _BAYER.items()},
    **{f"bayer_{name}16": ("u2", 1, code) for name, code in _BAYER.items()},
}
"""Encodings: type of a sample, samples per pixel, and OpenCV's conversion to RGB."""

_DEPTH = {"16uc1": "u2", "mono16": "u2", "32fc1": "f4", "64fc1": "f8"}
MILLIMETRE = 1e-3
_TOO_FAR = 65535
_COMPRESSED_DEPTH_HEADER = 12


def encoding_of(message: Any) -> str:
    """What an Image or CompressedImage says it is, in lower case: `rgb8`, `16uc1`, `rgb8; jpeg compressed bgr8`."""
    return str(getattr(message, "encoding", None) or getattr(message, "format", "")).lower()


def is_depth(message: Any) -> bool:
    """Whether the pixels can be distances rather than brightness."""
    said = encoding_of(message)
    return said in _DEPTH or "compresseddepth" in said or (said.startswith("16uc1") and "png" in said)


def picture(message: Any, topic: str) -> UInt8[np.ndarray, "h w 3"] | None:
    """RGB of an Image or CompressedImage; None where its data are damaged.

    Raises:
        InputError: an encoding that cannot be read.
    """
    if not hasattr(message, "encoding"):
        return _uncompressed(message, topic)
    said = encoding_of(message)
    if said not in _PLAIN:
        known = ", ".join(sorted(_PLAIN))
        raise InputError(f"the images of {topic} are encoded as {said!r}, which cannot be read; these can be: {known}.")
    sample, samples, code = _PLAIN[said]
    pixels: Any = _rows(message, sample, samples)
    if pixels is None:
        return None
    if code is not None:
        pixels = cv2.cvtColor(pixels, code)
    return pixels if pixels.dtype == np.uint8 else np.right_shift(pixels, 8).astype(np.uint8)


def depth_z_m(message: Any, topic: str) -> Float[np.ndarray, "h w"] | None:
    """Depth in metres (REP 118), 0 where unknown; None where the data are damaged.

    Raises:
        InputError: an encoding that is none of depth.
    """
    said = encoding_of(message)
    if not is_depth(message):
        raise InputError(f"the images of {topic} are encoded as {said!r}, not as depth; choose 16UC1 or 32FC1 images.")
    if hasattr(message, "encoding"):
        raw = _rows(message, _DEPTH[said], 1)
    else:
        raw = _uncompressed_depth(message, topic)
    if raw is None:
        return None
    exact = raw.dtype.kind == "f"
    known = np.isfinite(raw) & (raw > 0) if exact else (raw > 0) & (raw < _TOO_FAR)
    return np.where(known, raw, 0).astype(np.float32) * np.float32(1.0 if exact else MILLIMETRE)


def _rows(message: Any, sample: str, samples: int) -> Shaped[np.ndarray, "h w *c"] | None:
    """The pixels without the padding at the end of each row."""
    kind = np.dtype(sample).newbyteorder(">" if message.is_bigendian else "<")
    height, width, step = int(message.height), int(message.width), int(message.step)
    used = width * samples * kind.itemsize
    step = step or used
    data = np.asarray(message.data, dtype=np.uint8)
    if min(height, width) < 1 or step < used or len(data) < step * (height - 1) + used:
        return None
    if len(data) < step * height:
        data = np.concatenate([data, np.zeros(step * height - len(data), np.uint8)])
    rows = np.ascontiguousarray(data[: step * height].reshape(height, step)[:, :used])
    values = rows.view(kind).astype(kind.newbyteorder("="), copy=False)
    return values if samples == 1 else values.reshape(height, width, samples)


def _uncompressed(message: Any, topic: str) -> UInt8[np.ndarray, "h w 3"] | None:
    said = encoding_of(message)
    if any(codec in said for codec in ("h264", "h265", "hevc", "av1", "vp9", "theora")):
        raise InputError(
            f"the images of {topic} are a video stream ({said}), which cannot be read; record JPEG or PNG."
        )
    image = cv2.imdecode(np.asarray(message.data, np.uint8), cv2.IMREAD_COLOR_RGB) if len(message.data) else None
    return image


def _uncompressed_depth(message: Any, topic: str) -> Shaped[np.ndarray, "h w"] | None:
    """Millimetres of uint16, or metres of float32 from quantised inverse depth: a / (value - b), 0 unknown."""
    said, data = encoding_of(message), np.asarray(message.data, np.uint8)
    begin = _COMPRESSED_DEPTH_HEADER if "compresseddepth" in said else 0
    if "rvl" in said:
        raise InputError(f"the depth of {topic} is compressed by RVL ({said}), which cannot be read; record PNG.")
    raw = cv2.imdecode(data[begin:], cv2.IMREAD_UNCHANGED) if len(data) > begin else None
    if raw is None or raw.ndim != 2 or raw.dtype != np.uint16:
        return None
    if not said.startswith("32fc1"):
        return raw
    a, b = np.frombuffer(data[4:begin].tobytes(), "<f4")
    return np.where(raw > 0, a / np.maximum(raw.astype(np.float32) - b, 1e-6), 0).astype(np.float32)
