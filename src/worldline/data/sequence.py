"""A clip of a dataset with its truth, and the truth about points: where they are in every frame, and when seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer

from worldline.errors import InputError
from worldline.geometry import camera as cameras
from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.scene.motion import WorldTracks
from worldline.scene.observations import Observations
from worldline.scene.scene import Scene
from worldline.scene.video import Video


@dataclass(frozen=True, eq=False)
class TrackTruth:
    """Points that were truly followed through a clip.

    Attributes:
        points_cam: (T, N, 3) metres, each frame in its own camera's axes; NaN where not known.
        visible: (T, N), seen by the camera.
        query_frame: (N,) the frame in which a point is given to a tracker; query_uv: (N, 2) where, in pixels of the
            images (centres at +0.5).
        camera: of the images. times_s: (T,), made up from the dataset's frame rate where it stores none.
        world_from_cam: (T, 4, 4), None where the dataset has no poses.
        depth_z: (T, H, W) float32, 0 unknown; moving: (T, H, W) uint8; both None where the dataset has none.
    """

    name: str
    times_s: Float[np.ndarray, "t"]
    camera: Camera
    points_cam: Float[np.ndarray, "t n 3"]
    visible: Bool[np.ndarray, "t n"]
    query_frame: Integer[np.ndarray, "n"]
    query_uv: Float[np.ndarray, "n 2"]
    world_from_cam: Float[np.ndarray, "t 4 4"] | None = None
    depth_z: Float[np.ndarray, "t h w"] | None = None
    moving: Integer[np.ndarray, "t h w"] | None = None

    def __len__(self) -> int:
        return len(self.points_cam)

    @property
    def points_world(self) -> Float[np.ndarray, "t n 3"]:
        """The points in the world of the poses, float64.

        Raises:
            InputError: there are no poses.
        """
        return _apply(self._poses(), self.points_cam)

    @property
    def points_first(self) -> Float[np.ndarray, "t n 3"]:
        """The points in the axes of the first camera, float64. Raises InputError where there are no poses."""
        world_from_cam = torch.from_numpy(self._poses())
        return _apply((se3.inverse(world_from_cam[0]) @ world_from_cam).numpy(), self.points_cam)

    def uv(self, frame: int) -> Float[np.ndarray, "n 2"]:
        """Where the points are in one frame's image; NaN behind the camera."""
        points = torch.from_numpy(self.points_cam[frame].astype(np.float64))
        uv = cameras.project(points, torch.from_numpy(self.camera.at(frame).copy())).numpy()
        uv[~(points[:, 2].numpy() > 0)] = np.nan
        return uv

    def first(self, count: int | None) -> TrackTruth:
        """The first `count` frames (None: all), with the points that are queried in them."""
        if count is None or count >= len(self):
            return self
        asked = self.query_frame < count
        camera = self.camera
        return replace(
            self,
            times_s=self.times_s[:count],
            camera=replace(camera, intrinsics=camera.intrinsics[:count]) if camera.per_frame else camera,
            points_cam=self.points_cam[:count, asked],
            visible=self.visible[:count, asked],
            query_frame=self.query_frame[asked],
            query_uv=self.query_uv[asked],
            world_from_cam=_some(self.world_from_cam, count),
            depth_z=_some(self.depth_z, count),
            moving=_some(self.moving, count),
        )

    def as_scene(self) -> Scene:
        """The truth as a scene, for protocols that compare cameras, depth and masks.

        Raises:
            InputError: the dataset has no poses or no depth.
        """
        if self.world_from_cam is None or self.depth_z is None:
            lacking = "poses" if self.world_from_cam is None else "depth maps"
            raise InputError(
                f"{self.name} has no {lacking}, so only its points can be compared; choose a protocol such as "
                "tapvid3d-median."
            )
        shape = self.visible.shape
        return Scene(
            times_s=self.times_s,
            camera=self.camera,
            world_from_cam=self.world_from_cam,
            depth_z=self.depth_z,
            depth_sigma=np.zeros_like(self.depth_z),
            valid=self.depth_z > 0,
            moving=np.zeros(self.depth_z.shape, np.uint8) if self.moving is None else self.moving,
            tracks=WorldTracks(
                points_world=self.points_world.astype(np.float32),
                visible=self.visible,
                sigma=np.zeros(shape, np.float32),
                colour=np.full((shape[1], 3), 128, np.uint8),
                moving=path_length(self.points_world) > MOVES_M,
                query_frame=self.query_frame,
            ),
            metric=True,
            metric_source=f"the dataset of {self.name}",
            name=self.name,
        )

    def _poses(self) -> np.ndarray:
        if self.world_from_cam is None:
            raise InputError(
                f"{self.name} has no camera poses, so its points cannot be brought to one frame; choose a protocol "
                "that compares in the frame of each camera, such as tapvid3d-median."
            )
        return self.world_from_cam


