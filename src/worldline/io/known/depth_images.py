"""Depth images of a sensor to depth maps of a clip, with the sensor's noise."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float

from worldline.errors import FormatError, InputError
from worldline.io.known.clip_frames import ClipFrames, Matched, match_files
from worldline.io.known.depth_alignment import Alignment, aligned, displacement_px, find_alignment
from worldline.io.known.depth_noise import DepthNoise, relative_sigma
from worldline.io.known.image_sizes import check_same_shape, nearest_pixels
from worldline.io.known.rgbd_folders import MILLIMETRES, TUM_SCALE, DepthFiles
from worldline.scene.observations import DepthMaps, Source
from worldline.scene.video import Video

SCALE_SIGMA = 0.005
"""Spread of the scale of a sensor's depth from frame to frame."""

_INVALID = 65535
_FARTHEST_MM = 10_000
_FARTHEST_M = 500.0
_NEAREST_M = 0.05
_LOOKED_AT = 5
_ALIGNED_BY = 12
_FEWEST_ALIGNED = 4
_CLEARLY_BETTER = 1.15
_APART_SHARE = 0.015


@dataclass(frozen=True)
class DepthSettings:
    """How depth images are read.

    Attributes:
        scale: values per metre; None: by custom, said in a note. noise: of the sensor.
        as_is: whether depth is taken to be in the view of the colour camera without a look at its edges.
    """

    scale: float | None = None
    noise: DepthNoise = field(default_factory=DepthNoise)
    as_is: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < np.inf:
            raise InputError(f"the depth scale must be positive, not {self.scale}; give the values per metre.")


@dataclass(frozen=True, eq=False)
class SensorDepth:
    """Depth maps in the view of the colour camera, and how they were brought there, if they had to be."""

    maps: DepthMaps
    alignment: Alignment | None = None


def read_depth(found: DepthFiles, video: Video, settings: DepthSettings | None = None) -> SensorDepth:
    """Depth of every frame in metres; 0 where the sensor saw nothing, and in frames without a file.

    Maps larger than the video's frames are thinned to their size; smaller ones stay as they are.

    Raises:
        InputError: no file belongs to a frame, sizes or shapes differ. FormatError: not a depth image.
    """
    settings = settings or DepthSettings()
    clip = ClipFrames.of(video)
    files = match_files(found.files, clip, str(found.folder), stamps_s=found.stamps_s)
    scale, assumed = _scale(found, files, settings.scale)
    maps = [None if file is None else _one(file, video, scale, settings.noise) for file in files.files]
    there = [pair for pair in maps if pair is not None]
    shape = there[0][0].shape
    if any(depth_z.shape != shape for depth_z, _ in there):
        raise InputError(f"the depth images in {found.folder} have different sizes; give images of one size.")
    depth_z, sigma = np.zeros((2, len(video), *shape), dtype=np.float32)
    sigma[:] = 1.0
    depth_z[files.known], sigma[files.known] = (np.stack(part) for part in zip(*there, strict=True))
    if not depth_z.any():
        raise InputError(
            f"the depth images in {found.folder} are all empty, without a pixel that is finite and positive; check "
            "the folder and the depth scale."
        )
    _check_plausible(depth_z, found, scale, given=settings.scale is not None)
    alignment, moved = (None, ()) if settings.as_is else in_colour_view(depth_z, sigma, files.known, video)
    notes = (_note(found, files, depth_z), *assumed, *moved)
    return SensorDepth(DepthMaps(depth_z, sigma, Source(found.folder.name, notes=notes), True, SCALE_SIGMA), alignment)


def in_colour_view(
    depth_z: Float[np.ndarray, "t h w"], sigma: Float[np.ndarray, "t h w"], known: Bool[np.ndarray, "t"], video: Video
) -> tuple[Alignment | None, tuple[str, ...]]:
    """Move maps, in place, into the view of the colour camera if their edges say that they clearly must be.

    Args:
        known: the frames that have a map.

    Returns:
        How they were moved (None: they were not), and what to say about it.
    """
    alignment = _alignment(depth_z, known, video)
    return alignment, () if alignment is None else _move(depth_z, sigma, known, alignment)


def _alignment(depth_z: Float[np.ndarray, "t h w"], known: Bool[np.ndarray, "t"], video: Video) -> Alignment | None:
    """How depth must be moved into the view of the colour camera, if its edges say that it clearly must."""
    looked_at = _spread(known)
    if len(looked_at) < _FEWEST_ALIGNED:
        return None
    height, width = depth_z.shape[1:]
    images = [cv2.resize(np.asarray(video.frames[t]), (width, height), interpolation=cv2.INTER_AREA) for t in looked_at]
    maps = [depth_z[t] for t in looked_at]
    found = find_alignment(maps, images)
    clear = found is not None and found.better > _CLEARLY_BETTER and displacement_px(found, maps) > _APART_SHARE * width
    return found if clear else None


