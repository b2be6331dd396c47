"""`worldline evaluate`: a scene against the truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from worldline.data import reading as datasets
from worldline.errors import InputError
from worldline.evaluate.protocols import PointProtocol
from worldline.evaluate.protocols import protocol as named_protocol
from worldline.evaluate.report import Report, evaluate, evaluate_path
from worldline.io.formats import tum
from worldline.run.recorded_truth import recorded_truth
from worldline.scene.scene import Scene
from worldline.scene.store import load


def run(
    scene: Annotated[Path, arg(metavar="SCENE"), Positional],
    truth: Annotated[Path, arg(metavar="TRUTH"), Positional],
    /,
    *,
    protocol: Annotated[str, arg(metavar="NAME")] = "default",
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Compare a scene with the truth: cameras, depth, masks and tracks, as far as the truth has them.

    The protocols tapvid3d-*, worldtrack-* and allocentric-* are those of benchmarks and compare points only.

    Args:
        scene: folder of a scene, or of a run
        truth: folder of the true scene; a camera path in TUM format (.txt: t tx ty tz qx qy qz qw per line); the
            folder of the recording, with camera poses and depth images as in 7-Scenes or TUM RGB-D; or a clip of
            TAPVid-3D, WorldTrack (.npz) or Dynamic Replica (folder of a sequence)
        protocol: name of the way to compare; a wrong one lists them
        as_json: print JSON
    """
    report = compare(scene, truth, protocol)
    print(json.dumps(report.as_json(), indent=1) if as_json else report.as_text())


def compare(scene: Path, truth: Path, protocol: str = "default") -> Report:
    """The report on a scene folder, from a scene, a TUM file, a recording or a clip of a dataset as the truth."""
    rules = named_protocol(protocol)
    if truth.exists() and datasets.known(truth):
        count = rules.max_frames if isinstance(rules, PointProtocol) else len(load(scene))
        return evaluate(load(scene), datasets.read(truth, max_frames=count).truth, protocol=rules)
    if truth.is_file():
        path = tum.read(truth)
        report = evaluate_path(load(scene), path.times_s, path.world_from_cam, protocol=protocol, truth_name=truth.name)
        return replace(report, notes=path.notes + report.notes)
    if not truth.exists():
        raise InputError(f"{truth} does not exist; give the folder of a true scene or a TUM file.")
    if (truth / "manifest.json").exists() or (truth / "scene").is_dir():
        return evaluate(load(scene), load(truth), protocol=protocol)
    return _against_recording(load(scene), truth, protocol)


def _against_recording(scene: Scene, folder: Path, protocol: str) -> Report:
    """Only what the recording knows: never what moves, depth and focal length where it has them."""
    truth = recorded_truth(folder, scene)
    report = evaluate(scene, truth.scene, protocol=protocol)
    unknown = ["mask_", "_moving", *([] if truth.has_depth else ["depth_"]), *([] if truth.has_camera else ["focal_"])]
    metrics = {name: value for name, value in report.metrics.items() if not any(part in name for part in unknown)}
    return replace(report, metrics=metrics, notes=truth.notes + report.notes)