@dataclass(frozen=True, eq=False)
class Sequence:
    """A clip of a dataset.

    Attributes:
        observed: what the dataset knows besides the images (lens, poses, depth, masks). A method that is given some
            of it is another method: hand over the items that it may know, or none.
    """

    video: Video
    observed: Observations
    truth: TrackTruth


MOVES_M = 0.01
"""A point whose path through a clip is longer than this moves (WorldTrack's rule)."""


def path_length(points: Float[np.ndarray, "t n 3"]) -> Float[np.ndarray, "n"]:
    """Length of the way of each point, over the steps between consecutive frames that are known."""
    return np.nansum(np.linalg.norm(np.diff(points.astype(np.float64), axis=0), axis=-1), axis=0)


def track_truth(scene: Scene) -> TrackTruth:
    """The tracks of a true scene (of a rendered world, say) as the truth about points.

    Raises:
        InputError: the scene has no tracks.
    """
    tracks = scene.tracks
    if tracks is None or len(tracks) == 0:
        raise InputError(f"{scene.name} has no tracks, so it is no truth about points; give a scene that has.")
    cam_from_world = se3.inverse(torch.from_numpy(np.array(scene.world_from_cam)))
    points_cam = _apply(cam_from_world.numpy(), tracks.points_world)
    count = len(tracks)
    asked = points_cam[tracks.query_frame, np.arange(count)]
    intrinsics = scene.camera.frames(len(scene))[tracks.query_frame]
    uv = cameras.project(torch.from_numpy(asked), torch.from_numpy(intrinsics.copy())).numpy()
    return TrackTruth(
        name=scene.name,
        times_s=np.asarray(scene.times_s, dtype=np.float64),
        camera=scene.camera,
        points_cam=points_cam,
        visible=np.asarray(tracks.visible, dtype=bool),
        query_frame=np.asarray(tracks.query_frame),
        query_uv=uv,
        world_from_cam=np.asarray(scene.world_from_cam, dtype=np.float64),
        depth_z=np.where(np.asarray(scene.valid), np.asarray(scene.depth_z), 0).astype(np.float32),
        moving=np.asarray(scene.moving),
    )


def first_seen(points_cam: np.ndarray, visible: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Query frame (N,) and uv (N, 2) of points that come without: where each is seen first; frame 0 if it never is."""
    frame = visible.argmax(0)
    points = torch.from_numpy(points_cam[frame, np.arange(visible.shape[1])].astype(np.float64))
    intrinsics = torch.from_numpy(camera.frames(len(points_cam))[frame].copy())
    return frame, cameras.project(points, intrinsics).numpy()


def _some(array: np.ndarray | None, count: int) -> np.ndarray | None:
    return None if array is None else array[:count]


def _apply(to_from: np.ndarray, points: np.ndarray) -> np.ndarray:
    motion = torch.from_numpy(np.array(to_from, dtype=np.float64))
    return se3.apply(motion, torch.from_numpy(points.astype(np.float64))).numpy()
