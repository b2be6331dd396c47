"""How far off cameras and structure may be: the final bundle's covariance, with the noise as correlated as it is.

The errors of tracks go together, along a track and between neighbours, so many sightings say less than as many
independent ones. The tracks are gathered into blocks of neighbours in the scene. Every block pulls the cameras with
its summed residuals; how far the blocks pull apart, and not how many sightings there are, gives the covariance:
H^-1 (sum of s s^T over blocks) H^-1, with s a block's pull and H the reduced camera system. Every pull is also carried
to the points, which gives the part of the depth error that whole regions of a frame share.

What the model of the camera leaves out (radial distortion, a principal point off the middle, a rolling shutter) is
free here: how far the solution would move if it were modelled is one more doubt. Where the images show none of it
that step is short.

Sources: Liang and Zeger, "Longitudinal data analysis using generalized linear models", 1986 (covariance from blocks);
Triggs et al., "Bundle adjustment: a modern synthesis", 2000, sections 6 and 9 (reduced system, gauge freedom).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.geometry import se3
from worldline.solve import terms
from worldline.solve.methods import products, slopes, weighted
from worldline.solve.robust import GemanMcClure
from worldline.solve.terms import PixelSamples

KNEE = 6.0
"""Where the bounded loss turns, in standard deviations, as in the last solve of the bundle."""

UNMODELLED_SIGMA = (0.1, 0.02, 0.02, 0.5)
"""Usual size of what a camera has beyond a focal length: radial distortion (of the squared distance from the axis at
z = 1), offset of the principal point along both axes (in focal lengths), read-out time of the rows (in frames)."""

EXACT = (0.0,) * len(UNMODELLED_SIGMA)
"""Sizes of the same where the camera is what the model says."""

UNMODELLED_SHARE = 4.8
"""How much all that is not modelled counts, in what the listed effects explain."""

UNMODELLED_DEPTH = 1.2
"""How much more of it is in depth: cameras average over the image what bends depth from place to place."""

CHANCE = 6.0
"""Squared effect, in standard deviations, up to which it may be chance."""

PIECES = 1.8
"""Independent parts of the bend that a drift gives to a path: those of a random walk, mostly its longest waves."""

LENS = 1 + len(UNMODELLED_SIGMA)
"""Unknowns that all frames share: the log focal length, then what is not modelled."""

STIFF = 1e8
"""Information, in multiples of the greatest there is, that keeps an unknown where it is."""


@dataclass(frozen=True)
class Doubting:
    """Settings of the uncertainty.

    Attributes:
        tracks, sightings, frames: most static tracks, sightings of each, and frames that are linearised.
        blocks: neighbourhoods of tracks whose errors are taken to go together, a power of two.
        focal_sigma: spread of the log focal length where it was found from the same tracks.
        inflation: of cameras and focal length, in what the blocks say: on rendered worlds errors are a little smaller.
        independent: sightings of one track that count as independent.
        centre_floor: of a camera centre, as a share of the median depth; rotation_floor_rad: of a rotation;
        depth_floor: of log depth; scale_sigma: of the log scale of what is metric.
        lone: sightings below which a frame's camera is taken to be interpolated between its neighbours.
    """

    tracks: int = 1200
    sightings: int = 24
    frames: int = 100
    blocks: int = 32
    focal_sigma: float = 0.2
    inflation: float = 0.9
    independent: float = 2.0
    centre_floor: float = 1e-5
    rotation_floor_rad: float = 2e-5
    depth_floor: float = 0.003
    scale_sigma: float = 0.01
    lone: int = 12


class Linearised(NamedTuple):
    """The bundle around its solution with the points eliminated; C = 6 T + LENS unknowns: cameras, then the lens.

    Attributes:
        system: (C, C) reduced. pulls: (N, C) reduced slope of every point's sightings.
        response: (N, 3, C) how a point moves with the cameras: minus its own inverse block times its coupling.
    """

    system: Float[Tensor, "c c"]
    pulls: Float[Tensor, "n c"]
    response: Float[Tensor, "n 3 c"]


class Moved(NamedTuple):
    """What each of G pulls moves: camera centres and rotations in world axes, the lens (log focal first), points."""

    centres: Float[Tensor, "t 3 g"]
    turns: Float[Tensor, "t 3 g"]
    lens: Float[Tensor, "l g"]
    points: Float[Tensor, "n 3 g"]

    def and_also(self, other: Moved) -> Moved:
        """These moves, then those of the other."""
        return Moved(*(torch.cat(parts, -1) for parts in zip(self, other, strict=True)))


class Doubts(NamedTuple):
    """What may be off.

    Attributes:
        sampled: one move for the pull of every block, one for what is known of the focal length.
        left_out: one move, as large as that by what is not modelled may be.
        focal_scatter: standard deviation of the log focal length by the noise of the blocks, with the rest of the lens
        as unknown.
    """

    sampled: Moved
    left_out: Moved
    focal_scatter: float

    @property
    def all_moves(self) -> Moved:
        """As independent moves."""
        return self.sampled.and_also(self.left_out)


def linearised(
    samples: PixelSamples,
    world_from_cam: Float[Tensor, "t 4 4"],
    intrinsics: Float[Tensor, "4"],
    points: Float[Tensor, "n 3"],
) -> Linearised:
    """The reduced camera system of reprojection alone, and what every point contributes to it."""
    term = terms.reprojection(samples, intrinsics, GemanMcClure(KNEE))
    state = {"world_from_cam": world_from_cam, "points": points, "log_focal": points.new_zeros(1, 1)}
    residual, (of_camera, of_point, of_focal) = weighted(state, term)
    weight = term.loss.weight(term.squares(state)).sqrt() / samples.sigma_px
    lens = torch.cat([of_focal, unmodelled(samples, world_from_cam, intrinsics, points) * weight[:, None, None]], -1)
    count, size = len(points), 6 * len(world_from_cam) + LENS
    of_kept = torch.cat([of_camera, lens], -1)
    columns = torch.cat(
        [6 * samples.frame[:, None] + torch.arange(6), (size - LENS + torch.arange(LENS)).expand(len(samples), -1)], 1
    )
    own = points.new_zeros(count, 3, 3).index_add_(0, samples.point, products(of_point, of_point))
    own = own + torch.eye(3).to(own) * (1e-9 * own.diagonal(dim1=1, dim2=2).amax(1)[:, None, None] + 1e-12)
    slope = points.new_zeros(count, 3).index_add_(0, samples.point, slopes(of_point, residual))
    rows = (samples.point[:, None] * size + columns).reshape(-1)
    coupling = points.new_zeros(count * size, 3).index_add_(0, rows, products(of_kept, of_point).reshape(-1, 3))
    coupling = coupling.view(count, size, 3).transpose(1, 2)
    response = -torch.linalg.solve(own, coupling)
    pulls = points.new_zeros(count * size).index_add_(0, rows, slopes(of_kept, residual).reshape(-1)).view(count, size)
    pulls = pulls + (response * slope[:, :, None]).sum(1)
    index = columns[:, :, None] * size + columns[:, None, :]
    system = points.new_zeros(size * size).index_add_(0, index.reshape(-1), products(of_kept, of_kept).reshape(-1))
    system = system.view(size, size) + coupling.reshape(-1, size).T @ response.reshape(-1, size)
    return Linearised(system, pulls, response)


def unmodelled(
    samples: PixelSamples, world_from_cam: Float[Tensor, "t 4 4"], intrinsics: Float[Tensor, "4"], points: Tensor
) -> Float[Tensor, "m 2 k"]:
    """Pixels by which each sighting would move with a unit of what `UNMODELLED_SIGMA` lists."""
    focal, last = intrinsics[:2], len(world_from_cam) - 1

    def seen_from(frame: Tensor) -> Tensor:
        x = terms.in_camera(world_from_cam[frame], points[samples.point])
        return x[:, :2] / x[:, 2:].clamp_min(terms.NEAREST)

    xy = seen_from(samples.frame)
    radial = xy * xy.square().sum(-1, keepdim=True) * focal
    offset = torch.diag(focal).expand(len(xy), 2, 2)
    before, after = (samples.frame - 1).clamp_min(0), (samples.frame + 1).clamp_max(last)
    speed = (seen_from(after) - seen_from(before)) * focal / (after - before).clamp_min(1)[:, None]
    shutter = speed * (samples.uv[:, 1:] / (2 * intrinsics[3]) - 0.5)
    return torch.cat([radial[:, :, None], offset, shutter[:, :, None]], -1)


def neighbourhoods(
    points: Float[Tensor, "n 3"], world_from_cam: Float[Tensor, "t 4 4"], count: int
) -> Int[Tensor, "n"]:
    """Blocks of equally many neighbouring points, by halving along the longest side: directions and log distance."""
    away = (points - world_from_cam[:, :3, 3].mean(0)) @ world_from_cam[len(world_from_cam) // 2, :3, :3]
    z = away.norm(dim=-1).clamp_min(1e-9)
    places = torch.cat([away / z[:, None], 0.3 * z.log()[:, None]], 1)
    block = torch.zeros(len(points), dtype=torch.long)
    for _ in range(int(np.log2(count))):
        halved = torch.zeros_like(block)
        for b in torch.unique(block).tolist():
            rows = (block == b).nonzero()[:, 0]
            axis = places[rows].std(0).argmax() if len(rows) > 1 else 0
            order = places[rows, axis].argsort()
            halved[rows[order[len(rows) // 2 :]]] = 1
        block = 2 * block + halved
    return block


def moved(
    system: Linearised,
    pulls: Float[Tensor, "g c"],
    world_from_cam: Float[Tensor, "t 4 4"],
    lens_sigma: Sequence[float],
    *,
    held: bool,
    known: Float[Tensor, "t 6"] | None = None,
) -> Moved:
    """Cameras, focal length and points as pulls move them (a step of Gauss and Newton goes the other way).

    Args:
        lens_sigma: what is known beforehand of the lens: the log focal length and what is not modelled (0: all).
        held: whether the centres are fixed.
        known: (T, 6) information about the cameras from elsewhere, 1 / variance per tangent direction.
    """
    most = float(system.system.diagonal().max())
    cameras = system.pulls.new_zeros(len(world_from_cam), 6) if known is None else known.clone()
    if held:
        cameras[:, :3] = STIFF * most
    lens = cameras.new_tensor([sigma**-2 if sigma > 0 else STIFF * most for sigma in lens_sigma])
    full = system.system + torch.diag(torch.cat([cameras.flatten(), lens]) + 1e-9 * most)
    free = torch.linalg.qr(gauge(world_from_cam, held=held)).Q
    full += float(full.diagonal()[:-LENS].median()) * free @ free.T
    steps = torch.linalg.solve(full, pulls.T)
    own = steps[:-LENS].view(len(world_from_cam), 6, -1)
    rotation = world_from_cam[:, :3, :3]
    return Moved(rotation @ own[:, :3], rotation @ own[:, 3:], steps[-LENS:], system.response @ steps)


def doubts(
    system: Linearised,
    blocks: Int[Tensor, "n"],
    world_from_cam: Float[Tensor, "t 4 4"],
    focal_sigma: float,
    *,
    held: bool,
    known: Float[Tensor, "t 6"] | None = None,
) -> Doubts:
    """How far everything may be off by every block's pull, the focal prior, and what is not modelled.

    The solution is where the blocks pull at nothing but what is not modelled. How far it would move if that were free
    counts, effect by effect, as far as it is more than the blocks' noise, and `UNMODELLED_SHARE` times: there is more
    than is listed.
    """
    of_blocks, count = block_pulls(system, blocks), len(UNMODELLED_SIGMA)
    of_prior = torch.zeros_like(of_blocks[:1])
    of_prior[0, -LENS] = 1 / focal_sigma if focal_sigma > 0 else 0.0
    coupling = system.system[-count:].clone()
    coupling[:, -count:] = 0

    def by(pulls: Float[Tensor, "g c"], unmodelled_sigma: Sequence[float]) -> Moved:
        return moved(system, pulls, world_from_cam, (focal_sigma, *unmodelled_sigma), held=held, known=known)

    modelled = by(torch.cat([of_blocks, of_prior, coupling]), EXACT)
    free = by(torch.cat([of_blocks, system.pulls.sum(0, keepdim=True)]), UNMODELLED_SIGMA).lens
    signal = free[1:, -1].square() / free[1:, :-1].square().sum(1).clamp_min(1e-20)
    size = UNMODELLED_SHARE * (1 - CHANCE / signal.clamp_min(CHANCE)) * free[1:, -1]
    effects = _with_a_unit_of_each(system, Moved(*(part[..., -count:] for part in modelled)))
    return Doubts(
        sampled=Moved(*(part[..., :-count] for part in modelled)),
        left_out=Moved(*(part @ size[:, None] for part in effects)),
        focal_scatter=float(free[0, :-1].norm()),
    )


def _with_a_unit_of_each(system: Linearised, coupled: Moved) -> Moved:
    """How everything moves with a unit of each of what is not modelled, from how its coupling pulls at the rest."""
    count = len(UNMODELLED_SIGMA)
    lens = torch.cat([-coupled.lens[:1], torch.eye(count).to(coupled.lens)])
    return Moved(-coupled.centres, -coupled.turns, lens, system.response[..., -count:] - coupled.points)


def block_pulls(system: Linearised, blocks: Int[Tensor, "n"]) -> Float[Tensor, "b c"]:
    """What every block pulls beyond their mean: independent draws of the pull that the noise makes."""
    count = int(blocks.max()) + 1
    pulls = system.pulls.new_zeros(count, system.pulls.shape[1]).index_add_(0, blocks, system.pulls)
    return (pulls - pulls.mean(0)) * (count / (count - 1)) ** 0.5


def at_held_focal(system: Linearised, found: Moved, world_from_cam: Float[Tensor, "t 4 4"]) -> Moved:
    """The same moves without what the focal length does in them to first order."""
    pull = torch.zeros_like(system.pulls[:1])
    pull[0, -LENS] = 1.0
    along = moved(system, pull, world_from_cam, (1e3, *EXACT), held=False)
    share = found.lens[0] / along.lens[0]
    return Moved(*(part - share * along_part for part, along_part in zip(found, along, strict=True)))


def gauge(world_from_cam: Float[Tensor, "t 4 4"], *, held: bool = False) -> Float[Tensor, "c 7"]:
    """Steps of all cameras that change nothing seen: the world moved, turned and scaled (`held`: only turned)."""
    rotation, centre = world_from_cam[:, :3, :3], world_from_cam[:, :3, 3]
    inverse = rotation.transpose(1, 2)
    turn = torch.cat([torch.zeros_like(rotation) if held else -inverse @ se3.hat(centre), inverse], 1)
    shift = torch.cat([inverse, torch.zeros_like(inverse)], 1)
    scale = torch.cat([inverse @ centre[:, :, None], torch.zeros_like(centre)[:, :, None]], 1)
    steps = turn if held else torch.cat([turn, shift, scale], 2)
    steps = steps.reshape(-1, steps.shape[2])
    return torch.cat([steps, steps.new_zeros(LENS, steps.shape[1])])


def aligned(
    found: Moved, world_from_cam: Float[Tensor, "t 4 4"], *, scaled: bool
) -> tuple[Float[Tensor, "t 3 g"], Float[Tensor, "t 3 g"]]:
    """Centres and rotations as they are off after the best similarity (rigid motion unless `scaled`) of the centres."""
    centre = world_from_cam[:, :3, 3] - world_from_cam[:, :3, 3].mean(0)
    eye = torch.eye(3).to(centre).expand(len(centre), 3, 3)
    parts = [eye, -se3.hat(centre), *([centre[:, :, None]] if scaled else [])]
    away = torch.cat(parts, 2).reshape(3 * len(centre), -1)
    flat = found.centres.reshape(len(away), -1)
    inverse = torch.linalg.pinv(away, rtol=1e-3)
    best = inverse @ flat
    return (flat - away @ best).view_as(found.centres), found.turns - best[3:6]


def loose_turn(left_out: Moved, world_from_cam: Float[Tensor, "t 4 4"], *, scaled: bool) -> float:
    """Sigma per axis, in radians, of the rotation by which bent centres are aligned.

    `left_out` is one move: of what is not modelled it tells the size, not the shape. Another drift of that size
    turns a short path as a whole when its centres are aligned, and every orientation with it. About a line that it
    hardly leaves, a path is aligned by its orientations.
    """
    size = sizes(aligned(left_out, world_from_cam, scaled=scaled)[0])
    centre = world_from_cam[:, :3, 3] - world_from_cam[:, :3, 3].mean(0)
    drift = size.square().mean()
    breadth = torch.linalg.eigvalsh(centre.square().sum() * torch.eye(3).to(centre) - centre.T @ centre) / len(centre)
    broad = breadth > drift
    return float((drift / PIECES * torch.where(broad, 1 / breadth, 0).sum() / 3).sqrt())


def depth_changes(
    found: Moved, samples: PixelSamples, world_from_cam: Float[Tensor, "t 4 4"], points: Float[Tensor, "n 3"]
) -> Float[Tensor, "m g"]:
    """Change of the log depth of every sighting's point in its camera."""
    rotation = world_from_cam[:, :3, :3]
    forward = rotation[:, :, 2][samples.frame]
    away = points[samples.point] - world_from_cam[samples.frame, :3, 3]
    z = (away * forward).sum(-1).clamp_min(terms.NEAREST)
    apart = found.points[samples.point] - found.centres[samples.frame]
    # the viewing direction turns with the camera: d forward = turn x forward, and away . (turn x forward)
    across = torch.linalg.cross(forward, away)
    change = (forward[:, :, None] * apart).sum(1) + (across[:, :, None] * found.turns[samples.frame]).sum(1)
    return change / z[:, None]


def sizes(changes: Float[Tensor, "t 3 g"]) -> Float[Tensor, "t"]:
    """Standard deviation per axis of what all pulls change together."""
    return changes.square().sum(-1).mean(-1).sqrt()


def interpolated(
    world_from_cam: Float[Tensor, "t 4 4"], seen: Bool[np.ndarray, "t"]
) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
    """Sigma of centre and rotation of frames without evidence: what the camera does in as many frames; 0 elsewhere."""
    every = np.arange(len(seen))
    gap = np.abs(every[:, None] - every[seen][None]).min(1) if seen.any() else np.full(len(seen), len(seen))
    step = (world_from_cam[1:, :3, 3] - world_from_cam[:-1, :3, 3]).norm(dim=-1).numpy()
    turn = se3.angle_rad(world_from_cam[:-1, :3, :3].transpose(1, 2) @ world_from_cam[1:, :3, :3]).numpy()
    return gap * np.median(step), gap * np.median(turn)
