"""What the user already knows about a clip, as files and numbers, turned into observations with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldline.scene.journal import Journal
from worldline.scene.observations import Observations
from worldline.scene.video import Video


@dataclass(frozen=True)
class Known:
    """Everything that may be known before a reconstruction; all of it is optional and may be combined.

    Attributes:
        intrinsics: calibration file; distortion: (k1, k2, p1, p2[, k3]), in place of what the file says.
        focal_px: focal length in pixels of the original image; fov_deg: horizontal field of view.
        focal_sigma: relative standard deviation of the focal length; None: 0.005 for a file, 0 for a number.
        poses: trajectory file or folder of matrices; pose_offset_s is added to its times.
        pose_sigma_m, pose_sigma_deg: standard deviation of camera centres (metres) and rotations (degrees).
        masks: folder of images of what moves.
        depth: folder of depth images; depth_scale: values per metre; depth_noise: "kinect", "tof" or a share.
        rgb_only: whether the depth beside the colour images is left alone.
        lidar: folder of point files; camera_from_lidar: file with the 4x4 matrix.
        lengths: texts `F:u1,v1,u2,v2=METRES`, pixels of the original image.
    """

    intrinsics: Path | None = None
    distortion: tuple[float, ...] | None = None
    focal_px: float | None = None
    focal_sigma: float | None = None
    fov_deg: float | None = None
    poses: Path | None = None
    pose_offset_s: float = 0.0
    pose_sigma_m: float = 0.01
    pose_sigma_deg: float = 0.5
    masks: Path | None = None
    depth: Path | None = None
    depth_scale: float | None = None
    depth_noise: str = "kinect"
    rgb_only: bool = False
    lidar: Path | None = None
    camera_from_lidar: Path | None = None
    lengths: tuple[str, ...] = ()


def observations(
    known: Known, video: Video, *, source: Path | None = None, journal: Journal | None = None
) -> Observations | None:
    """What is known of this clip, as observations of its stored frames; None where nothing is.

    Args:
        source: the video file or folder that `video` was read from; an RGB-D folder brings its depth.
        journal: told what was used and assumed.

    Raises:
        InputError, FormatError: something that was given cannot be used; one sentence says what to do.
    """
    raise NotImplementedError


def known_key(known: Known, source: Path | None = None) -> str:
    """A key that changes with every number of `known` and with the content of every file it names.

    Args:
        source: as in `observations`; the depth images of an RGB-D folder are part of the key.

    Raises:
        InputError: a file or folder does not exist.
    """
    raise NotImplementedError
