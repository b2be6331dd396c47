"""Per-frame self-check: how probably a frame is good, and in words what is not to be trusted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import gammainc

from worldline.engines.uni4d.inputs import Inputs
from worldline.scene.journal import Arrays, unpack

FITTING = 1.8
"""Robust whitened reprojection error (1 expected, 2.8 at most) up to which a static track counts as fitting."""

GOOD_CENTRE, GOOD_ROTATION_RAD = 0.02, 0.035
"""A frame is good if its camera's centre is off by less than this share of the usual depth, and turned by less."""

FEW = 30.0
"""Static sightings that fit of which a frame has few."""

MOST = 0.6
"""Share of all frames from which they are not named one by one."""

WORSE = 2.0
"""Times the usual uncertainty of a camera from which a frame of an uncertain clip is named."""

MUCH = 0.3
"""Relative uncertainty above which its size means nothing."""

DOUBTFUL = 0.5
"""Probability of being good below which a frame is named."""


def per_frame(inputs: Inputs, bundled: Arrays, points: Arrays, fused: Arrays, doubts: Arrays) -> dict[str, np.ndarray]:
    """Names and (T,) arrays: static sightings, share of fitting ones, depth scale, moving share, and `trust`.

    `trust` in [0, 1] is the probability that the frame is good: its camera's errors, as large as their sigma says, stay
    within `GOOD_CENTRE` and `GOOD_ROTATION_RAD`, there is enough that fits, and its depth has the scale of the others.
    """
    fits = points["misfit"] < FITTING
    sightings = inputs.evidence.static[:, points["columns"]]
    total, good = sightings.sum(1), sightings[:, fits].sum(1)
    scale = bundled["log_depth_scale"][:, 0]
    off = np.abs(scale - np.median(scale))
    mads = off / max(1.4826 * float(np.median(off)), 0.02)
    share = good / np.maximum(total, 1)
    usual = float(np.median(fused["depth_z"][len(scale) // 2]))
    trust = within(GOOD_CENTRE * usual, doubts["centre"]) * within(GOOD_ROTATION_RAD, doubts["rotation_rad"])
    trust = trust * (1 - np.exp(-good / FEW)) * np.clip(share / max(float(np.median(share)), 1e-6), 0, 1)
    trust = trust / (1 + (mads / 6) ** 2)
    return {
        "static_sightings": total.astype(np.float32),
        "fitting_share": share.astype(np.float32),
        "depth_scale": np.exp(scale).astype(np.float32),
        "moving_share": np.array([(ids > 0).mean() for ids in fused["moving"]], np.float32),
        "trust": np.clip(trust, 0, 1).astype(np.float32),
    }


def within(limit: float, sigma: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Probability that a vector of three normal components of this sigma is shorter than `limit`."""
    return gammainc(1.5, 0.5 * (limit / np.maximum(sigma, 1e-12)) ** 2)


def distrusted(health: Mapping[str, np.ndarray], doubts: Arrays) -> tuple[str, ...]:
    """One sentence for each thing that is not to be trusted; what the whole clip suffers from is not said per frame."""
    few = health["static_sightings"] * health["fitting_share"] < FEW
    shifted = np.abs(np.log(health["depth_scale"] / np.median(health["depth_scale"]))) > 0.2
    doubtful = health["trust"] < DOUBTFUL
    whole = _of_the_clip(doubts)
    unsure = doubtful & ~few & ~shifted
    if whole:
        unsure &= doubts["centre"] > WORSE * np.median(doubts["centre"])
    named = {
        "few static tracks to tell the camera from": doubtful & few,
        "a depth map of another scale than the others": doubtful & shifted & ~few,
        "an uncertain camera": unsure,
    }
    said = [f"{spans(frames)} {_have(frames)} {what}." for what, frames in named.items() if frames.any()]
    return (*said, *whole)


def _of_the_clip(doubts: Arrays) -> list[str]:
    said = []
    if (focal := float(doubts["focal"])) > 0.05:
        said.append(f"the focal length is uncertain by {_share(focal)}; give it if you know it (--focal or --fov).")
    if (model := float(unpack(doubts["outcome"]).get("unmodelled", 0.0))) > 0.02:
        said.append(
            f"the images show lens distortion or a rolling shutter that is not modelled: depth and cameras may be off "
            f"by {_share(model)}; give the camera's calibration if you have it."
        )
    return said


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value < MUCH else f"more than {100 * MUCH:.0f} %"


def spans(frames: Bool[np.ndarray, "t"]) -> str:
    """The frames of a mask in words: their runs, the three longest where there are more."""
    if frames.mean() > MOST:
        return "most frames"
    edges = np.flatnonzero(np.diff(np.concatenate([[False], frames, [False]]).astype(int)))
    runs = sorted(edges.reshape(-1, 2).tolist(), key=lambda run: run[0] - run[1])
    words = [f"{a} to {b - 1}" if b - a > 1 else f"{a}" for a, b in sorted(runs[:3])]
    others = " and others" if len(runs) > 3 else ""
    return f"{'frame' if frames.sum() == 1 else 'frames'} {', '.join(words)}{others}"


def _have(frames: Bool[np.ndarray, "t"]) -> str:
    return "has" if frames.sum() == 1 else "have"
