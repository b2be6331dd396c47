"""Which part of the frames shows the world: letterbox bars and the black rim of rectified images do not.

The rim stands still whatever the camera does, and its edge is well textured, so tracks would follow it.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool

from worldline.scene.video import Video

DARK_GREY = 10
"""Grey level up to which a pixel is black; compression leaves a few levels."""

LOOKS = 12
"""Frames that are looked at, spread over the clip."""


def picture_area(video: Video, margin_px: int) -> Bool[np.ndarray, "h w"]:
    """Pixels that are at least `margin_px` away from what is black in all frames up to the border of the image."""
    chosen = np.unique(np.linspace(0, len(video) - 1, LOOKS).round().astype(int))
    brightest = video.grey(chosen.tolist()).max(0)
    labels = cv2.connectedComponents((brightest <= DARK_GREY).astype(np.uint8), connectivity=4)[1]
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    rim = np.isin(labels, np.setdiff1d(edges, 0)) & (labels > 0)
    size = 2 * margin_px + 1
    return cv2.dilate(rim.astype(np.uint8), np.ones((size, size), np.uint8)) == 0
