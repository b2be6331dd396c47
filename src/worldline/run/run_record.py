"""The record of a run, as it stands in `run.json`: what was asked, what came out, what it cost and what it ran on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import cv2
import torch

import worldline
from worldline.scene.journal import Journal
from worldline.scene.scene import Scene

_PACKAGES = ("torch", "numpy", "scipy", "opencv-python-headless", "av", "zarr")


def run_record(
    request: Mapping[str, Any], key: str, scene: Scene, journal: Journal, *, wall_s: float
) -> dict[str, Any]:
    """Plain values for `json.dumps`; `request` says what was asked, with paths as text."""
    return {
        "format": 1,
        "key": key,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        "request": dict(request),
        "scene": _scene_facts(scene),
        "wall_s": wall_s,
        "stages": [asdict(t) for t in journal.times],
        "notes": list(scene.notes),
        "versions": _versions(),
        "threads": {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads(), "cpus": os.cpu_count()},
    }


def _scene_facts(scene: Scene) -> dict[str, Any]:
    return {
        "frames": len(scene),
        "size": [scene.width, scene.height],
        "focal_px": scene.camera.focal,
        "fov_deg": scene.camera.fov_deg,
        "metric": scene.metric,
        "static_points": 0 if scene.static_points is None else len(scene.static_points),
        "tracks": 0 if scene.tracks is None else len(scene.tracks),
        "moving_tracks": 0 if scene.tracks is None else int(scene.tracks.moving.sum()),
    }


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in _PACKAGES}
    return {"worldline": worldline.__version__, "python": platform.python_version(), **packages}
