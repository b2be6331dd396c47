"""Points followed from frame to frame: predicted by dense flow, held to their look, found again once uncovered.

Chaining flow alone adds up its errors. Here the flow predicts, and in every frame the patch cut around the point's
start is aligned anew (`patches.py`), so the position drifts no more than the look of the patch allows. Where the
patch no longer fits but the flow is consistent (a deforming surface), the chain goes on with a growing sigma and
soon from a fresh patch; the patch of the query frame is tried again and, where it fits, takes the drift back.
Flow over several frames gives other predictions (`several_steps.py`): they are asked where the shortest leads to
nothing, and for what is hidden, which also goes on with its neighbours for a while (`reappearance.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.cues import followed as states
from worldline.cues import neighbour_motion, patches, reappearance, several_steps
from worldline.cues.followed import Followed
from worldline.cues.neighbour_motion import choose
from worldline.cues.optical_flow import DenseFlow, sample
from worldline.cues.patches import Alignment
from worldline.cues.several_steps import Ahead, Step
from worldline.scene.video import Video


@dataclass(frozen=True)
class Config:
    """When a point is believed, refreshed and lost."""

    textured_sigma_px: float = 0.25
    """A patch whose texture allows this accuracy must be seen to be visible."""
    border_px: float = 4.0
    """Points are followed at least so far inside the image."""
    trusted_likeness: float = 0.8
    """Correlation with the template from which its position is believed."""
    fresh_likeness: float = 0.85
    """A trusted template that correlates less is cut anew."""
    hidden_likeness: float = 0.6
    """A textured patch that correlates less is hidden, unless its look one frame before still fits very well."""
    renewed_likeness: float = 0.92
    """Correlation with the look one frame before that is very well."""
    forgotten_likeness: float = 0.5
    """A textured patch of the query frame that correlates less with what was cut anew since is out of sight."""
    cut_px: float = 0.25
    """Standard deviation added where a template is cut anew: what changed its look may have shifted it."""
    stepped_likeness: float = 0.85
    """Correlation with the last look of a hidden point to which flow from before it was hidden leads."""
    patience: int = 5
    """Frames that a point lives on flow alone before its template is cut anew."""
    retried_every: int = 3
    """Frames between two attempts to find the patch of the query frame again."""
    reach_px: float = 1.5
    """How far the template may be found from where the flow says, beyond three sigma."""
    max_sigma_px: float = 4.0
    """A point that became less certain is lost."""
    paths: several_steps.Config = field(default_factory=several_steps.Config)
    patch: patches.Config = field(default_factory=patches.Config)
    neighbours: neighbour_motion.Config = field(default_factory=neighbour_motion.Config)
    reappearance: reappearance.Config = field(default_factory=reappearance.Config)


@dataclass(frozen=True, eq=False)
class Row:
    """What is known in one frame: tracks, places, sigmas, and which are seen."""

    frame: int
    track: Int[np.ndarray, "n"]
    uv: Float[np.ndarray, "n 2"]
    sigma_px: Float[np.ndarray, "n"]
    seen: Bool[np.ndarray, "n"]


@dataclass(frozen=True, eq=False)
class Gone:
    """Points that are searched for no more: only where the flow takes them is known, for what it is worth."""

    track: Int[np.ndarray, "n"]
    uv: Float[np.ndarray, "n 2"]

    def joined(self, other: Gone) -> Gone:
        """Both, one after the other."""
        return Gone(np.concatenate([self.track, other.track]), np.concatenate([self.uv, other.uv]))


Seeds = Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(frame, smoothed image, uv of the points seen there) -> (uv, track) of those that begin there."""


def follow(video: Video, flows: tuple[DenseFlow, ...], order: range, seeds: Seeds, config: Config) -> Iterator[Row]:
    """Every frame in `order` with the points followed in it; those given up drift on along the flow.

    Args:
        flows: over one or several distances in time, the first of one frame.
    """
    past = max(flow.step for flow in flows)
    points: Followed | None = None
    gone = Gone(np.zeros(0, np.int64), np.zeros((0, 2), np.float32))
    images: dict[int, np.ndarray] = {}
    for t in order:
        images[t] = patches.smoothed(video.grey([t])[0], config.patch)
        images.pop(t - (max(config.reappearance.frames, 1) + 1) * order.step, None)
        if points is not None:
            steps = several_steps.steps_to(t, order, flows)
            gone = Gone(gone.track, gone.uv + sample(steps[0].there, gone.uv))
            points, dropped = advanced(points, images, t - order.step, t, steps, config)
            gone = gone.joined(dropped)
        here = points.uv[points.hidden == 0] if points is not None else np.zeros((0, 2), np.float32)
        uv, track = seeds(t, images[t], here)
        fresh = states.started(images[t], t, uv, track, config.patch, config.neighbours, past)
        points = fresh if points is None else points.joined(fresh)
        yield _row(t, points, gone)


