"""Stage 4: the depth cue corrected at full resolution, frame by frame; objects only by their own points.

Source: Uni4D (arXiv 2503.21761) "tracklet-aware depth interpolation"; see `ratios.py` for how points are spread.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from worldline.engines.uni4d import evidence
from worldline.engines.uni4d import ratios as spreading
from worldline.engines.uni4d.inputs import Inputs
from worldline.engines.uni4d.ratios import ControlPoints
from worldline.engines.uni4d.shared_doubt import SharedDoubt
from worldline.scene.journal import Arrays

LEAST_SIGMA = 0.005
"""Relative depth error below which no fused pixel is claimed to be."""


def fuse(inputs: Inputs, bundled: Arrays, ratios: Arrays, moved: Arrays, doubts: Arrays) -> Iterator[Arrays]:
    """Depth, sigma, validity and masks at the video's resolution, frame by frame so that memory stays flat.

    The variance of log depth is that of the pixel itself and that which its surroundings share (`doubts`).
    """
    video, depth, masks = inputs.video, inputs.depth, inputs.masks
    height, width = video.height, video.width
    value, support, spread = (torch.from_numpy(ratios[k]) for k in ("field", "support", "spread"))
    objects = object_fields(inputs, bundled, ratios, moved)
    # without points nearby the frame's own scale is the best guess
    trust = support / (support + inputs.config.fusing.prior)
    scale = torch.from_numpy(bundled["log_depth_scale"]).float()[:, :, None]
    factor = torch.lerp(scale, value, trust).exp()
    coarse = torch.stack([factor, (spread**2 + LEAST_SIGMA**2).sqrt(), trust], 1)
    shared = SharedDoubt.read(doubts).over(height, width)
    for t in range(len(video)):
        ids = _nearest(masks.ids[t], height, width)
        cue, claimed = _resize(depth.depth_z[t], height, width), _resize(depth.sigma[t], height, width)
        ratio, improved, trusted = spreading.enlarge(coarse[t], height, width)
        for group in set(np.bincount(ids.ravel()).nonzero()[0].tolist()) & set(objects):
            own = spreading.enlarge(objects[group][t].exp()[None], height, width)[0]
            ratio = torch.where(torch.from_numpy(ids == group), ratio * own, ratio)
        static = torch.from_numpy(evidence.zones(ids[None], inputs.config.labelling)[0] == evidence.STATIC)
        depth_z = (cue * ratio).numpy()
        own = claimed + static * trusted * (torch.minimum(improved, claimed) - claimed)
        yield {
            "depth_z": depth_z, "sigma": np.hypot(own.numpy(), shared.sigma(depth_z)),
            "valid": np.isfinite(depth_z) & (depth_z > 0), "moving": np.minimum(ids, 255).astype(np.uint8),
        }  # fmt: skip


def object_fields(inputs: Inputs, bundled: Arrays, ratios: Arrays, moved: Arrays) -> dict[int, Tensor]:
    """For every object, the log ratio left after the static field, spread from the object's own points."""
    columns = moved["columns"]
    if len(columns) == 0:
        return {}
    seen = inputs.evidence.moving[:, columns] & moved["active"]
    frame, track = np.nonzero(seen)
    uv = inputs.tracks.uv[frame, columns[track]]
    size = np.array([inputs.video.width, inputs.video.height], np.float32)
    place = torch.from_numpy(uv / size)
    cue = torch.from_numpy(
        evidence.log_depth_at(inputs.depth.depth_z, frame, uv, inputs.video.width, inputs.video.height)
    )
    rows = torch.from_numpy(bundled["world_from_cam"])[torch.from_numpy(frame)].float()
    away = torch.from_numpy(moved["points"][frame, track]) - rows[:, :3, 3]
    z = (away * rows[:, :3, 2]).sum(-1)
    base = spreading.sample_field(torch.from_numpy(ratios["field"]), torch.from_numpy(frame), place)
    left = z.clamp_min(1e-6).log() - cue - base
    weight = (left.isfinite() & (z > 0)).float()
    left = left.nan_to_num(0.0)
    group = torch.from_numpy(inputs.evidence.group[columns][track])
    fields = {}
    for number in group.unique().tolist():
        m = group == number
        control = ControlPoints(torch.from_numpy(frame)[m], place[m], left[m], weight[m], torch.zeros_like(left[m]))
        aspect = inputs.video.height / inputs.video.width
        fields[number] = spreading.ratio_field(control, len(inputs.video), aspect, inputs.config.fusing).value
    return fields


def _resize(image: np.ndarray, height: int, width: int) -> Tensor:
    tensor = torch.from_numpy(np.require(image, np.float32, ["C", "W"]))
    return tensor if tensor.shape == (height, width) else spreading.enlarge(tensor[None], height, width)[0]


def _nearest(ids: np.ndarray, height: int, width: int) -> np.ndarray:
    if ids.shape == (height, width):
        return ids
    rows = (np.arange(height) * ids.shape[0]) // height
    columns = (np.arange(width) * ids.shape[1]) // width
    return ids[rows][:, columns]
