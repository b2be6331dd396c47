"""A log as input: the camera as a video, and what else it knows of the same seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from worldline.errors import FormatError, InputError
from worldline.io.frame_store import Frame, FrameStore
from worldline.io.known.depth_images import DepthSettings, SensorDepth
from worldline.io.known.poses import PoseSettings
from worldline.io.selection import Selection, increasing, original_from_stored
from worldline.io.sensors import images
from worldline.io.sensors.camera_calibration import camera_prior
from worldline.io.sensors.clock import LogClock, backwards, clock_of, frame_of, stamp_s
from worldline.io.sensors.contents import TopicContents, contents_of
from worldline.io.sensors.depth import depth_of_images, depth_of_points
from worldline.io.sensors.imu import imu_samples
from worldline.io.sensors.log_files import Log, Message, open_log
from worldline.io.sensors.odometry import body_of, camera_motion, mount
from worldline.io.sensors.radar import radar_returns
from worldline.io.sensors.roles import Choice, choose
from worldline.io.sensors.transforms import transforms_of
from worldline.scene.journal import Progress
from worldline.scene.observations import CameraMotion, CameraPrior, DepthMaps, Observations
from worldline.scene.sensor_readings import ImuSamples, RadarReturns
from worldline.scene.video import Video

_CLOCK_ORDER = ("camera", "imu", "pose", "depth", "radar", "lidar")


@dataclass(frozen=True, eq=False)
class Recording:
    """An open log whose topics have their roles.

    Attributes:
        clock: the clock of all times that are read from it.
    """

    log: Log
    contents: tuple[TopicContents, ...]
    choices: dict[str, Choice]
    clock: LogClock

    def topic(self, role: str) -> str | None:
        """The topic of a role, None where none serves."""
        return self.choices[role].topic if role in self.choices else None


@dataclass(frozen=True, eq=False)
class LogReadings:
    """What a log knows of a video's frames beside its pixels.

    Attributes:
        observed: camera, depth and poses at the frames.
        sensor_depth: the depth with how it was brought into the camera's view.
        imu, radar: all their readings, at their own times on the video's clock.
        unused: what the log has and why it was left aside.
    """

    observed: Observations
    sensor_depth: SensorDepth | None
    imu: ImuSamples | None
    radar: RadarReturns | None
    unused: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was used, assumed or left aside."""
        seen = self.observed
        items = (seen.camera, seen.camera_motion, seen.depth, self.imu, self.radar)
        return (*(note for item in items if item is not None for note in item.source.notes), *self.unused)


@contextmanager
def open_recording(path: Path, topics: Sequence[str] = ()) -> Iterator[Recording]:
    """A log with a topic for every role.

    Args:
        topics: texts `ROLE=NAME` or `ROLE=none`, for what is to be otherwise.

    Raises:
        InputError: not a log, no messages, no such topic. FormatError: damaged or cut off.
    """
    with open_log(path) as log:
        contents = contents_of(log)
        choices = choose(contents, topics)
        order = [choices[role].topic for role in _CLOCK_ORDER if role in choices]
        yield Recording(log, contents, choices, clock_of(log, order))


def video_of(
    path: Path, topics: Sequence[str], selection: Selection, store: FrameStore, progress: Progress, *, strict: bool
) -> Video:
    """The chosen frames of a log's camera, at the times of its clock.

    Raises:
        InputError: no camera in it, an encoding that cannot be read, times that go backwards, nothing chosen.
        FormatError: damaged, or (strict) an image in it is.
    """
    with open_recording(path, topics) as recording:
        topic = recording.topic("camera")
        if topic is None:
            raise InputError(
                f"{path} has no camera ({_held(recording)}); give a log with images, or a video beside it."
            )
        return _read(recording, topic, selection, store, progress, strict=strict)


def known_of(
    path: Path,
    video: Video,
    topics: Sequence[str] = (),
    *,
    depth: DepthSettings | None = None,
    poses: PoseSettings | None = None,
) -> LogReadings:
    """What a log knows of the frames of the video that was read from it.

    Args:
        topics: as in `video_of`; `ROLE=none` leaves a role aside.

    Raises:
        InputError: a topic that was chosen cannot be used. FormatError: damaged.
    """
    with open_recording(path, topics) as recording:
        frame = camera_frame(recording)
        camera = _camera(recording, video)
        sensor = _depth(recording, video, depth)
        maps = _lidar(recording, video, camera, frame) if sensor is None else sensor.maps
        motion, unused = _motion(recording, video, frame, poses)
        imu, radar = _imu(recording, frame), _radar(recording, frame)
        return LogReadings(Observations(camera=camera, camera_motion=motion, depth=maps), sensor, imu, radar, unused)


