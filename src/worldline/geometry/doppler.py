"""Radial speed: what a Doppler sensor says of motion, and what a camera beside it would have measured.

Conventions, all of them in one place:

* A speed is the rate at which a distance grows, metres per second: positive moves away, negative comes closer. The
  sensor's own motion is in it: what stands still is measured as `-direction . velocity` of the sensor.
* A radial displacement is the part along the ray of how a point moves in the camera's frame, `(flow . ray) ray` in
  metres, over the interval from a view to the next one in time; for the last view over the interval before it. It
  is the speed at the view times that interval, so it points away from the camera for positive speeds.
* A sensor beside the camera sees a point from another side. Its speed is brought to the camera by what both would
  measure of a static point, which needs the sensor's velocity and for a lever arm the angular rate. The motion of the
  point itself is taken to have the same radial part for both, so an error is left for what moves across: its speed
  times the angle between the two lines of sight (lever arm over distance).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.geometry import camera, pixels


def radial_speed(points: Float[Tensor, "*b 3"], velocity_mps: Float[Tensor, "*#b 3"]) -> Float[Tensor, "*b"]:
    """Rate at which the distance of points from the origin grows, by their velocity relative to it."""
    return (points * velocity_mps).sum(-1) / points.norm(dim=-1)


def static_speed(directions: Float[Tensor, "*b 3"], velocity_mps: Float[Tensor, "*#b 3"]) -> Float[Tensor, "*b"]:
    """Speed that a sensor of this velocity measures of what stands still in unit directions."""
    return -(directions * velocity_mps).sum(-1)


def velocity_of_lever(
    velocity_mps: Float[Tensor, "*#b 3"], rate_radps: Float[Tensor, "*#b 3"], lever_m: Float[Tensor, "*#b 3"]
) -> Float[Tensor, "*b 3"]:
    """Velocity of a point of a rigid body that lies `lever_m` from one with a known velocity; all on the same axes."""
    return velocity_mps + torch.linalg.cross(*torch.broadcast_tensors(rate_radps, lever_m))


def speed_seen_from(
    speed_mps: Float[Tensor, "*b"],
    direction_sensor: Float[Tensor, "*b 3"],
    direction_camera: Float[Tensor, "*b 3"],
    velocity_sensor_mps: Float[Tensor, "*#b 3"],
    velocity_camera_mps: Float[Tensor, "*#b 3"],
) -> Float[Tensor, "*b"]:
    """Speed that the camera would measure of points a sensor measured; exact for what stands still.

    Args:
        direction_sensor, direction_camera: unit vectors to the points from each, on the same axes as the velocities.
    """
    here = static_speed(direction_camera, velocity_camera_mps)
    return speed_mps + here - static_speed(direction_sensor, velocity_sensor_mps)


def intervals_s(times_s: Float[Tensor, "v"]) -> Float[Tensor, "v"]:
    """From each view to the next later one, seconds, whatever their order; for the last the interval before it.

    Views of the same time share their interval. Zero where all have the same time.
    """
    moments, which = torch.unique(times_s, return_inverse=True)
    steps = torch.diff(moments)
    if len(steps) == 0:
        return torch.zeros_like(times_s)
    return torch.cat([steps, steps[-1:]])[which]


def radial_displacement(
    speed_mps: Float[Tensor, "*b"], interval_s: Float[Tensor, "*#b"], rays: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b 3"]:
    """Metres along the ray over an interval, in the camera's frame; zero where the speed is NaN (unknown).

    Args:
        rays: through the pixels in the camera's frame, of any length.
    """
    along = (speed_mps * interval_s)[..., None] * rays / rays.norm(dim=-1, keepdim=True)
    return torch.where(speed_mps.isfinite()[..., None], along, torch.zeros_like(along))


def visible(
    points_cam: Float[Tensor, "n 3"],
    intrinsics: Float[Tensor, "4"],
    distortion: tuple[float, ...],
    height: int,
    width: int,
) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, "n"]]:
    """uv of points in the real image, and whether they lie in it, in front of the camera."""
    ideal = points_cam[:, :2] / points_cam[:, 2:]
    xy = camera.distort(ideal, distortion) if any(distortion) else ideal
    uv = xy * intrinsics[:2] + intrinsics[2:]
    bent_px = ((ideal - xy) * intrinsics[:2]).abs().amax(-1)
    seen = (points_cam[:, 2] > 0) & pixels.inside(uv, height, width) & (bent_px < max(height, width) / 2)
    return uv, seen


def nearest_per_pixel(
    uv: Float[Tensor, "n 2"], range_m: Float[Tensor, "n"], height: int, width: int
) -> tuple[Int[Tensor, "k"], Int[Tensor, "k"], Int[Tensor, "k"]]:
    """Which points are seen: of those that share a pixel the nearest. Their numbers, rows and columns."""
    row, column = pixels.indices(uv, height, width)
    far_first = torch.argsort(range_m, descending=True, stable=True)
    last = torch.full((height * width,), -1, dtype=torch.long, device=uv.device)
    place = row * width + column
    order = torch.arange(len(far_first), device=uv.device)
    last.scatter_reduce_(0, place[far_first], order, "amax")
    winners = far_first[last[last >= 0]]
    return winners, row[winners], column[winners]
