"""A log in words and numbers: its topics, which of them are used for what, and what these hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from worldline.errors import WorldlineError
from worldline.io.sensors import images
from worldline.io.sensors.camera_calibration import calibration_of
from worldline.io.sensors.clock import frame_of
from worldline.io.sensors.contents import TopicContents
from worldline.io.sensors.imu import imu_samples
from worldline.io.sensors.odometry import body_of, mount
from worldline.io.sensors.radar import ROS_AXES, radar_returns
from worldline.io.sensors.recordings import Recording, camera_frame, is_rectified, open_recording
from worldline.io.sensors.transforms import transforms_of

Facts = dict[str, Any]


def described(path: Path, topics: Sequence[str] = ()) -> Facts:
    """What a log holds, JSON-like: kind, seconds, messages, topics, roles (each with `says`), notes.

    Args:
        topics: texts `ROLE=NAME` or `ROLE=none`, for what is to be otherwise.

    Raises:
        InputError: not a log, no messages, no such topic. FormatError: damaged or cut off.
    """
    with open_recording(path, topics) as recording:
        filled = [t for t in recording.contents if t.count]
        first_s, last_s = min(t.first_s for t in filled), max(t.last_s for t in filled)
        roles, notes = _roles(recording)
        return {
            "path": str(path),
            "kind": recording.log.kind,
            "begins": datetime.fromtimestamp(first_s, UTC).isoformat(timespec="seconds"),
            "seconds": last_s - first_s,
            "messages": sum(t.count for t in filled),
            "clock": recording.clock.topic or "recorder",
            "topics": [_topic(t, first_s, recording) for t in recording.contents],
            "roles": roles,
            "notes": [*recording.log.notes, *notes],
        }


def _topic(topic: TopicContents, begin_s: float, recording: Recording) -> Facts:
    used = [role for role, choice in recording.choices.items() if choice.topic == topic.name]
    return {
        "name": topic.name,
        "type": topic.type,
        "messages": topic.count,
        "rate_hz": topic.rate_hz,
        "first_s": topic.first_s - begin_s if topic.count else None,
        "last_s": topic.last_s - begin_s if topic.count else None,
        "detail": topic.detail,
        "role": used[0] if used else None,
    }


def _roles(recording: Recording) -> tuple[list[Facts], list[str]]:
    """A line for every role, and what was assumed while reading."""
    lines, notes = [], []
    for role, choice in recording.choices.items():
        contents = next(t for t in recording.contents if t.name == choice.topic)
        try:
            facts, said = _SAY[role](recording, contents)
        except WorldlineError as error:
            facts, said = {"says": f"cannot be used: {error}", "usable": False}, ()
        lines.append({"role": role, "topic": choice.topic, "why": choice.why, "usable": True, **facts})
        notes += [note for note in said if note not in notes]
    return lines, notes


Said = tuple[Facts, Sequence[str]]


def _camera(recording: Recording, contents: TopicContents) -> Said:
    frame = images.picture(contents.sample, contents.name)
    if frame is None:
        return {"says": "its first image is damaged"}, ()
    height, width = frame.shape[:2]
    facts = {"width": width, "height": height, "images": contents.count, "rate_hz": contents.rate_hz}
    return {"says": f"{contents.count} images of {width}x{height} at {contents.rate_hz:.4g} Hz", **facts}, ()


def _camera_info(recording: Recording, contents: TopicContents) -> Said:
    found = calibration_of(contents.sample, contents.name, rectified=is_rectified(recording.topic("camera")))
    if found is None:
        return {"says": "not calibrated (its focal length is zero), so it is not used"}, ()
    fx, fy, cx, cy = found.intrinsics
    size = f" of images of {found.size[0]}x{found.size[1]}" if found.size else ""
    lens = f"distortion {', '.join(f'{d:.4g}' for d in found.distortion)}" if found.distortion else "no distortion"
    facts = {"intrinsics_px": found.intrinsics.tolist(), "distortion": list(found.distortion)}
    return {"says": f"focal length {fx:.1f}, {fy:.1f} px, centre {cx:.1f}, {cy:.1f}{size}, {lens}", **facts}, ()


def _depth(recording: Recording, contents: TopicContents) -> Said:
    metres = images.depth_z_m(contents.sample, contents.name)
    if metres is None:
        return {"says": "its first image is damaged"}, ()
    height, width = metres.shape
    seen = metres[metres > 0]
    span = _span(seen) if len(seen) else None
    reach = f"{span[0]:.2f} to {span[1]:.2f} m in the first" if span else "nothing in the first"
    share = f"{100 * len(seen) / metres.size:.0f} % of the pixels known"
    return {"says": f"{contents.count} depth images of {width}x{height}, {reach} ({share})", "depth_m": span}, ()


def _imu(recording: Recording, contents: TopicContents) -> Said:
    found = imu_samples(recording.log, contents.name, recording.clock)
    turning = float(np.degrees(np.linalg.norm(found.gyro_radps, axis=1).max()))
    force = float(np.median(np.linalg.norm(found.accel_mps2, axis=1)))
    says = (
        f"{len(found)} samples at {found.rate_hz:.1f} Hz, up to {turning:.0f} degrees per second, specific force "
        f"usually {force:.2f} m/s2"
    )
    facts = {"samples": len(found), "rate_hz": found.rate_hz, "most_degps": turning, "usual_mps2": force}
    return {"says": says, **facts}, found.source.notes


def _radar(recording: Recording, contents: TopicContents) -> Said:
    found = radar_returns(recording.log, contents.name, recording.clock)
    per_scan = np.unique(found.scan, return_counts=True)[1]
    reach, speeds = _span(found.range_m), found.speed_mps[np.isfinite(found.speed_mps)]
    speed = _span(speeds) if len(speeds) else None
    doppler = (
        f"Doppler {speed[0]:.2f} to {speed[1]:.2f} m/s (positive moves away)" if speed else "no Doppler (radial speed)"
    )
    turned = any("were turned to" in note for note in found.source.notes)
    says = (
        f"{len(per_scan)} scans of {per_scan.min()} to {per_scan.max()} returns (usually {np.median(per_scan):.0f}), "
        f"range {reach[0]:.2f} to {reach[1]:.2f} m, {doppler}, axes {ROS_AXES}{' after turning' if turned else ''}"
    )
    facts = {"scans": len(per_scan), "returns": len(found), "range_m": reach, "speed_mps": speed, "axes": ROS_AXES}
    return {"says": says, **facts}, found.source.notes


def _lidar(recording: Recording, contents: TopicContents) -> Said:
    points = contents.sample.width * contents.sample.height
    if recording.topic("depth"):
        use = "not used, as there is depth"
    elif recording.topic("camera_info") is None:
        use = "not used without a calibration of the camera"
    elif _seat(recording, frame_of(contents.sample)) is None:
        use = "not used, as no transform leads to the camera"
    else:
        use = "becomes sparse depth"
    return {"says": f"{contents.count} scans of about {points} points; {use}"}, ()


def _pose(recording: Recording, contents: TopicContents) -> Said:
    body = body_of(contents.sample)
    camera = camera_frame(recording)
    known = mount(transforms_of(recording.log), body, camera) is not None
    use = "the camera's seat on it is known" if known else "not used, as the camera's seat on it is not known"
    return {"says": f"{contents.count} poses of {body or 'an unnamed frame'}; {use}", "usable": known}, ()


def _seat(recording: Recording, frame: str) -> Float[np.ndarray, "4 4"] | None:
    return transforms_of(recording.log).between(camera_frame(recording), frame)


def _span(values: Float[np.ndarray, "n"]) -> list[float]:
    return [float(values.min()), float(values.max())]


_SAY: Mapping[str, Callable[[Recording, TopicContents], Said]] = {
    "camera": _camera,
    "camera_info": _camera_info,
    "depth": _depth,
    "imu": _imu,
    "radar": _radar,
    "lidar": _lidar,
    "pose": _pose,
}
