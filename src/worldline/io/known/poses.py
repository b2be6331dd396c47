"""Camera poses from files: TUM trajectories, KITTI's one matrix per line, a folder of 4x4 matrices.

Sources: Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", 2012 (TUM); Geiger et al., "Are we ready
for autonomous driving?", 2012 (KITTI); Shotton et al., "Scene coordinate regression forests", 2013 (7-Scenes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float

from worldline.errors import FormatError, InputError
from worldline.geometry import se3
from worldline.io.formats import tum
from worldline.io.image_folders import natural_key
from worldline.io.known.clip_frames import ClipFrames, match_files, name_numbers, nearest_in_time, on_the_clock
from worldline.io.known.named_columns import NamedColumns, read_columns, seconds_of
from worldline.io.known.number_tables import first_row_length, number_rows, number_table, text_of
from worldline.scene.observations import CameraMotion, Source

_SAME_TIME_S = 0.01
_LONGEST_GAP_S = 0.2
_NOT_A_ROTATION = 1e-2
_WHOLE_NUMBER = 1e-9
_FASTEST_M_PER_S = 100.0


@dataclass(frozen=True)
class PoseSettings:
    """How poses meet frames, and how uncertain they are.

    Attributes:
        offset_s: added to the times of the file.
        sigma_m, sigma_rad: standard deviation of centres and rotations.
        same_time_s: a pose at most so far from a frame is that frame's; longest_gap_s: between two poses at most so
            far apart it is interpolated. Nothing is extrapolated.
    """

    offset_s: float = 0.0
    sigma_m: float = 0.01
    sigma_rad: float = float(np.radians(0.5))
    same_time_s: float = _SAME_TIME_S
    longest_gap_s: float = _LONGEST_GAP_S

    def __post_init__(self) -> None:
        if not np.isfinite(self.offset_s):
            raise InputError(f"the offset of the poses must be a time in seconds, not {self.offset_s}; correct it.")
        if not (0 < self.sigma_m < np.inf and 0 < self.sigma_rad < np.inf):
            raise InputError("the uncertainty of the poses must be positive and finite; give metres and degrees.")


@dataclass(frozen=True, eq=False)
class _Placed:
    """Poses of the frames, identity where not valid."""

    world_from_cam: Float[np.ndarray, "t 4 4"]
    valid: Bool[np.ndarray, "t"]
    notes: tuple[str, ...] = ()


def read_poses(path: Path, clip: ClipFrames, settings: PoseSettings | None = None) -> CameraMotion:
    """The poses of a clip's frames, world_from_cam in metres; `valid` where the file knows them.

    A file has lines `time tx ty tz qx qy qz qw` (TUM), or 12 or 16 numbers of a matrix, one line per frame, or a time
    and such a matrix, or columns that are named as EuRoC's are. A folder has one 4x4 matrix per file. What is not
    finite is a frame without a pose.

    Raises:
        InputError: nothing there, or nothing of it belongs to a frame. FormatError: no rotations, not these formats.
    """
    settings = settings or PoseSettings()
    placed = _from_folder(path, clip) if path.is_dir() else _from_file(path, clip, settings)
    count = int(placed.valid.sum())
    if not count:
        raise InputError(
            f"{path} has no pose of a frame of {clip.name} ({clip.span}); check that they belong together."
        )
    notes = (f"the poses of {count} of {len(clip)} frames were taken from {path.name}.", *placed.notes)
    source = Source(path.name, notes=notes)
    return CameraMotion(placed.world_from_cam, placed.valid, settings.sigma_m, settings.sigma_rad, source, metric=True)


def read_matrix(path: Path) -> Float[np.ndarray, "4 4"]:
    """One rigid motion as 4x4 or 3x4 numbers.

    Raises:
        FormatError: not such a matrix, or no rotation in it.
    """
    flat = np.concatenate([np.array(row) for row in number_rows(path)])
    if flat.size not in (12, 16):
        raise FormatError(f"{path} holds {flat.size} numbers, not a 4x4 matrix; give four rows of four numbers.")
    motion, valid = _rigid(flat[None], path)
    if not valid.all():
        raise FormatError(f"{path} holds numbers that are not finite; correct them.")
    return motion[0]


def _rigid(flat: Float[np.ndarray, "n m"], path: Path) -> tuple[Float[np.ndarray, "n 4 4"], Bool[np.ndarray, "n"]]:
    """Rows of 12 or 16 numbers as motions, and which are finite.

    Raises:
        FormatError: a last row other than 0 0 0 1, or no rotation.
    """
    valid = np.isfinite(flat).all(1)
    motion = np.broadcast_to(np.eye(4), (len(flat), 4, 4)).copy()
    motion[valid, : flat.shape[1] // 4] = flat[valid].reshape(-1, flat.shape[1] // 4, 4)
    rotation = motion[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    bad = (off > _NOT_A_ROTATION) | (np.linalg.det(rotation) < 0)
    bad |= np.abs(motion[:, 3] - (0, 0, 0, 1)).max(1) > _NOT_A_ROTATION
    if bad.any():
        which = f" (matrix {int(np.argmax(bad)) + 1})" if len(flat) > 1 else ""
        raise FormatError(
            f"{path}{which} is not a rigid motion: its 3x3 part must be a rotation, without scale or mirror, "
            "and its last row 0 0 0 1."
        )
    motion[:, :3, :3] = se3.nearest_rotation(torch.from_numpy(rotation)).numpy()
    motion[:, 3] = (0, 0, 0, 1)
    return motion, valid


def _from_folder(folder: Path, clip: ClipFrames) -> _Placed:
    files = [p for p in folder.iterdir() if p.suffix.lower() == ".txt" and not p.name.startswith(".")]
    named = [p for p in files if ".pose" in p.name.lower()] or files
    found = match_files(sorted(named, key=lambda p: natural_key(p.name)), clip, str(folder))
    motion = np.broadcast_to(np.eye(4), (len(clip), 4, 4)).copy()
    valid = np.zeros(len(clip), dtype=bool)
    for t, file in enumerate(found.files):
        if file is not None:
            flat = np.concatenate([np.array(row) for row in number_rows(file, finite=False)])
            if flat.size not in (12, 16):
                raise FormatError(
                    f"{file} holds {flat.size} numbers, not a 4x4 matrix; give four rows of four numbers."
                )
            motion[t : t + 1], valid[t : t + 1] = _rigid(flat[None], file)
    return _Placed(motion, valid, (f"the files of {folder.name} were assigned to the frames {found.how}.",))


def _from_file(path: Path, clip: ClipFrames, settings: PoseSettings) -> _Placed:
    named = _named(path)
    if named is not None:
        times_s, motion, notes = named
        placed = _at_times(times_s, motion, path, clip, settings)
        return replace(placed, notes=(*notes, *placed.notes))
    if first_row_length(path) == 8:
        trajectory = tum.read(path)
        placed = _at_times(trajectory.times_s, trajectory.world_from_cam, path, clip, settings)
        return _Placed(placed.world_from_cam, placed.valid, (*trajectory.notes, *placed.notes))
    table = number_table(path, finite=False)
    if table.shape[1] == 4 and len(table) % 4 == 0:
        table = table.reshape(-1, 16)
    if table.shape[1] in (13, 17):
        motion, valid = _rigid(table[:, 1:], path)
        times_s = table[valid, 0]
        if not np.isfinite(times_s).all() or (np.diff(times_s) <= 0).any():
            raise FormatError(f"the times in the first column of {path} must rise from line to line; sort the lines.")
        return _at_times(times_s, motion[valid], path, clip, settings)
    if table.shape[1] in (12, 16):
        return _in_order(*_rigid(table, path), path, clip)
    raise FormatError(
        f"{path} has {table.shape[1]} numbers in a line; poses are `time tx ty tz qx qy qz qw` or a matrix of 12 or 16."
    )


def _named(path: Path) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 4 4"], tuple[str, ...]] | None:
    """Times and poses of a table whose columns are named, as EuRoC's are (ns, p, q from w on, more); None for others.

    Raises:
        FormatError: times that do not rise.
    """
    if not _has_names(path):
        return None
    table = read_columns(path)
    columns = _named_columns(table)
    if columns is None or table.names is None:
        return None
    times, notes = seconds_of(table.values[:, columns[0]], table.names[columns[0]])
    place, quaternion = table.values[:, columns[1:4]], table.values[:, columns[4:8]]
    good = np.isfinite(times) & np.isfinite(place).all(1) & (np.linalg.norm(quaternion, axis=1) > 0.5)
    if not good.any() or (np.diff(times[good]) <= 0).any():
        raise FormatError(f"the times in {path} must rise from line to line; sort the lines.")
    rotation = se3.rotation_from_wxyz(torch.from_numpy(quaternion[good]))
    motion = se3.from_rotation_translation(rotation, torch.from_numpy(place[good])).numpy()
    return times[good], motion, tuple(f"{path.name}: {note}." for note in notes)


def _has_names(path: Path) -> bool:
    """Whether the first line names columns, the parts of a quaternion among them, in another order than TUM's."""
    first = next((line for line in text_of(path).splitlines() if line.strip()), "").lower()
    at_w, at_x = re.search(r"q\w*w\b", first), re.search(r"q\w*x\b", first)
    return at_w is not None and at_x is not None and at_w.start() < at_x.start()


