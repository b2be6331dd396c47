"""Points that are hidden for some frames: where they would be, and whether they are seen there again.

The neighbours that moved like the point carry it on; around that place its last look is searched for. It counts as
found when the look fits there and, the other way round, the look of the found place is found in the frame in which
the point was seen last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from worldline.cues import neighbour_motion, patches
from worldline.cues.followed import Followed


@dataclass(frozen=True)
class Config:
    """How long and how far hidden points are searched."""

    frames: int = 12
    """Frames after which a hidden point is given up; 0 searches for none."""
    always: int = 3
    """Frames in which it is searched for in every one, later in every other."""
    search_px: int = 4
    """How far around the guessed place its look is searched."""
    near_px: float = 1.0
    """How far from the guessed place it may be found, beyond three sigma and within the search."""
    likeness: float = 0.92
    """Correlation with the last look, both ways, of a point that is found again."""
    sure_likeness: float = 0.97
    """From here on it may be found anywhere in the search."""
    textured_sigma_px: float = 0.15
    """Only patches whose texture allows this accuracy are found again: others look like many places."""
    return_px: float = 2.0
    """The way back may miss the start by so much: what hid the point may have pushed it before."""
    covered_px: float = 1.0
    """Difference of flow and neighbours from which the flow is that of whatever covers the point."""
    turn_px: float = 1.0
    """Change of motion from frame to frame, beyond a quarter of it, that is believed of what is not seen."""
    drift_px: float = 0.3
    """Least growth of the standard deviation per hidden frame."""


@dataclass(frozen=True, eq=False)
class Places:
    """uv of the seen tracks in two neighbouring frames, by the number of the track; NaN where not seen."""

    before: Float[np.ndarray, "n 2"]
    after: Float[np.ndarray, "n 2"]

    @classmethod
    def of(cls, before: Followed, after: Followed) -> Places:
        """From the points seen in the one and in the other frame."""
        count = 1 + max((int(p.track.max()) for p in (before, after) if len(p)), default=0)
        table = np.full((2, count, 2), np.nan, np.float32)
        for places, points in zip(table, (before, after), strict=True):
            places[points.track] = points.uv
        return cls(*table)


def carried_on(
    hidden: Followed,
    places: Places,
    along_flow: Float[np.ndarray, "n 2"],
    drift: Float[np.ndarray, "n 2"],
    neighbours: neighbour_motion.Config,
    config: Config,
) -> Followed:
    """Hidden points one frame on: like their neighbours or along the flow, whichever is more like their last motion.

    Where both agree the flow is taken; without neighbours, points go on as they last moved.

    Args:
        along_flow: (N, 2) flow at the points. drift: (N, 2) flow at `drift_uv`.
    """
    near = np.minimum(hidden.near, len(places.before) - 1)
    weight = np.where(hidden.near < len(places.before), hidden.near_weight, 0.0)
    guess = neighbour_motion.guess(hidden.uv, places.before[near], places.after[near], weight, neighbours)
    last = np.where(np.isfinite(hidden.step), hidden.step, guess.step)
    apart, turn_flow, turn_guess = (
        np.linalg.norm(a - b, axis=-1) for a, b in ((along_flow, guess.step), (along_flow, last), (guess.step, last))
    )
    covered = (apart > config.covered_px) & (turn_guess < turn_flow)
    step = np.where(guess.known[:, None], np.where(covered[:, None], guess.step, along_flow), last)
    turn = step - last
    most = config.turn_px + 0.25 * np.linalg.norm(last, axis=-1)
    step = last + turn * np.minimum(1.0, most / np.maximum(np.linalg.norm(turn, axis=-1), 1e-6))[:, None]
    growth = config.drift_px + np.where(guess.known, 0.5 * guess.spread_px, 0.25 * np.linalg.norm(step, axis=-1))
    return replace(
        hidden,
        uv=hidden.uv + step,
        drift_uv=hidden.drift_uv + drift,
        step=step,
        sigma_px=(hidden.sigma_px + growth).astype(np.float32),
        hidden=hidden.hidden + 1,
    )


def searched(
    hidden: Followed, images: dict[int, np.ndarray], now: int, patch: patches.Config, config: Config
) -> Followed:
    """Hidden points, those that are found again with `hidden` 0 and their place."""
    textured = patches.texture_sigma_px(hidden.template, patch.noise) < config.textured_sigma_px
    textured &= hidden.hidden > 0
    due = (hidden.hidden <= config.always) | (hidden.hidden % 2 == 0)
    which = np.flatnonzero(textured & due & (hidden.hidden <= config.frames))
    if len(which) == 0:
        return hidden
    tried = hidden[which]
    start = patches.searched(images[now], tried.template, tried.uv, tried.linear, patch, reach=config.search_px)
    found = patches.align(images[now], tried.template, start, tried.linear, patch)
    widest = config.search_px + 2 * config.near_px
    reach = np.where(found.likeness > config.sure_likeness, widest, config.near_px + 3.0 * tried.sigma_px)
    reach = np.minimum(reach, widest)
    good = (found.likeness > config.likeness) & (np.linalg.norm(found.uv - tried.uv, axis=-1) < reach)
    good &= (found.last_step_px < 0.1) & (np.abs(np.linalg.det(found.linear)) < 4)
    good[good] = _returns(tried[good], found[good], images, now, patch, config)
    return found_again(hidden, which[good], tried[good], found[good], now)


def found_again(hidden: Followed, back: np.ndarray, tried: Followed, found: patches.Alignment, now: int) -> Followed:
    """The points with those of the rows `back`, as they were tried, where they were found."""
    change = found.linear @ np.linalg.inv(tried.linear)
    return hidden.put(
        back,
        uv=found.uv,
        seen_uv=found.uv,
        drift_uv=found.uv,
        seen_frame=np.full(len(back), now),
        step=np.full((len(back), 2), np.nan, np.float32),
        linear=found.linear,
        linear_query=(change @ tried.linear_query).astype(np.float32),
        sigma_px=np.hypot(tried.base_px, found.sigma_px),
        alone=np.zeros(len(back), np.int64),
        hidden=np.zeros(len(back), np.int64),
    )


def _returns(
    tried: Followed, found: patches.Alignment, images: dict[int, np.ndarray], now: int, patch: patches.Config,
    config: Config,
) -> np.ndarray:  # fmt: skip
    """Whether the look of the found places leads back to where the points were seen last."""
    looks = patches.cut(images[now], found.uv, patch)
    backwards = tried.linear @ np.linalg.inv(found.linear)
    good = np.zeros(len(tried), bool)
    for frame in np.unique(tried.seen_frame):
        rows = np.flatnonzero(tried.seen_frame == frame)
        there = patches.align(images[int(frame)], looks[rows], tried.seen_uv[rows], backwards[rows], patch)
        missed = np.linalg.norm(there.uv - tried.seen_uv[rows], axis=-1)
        good[rows] = (there.likeness > config.likeness) & (missed < config.return_px)
    return good
