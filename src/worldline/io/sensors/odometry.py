"""Odometry and pose messages to the poses of a clip's frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from worldline.errors import InputError
from worldline.io.known.poses import PoseSettings, interpolated
from worldline.io.sensors.clock import LogClock, dates_of, times_on
from worldline.io.sensors.log_files import Log
from worldline.io.sensors.transforms import Transforms, motion_of
from worldline.scene.observations import CameraMotion, Source
from worldline.scene.video import Video


def body_of(message: Any) -> str:
    """The name of the frame whose pose a message gives; empty where it does not say."""
    return str(getattr(message, "child_frame_id", "")).lstrip("/")


def camera_motion(
    log: Log,
    topic: str,
    clock: LogClock,
    video: Video,
    body_from_cam: Float[np.ndarray, "4 4"],
    settings: PoseSettings | None = None,
) -> CameraMotion:
    """Poses at the frames of a video, interpolated between those of a topic; never beyond its ends.

    Raises:
        InputError: no frame has a pose, or their times go backwards.
    """
    settings = settings or PoseSettings()
    messages = list(log.messages(topic))
    times_s, notes = times_on(clock, log, topic, dates_of(messages))
    world_from_body = np.array([_motion(m.content) for m in messages]).reshape(-1, 4, 4)
    good = np.isfinite(world_from_body).all((1, 2))
    good[1:] &= np.diff(times_s) > 0
    if not good.any():
        raise InputError(f"{topic} of {log.name} has no pose that is finite; leave it out with --topic pose=none.")
    given_s = times_s[good] + settings.offset_s
    motion, valid = interpolated(video.times_s, given_s, world_from_body[good], settings)
    if not valid.any():
        raise InputError(
            f"{topic} of {log.name} knows {given_s[0]:.3f} to {given_s[-1]:.3f} s but the frames are at "
            f"{video.times_s[0]:.3f} to {video.times_s[-1]:.3f} s; leave it out with --topic pose=none."
        )
    world_from_cam = np.where(valid[:, None, None], motion @ body_from_cam, np.eye(4))
    note = f"the poses of {int(valid.sum())} of {len(video)} frames were taken from {topic}."
    source = Source(topic, notes=(note, *notes))
    return CameraMotion(world_from_cam, valid, settings.sigma_m, settings.sigma_rad, source, metric=True)


def mount(transforms: Transforms, body: str, camera_frame: str) -> Float[np.ndarray, "4 4"] | None:
    """`body_from_cam` of a log, None where it is not known."""
    return np.eye(4) if body and body == camera_frame else transforms.between(body, camera_frame)


def _motion(message: Any) -> Float[np.ndarray, "4 4"]:
    if hasattr(message, "transform"):
        return motion_of(message.transform.translation, message.transform.rotation)
    pose = getattr(message.pose, "pose", message.pose)
    return motion_of(pose.position, pose.orientation)