def _named_columns(table: NamedColumns) -> list[int] | None:
    """Columns of time, place x y z and quaternion w x y z; None where one is missing."""
    found = [
        table.find("time|timestamp|stamp|t"),
        *(table.find("p|pos|position|t", axis) for axis in "xyz"),
        *(table.find("q|quat|quaternion|orientation", axis) for axis in "wxyz"),
    ]
    return None if None in found else [int(i or 0) for i in found]


def _in_order(
    motion: Float[np.ndarray, "n 4 4"], valid: Bool[np.ndarray, "n"], path: Path, clip: ClipFrames
) -> _Placed:
    if len(motion) == clip.clip_frames:
        return _Placed(motion[clip.numbers], valid[clip.numbers])
    if len(motion) == len(clip):
        return _Placed(motion, valid)
    raise InputError(
        f"{path} has {len(motion)} poses without times but {clip.name} has {clip.clip_frames} frames; give one line "
        "per frame (nan where unknown), or put the time before each."
    )


def _at_times(
    times_s: Float[np.ndarray, "n"],
    motion: Float[np.ndarray, "n 4 4"],
    path: Path,
    clip: ClipFrames,
    settings: PoseSettings,
) -> _Placed:
    if not clip.timed and settings.offset_s == 0 and len(times_s) in (clip.clip_frames, len(clip)):
        note = f"the images carry no times, so the {len(times_s)} poses of {path.name} were taken in order."
        placed = _in_order(motion, np.ones(len(motion), dtype=bool), path, clip)
        return replace(placed, notes=(note,))
    frames = _frame_numbers(times_s, clip) if settings.offset_s == 0 else None
    if frames is not None:
        numbers, what = frames
        at = {int(round(t)): i for i, t in enumerate(times_s)}
        index = np.array([at.get(int(n), -1) for n in numbers])
        note = f"the first column of {path.name} was read as {what}."
        return _Placed(np.where((index >= 0)[:, None, None], motion[index], np.eye(4)), index >= 0, (note,))
    given_s, begun, notes = on_the_clock(times_s, settings.offset_s, path.name, clip)
    there, valid = interpolated(clip.times_s, given_s, motion, settings)
    if valid.sum() <= min(begun, len(given_s) - 1):  # where both count from their first, those two meet by assumption
        met = "only the first" if valid.any() else "none"
        raise InputError(
            f"{path} knows {given_s[0]:.6g} to {given_s[-1]:.6g} s but the frames of {clip.name} are at "
            f"{clip.times_s[0]:.6g} to {clip.times_s[-1]:.6g} s, and {met} has a pose near it; check the times (they "
            "are seconds) or shift them with a time offset."
        )
    return _Placed(there, valid, (*notes, *_by_rate(clip), *_about_speed(given_s, motion, path)))


