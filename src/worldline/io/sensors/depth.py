"""Depth of a log at the frames of its camera: depth images, or the points of a LiDAR."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from worldline.errors import InputError
from worldline.geometry.camera import Camera
from worldline.io.known.clip_frames import ASSOCIATION_S
from worldline.io.known.depth_images import SCALE_SIGMA, DepthSettings, SensorDepth, in_colour_view
from worldline.io.known.depth_noise import relative_sigma
from worldline.io.known.image_sizes import check_same_shape, nearest_pixels
from worldline.io.known.lidar import LEAST_SIGMA, RANGE_SIGMA_M, sparse_depth
from worldline.io.sensors import clouds
from worldline.io.sensors.clock import LogClock, dates_of, times_on
from worldline.io.sensors.images import MILLIMETRE, depth_z_m, encoding_of
from worldline.io.sensors.log_files import Log, Message
from worldline.scene.observations import DepthMaps, Source
from worldline.scene.video import Video

_NEAREST_M = 0.05
_LIDAR_APART_S = 0.06
"""A LiDAR turns ten times a second, so that some scan is at most half a turn away."""


def depth_of_images(
    log: Log, topic: str, clock: LogClock, video: Video, settings: DepthSettings | None = None
) -> SensorDepth:
    """Depth images at the frames of a video, metres; 0 where unknown and in frames without one within 20 ms.

    Raises:
        InputError: no image belongs to a frame, they cover another view, sizes differ, or there is nothing in them.
    """
    settings = settings or DepthSettings()
    depth_z = sigma = np.zeros((0, 0, 0), np.float32)
    known = np.zeros(len(video), bool)
    for frame, message in _nearest(log, topic, clock, video, ASSOCIATION_S):
        metres = depth_z_m(message.content, topic)
        if metres is None:
            continue
        if settings.scale is not None:
            metres = metres / np.float32(MILLIMETRE * settings.scale)
        check_same_shape(metres.shape[1], metres.shape[0], video, topic)
        step_m = 0.0 if "32f" in encoding_of(message.content) else MILLIMETRE
        pair = [
            nearest_pixels(m, video.height, video.width)
            for m in (metres, relative_sigma(metres, settings.noise, step_m))
        ]
        if not known.any():
            depth_z, sigma = np.zeros((2, len(video), *pair[0].shape), np.float32)
            sigma[:] = 1.0
        if pair[0].shape != depth_z.shape[1:]:
            raise InputError(f"the depth images of {topic} have different sizes; record images of one size.")
        depth_z[frame], sigma[frame] = pair
        known[frame] = True
    if not depth_z.any():
        what = "knows any depth" if known.any() else "belongs to a frame"
        raise InputError(f"no depth image of {topic} {what}; leave it out with --topic depth=none.")
    alignment, moved = (None, ()) if settings.as_is else in_colour_view(depth_z, sigma, known, video)
    share = 100 * np.mean(depth_z[known] > 0)
    note = f"the depth of {int(known.sum())} of {len(video)} frames was taken from {topic}; it covers {share:.0f} %."
    source = Source(topic, notes=(note, *moved))
    return SensorDepth(DepthMaps(depth_z, sigma, source, True, SCALE_SIGMA), alignment)


def depth_of_points(
    log: Log,
    topic: str,
    clock: LogClock,
    video: Video,
    camera: Camera,
    cam_from_lidar: Float[np.ndarray, "4 4"],
) -> DepthMaps:
    """Points of a LiDAR as sparse depth at the frames that have a scan within half a turn.

    Raises:
        InputError: no scan belongs to a frame, or no point is in view.
    """
    depth_z = np.zeros((len(video), video.height, video.width), np.float32)
    known = np.zeros(len(video), bool)
    for frame, message in _nearest(log, topic, clock, video, _LIDAR_APART_S):
        columns = clouds.columns(message.content)
        points = np.stack([columns[axis] for axis in "xyz"], -1)
        depth_z[frame] = sparse_depth(points[np.isfinite(points).all(1)], cam_from_lidar, camera, frame)
        known[frame] = True
    if not depth_z.any():
        raise InputError(f"no point of {topic} is in view of the camera; leave it out with --topic lidar=none.")
    sigma = np.hypot(RANGE_SIGMA_M / np.maximum(depth_z, _NEAREST_M), LEAST_SIGMA).astype(np.float32)
    seen = int(np.median(np.count_nonzero(depth_z, axis=(1, 2))[known]))
    note = f"points of {topic} were taken for {int(known.sum())} of {len(video)} frames, {seen} in view per frame."
    return DepthMaps(depth_z, sigma, Source(topic, notes=(note,)), metric=True, frame_scale_sigma=0.001)


def _nearest(log: Log, topic: str, clock: LogClock, video: Video, apart_s: float) -> Iterator[tuple[int, Message]]:
    """For each frame the message that is nearest in time, if it is near enough; in the order of the messages."""
    times_s, _ = times_on(clock, log, topic, dates_of(log.messages(topic)))
    if not len(times_s):
        raise InputError(f"{topic} of {log.name} has no messages; leave it out with --topic.")
    after = np.clip(np.searchsorted(times_s, video.times_s), 1, max(len(times_s) - 1, 1))
    before, after = after - 1, np.minimum(after, len(times_s) - 1)
    closer = np.abs(times_s[before] - video.times_s) <= np.abs(times_s[after] - video.times_s)
    index = np.where(closer, before, after)
    frames_of: dict[int, list[int]] = {}
    for frame in np.flatnonzero(np.abs(times_s[index] - video.times_s) <= apart_s).tolist():
        frames_of.setdefault(int(index[frame]), []).append(frame)
    for number, message in enumerate(log.messages(topic)):
        for frame in frames_of.get(number, ()):
            yield frame, message