def read_imu(path: Path, topic: str | None = None) -> ImuSamples:
    """The IMU of a log, from the named topic or the one that serves best.

    Raises:
        InputError: there is none, or it cannot be used. FormatError: damaged.
    """
    with open_recording(path, () if topic is None else (f"imu={topic}",)) as recording:
        found = _imu(recording, "")
        if found is None:
            raise InputError(f"{path} has no IMU ({_held(recording)}); give a log with sensor_msgs/Imu messages.")
        return found


def read_radar(path: Path, topic: str | None = None, *, need_speed: bool = False) -> RadarReturns:
    """The radar of a log, from the named topic or the one that serves best.

    Raises:
        InputError: there is none, it cannot be used, or it has no radial speeds where they are needed.
        FormatError: damaged.
    """
    with open_recording(path, () if topic is None else (f"radar={topic}",)) as recording:
        chosen = recording.topic("radar")
        if chosen is None:
            raise InputError(
                f"{path} has no radar ({_held(recording)}); name the topic of its points with --topic radar=NAME."
            )
        return radar_returns(recording.log, chosen, recording.clock, need_speed=need_speed)


def is_rectified(topic: str | None) -> bool:
    """Whether a camera's topic is named as one whose lens distortion has been removed (`image_rect`)."""
    return topic is not None and any(part.startswith("image_rect") for part in topic.split("/"))


def _held(recording: Recording) -> str:
    """The topics of a log, for errors."""
    names = [f"{t.name} of {t.type}" for t in recording.contents if t.count]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"it has {', '.join(names[:5])}{more}"


def _camera(recording: Recording, video: Video) -> CameraPrior | None:
    topic, camera = recording.topic("camera_info"), recording.topic("camera")
    message = None if topic is None else recording.log.first(topic)
    if topic is None or message is None:
        return None
    return camera_prior(message.content, topic, video, rectified=is_rectified(camera))


def _depth(recording: Recording, video: Video, settings: DepthSettings | None) -> SensorDepth | None:
    topic = recording.topic("depth")
    return None if topic is None else depth_of_images(recording.log, topic, recording.clock, video, settings)


def _lidar(recording: Recording, video: Video, camera: CameraPrior | None, frame: str) -> DepthMaps | None:
    topic = recording.topic("lidar")
    if topic is None or camera is None:
        return None
    cam_from_lidar = transforms_of(recording.log).between(frame, _frame(recording, topic))
    if cam_from_lidar is None:
        return None
    return depth_of_points(recording.log, topic, recording.clock, video, camera.camera, cam_from_lidar)


def _motion(
    recording: Recording, video: Video, frame: str, settings: PoseSettings | None
) -> tuple[CameraMotion | None, tuple[str, ...]]:
    """Poses of the camera, or why those of the log cannot be used."""
    topic = recording.topic("pose")
    if topic is None:
        return None, ()
    body = body_of(_sample(recording, topic))
    body_from_cam = mount(transforms_of(recording.log), body, frame)
    if body_from_cam is None and recording.choices["pose"].why == "as asked" and not body:
        body_from_cam = np.eye(4)
    if body_from_cam is None:
        return None, (
            f"the poses of {topic} were left aside: they are of {body or 'a frame that has no name'}, and the log does "
            f"not say where the camera ({frame or 'no name'}) sits on it.",
        )
    return camera_motion(recording.log, topic, recording.clock, video, body_from_cam, settings), ()


def _imu(recording: Recording, frame: str) -> ImuSamples | None:
    topic = recording.topic("imu")
    if topic is None:
        return None
    found = imu_samples(recording.log, topic, recording.clock)
    return replace(found, cam_from_imu=transforms_of(recording.log).between(frame, _frame(recording, topic)))


def _radar(recording: Recording, frame: str) -> RadarReturns | None:
    topic = recording.topic("radar")
    if topic is None:
        return None
    found = radar_returns(recording.log, topic, recording.clock)
    return replace(found, cam_from_radar=transforms_of(recording.log).between(frame, _frame(recording, topic)))


def camera_frame(recording: Recording) -> str:
    """The frame of the camera's images, which by custom is optical (x right, y down, z forward); empty without one."""
    topic = recording.topic("camera")
    return "" if topic is None else _frame(recording, topic)


