"""Radar returns as maps of the frames of a clip, and as the radial motion that a network is given.

The conventions of sign, interval and lever arm are those of `geometry/doppler.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.errors import InputError
from worldline.geometry import depth, doppler, pixels, se3
from worldline.geometry.camera import Camera
from worldline.scene.observations import DepthMaps, DopplerMaps, Source
from worldline.scene.sensor_readings import RadarReturns
from worldline.solve.ego_velocity import EgoVelocity, ego_velocity

CAM_FROM_FORWARD = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""From a radar's axes (x forward, y left, z up) to a camera's that looks the same way from the same place."""


@dataclass(frozen=True)
class RadarSettings:
    """How scans meet frames.

    Attributes:
        longest_gap_s: a frame takes the nearest scan, if it is at most so far in time.
        sigma_mps: standard deviation of the speeds.
        small_lever_m: a radar at most so far from the camera is said to see the same speeds.
    """

    longest_gap_s: float = 0.1
    sigma_mps: float = 0.1
    small_lever_m: float = 0.05


def doppler_maps(
    returns: RadarReturns,
    times_s: Float[np.ndarray, "t"],
    camera: Camera,
    *,
    rate_radps: Float[np.ndarray, "t 3"] | None = None,
    settings: RadarSettings | None = None,
) -> DopplerMaps:
    """Speed and distance along the rays of the camera's pixels, for each frame from the scan nearest in time.

    Where several returns meet a pixel the nearest counts. Where the radar is not at the camera's centre, speeds are
    brought there by the ego-velocity of their own scan, if it can be told.

    Args:
        times_s: of the frames, on the clock of the radar. camera: of the stored frames.
        rate_radps: angular rate of the camera at the frames, on its axes; None: taken to be zero, so that a lever arm
            costs its length times the true rate.

    Raises:
        InputError: no speeds, no scan near a frame, or no return in view.
    """
    s = settings or RadarSettings()
    if not returns.has_speed:
        raise InputError(f"{returns.source.name} has no radial speeds (Doppler); record them or leave the radar out.")
    scan_of_frame = _nearest_scans(returns, times_s, s)
    shape = (len(times_s), camera.height, camera.width)
    speed, distance = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    mount, told = _Mount.of(returns), np.zeros(len(times_s), dtype=bool)
    directions = returns.directions_radar
    for t in np.flatnonzero(scan_of_frame >= 0).tolist():
        mine = _measured(returns, int(scan_of_frame[t]))
        points_cam = mount.points_cam(directions[mine] * returns.range_m[mine, None])
        ego = ego_velocity(directions[mine], returns.speed_mps[mine])
        told[t] = ego is not None
        rate = np.zeros(3) if rate_radps is None else rate_radps[t]
        seen_speed = mount.at_camera(points_cam, returns.speed_mps[mine], ego, rate)
        _draw(points_cam, seen_speed, camera, t, speed[t], distance[t])
    if not np.isfinite(speed).any():
        raise InputError(
            f"no return of {returns.source.name} is in view of the camera; check the matrix from the radar's axes "
            "(x forward, y left, z up) to the camera's (x right, y down, z forward)."
        )
    matched = scan_of_frame >= 0
    notes = (*_about_maps(returns, matched, np.isfinite(speed)), *mount.notes(returns, told, matched, rate_radps, s))
    return DopplerMaps(speed, distance, s.sigma_mps, Source(returns.source.name, notes=(*returns.source.notes, *notes)))


def doppler_vectors(
    maps: DopplerMaps,
    times_s: Float[np.ndarray, "t"],
    frames: Int[np.ndarray, "v"],
    rays_cam: Float[Tensor, "v h w 3"],
    network_from_stored: Float[np.ndarray, "3 3"] | None = None,
) -> tuple[Float[Tensor, "v h w 3"], Bool[Tensor, "v"]]:
    """Radial displacement of the pixels of some frames, metres in the camera's frame, and which frames have any.

    The interval is that from a frame to the next one in time of those that are asked for, as the network sees only
    these (a single frame: to the next of the clip). Each known pixel of a map goes to the pixel of the target that
    holds its centre, the nearest one winning; the others are zero.

    Args:
        times_s: of all frames of the maps. frames: those that are wanted.
        rays_cam: of the target's pixels, of any length and on any device.
        network_from_stored: from uv of the stored frames to uv of the target; None: it covers the same image.
    """
    height, width = rays_cam.shape[1:3]
    to_target = _scaling(maps, height, width) if network_from_stored is None else network_from_stored
    speed = torch.full((len(frames), height, width), torch.nan, dtype=torch.float64)
    for v, frame in enumerate(np.asarray(frames).tolist()):
        _carry(maps, frame, to_target, speed[v])
    interval = _until_next(torch.from_numpy(np.asarray(times_s, dtype=np.float64)), torch.as_tensor(frames))
    vectors = doppler.radial_displacement(speed, interval[:, None, None], rays_cam.double().cpu())
    return vectors.float().to(rays_cam.device), speed.isfinite().any((1, 2)).to(rays_cam.device)


