"""A focal length that changes over time: cameras, points and one focal length per frame from tracks.

A zoom scales the image about the principal point, whatever the depth; going forward scales near things more than far
ones. So the two can be told apart where the scene has depth and the camera turns or goes aside a little (or where it
only turns, see `rotation`). Straight along the line of sight they cannot: there, inverse depths that are all a little
larger explain a zoom that goes with the way (`zoom_rival`). What is found is taken out of the tracks
(`at_fixed_focal`): all that follows sees a camera whose lens does not change.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.solve import bundle, terms, triangulation
from worldline.solve.focal import Focal
from worldline.solve.methods import Layout, normal_equations
from worldline.solve.problem import State, Stop, Term, minimise
from worldline.solve.resection import interpolate_missing
from worldline.solve.robust import Cauchy
from worldline.solve.schur import Schur
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.terms import PixelSamples
from worldline.solve.track_cameras import Cameras, static_points, with_frame
from worldline.solve.track_samples import TrackSamples

STEP_SIGMA = 0.01
"""Change of the log focal length from a frame to the next that is usual for a lens that zooms."""

AMOUNT_SIGMA = 0.5
"""Change of the log focal length over a whole clip that is usual for a lens that zooms."""

BEND_SIGMA = 4.0
"""By how much the speed of a zoom changes over a clip, in log focal length per clip."""

NOTICEABLE = 0.08
"""A change of the log focal length that is worth mentioning; lenses that focus change it by a little."""

WORTH = 500.0
"""Independent sightings that all tracks are worth against what is believed of a lens."""

STIFF = 1e-3
"""How little a lens zooms that does not, beside one that does."""

AGREEING = 3.0
"""Standard deviations within which a sighting counts in how well a solution fits."""


class Lensed(NamedTuple):
    """Cameras, and the log of every frame's focal length over that of their intrinsics, which is the first frame's."""

    cameras: Cameras
    log_zoom: Float[Tensor, "t"]

    @property
    def zooms(self) -> bool:
        """Whether the focal length changes at all."""
        return bool((self.log_zoom != 0).any())

    def ideal(self, samples: TrackSamples) -> TrackSamples:
        """The samples as a lens that keeps its first focal length would have seen them."""
        return at_fixed_focal(samples, self.log_zoom.exp(), self.cameras.intrinsics)

    def log_focal(self, focal: Focal) -> Float[Tensor, "t"]:
        """Log of the focal lengths over the one that is expected."""
        return self.log_zoom + (self.cameras.intrinsics[0] / focal.intrinsics[0]).log()

    def residual_px(self, samples: TrackSamples) -> Float[Tensor, "t n"]:
        """Reprojection errors of static points, in pixels of the lens that zooms."""
        return self._triangulated(samples).residual_px * self.log_zoom.exp()[:, None]

    def _triangulated(self, samples: TrackSamples) -> triangulation.Triangulated:
        ideal, state = self.ideal(samples), self.cameras
        weight = ideal.weight * state.solved[:, None]
        return triangulation.triangulate(ideal.uv, weight, state.world_from_cam, state.intrinsics)


def noticeable(log_focal: Float[Tensor, "t"], sigma: float = 0.0) -> bool:
    """Whether the focal length changes by more than that of a lens that focuses, with its doubt taken off."""
    return float(log_focal.max() - log_focal.min()) - sigma > NOTICEABLE


def step_sigma(frames: Int[Tensor, "k"]) -> Float[Tensor, "p"]:
    """By how much the log focal length may change between consecutive ones of the given frames."""
    return STEP_SIGMA * frames.diff().double()


def at_fixed_focal(samples: TrackSamples, zoom: Float[Tensor, "t"], intrinsics: Float[Tensor, "4"]) -> TrackSamples:
    """The samples as a lens that stays at its first focal length would have seen them.

    `zoom` is the focal length of every frame over that of the first; only cx, cy of the intrinsics matter.
    """
    uv = (samples.uv - intrinsics[2:]) / zoom[:, None, None] + intrinsics[2:]
    return TrackSamples(uv, samples.weight * zoom.square()[:, None])


def between_keys(log_zoom: Float[Tensor, "k"], keys: Int[Tensor, "k"], count: int) -> Float[Tensor, "t"]:
    """The log zoom of all frames from that of the keyframes, linear in between, zero in the first frame."""
    frames = torch.arange(count)
    right = torch.searchsorted(keys, frames).clamp(1, len(keys) - 1)
    start, end = keys[right - 1], keys[right]
    share = ((frames - start) / (end - start)).to(log_zoom)
    found = log_zoom[right - 1] + share.clamp(0, 1) * (log_zoom[right] - log_zoom[right - 1])
    return found - found[0]


def adjusted(
    samples: TrackSamples, frames: Int[Tensor, "t"], start: Lensed, focal: Focal, s: StructureSettings, *,
    zooms: bool = True, steps: int = 25, rounds: int = 1, tolerance: float = 1e-5,
) -> Lensed:  # fmt: skip
    """Bundle adjustment with a focal length per frame; points and noise are found anew in each round.

    `frames` are the numbers of the samples' frames in the clip. Frames that are not solved get their neighbours' zoom.
    Without `zooms` the focal lengths keep their ratios.
    """
    found = start
    for _ in range(rounds):
        problem = _Problem.of(samples, frames, found, focal, s, zooms=zooms)
        if problem is None:
            break
        state = minimise(
            problem.start, problem.terms, problem.start.keys(), Schur("points"), Stop(steps, tolerance)
        ).state
        found = _with(found, problem.solved, state, focal)
    return found


def covariance(
    samples: TrackSamples, frames: Int[Tensor, "t"], found: Lensed, focal: Focal, s: StructureSettings
) -> Float[Tensor, "k k"] | None:
    """Covariance of the log focal lengths of the solved frames, all else being free; None where too little is seen."""
    problem = _Problem.of(samples, frames, found, focal, s)
    if problem is None:
        return None
    layout = Layout.of(problem.start, ["log_focal", "world_from_cam", "points"])
    normal = normal_equations(problem.start, problem.terms, layout)[0]
    normal.diagonal().mul_(1 + 1e-9).add_(1e-9)
    wanted = torch.eye(layout.total, len(problem.solved), dtype=normal.dtype)
    return torch.linalg.solve(normal, wanted)[: len(problem.solved)] * problem.counted


def everywhere(
    samples: TrackSamples, keys: Int[Tensor, "k"], found: Lensed, focal: Focal, s: StructureSettings
) -> Lensed:
    """From keyframes to all frames."""
    count = len(samples.uv)
    cameras = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    solved = torch.zeros(count, dtype=torch.bool)
    cameras[keys], solved[keys] = found.cameras.world_from_cam, found.cameras.solved
    state = found.cameras._replace(world_from_cam=interpolate_missing(cameras, solved), solved=solved)
    every = Lensed(state, between_keys(found.log_zoom, keys, count))
    ideal = every.ideal(samples)
    points, good = static_points(ideal, state, s)
    for t in torch.nonzero(~solved)[:, 0].tolist():
        state = with_frame(ideal, t, points, good, state, s) or state
    every = adjusted(samples, torch.arange(count), every._replace(cameras=state), focal, s, steps=15, tolerance=1e-4)
    state = every.cameras._replace(world_from_cam=interpolate_missing(every.cameras.world_from_cam, state.solved))
    return every._replace(cameras=state)


def improbability(log_focal: Float[Tensor, "k"], frames: Int[Tensor, "k"], focal: Focal) -> float:
    """Minus twice the log probability of the focal lengths of a lens that zooms, but for a constant."""
    values: State = {"log_focal": log_focal[:, None]}
    return float(sum(term.squares(values).sum() for term in _belief(frames, focal, 1.0)))


class _Problem(NamedTuple):
    """The bundle of the solved frames; by how much its sightings are counted more often than they are independent."""

    start: State
    terms: list[Term]
    solved: Int[Tensor, "k"]
    counted: float

    @classmethod
    def of(
        cls, samples: TrackSamples, frames: Int[Tensor, "t"], at: Lensed, focal: Focal, s: StructureSettings, *,
        zooms: bool = True,
    ) -> _Problem | None:  # fmt: skip
        points, good = static_points(at.ideal(samples), at.cameras, s)
        solved, track = torch.nonzero(at.cameras.solved)[:, 0], torch.nonzero(good)[:, 0]
        if len(solved) < 3 or len(track) < 16:
            return None
        weight = measured(samples, at, s).weight
        frame, point = torch.nonzero(samples.weight[solved][:, track] > 0, as_tuple=True)
        sighting = (solved[frame], track[point])
        seen = PixelSamples(frame, point, samples.uv[sighting], weight[sighting].rsqrt())
        cameras = at.cameras.world_from_cam[solved]
        start: State = {
            "world_from_cam": cameras, "points": points[track], "log_focal": at.log_focal(focal)[solved][:, None]
        }  # fmt: skip
        reprojection = _reprojection(seen, focal.intrinsics)
        counted = max(1.0, float(reprojection.squares(start).clamp_max(AGREEING**2).sum()) / WORTH)
        lens = _belief(frames[solved], focal, counted) if zooms else _belief(frames[solved], focal, counted, STIFF)
        gauge = [terms.motion_prior(cameras, torch.zeros(1, dtype=torch.long), 1e-6, 1e-6), *bundle.held_size(cameras)]
        return cls(start, [reprojection, *lens, *gauge], solved, counted)


def measured(samples: TrackSamples, at: Lensed, s: StructureSettings) -> TrackSamples:
    """The samples with the noise that the residuals of most tracks show instead of the one assumed."""
    residual = torch.where((samples.weight > 0) & at.cameras.solved[:, None], at.residual_px(samples), torch.nan)
    of_track = residual.nanmedian(0).values
    noise = float(of_track[of_track.isfinite()].median()) / 1.18  # median of a Rayleigh distribution
    floor = min(max(noise, 0.2 * s.noise_px), 2 * s.noise_px)
    own = samples.weight.clamp_min(1e-9).reciprocal() - s.noise_px**2
    weight = 1 / (own.clamp_min(0) + floor**2)
    return samples._replace(weight=torch.where(samples.weight > 0, weight, samples.weight))


def _with(before: Lensed, solved: Int[Tensor, "k"], state: State, focal: Focal) -> Lensed:
    """The cameras and the zoom of a solved bundle in their frames; other frames keep the camera they had."""
    cameras = before.cameras.world_from_cam.clone()
    cameras[solved] = state["world_from_cam"]
    log_focal = state["log_focal"][:, 0]
    log_zoom = between_keys(log_focal, solved, len(cameras))
    first = focal.at(float(focal.intrinsics[0] * (log_focal[0] - log_zoom[solved[0]]).exp()))
    return Lensed(before.cameras._replace(world_from_cam=cameras, intrinsics=first), log_zoom)


def _belief(frames: Int[Tensor, "k"], focal: Focal, counted: float, loose: float = 1.0) -> list[Term]:
    """What is believed of log focal lengths: near the usual one, changing as if zoomed, or by a `loose` share of it."""
    count, weaker = len(frames), counted**-0.5
    usual = torch.zeros(count, 1, dtype=torch.float64)
    return [
        terms.prior("log_focal", usual, focal.sigma * count**0.5 * weaker),
        _change(count, loose * AMOUNT_SIGMA * weaker), _bend(frames, loose * BEND_SIGMA * weaker),
    ]  # fmt: skip


def _reprojection(samples: PixelSamples, intrinsics: Float[Tensor, "4"]) -> Term:
    """`terms.reprojection` with a row of `log_focal` for every frame."""
    shared = terms.reprojection(samples, intrinsics)
    assert shared.jacobian is not None
    linear, zero = shared.jacobian, samples.uv.new_zeros(1, 1)

    def jacobian(world_from_cam: Tensor, points: Tensor, log_focal: Tensor) -> tuple[Tensor, list[Tensor]]:
        larger = log_focal.exp()
        residual, blocks = linear(world_from_cam, points, zero)
        offset = blocks[2][..., 0]
        return residual + (larger - 1) * offset, [block * larger[..., None] for block in blocks]

    def residual(world_from_cam: Tensor, points: Tensor, log_focal: Tensor) -> Tensor:
        x = terms.in_camera(world_from_cam, points)
        uv = x[:, :2] / x[:, 2:].clamp_min(terms.NEAREST) * intrinsics[:2] * log_focal.exp() + intrinsics[2:]
        return (uv - samples.uv) / samples.sigma_px[:, None]

    uses = (("world_from_cam", samples.frame), ("points", samples.point), ("log_focal", samples.frame))
    return Term("reprojection with zoom", uses, residual, jacobian, Cauchy(3.0))


def _change(count: int, sigma: float) -> Term:
    """Holds the last log focal length near the first."""
    first = torch.zeros(1, dtype=torch.long)
    slope = torch.full((1, 1, 1), 1 / sigma, dtype=torch.float64)

    def residual(start: Tensor, end: Tensor) -> Tensor:
        return (end - start) / sigma

    def jacobian(start: Tensor, end: Tensor) -> tuple[Tensor, list[Tensor]]:
        return residual(start, end), [-slope, slope]

    return Term("change of zoom", (("log_focal", first), ("log_focal", first + count - 1)), residual, jacobian)


def _bend(frames: Int[Tensor, "k"], sigma: float) -> Term:
    """Holds the speed of the zoom steady: its change from an interval to the next, as if it were pushed at random."""
    rows = torch.arange(len(frames) - 2)
    gap = (frames.diff() / (frames[-1] - frames[0])).double()[:, None]
    before, after = gap[:-1], gap[1:]
    usual = sigma * ((before + after) / 2).sqrt()
    slopes = [1 / before / usual, -(1 / before + 1 / after) / usual, 1 / after / usual]

    def residual(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return ((c - b) / after - (b - a) / before) / usual

    def jacobian(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, list[Tensor]]:
        return residual(a, b, c), [slope[..., None] for slope in slopes]

    return Term("bend of zoom", tuple(("log_focal", rows + i) for i in range(3)), residual, jacobian)
