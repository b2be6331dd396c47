"""Windows of one video in one world: each has a unit, a rotation and a place of its own.

`place` adds one window to those that have a place, `settle` looks at all of them together, so that what was summed up
from window to window is spread. What a window says of a shared frame has one robust weight: a frame whose depth is off
is not trusted with the camera either.

Source: similarities as in Strasdat et al., "Scale drift-aware large scale monocular SLAM", RSS 2010, with units that
are measured where the network is metric, so that scale does not drift as a random walk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from worldline.geometry import se3
from worldline.geometry.sim3 import Sim3
from worldline.solve.problem import State, Stop, Term, minimise
from worldline.solve.robust import GemanMcClure, Huber
from worldline.solve.shared_frames import Link
from worldline.solve.sparse import Sparse


@dataclass(frozen=True)
class Noise:
    """How far windows are off, as standard deviations.

    Attributes:
        log_unit: of the metres of a window that says it is metric. log_ratio: of a ratio of depths, beside what its
        own pixels tell. turn_rad: per axis, of the rotation of a camera in its window. centre: per axis, of its centre,
        as a share of how far it is from the reference; least_centre: as a share of the depth.
        cut: a link that is off by so many of them, its seven numbers together, counts a quarter.
    """

    log_unit: float = 0.05
    log_ratio: float = 0.003
    turn_rad: float = 0.002
    centre: float = 0.01
    least_centre: float = 0.0005
    cut: float = 8.0


class Placement(NamedTuple):
    """Where a window lies in the world, and the sigma of the log of its unit."""

    world_from_window: Sim3
    log_unit_sigma: float


class Measured(NamedTuple):
    """K links as arrays. Sigmas are of the difference between the two windows; that of centres in units of the first.

    `log_ratio` is log(depth of the first / depth of the second), and so log(unit of the second / of the first). `doubt`
    is 0 to 1: where no two links agree, that to the frame next to the second window's reference is believed.
    """

    first: Integer[Tensor, "k"]
    second: Integer[Tensor, "k"]
    first_from_cam: Float[Tensor, "k 4 4"]
    second_from_cam: Float[Tensor, "k 4 4"]
    log_ratio: Float[Tensor, "k"]
    log_sigma: Float[Tensor, "k"]
    turn_sigma: Float[Tensor, "k"]
    centre_sigma: Float[Tensor, "k"]
    doubt: Float[Tensor, "k"]


def measured(links: Sequence[Link], noise: Noise) -> Measured:
    """Links as arrays, at least one. Where m windows have seen a frame, its m (m - 1) / 2 links share what it says."""
    windows: dict[int, set[int]] = defaultdict(set)
    for link in links:
        windows[link.first.frame] |= {link.first_window, link.second_window}

    def column(*values: float) -> Float[Tensor, "k"]:
        return torch.tensor(values, dtype=torch.float64)

    first, second, ratio = ([getattr(x, name) for x in links] for name in ("first", "second", "ratio"))
    centre, other = (
        torch.hypot(
            noise.centre * column(*(s.far for s in side)), noise.least_centre * column(*(s.depth for s in side))
        )
        for side in (first, second)
    )
    log_ratio = column(*(r.log for r in ratio))
    crowd = column(*(len(windows[s.frame]) / 2 for s in first)).sqrt()
    return Measured(
        torch.tensor([link.first_window for link in links]),
        torch.tensor([link.second_window for link in links]),
        torch.stack([s.window_from_cam for s in first]),
        torch.stack([s.window_from_cam for s in second]),
        log_ratio,
        crowd * torch.hypot(column(*(r.sigma for r in ratio)), log_ratio.new_tensor(noise.log_ratio)),
        crowd * 2**0.5 * noise.turn_rad,
        crowd * torch.hypot(centre, other * log_ratio.exp()),
        other / other.max(),
    )


def place(
    links: Sequence[Link], world: Mapping[int, Placement], *, metric: bool, noise: Noise
) -> tuple[Placement, Float[Tensor, "k"]]:
    """The place of a new window, the second of all links, and how much (0 to 1) each link counted.

    Args:
        links: at least one, to windows of `world`. metric: whether the window measures in metres, as the world does.
    """
    m = measured(links, noise)
    before = [world[int(number)] for number in m.first]
    unit = torch.stack([p.world_from_window.scale for p in before])
    cameras = torch.stack(
        [p.world_from_window.apply_to_cameras(c) for p, c in zip(before, m.first_from_cam, strict=True)]
    )
    said = _Said(
        unit.log() + m.log_ratio,
        cameras[:, :3, :3] @ m.second_from_cam[:, :3, :3].mT,
        cameras[:, :3, 3],
        m.second_from_cam[:, :3, 3],
        m._replace(centre_sigma=unit * m.centre_sigma),
    )
    loss = GemanMcClure(noise.cut)
    squares = torch.stack([said.squares(*said.mean(row)) for row in torch.eye(len(links), dtype=torch.float64)])
    doubt = m.doubt + ((said.log_unit / noise.log_unit) ** 2 if metric else 0.0)
    weight = loss.weight(squares[(loss.cost(squares).sum(1) + doubt).argmin()])
    for _ in range(10):
        weight = loss.weight(said.squares(*said.mean(weight)))
    log_unit, rotation, _ = said.mean(weight)
    variance = min(p.log_unit_sigma for p in before) ** 2 + float(1 / (weight / m.log_sigma**2).sum())
    if metric:
        trust = variance / (variance + noise.log_unit**2)
        log_unit, variance = (1 - trust) * log_unit, (1 - trust) * variance
    return Placement(
        Sim3(log_unit.exp(), rotation, said.translation(weight, log_unit, rotation)), variance**0.5
    ), weight


class _Said(NamedTuple):
    """What each link says of the new window: its unit, its rotation, and where a point of it lies."""

    log_unit: Float[Tensor, "k"]
    rotation: Float[Tensor, "k 3 3"]
    centre_world: Float[Tensor, "k 3"]
    centre_window: Float[Tensor, "k 3"]
    sigma: Measured

    def mean(self, weight: Float[Tensor, "k"]) -> tuple[Tensor, Tensor, Tensor]:
        """Log unit, rotation and translation."""
        by_unit = weight / self.sigma.log_sigma**2
        log_unit = (by_unit @ self.log_unit) / by_unit.sum()
        by_turn = weight / self.sigma.turn_sigma**2
        rotation = se3.nearest_rotation(torch.einsum("k,kij->ij", by_turn, self.rotation))
        return log_unit, rotation, self.translation(weight, log_unit, rotation)

    def translation(self, weight: Tensor, log_unit: Tensor, rotation: Tensor) -> Float[Tensor, "3"]:
        """Mean of where the centres lie."""
        by_centre = weight / self.sigma.centre_sigma**2
        moved = log_unit.exp() * self.centre_window @ rotation.T
        return (by_centre @ (self.centre_world - moved)) / by_centre.sum()

    def squares(self, log_unit: Tensor, rotation: Tensor, translation: Tensor) -> Float[Tensor, "k"]:
        """By how many standard deviations each link is off, squared."""
        turn = se3.angle_rad(rotation.T @ self.rotation) / self.sigma.turn_sigma
        moved = log_unit.exp() * self.centre_window @ rotation.T + translation
        off = (moved - self.centre_world).norm(dim=-1) / self.sigma.centre_sigma
        return ((self.log_unit - log_unit) / self.sigma.log_sigma) ** 2 + turn**2 + off**2


def settle(
    links: Sequence[Link], start: Sequence[Placement], metric: Bool[Tensor, "n"], noise: Noise
) -> tuple[Sim3, ...]:
    """All windows together: every link counts, and the unit of the whole is the average of those that are metric.

    The first window's reference stays where `start` has it. Standard deviations are first those of `noise`, then those
    that the links themselves show.
    """
    if not links:
        return tuple(p.world_from_window for p in start)
    said = measured(links, noise)
    unit = torch.stack([p.world_from_window.scale for p in start])
    said = said._replace(centre_sigma=said.centre_sigma * (unit[said.first] / unit[said.second]).sqrt())
    motions = [
        se3.from_rotation_translation(p.world_from_window.rotation, p.world_from_window.translation) for p in start
    ]
    state: State = {"motion": torch.stack(motions), "log_unit": unit.log()[:, None]}
    m, unit_sigma = said, noise.log_unit
    for cut in _CUTS:
        terms = [_links_term(m, cut * noise.cut), *_anchors(state, metric, unit_sigma)]
        state = minimise(state, terms, {"motion", "log_unit"}, Sparse(), Stop(steps=15, tolerance=1e-6)).state
        m, unit_sigma = _as_they_are(said, state), _scatter(state["log_unit"][metric, 0], noise.log_unit)
    return _from_first(state, start[0].world_from_window)


_CUTS = (8.0, 4.0, 2.0, 1.0, 1.0)
"""Of the cut, one after the other: at first nearly all links pull, so that the many can overrule an early mistake.

