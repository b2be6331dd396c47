"""A focal length that changes over time: cameras, points and one focal length per frame from tracks.

A zoom scales the image about the principal point, whatever the depth; going forward scales near things more than far
ones. So the two can be told apart where the scene has depth (or where the camera only turns, see `rotation`), and
not before a single plane. What is found is taken out of the tracks (`at_fixed_focal`): all that follows sees a camera
whose lens does not change.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.solve import bundle, growth, terms, triangulation
from worldline.solve.focal import Focal
from worldline.solve.problem import State, Stop, Term, minimise
from worldline.solve.robust import Cauchy
from worldline.solve.schur import Schur
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.terms import PixelSamples
from worldline.solve.track_cameras import Cameras, static_points
from worldline.solve.track_samples import TrackSamples, log_misfit

STEP_SIGMA = 0.01
"""Change of the log focal length from a frame to the next that is usual for a lens that zooms."""

RARE = 3.0
"""Log of the odds against a lens that zooms, before anything is seen."""
INDEPENDENT_SIGHTINGS = 150
"""What tracks are worth against what is believed of a lens."""
NOTICEABLE = 0.08
"""A change of the log focal length that is worth mentioning; lenses that focus change it by a little."""


def noticeable(log_focal: Float[Tensor, "t"]) -> bool:
    """Whether the focal length changes by more than that of a lens that focuses."""
    return float(log_focal.max() - log_focal.min()) > NOTICEABLE


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


def moving_camera(
    few: TrackSamples, frames: Int[Tensor, "k"], focal: Focal, log_zoom: Float[Tensor, "k"], s: StructureSettings, *,
    median_depth: float, rounds: int = 3,
) -> tuple[Cameras, Float[Tensor, "k"]] | None:  # fmt: skip
    """A moving camera whose lens zooms, from a first guess of the zoom; the log of its zoom.

    `few` are the samples in the `frames` of a clip. Each round takes the zoom found so far out of the tracks.
    """
    every = torch.arange(len(frames))
    ideal = at_fixed_focal(few, log_zoom.exp(), focal.intrinsics)
    state = growth.moving_camera(ideal, every, focal, s, median_depth=median_depth)
    for _ in range(rounds if state is not None else 0):
        assert state is not None
        state, more = adjusted(ideal, state, frames, s)
        log_zoom = log_zoom + more
        ideal = at_fixed_focal(few, log_zoom.exp(), focal.intrinsics)
    return None if state is None else (state, log_zoom)


def implausibility(
    few: TrackSamples, state: Cameras, log_zoom: Float[Tensor, "k"], frames: Int[Tensor, "k"], focal: Focal,
    s: StructureSettings,
) -> float:  # fmt: skip
    """Minus twice the log probability of a lens and a motion: misfit, an unusual focal length, changes of it."""
    factor = log_zoom.exp()
    ideal = at_fixed_focal(few, factor, state.intrinsics)
    found = triangulation.triangulate(
        ideal.uv, ideal.weight * state.solved[:, None], state.world_from_cam, state.intrinsics
    )
    misfit = log_misfit(found.residual_px * factor[:, None], few.weight * state.solved[:, None])
    unusual = float((state.intrinsics[0] / focal.intrinsics[0]).log()) / max(focal.sigma, 0.02)
    steps = (log_zoom.diff() / step_sigma(frames)).square().sum()
    zooms = 2 * RARE if bool((log_zoom != 0).any()) else 0.0
    return 2 * INDEPENDENT_SIGHTINGS * misfit + unusual**2 + float(steps) + zooms


def adjusted(
    samples: TrackSamples, state: Cameras, frames: Int[Tensor, "t"], s: StructureSettings, *, steps: int = 25
) -> tuple[Cameras, Float[Tensor, "t"]]:
    """Bundle adjustment with a focal length per frame: the cameras, and the log of each over that of the first.

    `frames` are the numbers of the samples' frames in the clip. Frames that are not solved get their neighbours' zoom.
    """
    points, good = static_points(samples, state, s)
    solved, track = torch.nonzero(state.solved)[:, 0], torch.nonzero(good)[:, 0]
    if len(solved) < 3 or len(track) < 16:
        return state, samples.uv.new_zeros(len(samples.uv))
    frame, point = torch.nonzero(samples.weight[solved][:, track] > 0, as_tuple=True)
    sighting = (solved[frame], track[point])
    seen = PixelSamples(frame, point, samples.uv[sighting], samples.weight[sighting].rsqrt())
    cameras = state.world_from_cam[solved]
    start: State = {
        "world_from_cam": cameras, "points": points[track], "log_focal": samples.uv.new_zeros(len(solved), 1)
    }  # fmt: skip
    parts = [
        _reprojection(seen, state.intrinsics), _steady(step_sigma(frames[solved])),
        terms.prior("log_focal", samples.uv.new_zeros(len(solved), 1), s.focal_sigma * len(solved) ** 0.5),
        terms.motion_prior(cameras, torch.zeros(1, dtype=torch.long), 1e-6, 1e-6), *bundle.held_size(cameras),
    ]  # fmt: skip
    found = minimise(start, parts, start.keys(), Schur("points"), Stop(steps=steps, tolerance=1e-4)).state
    moved = state.world_from_cam.clone()
    moved[solved] = found["world_from_cam"]
    log_zoom = found["log_focal"][:, 0] - found["log_focal"][0, 0]
    first = found["log_focal"][0, 0].exp()
    intrinsics = torch.cat([state.intrinsics[:2] * first, state.intrinsics[2:]])
    every = between_keys(log_zoom, solved, len(samples.uv))
    return state._replace(world_from_cam=moved, intrinsics=intrinsics), every


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


def _steady(sigma: Float[Tensor, "p"]) -> Term:
    """Holds the log focal lengths of consecutive frames near each other."""
    rows = torch.arange(len(sigma))

    def residual(here: Tensor, after: Tensor) -> Tensor:
        return (after - here) / sigma[:, None]

    def jacobian(here: Tensor, after: Tensor) -> tuple[Tensor, list[Tensor]]:
        slope = (1 / sigma)[:, None, None]
        return residual(here, after), [-slope, slope]

    return Term("steady zoom", (("log_focal", rows), ("log_focal", rows + 1)), residual, jacobian)
