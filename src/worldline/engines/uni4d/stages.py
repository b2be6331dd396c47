"""The stages about the static world, from the engine's inputs to plain arrays: cameras, bundle, structure, ratios."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldline.engines.uni4d import cameras, structure
from worldline.engines.uni4d import ratios as spreading
from worldline.engines.uni4d.health import FITTING
from worldline.engines.uni4d.inputs import FROM_HERE, Inputs
from worldline.engines.uni4d.ratios import ControlPoints
from worldline.engines.uni4d.structure import Cameras
from worldline.geometry import se3
from worldline.scene.journal import Arrays, pack
from worldline.solve import triangulation
from worldline.solve.known_poses import OFF_SIGMAS, KnownPoses, world_from_structure
from worldline.solve.surface_alignment import SurfacePairs, SurfaceSettings, may_hold, surface_pairs, surfaces_of

WELL_KNOWN = 0.01
"""Relative depth error of a static point below which it has full weight in correcting the cue."""

WIDE_RAD = 0.01
"""Angle between the rays of a point beyond which its depth is known well from them."""

SAME_SCALE = 0.05
"""A depth cue whose scale is off the cameras' by less shares it, up to the scale of every frame."""


def find_cameras(inputs: Inputs) -> Arrays:
    """Stage 1: chained pairs from depth, unless poses came with the observations; known ones are kept to."""
    motion = inputs.observed.camera_motion
    if motion is not None and bool(np.isfinite(motion.world_from_cam).all()) and not motion.partial:
        local = np.linalg.inv(inputs.world_from_local) @ motion.world_from_cam
        return {"world_from_cam": local, "outcome": pack({"from": motion.source.name})}
    tracks, _ = inputs.static_tracks
    assert tracks.log_depth is not None
    generator = torch.Generator().manual_seed(0)
    chained = cameras.chain_pairs(
        tracks.uv, tracks.seen, tracks.log_depth, inputs.tensor(inputs.intrinsics), generator=generator
    )
    return {
        "world_from_cam": _brought_to(inputs, chained.double().cpu()).numpy(),
        "outcome": pack({"from": "depth and tracks, pairwise"}),
    }


def _brought_to(inputs: Inputs, cameras: Float[Tensor, "t 4 4"]) -> Float[Tensor, "t 4 4"]:
    """Cameras in the frame of the known poses, with the scale of those if there are several."""
    if inputs.poses is None:
        return cameras
    every = torch.ones(len(cameras), dtype=torch.bool)
    sizing = inputs.poses.reach > OFF_SIGMAS * inputs.poses.sigma_m
    found = world_from_structure(inputs.poses, cameras, every, with_scale=sizing)
    return cameras if found is None else found.apply_to_cameras(cameras)


def log_cue_scale(inputs: Inputs, world_from_cam: Float[np.ndarray, "t 4 4"]) -> float:
    """Log of the scale that brings the depth cue to cameras whose scale is known; 0 where the cue gives the scale."""
    if inputs.poses is None and (inputs.observed.camera_motion is None or inputs.depth.metric):
        return 0.0
    tracks, _ = inputs.static_tracks
    assert tracks.log_depth is not None
    some = torch.linspace(0, tracks.uv.shape[1] - 1, min(800, tracks.uv.shape[1])).long().to(tracks.uv.device)
    uv, seen = tracks.uv[:, some].double(), tracks.seen[:, some]
    at, intrinsics = torch.from_numpy(world_from_cam).to(uv), torch.from_numpy(inputs.intrinsics).to(uv)
    found = triangulation.triangulate(uv, seen.to(uv), at, intrinsics)
    z = triangulation.reprojection(found.points_world, uv, at, intrinsics)[0]
    told = found.spread_rad > WIDE_RAD
    use = seen & told & (found.residual_px < 2) & (z > 0) & tracks.log_depth[:, some].isfinite()
    if int(use.sum()) < 100:
        return 0.0
    log_scale = float((z[use].log() - tracks.log_depth[:, some][use].double()).median())
    return log_scale if abs(log_scale) > SAME_SCALE else 0.0


def bundle(inputs: Inputs, found: Arrays) -> Arrays:
    """Stage 2: poses, focal and depth scales by bundle adjustment."""
    tracks, columns = inputs.static_tracks
    log_scale = log_cue_scale(inputs, found["world_from_cam"])
    start = Cameras(
        inputs.tensor(found["world_from_cam"]), inputs.tensor(inputs.intrinsics),
        inputs.tensor(np.full((len(inputs.video), 1), log_scale)),
    )  # fmt: skip
    bundled = structure.bundle_cameras(
        tracks, inputs.tracks.query_frame[columns], start, inputs.config.bundling, focal_sigma=inputs.focal_sigma,
        focal_known=inputs.focal_known, poses=_solvable(inputs, tracks),
        sized_by_poses=inputs.sized_by_poses and not inputs.depth.metric, surfaces=_surfaces(inputs),
    )  # fmt: skip
    result = bundled.cameras
    return {
        "world_from_cam": _rigid(result.world_from_cam, inputs.poses),
        "intrinsics": result.intrinsics.double().cpu().numpy(),
        "log_depth_scale": result.log_depth_scale.double().cpu().numpy(),
        "noise": np.array(bundled.noise),
        "outcome": pack(bundled.outcome),
    }


