"""`worldline doctor`: what this machine has, and what will run on it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import av
import cv2
import torch
from tyro.conf import arg

from worldline import __version__
from worldline.cues import cue_models
from worldline.engines import engines
from worldline.nets.weights import stored

PACKAGES = ("torch", "numpy", "scipy", "av", "opencv-python-headless", "pillow", "zarr", "tyro", "rich", "viser")
EXTRAS = {"colmap": "pycolmap", "robotics": "rosbags", "models": "huggingface_hub"}
CUES = ("camera", "tracks", "moving", "depth")


def run(*, as_json: Annotated[bool, arg(name="json")] = False) -> None:
    """Say what is installed, what the machine offers, and which engines and cues will run.

    Args:
        as_json: print JSON
    """
    facts = machine_facts()
    print(json.dumps(facts, indent=1) if as_json else "\n".join(_lines(facts)))


def machine_facts() -> dict[str, Any]:
    """Versions, processor, memory, disk, devices and what will run, JSON-like."""
    return {
        "worldline": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "torch build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only",
        "cuda devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cpu cores": os.cpu_count(),
        "threads": {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads()},
        "memory free / total GB": _memory_gb(),
        "disk free GB (here)": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "ffmpeg": {name: ".".join(map(str, number)) for name, number in av.library_versions.items()},
        "optional extras": {extra: find_spec(package) is not None for extra, package in EXTRAS.items()},
        "engines": engines(),
        "weights": stored(),
        "cues without weights": {kind: cue_models(kind) for kind in CUES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _memory_gb() -> list[float] | None:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return None
    page = os.sysconf("SC_PAGE_SIZE") / 1e9
    return [round(os.sysconf(name) * page, 1) for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES")]


def _lines(facts: dict[str, Any]) -> list[str]:
    return [f"{name:<24}{_plain(value)}" for name, value in facts.items()] + ["", _verdict(facts)]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _verdict(facts: dict[str, Any]) -> str:
    missing = [name for name, number in facts["packages"].items() if number == "missing"]
    if missing:
        return f"not ready: {', '.join(missing)} missing; run pip install -r requirements.txt."
    return "ready: `worldline reconstruct VIDEO` will run on the CPU, with no network and no weights."
