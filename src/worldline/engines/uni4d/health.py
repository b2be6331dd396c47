"""Per-frame self-check: what a user may look at before trusting a frame."""

from __future__ import annotations

import numpy as np

from worldline.engines.uni4d.inputs import Inputs
from worldline.scene.journal import Arrays

FITTING = 1.8
"""Robust whitened reprojection error (1 expected, 2.8 at most) up to which a static track counts as fitting."""


def per_frame(inputs: Inputs, bundled: Arrays, points: Arrays, fused: Arrays) -> dict[str, np.ndarray]:
    """Names and (T,) arrays: static sightings, share of fitting ones, depth scale, moving share, and `trust`.

    `trust` in [0, 1] falls with few fitting sightings (20 halve it) and with a depth scale off by many MADs.
    """
    fits = points["misfit"] < FITTING
    sightings = inputs.evidence.static[:, points["columns"]]
    total = sightings.sum(1)
    good = sightings[:, fits].sum(1)
    scale = bundled["log_depth_scale"][:, 0]
    off = np.abs(scale - np.median(scale))
    mads = off / max(1.4826 * float(np.median(off)), 0.02)
    trust = good / (good + 20.0) * (good / np.maximum(total, 1)) / (1 + (mads / 6) ** 2)
    return {
        "static_sightings": total.astype(np.float32),
        "fitting_share": (good / np.maximum(total, 1)).astype(np.float32),
        "depth_scale": np.exp(scale).astype(np.float32),
        "moving_share": (fused["moving"] > 0).mean((1, 2)).astype(np.float32),
        "trust": np.clip(trust, 0, 1).astype(np.float32),
    }