def radial_unit(
    maps: DopplerMaps, camera: Camera, frame: int = 0, metric_depth: DepthMaps | None = None
) -> float | None:
    """What the network's radial motion is divided by: the mean distance of the valid points of a view, metres.

    From metric depth of the view if there is any, else from the radar's ranges in the view, else from those in all
    views; None where there are none either, so that images have to tell it first.
    """
    if metric_depth is not None and metric_depth.metric:
        z = torch.from_numpy(np.nan_to_num(np.asarray(metric_depth.depth_z[frame], dtype=np.float64)))
        intrinsics = torch.from_numpy(camera.resized(z.shape[1], z.shape[0]).at(frame).copy())
        if bool((z > 0).any()):
            return float(depth.points_cam(z, intrinsics, camera.distortion)[z > 0].norm(dim=-1).mean())
    for ranges in (np.asarray(maps.range_m[frame]), np.asarray(maps.range_m)):
        if np.isfinite(ranges).any():
            return float(np.nanmean(ranges.astype(np.float64)))
    return None


@dataclass(frozen=True, eq=False)
class _Mount:
    """Where the radar is, seen from the camera; `assumed` that it looks the same way from the same place."""

    cam_from_radar: Float[np.ndarray, "4 4"]
    assumed: bool

    @classmethod
    def of(cls, returns: RadarReturns) -> _Mount:
        given = returns.cam_from_radar
        return cls(CAM_FROM_FORWARD, True) if given is None else cls(np.asarray(given, dtype=np.float64), False)

    @property
    def radar_cam(self) -> Float[np.ndarray, "3"]:
        """The radar's place on the camera's axes, metres."""
        return self.cam_from_radar[:3, 3]

    @property
    def lever_m(self) -> float:
        """Distance between radar and camera."""
        return float(np.linalg.norm(self.radar_cam))

    def points_cam(self, points_radar: Float[np.ndarray, "n 3"]) -> Float[Tensor, "n 3"]:
        return se3.apply(torch.from_numpy(self.cam_from_radar), torch.from_numpy(points_radar))

    def at_camera(
        self,
        points_cam: Float[Tensor, "n 3"],
        speed_mps: Float[np.ndarray, "n"],
        ego: EgoVelocity | None,
        rate_radps: Float[np.ndarray, "3"],
    ) -> Float[Tensor, "n"]:
        """The speeds as the camera would measure them; as they are without a lever arm or an ego-velocity."""
        speed = torch.from_numpy(np.asarray(speed_mps, dtype=np.float64))
        if ego is None or self.lever_m == 0:
            return speed
        radar = torch.from_numpy(self.radar_cam)
        velocity = torch.from_numpy(self.cam_from_radar[:3, :3] @ ego.velocity_mps)
        of_camera = doppler.velocity_of_lever(velocity, torch.from_numpy(np.asarray(rate_radps, np.float64)), -radar)
        from_radar, from_camera = (p / p.norm(dim=-1, keepdim=True) for p in (points_cam - radar, points_cam))
        return doppler.speed_seen_from(speed, from_radar, from_camera, velocity, of_camera)

    def notes(
        self, returns: RadarReturns, told: Bool[np.ndarray, "t"], matched: Bool[np.ndarray, "t"], rate: object,
        s: RadarSettings,
    ) -> tuple[str, ...]:  # fmt: skip
        """What was assumed of the place of the radar."""
        name, far = returns.source.name, f"{100 * self.lever_m:.0f} cm beside the camera"
        if self.assumed:
            return (
                f"{name} was taken to look the same way as the camera from the same place; give the matrix from its "
                "axes to the camera's to be exact.",
            )
        if self.lever_m <= s.small_lever_m:
            return ()
        if not told[matched].any():
            return (f"{name} is {far} and its own velocity could not be told, so its speeds were taken as they are.",)
        turning = "" if rate is not None else ", without its turning, which nothing tells"
        return (
            f"{name} is {far}: its speeds were brought there by its own velocity{turning}, which is exact for what "
            "stands still.",
        )


