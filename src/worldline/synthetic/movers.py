"""Things that move by themselves: a walker, a bouncing ball, a tumbling box; each a few parts with affine motions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from worldline.synthetic.materials import Material
from worldline.synthetic.world import Part, Shape

Times = Float[np.ndarray, "t"]
Vector = tuple[float, float, float]


def at_rest(
    shape: Shape,
    material: Material,
    centre: Vector,
    half_size_m: Vector,
    *,
    yaw_deg: float = 0.0,
    casts_shadow: bool = True,
) -> Part:
    """A part that stands still, turned about the vertical."""
    motion = affine(turn(2, np.radians([yaw_deg]))[0] @ np.diag(half_size_m), np.array(centre))
    return Part(shape, material, np.array(half_size_m), motion, casts_shadow=casts_shadow)


def turn(axis: int, angle_rad: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t 3 3"]:
    """Rotations about a coordinate axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out = np.zeros((len(angle_rad), 3, 3))
    out[:, axis, axis] = 1
    out[:, i, i] = out[:, j, j] = np.cos(angle_rad)
    out[:, j, i], out[:, i, j] = np.sin(angle_rad), -np.sin(angle_rad)
    return out


def affine(linear: Float[np.ndarray, "*#t 3 3"], offset: Num[np.ndarray, "*#t 3"]) -> Float[np.ndarray, "*#t 4 4"]:
    """4x4 matrices of a linear map and a translation."""
    shape = np.broadcast_shapes(linear.shape[:-2], offset.shape[:-1])
    out = np.zeros((*shape, 4, 4))
    out[..., :3, :3], out[..., :3, 3], out[..., 3, 3] = linear, offset, 1
    return out


def ball(
    times_s: Times,
    material: Material,
    start: Vector,
    velocity: tuple[float, float],
    *,
    radius_m: float = 0.2,
    height_m: float = 0.6,
    period_s: float = 0.9,
    squash: float = 0.3,
    moving: int = 2,
) -> list[Part]:
    """A ball that bounces along, rolls, is squashed at the floor and stretched in the air (volume kept)."""
    swing = np.abs(np.sin(np.pi * times_s / period_s + 0.6))
    tall = 1 + squash * (np.minimum(swing * 1.6, 1.0) * 1.2 - 1.0)
    flat = 1 / np.sqrt(tall)
    stretch = np.zeros((len(times_s), 3, 3))
    stretch[:, 0, 0], stretch[:, 1, 1], stretch[:, 2, 2] = flat, flat, tall
    path = np.array([*velocity, 0.0]) * times_s[:, None] + start
    path[:, 2] += radius_m * tall + height_m * swing
    heading = turn(2, np.full(len(times_s), np.arctan2(velocity[1], velocity[0])))
    roll = turn(1, np.hypot(*velocity) * times_s / radius_m)
    motion = affine(stretch @ heading @ roll * radius_m, path)
    return [Part(Shape.SPHERE, material, np.full(3, radius_m), motion, moving)]


def tumbling_box(
    times_s: Times,
    material: Material,
    start: Vector,
    yaw_deg: float,
    *,
    half_m: float = 0.18,
    turns_per_s: float = 0.5,
    moving: int = 3,
) -> list[Part]:
    """A cube that rolls over its edges in the direction of `yaw_deg`; `start` is on the floor."""
    quarter = 4 * turns_per_s * times_s
    count = np.floor(quarter)
    angle = (quarter - count) * np.pi / 2
    arm = np.einsum("tij,j->ti", turn(1, angle), [-half_m, 0.0, half_m])
    arm[:, 0] += (2 * count + 1) * half_m
    yaw = turn(2, np.radians([yaw_deg]))[0]
    linear = yaw @ turn(1, count * np.pi / 2 + angle) * half_m
    return [Part(Shape.BOX, material, np.full(3, half_m), affine(linear, arm @ yaw.T + start), moving)]


def companion(
    times_s: Times,
    material: Material,
    ground_from_cam: Float[np.ndarray, "t 4 4"],
    *,
    distance_m: float = 1.1,
    half_m: Vector = (0.42, 0.16, 0.38),
    moving: int = 4,
) -> list[Part]:
    """A box that keeps its place before the camera but for a sway, as a subject does that is followed."""
    sway = np.stack([np.sin(2.1 * times_s), 0.6 * np.sin(3.3 * times_s + 1), 0.8 * np.sin(1.4 * times_s)], -1)
    level = affine(turn(0, np.array([-np.pi / 2]))[0] @ turn(2, 0.12 * sway[:, 0]) * half_m, np.zeros(3))
    place = ground_from_cam @ affine(np.eye(3), np.array([0.0, 0.1, distance_m]) + 0.04 * sway)
    return [Part(Shape.BOX, material, np.array(half_m), place @ level, moving)]


