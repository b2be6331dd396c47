"""Whether tracks stay on what they started on: tracks that slip alike agree with each other, not with the images."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from worldline.run.refining.appearance import Looks
from worldline.run.refining.sightings import Sightings

MOST_PX = 0.45
"""A shared slip beyond this makes tracks worse than none."""
LEAST_PX, OWN_PX = 0.1, 0.3
"""What tracks are taken to slip at least; our own, held to the images, where the images would not tell."""
_SAMPLES = 6000
"""Sightings that are looked at, at most."""
_ENOUGH = 12
"""Of them a block of the image needs."""
_LEAST_AGE = 3
"""Frames from the start of a track; right at it nothing has slipped yet."""


def shared_slip_px(found: Sightings, looks: Looks) -> float:
    """How far static sightings slip off the images, all together, at the usual age of a track (root mean square).

    What grows with the time from the start, and is shared within a block of the image, is a slip; noise of single
    sightings cancels in a block. NaN where too few blocks have enough texture.
    """
    tracks = found.tracks
    count, columns = tracks.visible.shape
    query = np.asarray(tracks.query_frame)
    age = np.arange(count)[:, None] - query
    started = tracks.visible[query, np.arange(columns)]
    frame, track = np.nonzero(found.static & started & (np.abs(age) >= _LEAST_AGE))
    step = max(1, len(frame) // _SAMPLES)
    frame, track = frame[::step], track[::step]
    start_uv = tracks.uv[query[track], track].astype(np.float64)
    off = looks.offsets_px(query[track], start_uv, frame, tracks.uv[frame, track].astype(np.float64))
    known = np.isfinite(off).all(1)
    per_frame, block = (off / age[frame, track, None])[known], found.block[track][known]
    usual = float(np.sqrt(np.mean(np.square(age[frame, track]))))
    track = track[known]
    numbers, counts = np.unique(block, return_counts=True)
    squares = [_square(per_frame[block == n], track[block == n]) for n in numbers[counts >= _ENOUGH]]
    if len(squares) < 3:
        return float("nan")
    return usual * max(float(np.mean(squares)), 0.0) ** 0.5


def _square(values: Float[np.ndarray, "m 2"], track: Int[np.ndarray, "m"]) -> float:
    """Squared median, less what the median of as many tracks would have by chance."""
    middle = np.median(values, axis=0)
    scatter = 1.4826 * np.median(np.abs(values - middle), axis=0)
    chance = 1.57 * scatter**2 / len(np.unique(track))
    return float((middle**2 - chance).sum())
