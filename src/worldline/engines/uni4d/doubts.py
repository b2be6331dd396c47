"""The stage that says how far off the solved scene may be: what `uncertainty` computes, for the engine's inputs."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.engines.uni4d import structure
from worldline.engines.uni4d.health import FITTING
from worldline.engines.uni4d.inputs import FROM_HERE, Inputs
from worldline.engines.uni4d.shared_doubt import SharedDoubt
from worldline.engines.uni4d.world import metric_source
from worldline.scene.journal import Arrays, pack
from worldline.solve import uncertainty
from worldline.solve.polish import Solved, at_focal, log_depth
from worldline.solve.terms import PixelSamples
from worldline.solve.uncertainty import Linearised, Moved

UNKNOWN = 0.1
"""Sigma of cameras (share of the median depth, radians) and of log depth where hardly anything static is tracked."""


WALK = 0.01
"""Sigma of the log focal length from which what it does to depth is walked along."""


def find_doubts(inputs: Inputs, bundled: Arrays, points: Arrays) -> Arrays:
    """Sigma of every camera, of the focal length, of the static points, and of the depth that regions share.

    Returns `centre` and `rotation_rad` (T,), `loose_rad` (what all rotations share), `focal`, `points` (N,) in units
    of the scene, and what `SharedDoubt` stores: the doubt of log depth that goes together over whole regions, whatever
    the pixels there say.
    """
    settings, count = inputs.config.doubting, len(inputs.video)
    every = torch.from_numpy(bundled["world_from_cam"]).double()
    chosen = well_fitted(inputs, points["misfit"], settings.tracks)
    if len(chosen) < 2 * settings.blocks:
        return _unknown(inputs, points)
    frames = np.unique(np.linspace(0, count - 1, min(count, settings.frames)).round().astype(int))
    where, cameras = torch.from_numpy(points["points"][chosen]).double(), every[frames]
    samples = sightings(inputs, points["columns"][chosen], frames, settings.sightings, float(bundled["noise"]))
    system = uncertainty.linearised(samples, cameras, torch.from_numpy(bundled["intrinsics"]).double(), where)
    blocks = uncertainty.neighbourhoods(where, cameras, settings.blocks)
    prior, own = focal_prior(inputs), inputs.focal_sigma if inputs.focal_known else 0.0
    prior *= structure.among(len(samples), inputs.config.bundling) if inputs.focal_known else 1.0
    held = structure.one_centre(every)
    found = uncertainty.doubts(system, blocks, cameras, prior, held=held, known=_known(inputs, frames))
    at = cameras, torch.from_numpy(bundled["intrinsics"]).double(), where
    open_valley = not (held or _metric(inputs) or inputs.poses is not None or inputs.focal_known)
    walked = found.focal_scatter if open_valley and found.focal_scatter > WALK else 0.0
    changed = _sure(inputs, uncertainty.depth_changes(found.left_out, samples, cameras, where))
    # of what is not modelled the size is known, not where; and a camera that only turns sees no depth at all
    left_out = 0.0 if held else uncertainty.UNMODELLED_DEPTH * float(changed.abs().median())
    shared = _shared(inputs, _depth_changes(system, found.sampled, samples, at, walked), samples, at).with_level(
        left_out
    )
    centre, rotation_rad = _camera_sigma(inputs, points, found.all_moves, every, frames)
    loose = uncertainty.loose_turn(found.left_out, cameras, scaled=not _metric(inputs))
    focal = np.array([own, *(settings.inflation * np.array([found.focal_scatter, float(found.left_out.lens[0])]))])
    return {
        "centre": centre, "rotation_rad": rotation_rad, "loose_rad": np.array(loose),
        "focal": np.array(np.linalg.norm(focal)), "points": _point_sigma(inputs, bundled, points, shared),
        "outcome": pack({"tracks": len(chosen), "frames": len(frames), "unmodelled": round(left_out, 4)}),
        **shared.stored(),
    }  # fmt: skip


def well_fitted(inputs: Inputs, misfit: Float[np.ndarray, "n"], most: int) -> Int[np.ndarray, "k"]:
    """Static tracks that fit, well spread over the image and over time."""
    tracks, columns = inputs.static_tracks
    fits = np.flatnonzero(misfit < FITTING)
    some = structure.Tracks(tracks.uv[:, fits], tracks.seen[:, fits], tracks.sigma_px[:, fits], None, None, 1.0)
    cell_px = inputs.config.bundling.cell * inputs.video.width
    return fits[structure.spread(some, inputs.tracks.query_frame[columns[fits]], cell_px, most)]


def sightings(
    inputs: Inputs, columns: Int[np.ndarray, "k"], frames: Int[np.ndarray, "f"], most: int, noise: float
) -> PixelSamples:
    """What was seen of the chosen tracks in the chosen frames, numbered by their order; at most so many of each."""
    seen = inputs.evidence.static[np.ix_(frames, columns)]
    number = np.cumsum(seen, 0) - 1
    every = np.maximum(seen.sum(0) / most, 1)
    seen &= np.floor(number / every) != np.floor((number - 1) / every)
    frame, point = np.nonzero(seen)
    at = frames[frame], columns[point]
    sigma = np.maximum(inputs.tracks.sigma_px[at], inputs.config.bundling.least_sigma_px) * noise
    return PixelSamples(
        torch.from_numpy(frame), torch.from_numpy(point), torch.from_numpy(inputs.tracks.uv[at]).double(),
        torch.from_numpy(sigma).double(),
    )  # fmt: skip


def focal_prior(inputs: Inputs) -> float:
    """What is known of the log focal length besides the tracks."""
    camera = inputs.observed.camera
    found_here = camera is not None and camera.source.name in FROM_HERE and inputs.focal_sigma > 0
    return inputs.config.doubting.focal_sigma if found_here else inputs.focal_sigma


def _known(inputs: Inputs, frames: Int[np.ndarray, "f"]) -> Float[Tensor, "f 6"] | None:
    """Information about the cameras from poses that were given."""
    if inputs.poses is None:
        return None
    poses = inputs.poses.least(_depth_of(inputs))
    sigma = torch.tensor([poses.sigma_m] * 3 + [poses.sigma_rad] * 3, dtype=torch.float64)
    return poses.known[torch.from_numpy(frames)].double()[:, None] / sigma**2


def _camera_sigma(
    inputs: Inputs, points: Arrays, found: Moved, every: Float[Tensor, "t 4 4"], frames: Int[np.ndarray, "f"]
) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
    """Per axis, of centres and rotations; frames in which hardly anything is seen are interpolated."""
    settings, count, metric = inputs.config.doubting, len(inputs.video), _metric(inputs)
    off = uncertainty.aligned(found, every[frames], scaled=not metric)
    measured = [np.interp(np.arange(count), frames, uncertainty.sizes(x).numpy()) for x in off]
    seen = inputs.evidence.static[:, points["columns"][points["misfit"] < FITTING]].sum(1) >= settings.lone
    guessed = uncertainty.interpolated(every, seen)
    centres = every[:, :3, 3] - every[:, :3, 3].mean(0)
    unit = settings.scale_sigma * (centres.norm(dim=-1) / 3**0.5).numpy() if metric else 0.0
    floors = settings.centre_floor * _depth_of(inputs), settings.rotation_floor_rad
    centre, turn = (
        np.sqrt((settings.inflation * m) ** 2 + g**2 + floor**2)
        for m, g, floor in zip(measured, guessed, floors, strict=True)
    )
    return np.hypot(centre, unit), turn


def _depth_changes(
    system: Linearised, found: Moved, samples: PixelSamples, at: Solved, walked: float
) -> Float[Tensor, "m g"]:
    """Independent changes of the log depth of the sightings.

    The relief that another focal length makes is no multiple of a small change. So where the focal length is seen
    badly, what it does is found by walking `walked` (log) to both sides of it, instead of to first order.
    """
    cameras, intrinsics, where = at
    if walked == 0:
        return uncertainty.depth_changes(found, samples, cameras, where)
    before, focal_px = log_depth(samples, cameras, where), float(intrinsics[0])
    ends = [at_focal(samples, cameras, intrinsics, where, focal_px * np.exp(d)) for d in (-walked, walked)]
    apart = [log_depth(samples, end.world_from_cam, end.points) - before for end in ends]
    rest = uncertainty.at_held_focal(system, found, cameras)
    straight = uncertainty.depth_changes(rest, samples, cameras, where)
    return torch.cat([straight, torch.stack(apart, 1) / 2**0.5], 1)


def _shared(inputs: Inputs, changes: Float[Tensor, "m g"], samples: PixelSamples, at: Solved) -> SharedDoubt:
    """What the changes do to the depth of whole regions, beyond a scale that nobody knows."""
    settings, metric = inputs.config.doubting, _metric(inputs)
    size = torch.tensor([inputs.video.width, inputs.video.height]).to(changes)
    sure = _sure(inputs, changes)
    found = SharedDoubt.of(sure.numpy(), (samples.uv / size).numpy(), log_depth(samples, at[0], at[2]).numpy())
    return found.with_level(settings.scale_sigma) if metric else found


def _sure(inputs: Inputs, changes: Float[Tensor, "m g"]) -> Float[Tensor, "m g"]:
    """Changes that matter: without the scale that they share, unless something gives it."""
    return changes if _metric(inputs) else changes - changes.median(0).values


def _point_sigma(inputs: Inputs, bundled: Arrays, points: Arrays, shared: SharedDoubt) -> Float[np.ndarray, "n"]:
    """Of every static point in units of the scene: its own parallax, and what it shares with the points around it."""
    settings, seen = inputs.config.doubting, inputs.evidence.static[:, points["columns"]]
    own = points["sigma"] * np.sqrt(np.maximum(seen.sum(0) / settings.independent, 1))
    first = seen.argmax(0)
    cameras = bundled["world_from_cam"][first]
    apart = points["points"] - cameras[:, :3, 3]
    away = np.linalg.norm(apart, axis=-1)
    place = inputs.seen_uv[first, points["columns"]] / np.array([inputs.video.width, inputs.video.height])
    together = shared.at(place, np.log(np.maximum((apart * cameras[:, :3, 2]).sum(-1), 1e-6)))
    return (away * np.sqrt(own**2 + together**2 + settings.depth_floor**2)).astype(np.float32)


def _metric(inputs: Inputs) -> bool:
    """Whether something gives the scale of the scene."""
    return inputs.observed.lengths is not None or bool(metric_source(inputs))


def _depth_of(inputs: Inputs) -> float:
    """The usual depth of the scene, in its units."""
    z = np.asarray(inputs.depth.depth_z[len(inputs.video) // 2])
    known = z[np.isfinite(z) & (z > 0)]
    return float(np.median(known)) if known.size else 1.0


def _unknown(inputs: Inputs, points: Arrays) -> Arrays:
    """Where next to nothing static is tracked."""
    count, depth = len(inputs.video), _depth_of(inputs)
    return {
        "centre": np.full(count, UNKNOWN * depth), "rotation_rad": np.full(count, UNKNOWN), "loose_rad": np.array(0.0),
        "focal": np.array(focal_prior(inputs)), "points": np.full(len(points["points"]), UNKNOWN * depth, np.float32),
        "outcome": pack({"tracks": 0}), **SharedDoubt.equal(UNKNOWN).stored(),
    }  # fmt: skip
