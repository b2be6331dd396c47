"""Pictures that tell which frame they are and which way up, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

WIDTH, HEIGHT, COUNT = 96, 64, 40


def picture(t: int) -> np.ndarray:
    """A smooth picture whose corners differ (so a wrong turn shows) and whose brightness tells the frame."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    red, green = 30 + 2 * u, 30 + 3 * v
    return np.stack([red, green, np.full_like(u, 40 + 4 * t)], -1).clip(0, 255).astype(np.uint8)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 5


def folder(path: Path, names: list[str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for t, name in enumerate(names):
        Image.fromarray(cv2.resize(picture(t), size)).save(path / name)
    return path


# encoded files