def _about_speed(given_s: Float[np.ndarray, "n"], motion: Float[np.ndarray, "n 4 4"], path: Path) -> tuple[str, ...]:
    """A sentence where the camera would be faster than any that films: its unit is probably another."""
    if len(given_s) < 2:
        return ()
    speed = float(np.median(np.linalg.norm(np.diff(motion[:, :3, 3], axis=0), axis=-1) / np.diff(given_s)))
    if speed < _FASTEST_M_PER_S:
        return ()
    return (
        f"by {path.name} the camera would move at {speed:.0f} m/s; poses are in metres and times in seconds, so "
        "convert them if they are in other units.",
    )


def _frame_numbers(times_s: Float[np.ndarray, "n"], clip: ClipFrames) -> tuple[np.ndarray, str] | None:
    """The number of each frame and what it is, where whole numbers in place of times can only be frame numbers."""
    if clip.stamped or np.abs(times_s - np.round(times_s)).max() > _WHOLE_NUMBER:
        return None
    given = {int(round(t)) for t in times_s}
    named = None if clip.stems is None else name_numbers(clip.stems)
    if named is not None and given & set(named) and min(given) >= min(named) and max(given) <= max(named):
        return np.array(named), "the numbers in the names of the images"
    inside = min(given) >= 0 and max(given) < clip.clip_frames
    as_seconds = clip.timed and max(given) <= clip.times_s[-1] + 1
    return (clip.numbers, "frame numbers, counted from 0") if inside and not as_seconds else None


def _by_rate(clip: ClipFrames) -> tuple[str, ...]:
    """What is assumed where the images carry no times."""
    if clip.timed:
        return ()
    return (
        "the images carry no times, so their assumed frame rate decides which pose is whose; write frame numbers in "
        "place of the times of the poses to be sure.",
    )


def interpolated(
    wanted_s: Float[np.ndarray, "t"],
    given_s: Float[np.ndarray, "n"],
    motion: Float[np.ndarray, "n 4 4"],
    settings: PoseSettings,
) -> tuple[Float[np.ndarray, "t 4 4"], Bool[np.ndarray, "t"]]:
    """Poses at the wanted times: a given one, or between two that are close; identity and False elsewhere."""
    after = np.clip(np.searchsorted(given_s, wanted_s), 1, max(len(given_s) - 1, 1))
    before = np.minimum(after - 1, len(given_s) - 1)
    after = np.minimum(after, len(given_s) - 1)
    gap_s = given_s[after] - given_s[before]
    share = (wanted_s - given_s[before]) / np.where(gap_s > 0, gap_s, 1.0)
    between = (share >= 0) & (share <= 1) & (gap_s > 0) & (gap_s <= settings.longest_gap_s)
    nearest = nearest_in_time(wanted_s, given_s, settings.same_time_s)
    first, second = np.where(between, before, nearest), np.where(between, after, nearest)
    part = torch.from_numpy(np.where(between, share, 0.0))
    there = se3.interpolate(torch.from_numpy(motion[first]), torch.from_numpy(motion[second]), part).numpy()
    valid = between | (nearest >= 0)
    return np.where(valid[:, None, None], there, np.eye(4)), valid