def _surfaces(inputs: Inputs) -> Callable[[Cameras], SurfacePairs | None] | None:
    """What the surfaces of measured depth say about cameras; None where depth was made from the same tracks."""
    depth, prior, settings = inputs.depth, inputs.observed.camera, SurfaceSettings()
    if not depth.metric or depth.source.name in FROM_HERE or prior is None or not may_hold(depth, settings):
        return None
    surfaces = surfaces_of(
        depth, inputs.video.width, inputs.video.height, camera=prior.camera, reference=inputs.intrinsics,
        moving=inputs.masks,
    )  # fmt: skip
    if not surfaces.hold(settings):
        return None

    def compared(at: Cameras) -> SurfacePairs | None:
        every = torch.ones(len(at.world_from_cam), dtype=torch.bool)
        return surface_pairs(
            surfaces, at.world_from_cam, every, at.intrinsics, log_scale=at.log_depth_scale[:, 0].cpu()
        )

    return compared


def find_structure(inputs: Inputs, bundled: Arrays) -> Arrays:
    """Static points of all static tracks, and how well each fits."""
    tracks, columns = inputs.static_tracks
    noise = float(bundled["noise"])
    at = inputs.solved(bundled)
    everything = np.arange(len(columns))
    points, _ = structure.structure(tracks, everything, at, inputs.config.bundling, noise=noise)
    fit = structure.fit_of_tracks(tracks, everything, at, points, inputs.config.bundling, noise)
    return {
        "points": points.float().cpu().numpy(), "columns": columns,
        "misfit": fit.misfit.float().cpu().numpy(), "sigma": fit.sigma.float().cpu().numpy(),
    }  # fmt: skip


def find_ratios(inputs: Inputs, bundled: Arrays, points: Arrays) -> Arrays:
    """By how much the cue is off around every pixel, as static structure tells; kept if held-out points agree."""
    control, settings = control_points(inputs, bundled, points), inputs.config.fusing
    count, aspect = len(inputs.video), inputs.video.height / inputs.video.width
    scale = torch.from_numpy(bundled["log_depth_scale"][:, 0]).to(control.log_ratio)
    held = torch.arange(len(control.frame), device=control.frame.device) % 10 == 0
    trial = spreading.ratio_field(control.chosen(~held), count, aspect, settings)
    before, after = spreading.held_out_errors(trial, control.chosen(held), scale, settings)
    field = spreading.ratio_field(control, count, aspect, settings)
    if not after < before:
        field = spreading.RatioField(*(torch.zeros_like(x) for x in (field.value, field.support, field.spread)))
    outcome = {
        "held_out_before": round(before, 5), "held_out_after": round(after, 5),
        "kept": "result" if after < before else "start",
    }  # fmt: skip
    fields = {"field": field.value, "support": field.support, "spread": field.spread}
    return {**{k: v.cpu().numpy() for k, v in fields.items()}, "outcome": pack(outcome)}


def control_points(inputs: Inputs, bundled: Arrays, points: Arrays) -> ControlPoints:
    """Log ratios of the static structure to the cue at all (thinned) sightings."""
    at = inputs.solved(bundled)
    tracks, columns = inputs.static_tracks
    assert tracks.log_depth is not None
    good = torch.from_numpy(np.flatnonzero(points["misfit"] < FITTING)).to(tracks.uv.device)
    frame, track = tracks.seen[:, good].nonzero(as_tuple=True)
    point = good[track]
    size = tracks.uv.new_tensor([inputs.video.width, inputs.video.height])
    # the third column of world_from_cam is the viewing direction: depth needs no full transform
    forward, centre = at.world_from_cam[:, :3, 2], at.world_from_cam[:, :3, 3]
    away = inputs.tensor(points["points"])[point] - centre[frame]
    z = (away * forward[frame]).sum(-1)
    log_ratio = z.clamp_min(1e-6).log() - tracks.log_depth[frame, point]
    variance = inputs.tensor(points["sigma"])[point].float() ** 2
    ok = (z > 0) & log_ratio.isfinite()
    log_ratio = torch.where(ok, log_ratio, torch.zeros_like(log_ratio))
    seen_uv = inputs.tensor(inputs.seen_uv[:, columns])
    place = (seen_uv[frame, point] / size).float()
    weight = ok * WELL_KNOWN**2 / (WELL_KNOWN**2 + variance)
    return ControlPoints(frame, place, log_ratio.float(), weight, variance)


def _solvable(inputs: Inputs, tracks: structure.Tracks) -> KnownPoses | None:
    """The known poses as the solver can use them; for exact ones, exact enough."""
    if inputs.poses is None:
        return None
    assert tracks.log_depth is not None
    size = float(tracks.log_depth[tracks.log_depth.isfinite()].median().exp()) if tracks.seen.any() else 1.0
    return inputs.poses.least(size).tensors(tracks.uv)


def _rigid(world_from_cam: Tensor, poses: KnownPoses | None) -> Float[np.ndarray, "t 4 4"]:
    """Rotations exactly so; the first camera the world unless poses are known, and exact poses exactly."""
    out = world_from_cam.double().cpu()
    out[:, :3, :3] = se3.nearest_rotation(out[:, :3, :3])
    if poses is None:
        return (se3.inverse(out[:1]) @ out).numpy()
    kept = poses.known & poses.exact
    return torch.where(kept[:, None, None], poses.world_from_cam, out).numpy()
