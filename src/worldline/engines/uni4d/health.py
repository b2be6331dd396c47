"""Per-frame self-check: how probably a frame is good, and in words what is not to be trusted.

The probability is a logistic function of the frame's symptoms (`symptoms`), one weight each, fitted to rendered clips
into whose frames faults were put (`benchmarks/health.py`). What the whole clip suffers from is one sentence, and no
frame's fault.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

from worldline.engines.uni4d.inputs import Inputs
from worldline.engines.uni4d.symptoms import find_symptoms
from worldline.scene.journal import Arrays, unpack

FITTING = 1.8
"""Robust whitened reprojection error (1 expected, 2.8 at most) up to which a static track counts as fitting."""

BASE = 4.6
"""Log odds that a frame without any symptom is good."""

WEIGHTS = {
    "repeat": 2.0, "clipped": 0.7, "unlike": 1.0, "blurred": 0.3, "noisy": 0.7, "pose": 0.7, "measured": 1.5,
    "mask": 1.4, "few": 0.9, "lost": 0.3, "stray": 1.1, "jump": 1.2, "depth": 0.9, "vague": 1.1, "camera": 1.0,
}  # fmt: skip
"""What each symptom takes from the log odds, per unit."""

NAMED = {
    "clipped": (0.25, "a picture that is black or over-exposed"),
    "unlike": (0.5, "a picture unlike those before and after"),
    "blurred": (0.9, "a picture much less sharp than those around"),
    "noisy": (0.7, "a picture much noisier than those around"),
    "repeat": (0.5, "the picture of the frame before"),
    "stray": (0.12, "tracks that slide against those of other frames"),
    "measured": (2.2, "a depth map of another scale than the others"),
    "mask": (0.4, "a mask of what moves that does not fit those around"),
    "few": (0.7, "few static tracks to tell the camera from"),
    "lost": (1.2, "far fewer tracks than those around"),
    "depth": (0.7, "depth that does not fit the tracks"),
    "vague": (0.7, "far less certain depth than those around"),
}
"""From how strong a symptom on a frame is named, and what it has; the first that applies.

A pose that was given wrongly is named where it is compared with the images (`contradictions`).
"""

MOST = 0.6
"""Share of all frames from which they are not named one by one."""

UNSURE_FOCAL = 0.05
"""Relative uncertainty of the focal length that is worth a sentence."""

MUCH = 0.3
"""Relative uncertainty above which its size means nothing."""

DOUBTFUL = 0.5
"""Probability of being good below which a frame is named."""


def per_frame(inputs: Inputs, bundled: Arrays, points: Arrays, fused: Arrays, doubts: Arrays) -> dict[str, np.ndarray]:
    """Names and (T,) arrays: static sightings, share of fitting ones, depth scale, moving share, symptoms, `trust`.

    `trust` in [0, 1] is the probability that the frame is good: its camera and its depth are off by less than
    `symptoms.GOOD_CENTRE`, `GOOD_ROTATION_RAD` and `GOOD_DEPTH`, or not by much more than all frames are.
    """
    fits = points["misfit"] < FITTING
    sightings = inputs.evidence.static[:, points["columns"]]
    total, good = sightings.sum(1), sightings[:, fits].sum(1)
    symptoms = find_symptoms(inputs, bundled, points, fused, doubts)
    found = {
        "static_sightings": total,
        "fitting_share": good / np.maximum(total, 1),
        "depth_scale": np.exp(bundled["log_depth_scale"][:, 0]),
        "moving_share": np.array([(ids > 0).mean() for ids in fused["moving"]]),
        **symptoms,
        "trust": probability(symptoms),
    }
    return {name: np.asarray(values, dtype=np.float32) for name, values in found.items()}


def probability(symptoms: Mapping[str, np.ndarray]) -> Float[np.ndarray, "t"]:
    """That a frame with these symptoms is good."""
    return expit(BASE - sum(weight * symptoms[name] for name, weight in WEIGHTS.items()))


def distrusted(
    health: Mapping[str, np.ndarray], doubts: Arrays, *, given_focal_sigma: float | None = None
) -> tuple[str, ...]:
    """One sentence for each thing that is not to be trusted; what the whole clip suffers from is not said per frame.

    Args:
        given_focal_sigma: the uncertainty with which the user gave a focal length; None where none was given.
    """
    left = np.ones(len(health["trust"]), bool)
    said = []
    for name, (strong, what) in NAMED.items():
        frames = left & (health[name] > strong)
        left &= ~frames
        said += [f"{spans(frames)} {_have(frames)} {what}."] if frames.any() else []
    unsure = left & (health["trust"] < DOUBTFUL)
    said += [f"{spans(unsure)} {_have(unsure)} an uncertain camera."] if unsure.any() else []
    return (*said, *_of_the_clip(doubts, given_focal_sigma))


def given_focal_sigma(inputs: Inputs) -> float | None:
    """The uncertainty of a focal length that the user gave; None where a cue found it."""
    camera = inputs.observed.camera
    return None if camera is None or camera.source.name.startswith("camera/") else camera.focal_sigma


def _of_the_clip(doubts: Arrays, given: float | None) -> list[str]:
    said = []
    if (focal := float(doubts["focal"])) > UNSURE_FOCAL:
        advice = (
            "; give it if you know it (--focal or --fov)." if given is None else
            f" although one was given, for that was taken to be good to {_share(given)} only; say so if it is surer "
            "(--focal-sigma)."
        )  # fmt: skip
        said.append(f"the focal length is uncertain by {_share(focal)}{advice}")
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
