"""Scenes of real clips against whatever truth there is: one JSON line per scene.

    python benchmarks/real_clips.py OUT [OUT ...] [--data ../shared/data]

OUT is an output folder of `worldline reconstruct`; its clip is known by the scene's name, that of the input's folder.
Camera paths (7-Scenes, TUM) give ATE and RPE after a similarity, DAVIS masks give J, BADJA joints give PCK@0.2.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from worldline.errors import InputError
from worldline.evaluate import masks, motion
from worldline.evaluate.correspondence import nearest_frame, track_uv
from worldline.evaluate.paths import at_times, path_scores
from worldline.geometry import pixels, se3
from worldline.io.image_folders import ASSUMED_FPS
from worldline.scene.scene import Scene
from worldline.scene.store import load

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BADJA_SIZE = (1920, 1080)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", type=Path, metavar="OUT")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the recordings")
    args = parser.parse_args()
    for out in args.outputs:
        print(json.dumps(measured(load(out), args.data)), flush=True)


def measured(scene: Scene, data: Path) -> dict[str, Any]:
    """All that the recording's folder holds the truth of."""
    folder = data / scene.name
    line: dict[str, Any] = {"clip": scene.name, "frames": len(scene), "metric": scene.metric}
    if (truth := true_path(scene, folder)) is not None:
        line |= path_line(scene, truth)
    if (folder / "mask").is_dir():
        line |= mask_line(scene, folder / "mask")
    if joints := sorted(folder.glob("badja/*.json")):
        line |= joint_line(scene, joints[0], folder / "mask")
    return line


def path_line(scene: Scene, truth: np.ndarray) -> dict[str, Any]:
    found = path_scores(scene.world_from_cam, truth)
    names = ("ate_m", "ate_pct", "rpe_t_m", "rpe_r_deg", "path_length_m")
    return {**{n: round(getattr(found, n), 5) for n in names}, "alignment": found.alignment.name}


def true_path(scene: Scene, folder: Path) -> np.ndarray | None:
    """world_from_cam of every frame of the scene, or None."""
    if files := sorted(folder.glob("frames/*.pose.txt")):
        return _rigid(np.stack([np.loadtxt(files[i]) for i in file_indices(scene)]))
    if files := sorted(folder.glob("*groundtruth.txt")):
        rows = np.loadtxt(files[0])
        rotation = se3.rotation_from_wxyz(se3.wxyz_from_xyzw(torch.from_numpy(rows[:, 4:])))
        poses = se3.from_rotation_translation(rotation, torch.from_numpy(rows[:, 1:4])).numpy()
        return at_times(rows[:, 0], poses, scene.times_s)
    if (file := folder / "ground_truth.json").is_file():
        stored = json.loads(file.read_text())
        return _rigid(np.array([stored[str(i + 1)]["transformation"] for i in file_indices(scene)]))
    return None


def mask_line(scene: Scene, folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("*.png"))
    truth = np.stack([nearest_frame(_mask(files[i]), scene.height, scene.width) for i in file_indices(scene)])
    similarity = masks.region_similarity(np.asarray(scene.moving[:]), truth)
    return {
        "mask_j": round(masks.mean_over_frames(similarity), 4),
        "mask_j_davis": round(masks.mean_over_frames(similarity, skip_ends=True), 4),
    }


def joint_line(scene: Scene, file: Path, mask_folder: Path) -> dict[str, Any]:
    """PCK@0.2 of joints carried from the first annotated frame by the scene's tracks, in pixels of the scene."""
    if scene.tracks is None or len(scene.tracks) == 0:
        return {"badja_pck": 0.0, "badja_samples": 0}
    at = {int(index): frame for frame, index in enumerate(file_indices(scene))}
    rows = [(at[i], row) for row in json.loads(file.read_text()) if (i := _number(row["image_path"])) in at]
    frames = [frame for frame, _ in rows]
    truth = np.stack([_joints_uv(row, scene) for _, row in rows])
    visible = np.array([row["visibility"] for _, row in rows], dtype=bool) & visible_in_first(rows)
    areas = [nearest_frame(_mask(mask_folder / Path(row["segmentation_path"]).name), scene.height, scene.width)
             for _, row in rows]  # fmt: skip
    carried = np.stack([carry(scene, truth[0], frames[0], frame) for frame in frames])
    tolerance_px = motion.badja_tolerance_px(np.stack(areas))
    return {
        "badja_pck": round(motion.pck(carried[1:], truth[1:], visible[1:], tolerance_px[1:]), 4),
        "badja_pck_standing_still": round(
            motion.pck(np.broadcast_to(truth[0], truth.shape)[1:], truth[1:], visible[1:], tolerance_px[1:]), 4
        ),
        "badja_samples": int(visible[1:].sum()),
    }


def visible_in_first(rows: list[tuple[int, dict[str, Any]]]) -> np.ndarray:
    return np.array(rows[0][1]["visibility"], dtype=bool)[None]


def carry(scene: Scene, uv: np.ndarray, start: int, frame: int) -> np.ndarray:
    """Each point moved like the track nearest to it in frame `start` that also has a position in `frame`.

    Tracks held for moving are preferred to all others; NaN where there is none at all.
    """
    assert scene.tracks is not None
    before, after = track_uv(scene.tracks, scene, start), track_uv(scene.tracks, scene, frame)
    usable = np.isfinite(before).all(-1) & np.isfinite(after).all(-1)
    chosen = usable & scene.tracks.moving if (usable & scene.tracks.moving).any() else usable
    if not chosen.any():
        return np.full_like(uv, np.nan)
    nearest = np.linalg.norm(before[chosen][None] - uv[:, None], axis=-1).argmin(1)
    return uv + (after - before)[chosen][nearest]


def file_indices(scene: Scene) -> np.ndarray:
    """Which image of its folder each frame was, from the time stamps that unstamped images get."""
    indices = scene.times_s * ASSUMED_FPS
    if np.abs(indices - np.rint(indices)).max() > 1e-3:
        raise InputError(f"the time stamps of {scene.name} are not those of a folder of images; give another scene.")
    return np.rint(indices).astype(int)


def _joints_uv(row: dict[str, Any], scene: Scene) -> np.ndarray:
    uv = pixels.from_integer_centres(np.array(row["joints"], dtype=np.float64)[:, ::-1])
    return uv * [scene.width / BADJA_SIZE[0], scene.height / BADJA_SIZE[1]]


def _number(path: str) -> int:
    return int(Path(path).stem)


def _mask(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("L")) > 0


def _rigid(world_from_cam: np.ndarray) -> np.ndarray:
    """Poses printed with few digits, their rotations made exact."""
    out = world_from_cam.copy()
    out[:, :3, :3] = se3.nearest_rotation(torch.from_numpy(world_from_cam[:, :3, :3].copy())).numpy()
    return out


if __name__ == "__main__":
    main()
