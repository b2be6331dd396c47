"""TUM trajectories: one line `time tx ty tz qx qy qz qw` per frame, seconds, world_from_cam, scalar last.

Source: the file format page of the TUM RGB-D benchmark (Sturm et al., "A benchmark for the evaluation of RGB-D SLAM
systems", 2012).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from worldline.errors import FormatError, InputError
from worldline.geometry import se3
from worldline.scene.atomic import written_whole
from worldline.scene.scene import Scene

SUFFIXES = (".tum", ".txt")
_HEADER = "# time_s tx ty tz qx qy qz qw (world_from_cam)"
_SAME_RAD = 1e-3

Order = Literal["auto", "xyzw", "wxyz"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Camera poses over time.

    Attributes:
        times_s: (T,) seconds, as in the file. world_from_cam: (T, 4, 4) float64.
        notes: sentences for the user.
    """

    times_s: Float[np.ndarray, "t"]
    world_from_cam: Float[np.ndarray, "t 4 4"]
    notes: tuple[str, ...] = ()


def write(scene: Scene, path: Path, *, overwrite: bool = False) -> None:
    """Write the camera path of a scene.

    Raises:
        OutputError: the output cannot be written.
    """
    with written_whole(Path(path), overwrite=overwrite) as target:
        write_trajectory(target, Trajectory(scene.times_s, scene.world_from_cam))


def write_trajectory(path: Path, trajectory: Trajectory) -> None:
    """Write poses to exactly this path; every number reads back to the same bits."""
    world_from_cam = torch.from_numpy(np.array(trajectory.world_from_cam, dtype=np.float64))
    quaternion = se3.quaternion_wxyz(world_from_cam[:, :3, :3])
    upper = torch.where(quaternion[:, :1] < 0, -quaternion, quaternion)
    rows = np.column_stack([trajectory.times_s, world_from_cam[:, :3, 3], se3.xyzw_from_wxyz(upper)])
    with path.open("w") as file:
        file.write(_HEADER + "\n")
        file.writelines(" ".join(f"{value:.17g}" for value in row) + "\n" for row in rows)


def read(path: str | Path, *, order: Order = "auto") -> Trajectory:
    """Read a trajectory; comments (#), commas and tabs are allowed.

    Many published writers store the quaternion scalar first by mistake. With `order="auto"` such a file is
    recognised by its first rotation: systems that put the world into the first camera write exactly no rotation
    there, which under the wrong order is half a turn. Smoothness can not tell: reading scalar-first as scalar-last
    maps the turns about the camera's axes to those about the world's, which are as smooth.

    Lines are put in order of time and repeated times left out, with a note.

    Raises:
        InputError: no such file. FormatError: not eight finite numbers per line, or a quaternion of length zero.
    """
    times_s, centres, quaternion = _columns(Path(path))
    as_last = se3.rotation_from_wxyz(se3.wxyz_from_xyzw(quaternion))
    as_first = se3.rotation_from_wxyz(quaternion)
    swapped = order == "auto" and _is_none(as_first[0]) and not _is_none(as_last[0])
    rotation = as_first if swapped or order == "wxyz" else as_last
    note = f"{Path(path).name} stores quaternions scalar first (w x y z) against the format; it was read that way."
    motion = se3.from_rotation_translation(rotation, centres)
    kept, said = _in_order(times_s, Path(path).name)
    return Trajectory(times_s[kept].numpy(), motion[kept].numpy(), ((note,) if swapped else ()) + said)


def _in_order(times_s: torch.Tensor, name: str) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Lines by time, the first of equal times, and what was changed: recorders do repeat and swap stamps."""
    order = times_s.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = times_s[order].diff() > 0
    kept = order[first]
    if len(kept) == len(times_s) and bool((kept.diff() > 0).all()):
        return kept, ()
    lost = len(times_s) - len(kept)
    return kept, (f"{name} is not in order of time: its lines were sorted and {lost} with a repeated time left out.",)


def _is_none(rotation: torch.Tensor) -> bool:
    return bool(se3.angle_rad(rotation) < _SAME_RAD)


def _columns(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    try:
        lines = path.read_text().replace(",", " ").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not a text file; give lines of `time tx ty tz qx qy qz qw`.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a trajectory file.") from error
    rows = [(number, line.split("#")[0].split()) for number, line in enumerate(lines, start=1)]
    table = torch.tensor([_numbers(path, n, words) for n, words in rows if words], dtype=torch.float64)
    if not len(table):
        raise FormatError(f"{path} holds no poses; give lines of `time tx ty tz qx qy qz qw`.")
    if (table[:, 4:].norm(dim=-1) < 1e-6).any():
        raise FormatError(f"{path} has a quaternion of length zero; remove that line.")
    return table[:, 0], table[:, 1:4], table[:, 4:]


def _numbers(path: Path, line: int, words: list[str]) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != 8 or not np.isfinite(numbers).all():
        raise FormatError(f"line {line} of {path} is not `time tx ty tz qx qy qz qw`; correct or remove it.")
    return numbers
