"""Focal lengths in pixels from what cameras write beside their images and videos."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import ExifTags, Image

_FILM_DIAGONAL_MM = float(np.hypot(36.0, 24.0))


def focal_px_from_equivalent(equivalent_mm: float, width: int, height: int) -> float:
    """Focal length in pixels of an image of this size from its 35 mm equivalent, over the diagonal (CIPA DCG-001)."""
    return equivalent_mm * float(np.hypot(width, height)) / _FILM_DIAGONAL_MM


def focal_px_from_exif(exif: Image.Exif, width: int, height: int) -> float | None:
    """Focal length in pixels of an image of this size, or None where EXIF does not tell.

    The 35 mm equivalent is taken over the diagonal (CIPA DCG-001); without one, the focal length in millimetres
    times the pixel density of the focal plane (Exif 2.32, tags 0x920A, 0xA20E, 0xA210).
    """
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    equivalent_mm = _positive(tags.get(ExifTags.Base.FocalLengthIn35mmFilm))
    if equivalent_mm:
        return focal_px_from_equivalent(equivalent_mm, width, height)
    focal_mm = _positive(tags.get(ExifTags.Base.FocalLength))
    density = _positive(tags.get(ExifTags.Base.FocalPlaneXResolution))
    unit_mm = {2: 25.4, 3: 10.0, 4: 1.0}.get(tags.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
    if not (focal_mm and density and unit_mm):
        return None
    taken = [_positive(tags.get(tag)) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)]
    resized = max(width, height) / max(taken[0], taken[1]) if taken[0] and taken[1] else 1.0
    return focal_mm * density / unit_mm * resized


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if np.isfinite(number) and number > 0 else None