def walker(
    times_s: Times,
    cloth: Material,
    trousers: Material,
    skin: Material,
    hair: Material,
    start: Vector,
    yaw_deg: float,
    *,
    speed: float = 1.1,
    height_m: float = 1.7,
    moving: int = 1,
) -> list[Part]:
    """A figure of ellipsoids that walks in the direction of `yaw_deg` (metres per second), arms and legs swinging."""
    h = height_m
    phase = 2 * np.pi * times_s * speed / (0.78 * h) + 0.4
    base = np.array(start) + times_s[:, None] * speed * _heading(yaw_deg)
    base[:, 2] += 0.012 * h * np.cos(2 * phase)
    body = affine(turn(2, np.full(len(times_s), np.radians(yaw_deg))), base)
    still = np.zeros_like(phase)
    lean = 0.06 + 0.02 * np.sin(2 * phase)
    parts = [
        _limb(body, (0, 0, 0.47 * h), lean, still, 0.16 * h, (0.072 * h, 0.098 * h), trousers, moving, up=True),
        _limb(
            body, (0, 0, 0.51 * h), lean, 0.10 * np.sin(phase), 0.24 * h, (0.075 * h, 0.098 * h), cloth, moving, up=True
        ),
        _limb(
            body, (0, 0, 0.63 * h), lean, 0.10 * np.sin(phase), 0.22 * h, (0.080 * h, 0.118 * h), cloth, moving, up=True
        ),
        _limb(body, (0.030 * h, 0, 0.79 * h), 2 * lean, still, 0.12 * h, (0.032 * h, 0.032 * h), skin, moving, up=True),
        _limb(body, (0.055 * h, 0, 0.86 * h), lean, still, 0.15 * h, (0.058 * h, 0.050 * h), skin, moving, up=True),
        _limb(body, (0.035 * h, 0, 0.885 * h), lean, still, 0.14 * h, (0.060 * h, 0.056 * h), hair, moving, up=True),
    ]
    for side in (-1.0, 1.0):
        parts += _leg(body, side, phase + np.pi * (side > 0), h, trousers, hair, moving)
        parts += _arm(body, side, phase + np.pi * (side < 0), h, cloth, skin, moving)
    return parts


def _leg(
    body: np.ndarray, side: float, phase: np.ndarray, h: float, cloth: Material, shoe: Material, moving: int
) -> list[Part]:
    hip, knee = 0.42 * np.sin(phase), 0.15 + 0.45 * np.maximum(0, np.cos(phase + 0.3))
    still = np.zeros_like(phase)
    joint = np.array([0, side * 0.055 * h, 0.52 * h])
    thigh = _limb(body, joint, hip, still, 0.26 * h, (0.058 * h, 0.056 * h), cloth, moving)
    below = joint + _hanging(hip, 0.24 * h)
    shin = _limb(body, below, hip - knee, still, 0.27 * h, (0.043 * h, 0.041 * h), cloth, moving)
    ankle = below + _hanging(hip - knee, 0.25 * h)
    foot = _limb(body, ankle, hip - knee + 1.35, still, 0.15 * h, (0.028 * h, 0.032 * h), shoe, moving)
    return [thigh, shin, foot]


def _arm(
    body: np.ndarray, side: float, phase: np.ndarray, h: float, cloth: Material, skin: Material, moving: int
) -> list[Part]:
    shoulder, elbow = 0.38 * np.sin(phase), 0.35 + 0.25 * np.sin(phase)
    still = np.zeros_like(phase)
    joint = np.array([0.03 * h, side * 0.135 * h, 0.80 * h])
    upper = _limb(body, joint, shoulder, still, 0.19 * h, (0.038 * h, 0.038 * h), cloth, moving)
    below = joint + _hanging(shoulder, 0.17 * h)
    lower = _limb(body, below, shoulder + elbow, still, 0.20 * h, (0.029 * h, 0.029 * h), skin, moving)
    return [upper, lower]


def _limb(
    body: Float[np.ndarray, "t 4 4"],
    joint: Float[np.ndarray, "*t 3"] | Vector,
    swing: Times,
    twist: Times,
    length: float,
    radii: tuple[float, float],
    material: Material,
    moving: int,
    *,
    up: bool = False,
) -> Part:
    """An ellipsoid from a joint, hanging down (or standing `up`), swung forwards and twisted about the vertical."""
    half = np.array([*radii, 0.5 * length])
    towards = 1.0 if up else -1.0
    rotation = turn(2, twist) @ turn(1, swing if up else -swing)
    middle = np.asarray(joint) + rotation @ np.array([0, 0, towards * 0.46 * length])
    return Part(Shape.SPHERE, material, half, body @ affine(rotation * half, middle), moving)


def _hanging(swing: np.ndarray, length: float) -> np.ndarray:
    """End of a limb that hangs from the origin and is swung forwards."""
    return length * np.stack([np.sin(swing), np.zeros_like(swing), -np.cos(swing)], -1)


def _heading(yaw_deg: float) -> np.ndarray:
    return np.array([np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg)), 0.0])
