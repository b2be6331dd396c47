"""Stage 3: where moving points are at every time between their first and last sighting.

Source: Uni4D (arXiv 2503.21761) non-rigid bundle adjustment; see `solve/nonrigid.py` for the energy and the solver.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int

from worldline.engines.uni4d import ratios as ratio_fields
from worldline.engines.uni4d.inputs import Inputs
from worldline.geometry import camera
from worldline.scene.journal import Arrays, pack
from worldline.solve import nonrigid
from worldline.solve.nonrigid import MovingSamples, Weights


def follow_moving_points(inputs: Inputs, bundled: Arrays, ratios: Arrays) -> Arrays:
    """Stage 3: positions of moving tracks at all times between their first and last sighting."""
    columns = np.flatnonzero(inputs.evidence.group > 0)
    longest = np.argsort(-inputs.evidence.moving[:, columns].sum(0), kind="stable")
    columns = np.sort(columns[longest[: inputs.config.moving_tracks]])
    if len(columns) < 3:
        empty = np.zeros((len(inputs.video), 0, 3), np.float32)
        nothing = {"points": empty, "sigma": empty[..., 0], "active": empty[..., 0] > 0, "columns": columns[:0]}
        return {**nothing, "outcome": pack({"tracks": 0})}
    samples = moving_samples(inputs, bundled, inputs.evidence.moving[:, columns], columns, ratios)
    solved = nonrigid.solve_points(samples, scaled_weights(inputs.config.motion, samples))
    before, after = solved.costs
    outcome = {"tracks": len(columns), "cost_before": round(before, 1), "cost_after": round(after, 1)}
    return {
        "points": solved.points_world.permute(2, 1, 0).float().contiguous().cpu().numpy(),
        "sigma": solved.sigma.T.float().cpu().numpy(), "active": samples.active.T.cpu().numpy(),
        "columns": columns, "outcome": pack(outcome),
    }  # fmt: skip


def scaled_weights(weights: Weights, samples: MovingSamples) -> Weights:
    """The configured knees are for a scene three units deep; they scale with the scene."""
    size = float(samples.depth_z[samples.seen].median()) / 3.0
    return replace(weights, smooth_knee=weights.smooth_knee * size, rigid_knee=weights.rigid_knee * size)


def moving_samples(
    inputs: Inputs, bundled: Arrays, seen: Bool[np.ndarray, "t n"], columns: Int[np.ndarray, "n"], ratios: Arrays
) -> MovingSamples:
    """Rays, corrected depth and activity of moving tracks, (N, T)."""
    at = inputs.solved(bundled)
    log_depth, sigma = inputs.cue_at(seen, columns)
    frame, track = np.nonzero(seen)
    size = np.array([inputs.video.width, inputs.video.height], np.float32)
    place = inputs.tensor(inputs.tracks.uv[frame, columns[track]] / size)
    off = ratio_fields.sample_field(torch.from_numpy(ratios["field"]), torch.from_numpy(frame), place.float().cpu())
    log_depth[frame, track] += off.numpy()
    known = seen & np.isfinite(log_depth)
    first, last = known.argmax(0), len(known) - 1 - known[::-1].argmax(0)
    t = np.arange(len(known))[:, None]
    active = (t >= first) & (t <= last) & known.any(0)
    rotation, centres = at.world_from_cam[:, :3, :3], at.world_from_cam[:, :3, 3]
    rays_cam = camera.rays_z1(inputs.tensor(inputs.tracks.uv[:, columns]), at.intrinsics)
    rays = (rotation[:, None] @ rays_cam[..., None])[..., 0].permute(2, 1, 0).contiguous()
    depth_z = inputs.tensor(np.exp(np.where(known, log_depth, 0.0)).T)
    depth_sigma = inputs.tensor(np.where(known, sigma, 1.0).T)
    return MovingSamples(
        rays_world=rays,
        centres_world=centres.T.contiguous(),
        right=rotation[:, :, 0].T.contiguous(),
        down=rotation[:, :, 1].T.contiguous(),
        focal=float(at.intrinsics[0]),
        depth_z=depth_z,
        sigma=depth_sigma,
        seen=inputs.tensor(known.T),
        active=inputs.tensor(active.T),
        group=inputs.tensor(inputs.evidence.group[columns]),
    )
