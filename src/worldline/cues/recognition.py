"""Points of frames that can be recognised from elsewhere and much later, for the camera that returns to a place.

Source: Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004, as in OpenCV.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float, Int

from worldline.geometry import pixels
from worldline.geometry.camera import Camera, ideal_uv
from worldline.scene.video import Video

POINTS = 1500
"""Most points of a frame."""
RATIO = 0.75
"""How much nearer the best match must be than the second best."""


class Recognition:
    """`solve.revisits.Features` of a video; frames are looked at when asked for, once.

    With a known `lens`, points are where a pinhole with the intrinsics `reference` would see them.
    """

    def __init__(
        self, video: Video, lens: Camera | None = None, reference: Float[np.ndarray, "4"] | None = None
    ) -> None:
        sift = cv2.SIFT.create(POINTS, contrastThreshold=0.02)

        def described(frame: int) -> tuple[np.ndarray, np.ndarray]:
            points, descriptors = sift.detectAndCompute(video.grey([frame])[0], None)
            if not points:
                return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
            uv = pixels.from_integer_centres(np.array([p.pt for p in points], dtype=np.float32))
            if lens is not None and reference is not None:
                uv = ideal_uv(uv, replace(lens, intrinsics=lens.at(frame)), reference)
            root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
            return uv, root

        self._described = cache(described)

    def uv(self, frame: int) -> Float[np.ndarray, "n 2"]:
        """Where the points of a frame are, pixels with centres at +0.5."""
        return self._described(frame)[0]

    def matches(self, a: int, b: int) -> Int[np.ndarray, "m 2"]:
        """Numbers of points of frames a and b that are each other's best match, clearly."""
        first, second = self._described(a)[1], self._described(b)[1]
        if min(len(first), len(second)) < 2:
            return np.zeros((0, 2), np.int64)
        alike = first @ second.T
        best, back = alike.argmax(1), alike.argmax(0)
        rows = np.arange(len(first))
        top = alike[rows, best]
        alike[rows, best] = -1
        gap = (1 - top) < RATIO**2 * (1 - alike.max(1))
        keep = np.flatnonzero(gap & (back[best] == rows))
        return np.stack([keep, best[keep]], 1)