def _row(frame: int, points: Followed, gone: Gone) -> Row:
    lost = np.zeros(len(gone.track), bool)
    return Row(
        frame,
        np.concatenate([points.track, gone.track]),
        np.concatenate([points.uv, gone.uv]),
        np.concatenate([points.sigma_px, np.where(lost, 0, np.inf)]).astype(np.float32),
        np.concatenate([points.hidden == 0, lost]),
    )


def advanced(
    points: Followed,
    images: dict[int, np.ndarray],
    before: int,
    now: int,
    steps: tuple[Step, ...],
    config: Config,
) -> tuple[Followed, Gone]:
    """The points one frame on, seen or hidden for now, and those that are given up.

    Args:
        images: the smoothed frames of late, by frame. steps: flow that leads here, the first from the frame before.
    """
    points = states.remembering(points)
    seen = points.hidden == 0
    live = points[seen]
    moved, lives = _carried(live, images[before], images[now], now, steps, config)
    found = moved[lives]
    hidden = points[~seen].joined(_vanished(live[~lives], live[lives], config))
    if len(hidden) == 0:
        return found, Gone(hidden.track, hidden.uv)
    places = reappearance.Places.of(live, found)
    flows = sample(steps[0].there, hidden.uv), sample(steps[0].there, hidden.drift_uv)
    hidden = reappearance.carried_on(hidden, places, *flows, config.neighbours, config.reappearance)
    hidden = _stepped_over(hidden, images[now], now, steps[1:], config)
    hidden = reappearance.searched(hidden, images, now, config.patch, config.reappearance)
    kept = (hidden.hidden <= config.reappearance.frames) & inside(hidden.uv, images[now], config.border_px)
    return found.joined(hidden[kept]), Gone(hidden.track[~kept], hidden.drift_uv[~kept])


def inside(uv: Float[np.ndarray, "n 2"], image: Float[np.ndarray, "h w"], margin_px: float) -> Bool[np.ndarray, "n"]:
    """Whether points are at least so far inside the image."""
    most = np.array(image.shape[::-1]) - margin_px
    within: np.ndarray = (uv >= margin_px) & (uv <= most)
    return within[:, 0] & within[:, 1]


def _carried(
    live: Followed,
    previous: np.ndarray,
    image: np.ndarray,
    now: int,
    steps: tuple[Step, ...],
    config: Config,
) -> tuple[Followed, np.ndarray]:
    """Seen points one frame on, and which of them are still seen."""
    ahead = several_steps.ahead(live, steps[0], config.paths)
    found = patches.align(image, live.template, ahead.uv, live.linear, config.patch)
    ahead, found = _another_way(live, found, ahead, image, steps, config)
    textured = patches.texture_sigma_px(live.template, config.patch.noise) < config.textured_sigma_px
    changed = ahead.consistent & textured & (found.likeness < config.hidden_likeness)
    start = _refreshed(live, previous, changed, config)
    found = _aligned_again(found, start, changed, ahead, image, config)
    trusted = _trusted(found, ahead, start.linear, config)
    trusted &= ~changed | (found.likeness > config.renewed_likeness)
    moved = _moved(start, found, ahead, trusted, now)
    moved = _taken_back(moved, image, now, config)
    moved = replace(moved, step=moved.uv - live.uv, seen_uv=moved.uv, drift_uv=moved.uv)
    hidden = textured & (found.likeness < config.hidden_likeness) | (changed & ~trusted)
    lives = inside(moved.uv, image, config.border_px) & (ahead.consistent | trusted) & ~hidden
    lives &= moved.sigma_px < config.max_sigma_px
    lives &= ~_forgotten(moved, image, config)
    stale = (trusted & (found.likeness < config.fresh_likeness)) | (moved.alone >= config.patience)
    return _refreshed(moved, image, stale & lives, config), lives


def _another_way(
    live: Followed, found: Alignment, ahead: Ahead, image: np.ndarray, steps: tuple[Step, ...], config: Config
) -> tuple[Ahead, Alignment]:
    """The prediction and what was found there; from the most certain of all paths where the shortest led to nothing."""
    which = np.flatnonzero(~_trusted(found, ahead, live.linear, config))
    if len(steps) == 1 or len(which) == 0:
        return ahead, found
    lost = live[which]
    other = several_steps.most_certain(lost, image, steps, config.paths, config.patch)
    again = patches.align(image, lost.template, other.uv, lost.linear, config.patch)
    better = _trusted(again, other, lost.linear, config) & other.consistent
    return ahead.put(which[better], other[better]), found.put(which[better], again[better])


def _stepped_over(hidden: Followed, image: np.ndarray, now: int, steps: tuple[Step, ...], config: Config) -> Followed:
    """Hidden points, those with `hidden` 0 that flow from before they were hidden leads to a place that looks alike."""
    textured = patches.texture_sigma_px(hidden.template, config.patch.noise) < config.textured_sigma_px
    which = np.flatnonzero((hidden.hidden > 0) & textured)
    if not steps or len(which) == 0:
        return hidden
    tried = hidden[which]
    ahead = several_steps.most_certain(tried, image, steps, config.paths, config.patch)
    which, tried, ahead = which[ahead.consistent], tried[ahead.consistent], ahead[ahead.consistent]
    found = patches.align(image, tried.template, ahead.uv, tried.linear, config.patch)
    good = _trusted(found, ahead, tried.linear, config) & (found.likeness > config.stepped_likeness)
    return reappearance.found_again(hidden, which[good], tried[good], found[good], now)


