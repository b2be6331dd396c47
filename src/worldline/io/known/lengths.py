"""Known lengths as typed on a command line: a frame, two pixels, and the metres between what they show."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from worldline.errors import InputError
from worldline.geometry import pixels
from worldline.io.known.clip_frames import ClipFrames
from worldline.scene.observations import KnownLengths, Source
from worldline.scene.video import Video

SHARE_SIGMA = 0.01
"""Relative uncertainty of a measured length."""

PIXEL_SIGMA = 1.0
"""Uncertainty of each of the four pixel coordinates, in pixels of the original image."""

_FORM = "write FRAME:u1,v1,u2,v2=METRES"


def read_lengths(texts: Sequence[str], video: Video) -> KnownLengths:
    """Lengths such as `12:100,200,300,200=0.85`: in frame 12, from pixel (100, 200) to (300, 200), 0.85 metres.

    The frame is its number in the input, counted from 0, or the name of its image. Pixels are those of the original
    image, counted from 0 as image viewers show them.

    Raises:
        InputError: not of this form, a frame that is not used, a pixel outside, two equal pixels, no positive length.
    """
    clip = ClipFrames.of(video)
    parsed = [_parsed(text, clip, video) for text in texts]
    length_m = np.array([length for _, _, length in parsed])
    uv_original = np.stack([uv for _, uv, _ in parsed])
    apart_px = np.linalg.norm(uv_original[:, 1] - uv_original[:, 0], axis=-1)
    sigma_m = length_m * np.hypot(SHARE_SIGMA, np.sqrt(2) * PIXEL_SIGMA / apart_px)
    frame = np.array([t for t, _, _ in parsed], dtype=np.int64)
    note = f"{len(texts)} known length{'s give' if len(texts) > 1 else ' gives'} the scale."
    return KnownLengths(frame, _stored(uv_original, video), length_m, sigma_m, Source("given lengths", notes=(note,)))


def _stored(uv_original: Float[np.ndarray, "k 2 2"], video: Video) -> Float[np.ndarray, "k 2 2"]:
    stored_from_original = np.linalg.inv(np.asarray(video.original_from_stored, dtype=np.float64))
    return uv_original @ stored_from_original[:2, :2].T + stored_from_original[:2, 2]


def _parsed(text: str, clip: ClipFrames, video: Video) -> tuple[int, Float[np.ndarray, "2 2"], float]:
    form = re.fullmatch(r"(.+):([^:=]+)=([^=]+)", text.strip())
    try:
        numbers = [float(word) for word in form[2].split(",")] if form else []
        length_m = float(form[3]) if form else np.nan
    except ValueError:
        numbers, length_m = [], np.nan
    if form is None or len(numbers) != 4 or not np.isfinite(numbers).all():
        raise InputError(f"the known length {text!r} cannot be read; {_FORM}.")
    if not 0 < length_m < np.inf:
        raise InputError(f"the known length {text!r} must be a positive number of metres; {_FORM}.")
    uv = pixels.from_integer_centres(np.array(numbers).reshape(2, 2))
    width, height = video.original_size or (video.width, video.height)
    if (uv < 0).any() or (uv > (width, height)).any():
        raise InputError(f"the known length {text!r} has a pixel outside of the image of {width}x{height}; {_FORM}.")
    if np.linalg.norm(uv[1] - uv[0]) < 2 * PIXEL_SIGMA:
        raise InputError(f"the two pixels of the known length {text!r} are the same; mark two that are far apart.")
    return _frame(form[1], text, clip), uv, length_m


def _frame(name: str, text: str, clip: ClipFrames) -> int:
    for names in (clip.files, clip.stems):
        if names is not None and name in names:
            return names.index(name)
    if name.isdigit() and int(name) in clip.numbers:
        return int(np.flatnonzero(clip.numbers == int(name))[0])
    raise InputError(
        f"the known length {text!r} names frame {name}, which is not among the {len(clip)} frames used "
        f"({clip.span}; numbers count from 0); choose one of them."
    )