def _spread(known: Bool[np.ndarray, "t"]) -> list[int]:
    """Frames with depth, spread over the clip."""
    there = np.flatnonzero(known)
    return np.unique(there[np.linspace(0, len(there) - 1, _ALIGNED_BY).round().astype(int)]).tolist()


def _move(
    depth_z: Float[np.ndarray, "t h w"],
    sigma: Float[np.ndarray, "t h w"],
    known: Bool[np.ndarray, "t"],
    alignment: Alignment,
) -> tuple[str, ...]:
    """Bring the maps into the view of the colour camera, in place; what to say about it."""
    apart_px = displacement_px(alignment, [depth_z[t] for t in _spread(known)])
    for t in np.flatnonzero(known):
        depth_z[t], sigma[t] = aligned(alignment, depth_z[t], sigma[t])
    return (
        f"the edges of the depth images are {apart_px:.0f} px away from those of the colour images: depth was moved "
        f"into the colour camera's view, whose focal length is {alignment.scale:.2f} times that of the depth camera.",
    )


def _note(found: DepthFiles, files: Matched, depth_z: Float[np.ndarray, "t h w"]) -> str:
    share = 100 * np.mean(depth_z[files.known] > 0)
    return (
        f"the depth of {int(files.known.sum())} of {len(depth_z)} frames was taken from {found.folder.name} "
        f"({found.layout}, {files.how}); it covers {share:.0f} % of their pixels."
    )


def _scale(found: DepthFiles, files: Matched, given: float | None) -> tuple[float, tuple[str, ...]]:
    """Values per metre, and what was assumed for it."""
    if given is not None:
        return given, ()
    written = _written_scale(found.folder)
    if written is not None:
        return written, ()
    some = [file for file in files.files if file is not None]
    values = [_raw(file) for file in some[:: max(1, len(some) // _LOOKED_AT)]]
    if values[0].dtype.kind == "f":
        return 1.0, ("floating-point depth was taken to be in metres (change it with a depth scale).",)
    if found.scale is not None:
        return found.scale, (f"{found.scale:.0f} depth values per metre were assumed, as in {found.layout} data.",)
    seen = np.concatenate([v[(v > 0) & (v < _INVALID)] for v in values])
    far = np.percentile(seen, 98) if len(seen) else 0.0
    scale = TUM_SCALE if far > _FARTHEST_MM else MILLIMETRES
    unit = "5000 values per metre, as millimetres would be too far" if scale == TUM_SCALE else "millimetres"
    return scale, (f"the depth values were taken to be {unit} (98 % are below {far / scale:.1f} m).",)


def _check_plausible(depth_z: Float[np.ndarray, "t h w"], found: DepthFiles, scale: float, *, given: bool) -> None:
    """Refuse a unit that no camera of a scene can have; a near one only where nobody asked for it.

    Raises:
        InputError: half of the depth is farther or nearer than is possible.
    """
    usual = float(np.median(depth_z[depth_z > 0]))
    if usual > _FARTHEST_M or (usual < _NEAREST_M and not given):
        raise InputError(
            f"with {scale:g} values per metre the depth in {found.folder} would be {usual:.3g} m in the median; "
            "give the right number of values per metre with --depth-scale."
        )


def _written_scale(folder: Path) -> float | None:
    """The scale that worldline's own export notes beside its images."""
    try:
        said: Any = json.loads((folder / "depth.json").read_text())
        scale = float(said["scale"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return scale if 0 < scale < np.inf else None


def _one(
    file: Path, video: Video, scale: float, noise: DepthNoise
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    raw = _raw(file)
    check_same_shape(raw.shape[1], raw.shape[0], video, str(file))
    exact = raw.dtype.kind == "f"
    usable = np.isfinite(raw) & (raw > 0) if exact else (raw > 0) & (raw < _INVALID)
    depth_z = np.where(usable, raw, 0).astype(np.float32) / np.float32(scale)
    sigma = relative_sigma(depth_z, noise, 0.0 if exact else 1 / scale)
    return tuple(nearest_pixels(part, video.height, video.width) for part in (depth_z, sigma))  # type: ignore[return-value]


def _raw(file: Path) -> np.ndarray:
    """The values of one depth image: uint16, or floating point."""
    if file.suffix.lower() == ".npy":
        try:
            values = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FormatError(f"{file} is not a depth map that can be read; write it again with numpy.save.") from error
    else:
        values = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if values is None:
            what = "is missing" if not file.exists() else "cannot be read as an image"
            raise FormatError(f"{file} {what}; repair it or take it out of the folder.")
    if values.ndim != 2 or values.dtype.kind not in "uf" or values.dtype == np.uint8:
        raise FormatError(
            f"{file} is no depth image ({values.dtype}, shape {values.shape}); depth is one channel of 16-bit or "
            "floating-point numbers."
        )
    return values