Source: graduated non-convexity, Yang et al., RA-L 2020.
"""


def _links_term(m: Measured, cut: float) -> Term:
    uses = (("motion", m.first), ("log_unit", m.first), ("motion", m.second), ("log_unit", m.second))

    def linearised(*rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        return _link_jacobians(m, *rows)

    return Term("links", uses, lambda *rows: linearised(*rows)[0], linearised, GemanMcClure(cut))


def _link_jacobians(
    m: Measured,
    first: Float[Tensor, "k 4 4"],
    log_first: Float[Tensor, "k 1"],
    second: Float[Tensor, "k 4 4"],
    log_second: Float[Tensor, "k 1"],
) -> tuple[Float[Tensor, "k 7"], list[Tensor]]:
    """Ratio of units, turn and shift between what two windows say of a camera; shifts in the mean of both units.

    The derivative of the turn is that at zero, which is where links that count are.
    """
    log_sigma, turn_sigma = m.log_sigma[:, None], m.turn_sigma[:, None]
    shift_sigma = m.centre_sigma[:, None] * (0.5 * (log_first + log_second)).exp()
    (here, by_first), (there, by_second) = (
        _centre_world(motion, log, cam)
        for motion, log, cam in ((first, log_first, m.first_from_cam), (second, log_second, m.second_from_cam))
    )
    turn = (first[:, :3, :3] @ m.first_from_cam[:, :3, :3]).mT @ second[:, :3, :3] @ m.second_from_cam[:, :3, :3]
    shift = (there - here) / shift_sigma
    ratio = (log_second - log_first - m.log_ratio[:, None]) / log_sigma
    residual = torch.cat([ratio, se3.so3_log(turn) / turn_sigma, shift], -1)
    turned = (-turn.mT @ m.first_from_cam[:, :3, :3].mT, m.second_from_cam[:, :3, :3].mT)
    blocks = []
    for sign, by, by_turn in ((-1.0, by_first, turned[0]), (1.0, by_second, turned[1])):
        motion, log = residual.new_zeros(len(residual), 7, 6), residual.new_zeros(len(residual), 7, 1)
        motion[:, 1:4, 3:] = by_turn / turn_sigma[..., None]
        motion[:, 4:] = sign * by[..., :6] / shift_sigma[..., None]
        log[:, :1, 0] = sign / log_sigma
        log[:, 4:, 0] = sign * by[..., 6] / shift_sigma - 0.5 * shift
        blocks += [motion, log]
    return residual, blocks


def _centre_world(
    motion: Float[Tensor, "k 4 4"], log_unit: Float[Tensor, "k 1"], window_from_cam: Float[Tensor, "k 4 4"]
) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k 3 7"]]:
    """A camera's centre in the world, and how it moves with the window: shift, turn (`problem.retract`), log unit."""
    rotation, centre = motion[:, :3, :3], log_unit.exp() * window_from_cam[:, :3, 3]
    moved = (rotation @ centre[..., None])[..., 0]
    return moved + motion[:, :3, 3], torch.cat([rotation, -rotation @ se3.hat(centre), moved[..., None]], -1)