def _nearest_scans(returns: RadarReturns, times_s: Float[np.ndarray, "t"], s: RadarSettings) -> Int[np.ndarray, "t"]:
    """The number of the scan nearest in time to each frame, -1 where it is too far."""
    numbers, first = np.unique(returns.scan, return_index=True)
    scan_s = returns.times_s[first]
    after = np.clip(np.searchsorted(scan_s, times_s), 0, len(scan_s) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(scan_s[before] - times_s) <= np.abs(scan_s[after] - times_s), before, after)
    near = np.abs(scan_s[nearest] - times_s) <= s.longest_gap_s
    if not near.any():
        raise InputError(
            f"{returns.source.name} has scans from {scan_s[0]:.6g} to {scan_s[-1]:.6g} s but the frames are at "
            f"{times_s[0]:.6g} to {times_s[-1]:.6g} s; check the times, or shift them with a time offset."
        )
    return np.where(near, numbers[nearest], -1)


def _measured(returns: RadarReturns, scan: int) -> Int[np.ndarray, "m"]:
    """The returns of a scan that have a speed."""
    first, stop = np.searchsorted(returns.scan, [scan, scan + 1])
    return first + np.flatnonzero(np.isfinite(returns.speed_mps[first:stop]))


def _draw(
    points_cam: Float[Tensor, "n 3"],
    speed_mps: Float[Tensor, "n"],
    camera: Camera,
    frame: int,
    speed_map: Float[np.ndarray, "h w"],
    range_map: Float[np.ndarray, "h w"],
) -> None:
    """Write the points in view into the maps of a frame."""
    intrinsics = torch.from_numpy(camera.at(frame).copy())
    uv, seen = doppler.visible(points_cam, intrinsics, camera.distortion, camera.height, camera.width)
    distance = points_cam[seen].norm(dim=-1)
    kept, row, column = doppler.nearest_per_pixel(uv[seen], distance, camera.height, camera.width)
    speed_map[row, column] = speed_mps[seen][kept].numpy()
    range_map[row, column] = distance[kept].numpy()


def _carry(maps: DopplerMaps, frame: int, to_target: Float[np.ndarray, "3 3"], speed: Float[Tensor, "h w"]) -> None:
    """Write the known speeds of a frame into a map of another size."""
    own, ranges = np.asarray(maps.speed_mps[frame]), np.asarray(maps.range_m[frame])
    row, column = np.nonzero(np.isfinite(own))
    centre = pixels.from_integer_centres(np.stack([column, row], -1).astype(np.float64))
    there = torch.from_numpy(centre @ to_target[:2, :2].T + to_target[:2, 2])
    inside = ((there >= 0) & (there < there.new_tensor([speed.shape[1], speed.shape[0]]))).all(-1)
    values, distance = (torch.from_numpy(m[row, column].astype(np.float64))[inside] for m in (own, ranges))
    kept, rows, columns = doppler.nearest_per_pixel(there[inside], distance, *speed.shape)
    speed[rows, columns] = values[kept]


def _until_next(times_s: Float[Tensor, "t"], frames: Int[Tensor, "v"]) -> Float[Tensor, "v"]:
    alone = len(torch.unique(frames)) == 1
    return doppler.intervals_s(times_s)[frames] if alone else doppler.intervals_s(times_s[frames])


def _scaling(maps: DopplerMaps, height: int, width: int) -> Float[np.ndarray, "3 3"]:
    own_height, own_width = maps.speed_mps.shape[1:]
    return np.diag([width / own_width, height / own_height, 1.0])


def _about_maps(
    returns: RadarReturns, matched: Bool[np.ndarray, "t"], known: Bool[np.ndarray, "t h w"]
) -> tuple[str, ...]:
    count = int(np.median(known[matched].sum((1, 2))))
    return (
        f"radial speeds of {int(matched.sum())} of {len(matched)} frames were taken from {returns.source.name}, "
        f"{count} pixels per frame.",
    )
