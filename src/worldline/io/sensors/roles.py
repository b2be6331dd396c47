"""Which topic of a log is used for what, and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worldline.errors import InputError
from worldline.io.sensors import clouds, images
from worldline.io.sensors.contents import (
    CAMERA_INFO,
    CLOUD,
    COMPRESSED,
    IMAGE,
    IMU,
    ODOMETRY,
    POSE,
    POSE_WITH_COVARIANCE,
    RADAR_POINT,
    RADAR_SCAN,
    TRANSFORM,
    TopicContents,
)

NONE = "none"

_RADAR_NAME = re.compile(r"radar|mmwave|[ai]wr\d{4}|ars\d{3}|(^|[/_])(esr|srr|oculii)", re.IGNORECASE)
_DEPTH_NAME = re.compile(r"depth|range_image|disparity", re.IGNORECASE)
_NOT_COLOUR = re.compile(
    r"infra|thermal|(^|[/_])(ir|flir|mask|label|semantic|segment|confidence)([/_\d]|$)", re.IGNORECASE
)
_FIRST_CAMERA = re.compile(r"left|cam(era)?_?0|front|colou?r|rgb", re.IGNORECASE)
_ALIGNED = re.compile(r"aligned|registered|to_colou?r|to_rgb", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """The topic for a role, and why it is this one."""

    role: str
    topic: str
    why: str


Preference = tuple[str, Callable[[TopicContents], float]]
"""What makes a topic the better one, in words and as a number."""


@dataclass(frozen=True)
class Role:
    """A use of a topic.

    Attributes:
        fits: which topics may be chosen for it. prefer: what makes one better, the weightiest first.
        types: those whose topics may serve where they are asked for, though they would not be chosen.
    """

    name: str
    fits: Callable[[TopicContents], bool]
    prefer: tuple[Preference, ...]
    types: tuple[str, ...] = ()

    def can(self, topic: TopicContents) -> bool:
        """Whether a topic may serve where it is asked for."""
        return topic.count > 0 and (self.fits(topic) or (topic.ros_type in self.types and topic.sample is not None))


def choose(contents: Sequence[TopicContents], topics: Sequence[str] = ()) -> dict[str, Choice]:
    """The topic for every role that one can serve.

    Args:
        topics: texts `ROLE=NAME`, for what is to be otherwise; `ROLE=none` leaves a role without a topic.

    Raises:
        InputError: no such role or topic, or one that cannot serve.
    """
    wanted = _wanted(topics)
    found: dict[str, Choice] = {}
    for role in _roles(contents):
        choice = _asked(role, wanted[role.name], contents) if role.name in wanted else _best(role, contents)
        if choice is not None:
            found[role.name] = choice
    return _with_calibration(found, contents, wanted)


ROLES = ("camera", "camera_info", "depth", "imu", "radar", "lidar", "pose")


def _wanted(topics: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in topics]
    for text, (role, equals, name) in zip(topics, pairs, strict=True):
        if not equals or not name or role not in ROLES:
            raise InputError(f"--topic {text} is not ROLE=NAME with a role of {', '.join(ROLES)}; write it so.")
    return {role: name for role, _, name in pairs}


def _roles(contents: Sequence[TopicContents]) -> tuple[Role, ...]:
    calibrated = [t.name for t in contents if t.ros_type == CAMERA_INFO and t.sample is not None]
    many: Preference = ("more messages", lambda t: t.count)
    return (
        Role(
            "camera",
            is_camera,
            (
                ("visible light", lambda t: not _NOT_COLOUR.search(t.name)),
                (
                    "colour",
                    lambda t: "mono" not in images.encoding_of(t.sample) and "8uc1" not in images.encoding_of(t.sample),
                ),
                ("a calibration beside it", lambda t: calibration_beside(t.name, calibrated) is not None),
                ("its name", lambda t: bool(_FIRST_CAMERA.search(t.name))),
                many,
                ("not compressed", lambda t: t.ros_type == IMAGE),
            ),
        ),
        Role("depth", is_depth, (("aligned with colour", lambda t: bool(_ALIGNED.search(t.name))), many)),
        Role(
            "imu",
            lambda t: t.ros_type == IMU and t.sample is not None,
            (("rates and accelerations", _both), many),
        ),
        Role("radar", is_radar, (("radial speeds", _has_speed), many), (CLOUD,)),
        Role("lidar", is_lidar, (("more points", lambda t: t.sample.width * t.sample.height), many), (CLOUD,)),
        Role("pose", is_pose, (("odometry, which names its frame", lambda t: t.ros_type == ODOMETRY), many)),
    )


def is_camera(topic: TopicContents) -> bool:
    """Whether its messages are pictures."""
    if topic.ros_type not in (IMAGE, COMPRESSED) or topic.sample is None:
        return False
    said = images.encoding_of(topic.sample)
    grey = said == "16uc1" and _NOT_COLOUR.search(topic.name) or said == "mono16" and not _DEPTH_NAME.search(topic.name)
    return not images.is_depth(topic.sample) or bool(grey)


def is_depth(topic: TopicContents) -> bool:
    """Whether its messages are depth images."""
    if topic.ros_type not in (IMAGE, COMPRESSED) or topic.sample is None or not images.is_depth(topic.sample):
        return False
    return not is_camera(topic)


def is_radar(topic: TopicContents) -> bool:
    """Whether its messages are returns of a radar."""
    if topic.sample is None:
        return False
    if topic.ros_type in (RADAR_SCAN, RADAR_POINT):
        return True
    return topic.ros_type == CLOUD and (_has_speed(topic) or bool(_RADAR_NAME.search(topic.name)))


def is_lidar(topic: TopicContents) -> bool:
    """Whether its messages are points of a LiDAR, and not those that a depth camera or a radar makes."""
    return (
        topic.ros_type == CLOUD and topic.sample is not None and not (is_radar(topic) or _DEPTH_NAME.search(topic.name))
    )


def is_pose(topic: TopicContents) -> bool:
    """Whether its messages are poses of something."""
    return topic.ros_type in (ODOMETRY, POSE, POSE_WITH_COVARIANCE, TRANSFORM) and topic.sample is not None


def calibration_beside(camera: str, calibrations: Sequence[str]) -> str | None:
    """The calibration that belongs to a camera topic: the one with the longest common beginning, at least a folder."""
    parts = camera.strip("/").split("/")
    shared = {name: _shared(parts, name.strip("/").split("/")) for name in calibrations}
    best = max(shared, key=lambda name: (shared[name], -len(name)), default=None)
    if best is None or (not shared[best] and len(parts) > 1):
        return None
    return best


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _has_speed(topic: TopicContents) -> bool:
    if topic.ros_type != CLOUD:
        return True
    return clouds.named(clouds.field_names(topic.sample), clouds.SPEED) is not None


def _both(topic: TopicContents) -> bool:
    vectors = (topic.sample.angular_velocity, topic.sample.linear_acceleration)
    return all(np.any([v.x, v.y, v.z]) for v in vectors)


def _best(role: Role, contents: Sequence[TopicContents]) -> Choice | None:
    def key(topic: TopicContents) -> tuple[float, ...]:
        return tuple(float(number(topic)) for _, number in role.prefer)

    able = sorted((t for t in contents if t.count and role.fits(t)), key=lambda t: t.name)
    if not able:
        return None
    best = max(able, key=key)  # of equals the first by name
    others = [t for t in able if t is not best]
    if not others:
        return Choice(role.name, best.name, "the only one")
    rival = max(others, key=key)
    reason = next((words for (words, _), a, b in zip(role.prefer, key(best), key(rival), strict=True) if a > b), None)
    return Choice(role.name, best.name, f"of {len(able)} for {reason or 'its name, the first by letters'}")


def _asked(role: Role, name: str, contents: Sequence[TopicContents]) -> Choice | None:
    if name == NONE:
        return None
    topic = next((t for t in contents if t.name == name), None)
    able = [t.name for t in contents if role.can(t)]
    if topic is None or topic.name not in able:
        what = "is not in the log" if topic is None else f"({topic.type}) cannot serve as {role.name}"
        raise InputError(f"{name} {what}; these can: {', '.join(able) or 'none of its topics'}.")
    return Choice(role.name, name, "as asked")


def _with_calibration(
    found: dict[str, Choice], contents: Sequence[TopicContents], wanted: dict[str, str]
) -> dict[str, Choice]:
    """The choices with the calibration of the camera that was chosen."""
    able = [t.name for t in contents if t.ros_type == CAMERA_INFO and t.sample is not None]
    role = Role("camera_info", lambda t: t.name in able, ())
    if "camera_info" in wanted:
        choice = _asked(role, wanted["camera_info"], contents)
    else:
        beside = calibration_beside(found["camera"].topic, able) if "camera" in found else None
        choice = None if beside is None else Choice("camera_info", beside, "beside the camera")
    return found if choice is None else {**found, "camera_info": choice}