def _anchors(start: State, metric: Bool[Tensor, "n"], log_unit_sigma: float) -> list[Term]:
    """The first window stays about where it is; units are about one where windows are metric."""
    first = se3.inverse(start["motion"][:1])

    def moved(motion: Tensor) -> Float[Tensor, "1 6"]:
        off = first @ motion
        return 1e3 * torch.cat([off[:, :3, 3], se3.so3_log(off[:, :3, :3])], -1)

    def linearised(motion: Tensor) -> tuple[Tensor, list[Tensor]]:
        return moved(motion), [1e3 * torch.eye(6, dtype=motion.dtype, device=motion.device)[None]]

    def units(log_unit: Tensor) -> tuple[Tensor, list[Tensor]]:
        return log_unit / log_unit_sigma, [torch.full_like(log_unit, 1 / log_unit_sigma)[..., None]]

    measuring = metric.nonzero()[:, 0] if bool(metric.any()) else torch.zeros(1, dtype=torch.long)
    return [
        Term("gauge", (("motion", torch.zeros(1, dtype=torch.long)),), moved, linearised),
        Term("metres", (("log_unit", measuring),), lambda u: units(u)[0], units, Huber(2.0)),
    ]


def _as_they_are(m: Measured, state: State) -> Measured:
    """Standard deviations that the medians of the residuals bear out, at most three times as large or as small."""
    term = _links_term(m, 1.0)
    residual = term.residual(*term.gather(state))
    squares = torch.stack([residual[:, 0] ** 2, (residual[:, 1:4] ** 2).sum(1), (residual[:, 4:] ** 2).sum(1)])
    usual = squares.new_tensor([0.455, 2.366, 2.366])
    factor = (squares.median(1).values / usual).sqrt().clamp(1 / 3, 3)
    return m._replace(
        log_sigma=m.log_sigma * factor[0], turn_sigma=m.turn_sigma * factor[1], centre_sigma=m.centre_sigma * factor[2]
    )


def _scatter(log_units: Float[Tensor, "n"], expected: float) -> float:
    """How far units scatter, at most twice as much as expected and at least a fifth; as expected where few tell."""
    if len(log_units) < 6:
        return expected
    found = 1.4826 * float((log_units - log_units.median()).abs().median())
    return min(max(found, 0.2 * expected), 2 * expected)


def _from_first(state: State, first: Sim3) -> tuple[Sim3, ...]:
    """Placements seen from the camera that `first` puts at the origin of the world, exactly."""
    units = state["log_unit"][:, 0].exp()
    window_from_cam = se3.inverse(se3.from_rotation_translation(first.rotation, first.translation))
    found = [Sim3(s, motion[:3, :3], motion[:3, 3]) for s, motion in zip(units, state["motion"], strict=True)]
    cam_from_world = se3.inverse(found[0].apply_to_cameras(window_from_cam))
    return tuple(
        Sim3(
            p.scale, cam_from_world[:3, :3] @ p.rotation, cam_from_world[:3, :3] @ p.translation + cam_from_world[:3, 3]
        )
        for p in found
    )
