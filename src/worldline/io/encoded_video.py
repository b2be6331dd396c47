"""Encoded video through PyAV: decoded packet by packet, so that what is damaged or missing is counted, never hidden."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Int, UInt8

from worldline.errors import FormatError, InputError, OutputError
from worldline.io.focal_length import focal_px_from_equivalent
from worldline.io.frame_store import FrameStore
from worldline.io.selection import Selection, increasing, original_from_stored
from worldline.scene.atomic import written_whole
from worldline.scene.journal import Progress
from worldline.scene.video import Video

_FOCAL_TAG = "focal_length.35mm_equivalent"  # as phones write it: com.apple.quicktime.camera.focal_length...
_TRANSFER = {1: "BT.709", 6: "BT.601", 13: "sRGB", 14: "BT.2020", 15: "BT.2020", 16: "PQ", 18: "HLG"}  # ITU-T H.273
_BT709 = 1
_SHORT_SHARE = 0.75  # a clip whose last frame ends this share of a frame time early has lost its end


@dataclass
class _Tally:
    """What went by while decoding, whether or not it was kept."""

    decoded: int = 0
    packets: int = 0
    discarded: int = 0
    errors: int = 0
    corrupt: int = 0
    unstamped: int = 0
    cut: bool = False
    at_end: bool = False
    last_end_s: float = 0.0
    longest_gap_s: float = 0.0


@dataclass(frozen=True)
class _Layout:
    """How the pixels of the file become upright square pixels; sizes are (width, height)."""

    coded: tuple[int, int]
    stored: tuple[int, int]
    swap: bool
    flip_x: bool
    flip_y: bool

    @property
    def original(self) -> tuple[int, int]:
        """Size of the upright image made of the file's own pixels."""
        return self.coded[::-1] if self.swap else self.coded

    def upright(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Resize, then turn and mirror."""
        size = self.stored[::-1] if self.swap else self.stored
        if (image.shape[1], image.shape[0]) != size:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        image = image.swapaxes(0, 1) if self.swap else image
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def read_encoded(path: Path, selection: Selection, store: FrameStore, progress: Progress, *, strict: bool) -> Video:
    """Decode the chosen frames of a video file.

    Raises:
        FormatError: not a video, no frame in it, or (strict) anything lost or damaged. InputError: nothing chosen.
    """
    try:
        container = av.open(f"file:{path}", metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise _cannot_open(path, error) from error
    with container:
        stream = _video_stream(container, path)
        if strict:
            stream.codec_context.options = {"err_detect": "explode"}
        return _read_stream(path, container, stream, selection, store, progress, strict=strict)


def _read_stream(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    selection: Selection,
    store: FrameStore,
    progress: Progress,
    *,
    strict: bool,
) -> Video:
    tally, length_s = _Tally(), _declared_length_s(container, stream)
    origin_s = _seek(container, stream, selection)
    timed = _timed(_frames(container, stream, tally), 1 / _rate(stream), origin_s, tally)
    raw_s: list[float] = []
    numbers: list[int] = []
    layout, facts, notes = None, dict[str, Any](), tuple[str, ...]()
    for number, time_s, frame in _chosen(timed, selection, tally):
        if layout is None:
            layout, facts, notes = _first_look(container, stream, frame, selection)
        raw_s.append(time_s)
        numbers.append(number)
        store.add(layout.upright(frame.to_ndarray(format="rgb24")))
        progress.share(min(1.0, time_s / length_s) if length_s else 0.0)
    if layout is None:
        raise _nothing_read(path, tally, selection, length_s)
    period_s = (raw_s[-1] - raw_s[0]) / max(len(raw_s) - 1, 1) / selection.every or 1 / _rate(stream)
    loss = _loss_facts(tally, container, stream, length_s, period_s, from_start=origin_s is None)
    damage = _damage_notes(path.name, loss)
    if strict and damage:
        raise FormatError(f"{path.name} is damaged ({damage[0].rstrip('.')}); repair it or read it without strict.")
    times_s, changed = increasing(np.array(raw_s), period_s * selection.every)
    if changed + tally.unstamped:
        notes = (*notes, f"{changed + tally.unstamped} time stamps were missing or repeated and have been filled in.")
    fps = (len(times_s) - 1) / (times_s[-1] - times_s[0]) if len(times_s) > 1 else _rate(stream)
    return Video(
        frames=store.finish(),
        times_s=times_s,
        name=path.stem,
        original_from_stored=original_from_stored(layout.original, layout.stored),
        original_size=layout.original,
        facts={**facts, **loss, "fps": float(fps), "frame_numbers": _in_clip(numbers, raw_s[0], period_s, origin_s)},
        notes=(*damage, *notes),
    )


def _in_clip(numbers: list[int], first_s: float, period_s: float, origin_s: float | None) -> list[int]:
    """Numbers of the frames in the whole file; after a jump the first one's is known only from its time."""
    skipped = 0 if origin_s is None else round(first_s / period_s) - numbers[0]
    return [number + skipped for number in numbers]


def _cannot_open(path: Path, error: Exception) -> InputError:
    if isinstance(error, PermissionError):
        return InputError(f"{path} cannot be read (permission denied); change its permissions.")
    if path.stat().st_size == 0:
        return FormatError(f"{path} is empty; give a video file or a folder of images.")
    if _is_mp4(path):
        return FormatError(f"{path} has lost its index (the recording or copy was cut off); repair it or give another.")
    return FormatError(
        f"{path} is not a video that can be read (damaged, cut off, or another kind of file); give another."
    )


def _is_mp4(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(12)[4:8] == b"ftyp"


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    pictures = int(av.stream.Disposition.attached_pic)
    streams = [s for s in container.streams.video if not int(s.disposition) & pictures]
    if container.format.name == "tty":
        raise FormatError(f"{path} is a text file, not a video; give a video file or a folder of images.")
    if not streams:
        raise FormatError(f"{path} has no video in it (only sound or other data); give a file with pictures.")
    if streams[0].codec_context is None:
        raise FormatError(f"{path} is coded in a way that cannot be decoded here; convert it to H.264 first.")
    return streams[0]


def _rate(stream: VideoStream) -> float:
    """Frames per second as the file states it; 30 where it does not."""
    return float(stream.average_rate or stream.guessed_rate or 30)


def _declared_length_s(container: InputContainer, stream: VideoStream) -> float | None:
    """How long the pictures should last, where the file says so."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska, per stream
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    alone = len(container.streams) == 1
    return container.duration / av.time_base if alone and container.duration else None


def _seek(container: InputContainer, stream: VideoStream, selection: Selection) -> float | None:
    """Jump to the key frame before the start; the stream's first time in seconds, or None where all is read."""
    if not selection.start_s or stream.start_time is None or stream.time_base is None:
        return None
    try:
        container.seek(stream.start_time + int(selection.start_s / stream.time_base), stream=stream)
    except av.FFmpegError:  # not seekable: decode from the beginning
        return None
    return float(stream.start_time * stream.time_base)


def _frames(container: InputContainer, stream: VideoStream, tally: _Tally) -> Iterator[VideoFrame]:
    """All frames that can be decoded, in order of presentation; what cannot is counted."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:
            tally.cut = True
            yield from _counted(stream.codec_context.decode, None, tally)
            return
        tally.packets += packet.size > 0
        tally.discarded += packet.is_discard
        tally.cut |= packet.is_corrupt
        yield from _counted(stream.codec_context.decode, packet, tally)


def _counted(decode: Any, packet: av.Packet | None, tally: _Tally) -> list[VideoFrame]:
    try:
        frames = decode(packet)
    except av.FFmpegError as error:
        tally.errors += not isinstance(error, av.EOFError)
        return []
    tally.decoded += len(frames)
    tally.corrupt += sum(f.is_corrupt for f in frames)
    return frames


def _timed(
    frames: Iterable[VideoFrame], period_s: float, origin_s: float | None, tally: _Tally
) -> Iterator[tuple[float, VideoFrame]]:
    """Each frame with its seconds since the first; without a stamp, one frame time after the one before."""
    last_s = -period_s
    for frame in frames:
        stamp_s = frame.time
        if stamp_s is None:
            tally.unstamped += 1
        elif origin_s is None:
            origin_s = stamp_s
        time_s = last_s + period_s if stamp_s is None or origin_s is None else stamp_s - origin_s
        shown_s = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else period_s
        tally.last_end_s = max(tally.last_end_s, time_s + shown_s)
        yield time_s, frame
        tally.longest_gap_s = max(tally.longest_gap_s, time_s - last_s)
        last_s = time_s


def _chosen(
    timed: Iterable[tuple[float, VideoFrame]], selection: Selection, tally: _Tally
) -> Iterator[tuple[int, float, VideoFrame]]:
    """The frames that are wanted, each with its number among all that were decoded."""
    position = 0
    for number, (time_s, frame) in enumerate(timed):
        if selection.is_before(time_s):
            continue
        if selection.is_after(time_s):
            return
        if position % selection.every == 0:
            yield number, time_s, frame
            if selection.max_frames is not None and position // selection.every + 1 == selection.max_frames:
                return
        position += 1
    tally.at_end = True


def _first_look(
    container: InputContainer, stream: VideoStream, frame: VideoFrame, selection: Selection
) -> tuple[_Layout, dict[str, Any], tuple[str, ...]]:
    """Layout, facts and notes that the first frame settles."""
    matrix, askew = _display_matrix(frame)
    (a, c), (b, d) = matrix
    swap = bool(abs(c) > abs(a))
    aspect = _pixel_aspect(stream)
    width, height = frame.width * max(aspect, 1.0), frame.height / min(aspect, 1.0)
    stored = selection.stored_size(*((height, width) if swap else (width, height)))
    coded = (frame.width, frame.height)
    layout = _Layout(coded, stored, swap, bool((c if swap else a) < 0), bool((b if swap else d) < 0))
    transfer = _TRANSFER.get(int(stream.codec_context.color_trc or 0), "unknown")
    facts: dict[str, Any] = {
        "codec": stream.codec_context.codec.canonical_name,
        "rotation": int(frame.rotation),
        "bits": int(frame.format.components[0].bits),
        "transfer": transfer,
    }
    equivalent_mm = _focal_equivalent_mm(container, stream)
    if equivalent_mm:
        facts["focal_px"] = focal_px_from_equivalent(equivalent_mm, *stored)
    notes = []
    if aspect != 1:
        notes.append(f"the pixels of the file are not square ({aspect:.3f} wide); the frames were made square.")
    if transfer in ("PQ", "HLG"):
        notes.append(f"the clip is HDR ({transfer}); it was reduced to 8 bits without tone mapping and may look flat.")
    if askew:
        notes.append(f"the file asks for a rotation of {frame.rotation} degrees; the nearest quarter turn was made.")
    return layout, facts, tuple(notes)


def _display_matrix(frame: VideoFrame) -> tuple[Int[np.ndarray, "2 2"], bool]:
    """The part of the display matrix that turns and mirrors (x right, y down), and whether it is no quarter turn."""
    side_data: Any = frame.side_data  # PyAV's stubs know its keys by the wrong type
    if SideDataType.DISPLAYMATRIX not in side_data:
        return np.eye(2, dtype=np.int64), False
    data = side_data[SideDataType.DISPLAYMATRIX]
    stored = np.frombuffer(bytes(data), dtype=np.int32, count=9).reshape(3, 3)
    matrix = stored[:2, :2].T.astype(np.int64)
    size = np.sort(np.abs(matrix[0]))
    if not size[1]:
        return np.eye(2, dtype=np.int64), False
    return matrix, bool(size[0] > 0.02 * size[1])


def _pixel_aspect(stream: VideoStream) -> float:
    ratio = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    return ratio if abs(ratio - 1) > 0.005 else 1.0  # nearer ones are rounding in the header


def _focal_equivalent_mm(container: InputContainer, stream: VideoStream) -> float | None:
    """The 35 mm equivalent of the focal length, as phones note it beside the video."""
    for key, value in {**container.metadata, **stream.metadata}.items():
        if key.endswith(_FOCAL_TAG):
            try:
                return float(value) if 5 < float(value) < 2000 else None
            except ValueError:
                return None
    return None


def _loss_facts(
    tally: _Tally,
    container: InputContainer,
    stream: VideoStream,
    length_s: float | None,
    period_s: float,
    *,
    from_start: bool,
) -> dict[str, int]:
    """Frames declared, decoded, lost and damaged.

    The declared number alone does not show a loss, since an edited clip declares frames it does not show: the
    stream must also have broken off, ended early, or have packets from which no frame came.
    """
    exact = container.format.name.startswith("mov")  # its index has one entry and one duration per frame
    missing_s = length_s - tally.last_end_s if length_s else 0.0
    gap_s = period_s if exact else max(tally.longest_gap_s, period_s)
    short = tally.at_end and (tally.cut or missing_s > _SHORT_SHARE * gap_s)
    lost = tally.errors
    if tally.at_end and from_start and stream.frames:
        if short:
            lost = stream.frames - tally.discarded - tally.decoded
        elif exact:
            lost = tally.packets - tally.discarded - tally.decoded
    elif short:
        lost = tally.errors + max(round(missing_s / period_s), int(tally.cut))
    lost = max(lost, 0)
    return {
        "declared_frames": int(stream.frames) or tally.decoded + lost,
        "decoded_frames": tally.decoded,
        "lost_frames": lost,
        "corrupt_frames": max(tally.corrupt, tally.errors - lost),
    }


def _damage_notes(name: str, loss: dict[str, int]) -> tuple[str, ...]:
    decoded, lost, corrupt = loss["decoded_frames"], loss["lost_frames"], loss["corrupt_frames"]
    notes = []
    if lost:
        notes.append(
            f"{decoded} of {decoded + lost} frames could be decoded; the rest of {name} is damaged or missing."
        )
    if corrupt:
        frames = "1 frame is" if corrupt == 1 else f"{corrupt} frames are"
        notes.append(f"{frames} damaged in {name}; the frames that follow may show it too.")
    return tuple(notes)


def _nothing_read(path: Path, tally: _Tally, selection: Selection, length_s: float | None) -> InputError:
    if tally.decoded or selection.start_s:
        lasts = f"; the clip lasts {length_s or tally.last_end_s:.2f} s"
        return InputError(f"no frame of {path.name} lies in the chosen time{lasts}.")
    return FormatError(f"{path.name} holds no frame that can be decoded (empty or damaged); give another file.")


def write_video(path: str | Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float, *, crf: int = 12) -> Path:
    """Write RGB frames as H.264 (yuv420p, BT.709, so that browsers play it); whole or not at all.

    Raises:
        InputError: no frames, or an odd size. OutputError: the file cannot be written.
    """
    target = Path(path)
    with written_whole(target, overwrite=True) as temporary:
        try:
            _encode(temporary, frames, fps, crf)
        except av.FFmpegError as error:
            raise OutputError(f"cannot write {target} ({error.strerror}); choose another output.") from error
    return target


def _encode(path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float, crf: int) -> None:
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise InputError("there are no frames to write; give at least one.")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise InputError(f"H.264 needs even sizes, not {width}x{height}; crop or resize the frames.")
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(100_000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # x264's lookahead reads memory it has not written: without B frames and macroblock trees, which need it, the
        # same frames always give the same bits
        stream.options = {"crf": str(crf), "preset": "medium", "bf": "0", "x264-params": "mbtree=0"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        for image in itertools.chain([first], remaining):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=_BT709)))
        container.mux(stream.encode(None))