def _sample(recording: Recording, topic: str) -> Any:
    return next(t.sample for t in recording.contents if t.name == topic)


def _frame(recording: Recording, topic: str) -> str:
    return frame_of(_sample(recording, topic))


def _read(
    recording: Recording, topic: str, selection: Selection, store: FrameStore, progress: Progress, *, strict: bool
) -> Video:
    total = recording.log.topics[topic].count
    sizes: list[tuple[int, int]] = []
    numbers: list[int] = []
    times_s: list[float] = []
    damaged = 0
    for number, time_s, message in _chosen(recording, topic, selection):
        frame = images.picture(message.content, topic)
        progress.share((number + 1) / total)
        if frame is None:
            damaged += 1
            continue
        sizes.append((frame.shape[1], frame.shape[0]))
        if sizes[-1] != sizes[0]:
            raise InputError(
                f"the images of {topic} change their size from {sizes[0]} to {sizes[-1]}; cut the log there."
            )
        store.add(_shrunk(frame, selection))
        numbers.append(number)
        times_s.append(time_s)
    if damaged and (strict or not numbers):
        raise FormatError(f"{damaged} images of {topic} in {recording.log.name} are damaged; record the log again.")
    if not numbers:
        raise InputError(f"no image of {topic} lies in the chosen time; it has {total} images.")
    return _video(recording, topic, store, sizes[0], np.array(times_s), numbers, damaged)


def _chosen(recording: Recording, topic: str, selection: Selection) -> Iterator[tuple[int, float, Message]]:
    """The wanted messages, each with its number in the topic and its time on the clock."""
    first_s = last_s = None
    position = 0
    for number, message in enumerate(recording.log.messages(topic)):
        time_s = _time_s(message, topic, recording.clock)
        if last_s is not None and time_s < last_s:
            raise backwards(topic, number, last_s - time_s)
        last_s = time_s
        first_s = time_s if first_s is None else first_s
        if selection.is_after(time_s - first_s):
            return
        if selection.is_before(time_s - first_s):
            continue
        if position % selection.every == 0:
            yield number, time_s, message
            if selection.max_frames is not None and position // selection.every + 1 == selection.max_frames:
                return
        position += 1


def _time_s(message: Message, topic: str, clock: LogClock) -> float:
    """The camera's own stamp where its stamps are the log's clock, else when the image was recorded."""
    own = stamp_s(message.content)
    return own if clock.topic == topic and np.isfinite(own) else message.recorded_s + clock.ahead_s


def _shrunk(frame: Frame, selection: Selection) -> UInt8[np.ndarray, "h2 w2 3"]:
    size = (frame.shape[1], frame.shape[0])
    stored = selection.stored_size(*size)
    return frame if stored == size else cv2.resize(frame, stored, interpolation=cv2.INTER_AREA)


def _video(
    recording: Recording,
    topic: str,
    store: FrameStore,
    original: tuple[int, int],
    times_s: Float[np.ndarray, "t"],
    numbers: list[int],
    damaged: int,
) -> Video:
    log, contents = recording.log, next(t for t in recording.contents if t.name == topic)
    frames = store.finish()
    step_s = 1 / contents.rate_hz if contents.rate_hz else 1 / 30
    rising_s, changed = increasing(times_s, step_s)
    facts: dict[str, Any] = {
        "codec": images.encoding_of(contents.sample),
        "fps": (len(rising_s) - 1) / (rising_s[-1] - rising_s[0]) if len(rising_s) > 1 else contents.rate_hz or 30.0,
        "rotation": 0,
        "declared_frames": contents.count,
        "decoded_frames": len(numbers) + damaged,
        "lost_frames": damaged,
        "corrupt_frames": damaged,
        "frame_numbers": numbers,
        "clip_frames": contents.count,
        "clock": "names",
        "topic": topic,
    }
    said = (
        f"the images of {topic} were read ({recording.choices['camera'].why}).",
        *((f"{damaged} images of {topic} are damaged and were left out.",) if damaged else ()),
        *((f"{changed} time stamps were repeated and have been spread out.",) if changed else ()),
        *(() if recording.clock.topic == topic else (f"{topic} has no stamps; the times of recording were used.",)),
    )
    return Video(
        frames=frames,
        times_s=rising_s,
        name=log.path.stem,
        original_from_stored=original_from_stored(original, (frames.shape[2], frames.shape[1])),
        original_size=original,
        facts=facts,
        notes=(*log.notes, *said),
    )
