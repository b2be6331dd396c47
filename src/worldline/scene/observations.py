"""Observations: all that is known before reconstruction, each item optional, each with its uncertainty and source.

A sensor, a network, a file and an oracle fill the same fields; only `source` differs. Sizes may differ from the
video's: a map of h x w covers the same image plane, so its uv is the video's times (w / W, h / H).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float, Integer

from worldline.errors import InputError, MissingObservation
from worldline.geometry.camera import Camera, ideal_uv

WHOLE_SHARE = 0.98
"""Share of its pixels from which a depth map counts as whole."""


@dataclass(frozen=True)
class Source:
    """Where an observation comes from: a cue model, a file, a sensor; the licence of the weights behind it, if any."""

    name: str
    licence: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class DepthMaps:
    """Depth along the optical axis.

    Attributes:
        depth_z: (T, h, w) float32; metres if `metric`, else up to one scale for the clip. 0 or NaN: unknown.
        sigma: (T, h, w) float32, standard deviation of log depth (so 0.05 is five per cent).
        frame_scale_sigma: spread of an unknown log scale per frame (0: the maps share one scale).
    """

    depth_z: Float[np.ndarray, "t h w"]
    sigma: Float[np.ndarray, "t h w"]
    source: Source
    metric: bool = False
    frame_scale_sigma: float = 0.05

    def __post_init__(self) -> None:
        _same_shape("depth", self.depth_z, "its sigma", self.sigma)

    @property
    def partial(self) -> bool:
        """Whether pixels are left for a cue to complete: sensors have holes, LiDAR sees a few points."""
        known = np.array([np.mean((np.asarray(z) > 0) & np.isfinite(z)) for z in self.depth_z])
        return bool((known < WHOLE_SHARE).any())


@dataclass(frozen=True, eq=False)
class PixelTracks:
    """2D point tracks over the whole clip.

    Attributes:
        uv: (T, N, 2) float32, pixels of the video, centres at +0.5; any value where not visible.
        visible: (T, N) bool.
        sigma_px: (T, N) float32, standard deviation per axis in pixels.
        query_frame: (N,) int, the frame in which a track was started.
    """

    uv: Float[np.ndarray, "t n 2"]
    visible: Bool[np.ndarray, "t n"]
    sigma_px: Float[np.ndarray, "t n"]
    query_frame: Integer[np.ndarray, "n"]
    source: Source

    def __post_init__(self) -> None:
        _same_shape("tracks", self.uv[..., 0], "their visibility", self.visible)
        _same_shape("tracks", self.uv[..., 0], "their sigma", self.sigma_px)
        _same_shape("tracks", self.uv[0, :, 0], "their query frames", self.query_frame)

    def ideal(self, camera: Camera, reference: Float[np.ndarray, "4"]) -> PixelTracks:
        """The tracks as a pinhole with the intrinsics `reference` would have seen them instead of `camera`."""
        own = camera.frames(len(self.uv))
        if not any(camera.distortion) and bool((own == reference).all()):
            return self
        larger = (reference[:2].mean() / own[:, :2].mean(1)).astype(np.float32)
        return replace(self, uv=ideal_uv(self.uv, camera, reference), sigma_px=self.sigma_px * larger[:, None])


@dataclass(frozen=True, eq=False)
class PixelFlow:
    """Where every pixel of one frame is in all frames.

    Attributes:
        reference: that frame.
        displacement_px: (T, h, w, 2) float32, from its place in the reference frame, in pixels of the video.
        sigma_px: (T, h, w) float32, standard deviation per axis; infinite where the pixel is hidden or lost.
    """

    reference: int
    displacement_px: Float[np.ndarray, "t h w 2"]
    sigma_px: Float[np.ndarray, "t h w"]
    source: Source

    def __post_init__(self) -> None:
        _same_shape("flow", self.displacement_px[..., 0], "its sigma", self.sigma_px)


@dataclass(frozen=True, eq=False)
class MovingMasks:
    """What moves by itself.

    Attributes:
        ids: (T, h, w) uint8: 0 static, else the number of a moving object (the same over time where known).
        probability: (T, h, w) float32 in [0, 1] that the pixel moves; None means certain.
        known: (T,) bool, the frames whose mask says anything; None means all.
    """

    ids: Integer[np.ndarray, "t h w"]
    source: Source
    probability: Float[np.ndarray, "t h w"] | None = None
    known: Bool[np.ndarray, "t"] | None = None

    @property
    def partial(self) -> bool:
        """Whether frames are left for a cue to complete."""
        return self.known is not None and not bool(self.known.all())

    def __post_init__(self) -> None:
        if self.probability is not None:
            _same_shape("masks", self.ids, "their probability", self.probability)


@dataclass(frozen=True, eq=False)
class CameraPrior:
    """Intrinsics with the relative uncertainty of the focal length (0: known exactly, kept fixed)."""

    camera: Camera
    focal_sigma: float
    source: Source


@dataclass(frozen=True, eq=False)
class CameraMotion:
    """Known or estimated camera poses.

    Attributes:
        world_from_cam: (T, 4, 4) float64; valid: (T,) bool, which frames are known.
        sigma_m: standard deviation of the centre (metres), sigma_rad: of the rotation (radians). An infinite sigma_m
            means that only rotations are known; the centres then say nothing.
        metric: whether translations are in metres; metric_source: what says so, in words.
        given: (T,) bool, the frames whose pose was there before reconstruction, with these sigmas; the others are
        estimates to start from. None: all valid ones.
        off: (T,) by how many standard deviations poses that came in were off what the images say; None: not asked.
        frame_sigma_m, frame_sigma_rad: (T,) the sigmas of each frame where they differ, as those of a path that drifts
            do; None: those of all.
    """

    world_from_cam: Float[np.ndarray, "t 4 4"]
    valid: Bool[np.ndarray, "t"]
    sigma_m: float
    sigma_rad: float
    source: Source
    metric: bool = False
    metric_source: str = ""
    given: Bool[np.ndarray, "t"] | None = None
    off: Float[np.ndarray, "t"] | None = None
    frame_sigma_m: Float[np.ndarray, "t"] | None = None
    frame_sigma_rad: Float[np.ndarray, "t"] | None = None

    @property
    def given_frames(self) -> Bool[np.ndarray, "t"]:
        """The frames whose whole pose, centre and rotation, is evidence of its own."""
        return self.turned_frames & np.isfinite(self.centre_sigma_m)

    @property
    def turned_frames(self) -> Bool[np.ndarray, "t"]:
        """The frames whose rotation is evidence of its own, whether or not the centre is."""
        finite = np.isfinite(self.world_from_cam).all((1, 2))
        return finite & self.valid & (True if self.given is None else self.given)

    @property
    def centre_sigma_m(self) -> Float[np.ndarray, "t"]:
        """(T,) standard deviation of each centre, metres; infinite where it is not known."""
        same = np.full(len(self.valid), float(self.sigma_m))
        return same if self.frame_sigma_m is None else self.frame_sigma_m

    @property
    def rotation_sigma_rad(self) -> Float[np.ndarray, "t"]:
        """(T,) standard deviation of each rotation per axis, radians."""
        same = np.full(len(self.valid), float(self.sigma_rad))
        return same if self.frame_sigma_rad is None else self.frame_sigma_rad

    @property
    def partial(self) -> bool:
        """Whether frames are left for a cue to complete."""
        return self.given is None and not bool(self.given_frames.all())


@dataclass(frozen=True, eq=False)
class KnownLengths:
    """Distances between pairs of static points, each pair marked in one frame; they give the scene its scale.

    Attributes:
        frame: (K,) int. uv: (K, 2, 2) float, the two ends in pixels of the video, centres at +0.5.
        length_m: (K,) metres; sigma_m: (K,) standard deviation.
    """

    frame: Integer[np.ndarray, "k"]
    uv: Float[np.ndarray, "k 2 2"]
    length_m: Float[np.ndarray, "k"]
    sigma_m: Float[np.ndarray, "k"]
    source: Source


@dataclass(frozen=True, eq=False)
class DopplerMaps:
    """Speed along the line of sight, as a Doppler radar or LiDAR measures it, in the camera's view.

    Attributes:
        speed_mps: (T, h, w) float32 rate at which the distance grows, metres per second: positive moves away. The
            camera's own motion is in it, as in every raw measurement. NaN: unknown (a radar sees a few points).
        range_m: (T, h, w) float32 distance along the ray where the speed was measured; NaN: unknown.
        sigma_mps: standard deviation of the speeds.
    """

    speed_mps: Float[np.ndarray, "t h w"]
    range_m: Float[np.ndarray, "t h w"]
    sigma_mps: float
    source: Source

    def __post_init__(self) -> None:
        _same_shape("radial speed", self.speed_mps, "its range", self.range_m)


@dataclass(frozen=True, eq=False)
class Observations:
    """The bundle of items; `require` turns a missing one into a sentence that says how to supply it."""

    depth: DepthMaps | None = None
    tracks: PixelTracks | None = None
    moving: MovingMasks | None = None
    camera: CameraPrior | None = None
    camera_motion: CameraMotion | None = None
    lengths: KnownLengths | None = None
    flow: PixelFlow | None = None
    doppler: DopplerMaps | None = None
    notes: tuple[str, ...] = ()

    def require(self, names: Iterable[str]) -> None:
        """Raise MissingObservation unless all named items are there."""
        missing = [n for n in names if getattr(self, n) is None]
        if missing:
            raise MissingObservation(f"the engine needs {', '.join(missing)}; add them with worldline.observe(video).")

    def merged(self, given: Observations | None) -> Observations:
        """These observations with every item that `given` has replaced by it; the notes of both."""
        if given is None:
            return self
        items = {f.name: getattr(given, f.name) for f in fields(given) if f.name != "notes"}
        return replace(self, **{k: v for k, v in items.items() if v is not None}, notes=self.notes + given.notes)


def _same_shape(what: str, a: np.ndarray, other: str, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise InputError(f"{what} has shape {a.shape} but {other} {b.shape}; they must agree.")