def _trusted(found: Alignment, ahead: Ahead, linear: np.ndarray, config: Config) -> np.ndarray:
    """Whether the place of the template is believed: alike, settled, near the prediction, little deformed."""
    return (
        (found.likeness > config.trusted_likeness)
        & (found.last_step_px < 0.1)
        & (np.linalg.norm(found.uv - ahead.uv, axis=-1) < config.reach_px + 3.0 * ahead.sigma_px)
        & _plausible(linear, found.linear)
    )


def _aligned_again(
    found: Alignment, start: Followed, again: np.ndarray, ahead: Ahead, image: np.ndarray, config: Config
) -> Alignment:
    """The alignment with some points aligned anew from their state now."""
    which = np.flatnonzero(again)
    if len(which) == 0:
        return found
    part = patches.align(image, start.template[which], ahead.uv[which], start.linear[which], config.patch)
    return found.put(which, part)


def _moved(start: Followed, found: Alignment, ahead: Ahead, trusted: np.ndarray, now: int) -> Followed:
    """Where the template is believed, its place, else that of the flow."""
    change = found.linear @ np.linalg.inv(start.linear)
    turned = np.where(trusted[:, None, None], change @ start.linear_query, start.linear_query)
    return replace(
        start,
        uv=np.where(trusted[:, None], found.uv, ahead.uv),
        linear=np.where(trusted[:, None, None], found.linear, start.linear),
        linear_query=turned.astype(np.float32),
        sigma_px=np.where(trusted, np.hypot(start.base_px, found.sigma_px), ahead.sigma_px).astype(np.float32),
        alone=np.where(trusted, 0, start.alone + 1),
        seen_frame=np.full(len(start), now),
    )


def _taken_back(points: Followed, image: np.ndarray, now: int, config: Config) -> Followed:
    """Points whose patch was cut anew, back at the patch of their query frame where that fits again."""
    which = np.flatnonzero(~points.original & ((points.track + now) % config.retried_every == 0))
    if len(which) == 0:
        return points
    old = points[which]
    found = patches.align(image, old.query_template, old.uv, old.linear_query, config.patch)
    ahead = Ahead(old.uv, old.sigma_px, np.ones(len(which), bool))
    good = _trusted(found, ahead, old.linear_query, config) & (found.likeness > config.fresh_likeness)
    back, found = which[good], found[good]
    return points.put(
        back,
        uv=found.uv,
        linear=found.linear,
        linear_query=found.linear,
        base_px=np.zeros(len(back), np.float32),
        sigma_px=found.sigma_px,
        alone=np.zeros(len(back), np.int64),
        original=np.ones(len(back), bool),
        template=points.query_template[back],
    )


def _forgotten(points: Followed, image: np.ndarray, config: Config) -> np.ndarray:
    """Whether points whose patch was cut anew look nothing like they did in their query frame."""
    which = np.flatnonzero(~points.original)
    out = np.zeros(len(points), bool)
    old = points[which]
    alike = patches.likeness(image, old.query_template, old.uv, old.linear_query, config.patch)
    textured = patches.texture_sigma_px(old.query_template, config.patch.noise) < config.textured_sigma_px
    out[which] = textured & (alike < config.forgotten_likeness)
    return out


def _refreshed(points: Followed, image: np.ndarray, stale: np.ndarray, config: Config) -> Followed:
    """New templates, cut where the stale points are; their sigma becomes the sigma of the new start."""
    which = np.flatnonzero(stale)
    if len(which) == 0:
        return points
    return points.put(
        which,
        linear=np.tile(np.eye(2, dtype=np.float32), (len(which), 1, 1)),
        base_px=np.hypot(points.sigma_px[which], config.cut_px),
        alone=np.zeros(len(which), np.int64),
        original=np.zeros(len(which), bool),
        template=patches.cut(image, points.uv[which], config.patch),
    )


def _plausible(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Whether a linear map changed no more than a patch does between two frames, and is no extreme one."""
    change = after @ np.linalg.inv(before)
    off = np.linalg.norm(change - np.eye(2, dtype=change.dtype), axis=(-1, -2))
    area = np.linalg.det(after)
    return (off < 0.5) & (area > 0.25) & (area < 4.0)


def _vanished(lost: Followed, seen: Followed, config: Config) -> Followed:
    """Points that were seen for the last time the frame before, with their neighbours among those still seen.

    They are searched for by their look in the query frame, which nothing since can have spoilt.
    """
    index, weight = choose(lost.uv, lost.step, seen.uv, seen.step, config.neighbours)
    near = seen.track[index] if len(seen) else index
    return replace(
        lost,
        near=near,
        near_weight=weight,
        template=lost.query_template,
        linear=lost.linear_query,
        base_px=np.zeros_like(lost.base_px),
        original=np.ones_like(lost.original),
    )
