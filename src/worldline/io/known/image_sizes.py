"""Images beside a clip (masks, depth) that may have another size than its frames, but must show the same."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

from worldline.errors import InputError
from worldline.scene.video import Video

_SAME_ASPECT = 0.01


def check_same_shape(width: int, height: int, video: Video, what: str) -> None:
    """Nothing, if an image of this size can show the same as the video's frames.

    Raises:
        InputError: its shape (width over height) is another.
    """
    wide, high = video.original_size or (video.width, video.height)
    if abs((width / height) / (wide / high) - 1) > _SAME_ASPECT:
        raise InputError(
            f"{what} is {width}x{height} but the frames of {video.name} are {wide}x{high}, of another shape; "
            "give images of the same view, resized at most."
        )


def nearest_pixels(image: Shaped[np.ndarray, "h w *c"], height: int, width: int) -> Shaped[np.ndarray, "h2 w2 *c"]:
    """The image shrunk to at most height x width by taking single pixels, so that no two values are mixed."""
    rows, columns = image.shape[:2]
    if rows <= height and columns <= width:
        return image
    at_row = ((2 * np.arange(height) + 1) * rows) // (2 * height)
    at_column = ((2 * np.arange(width) + 1) * columns) // (2 * width)
    return image[at_row[:, None], at_column]
