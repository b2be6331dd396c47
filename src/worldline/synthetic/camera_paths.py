"""How the camera moves: `ground_from_cam` for every frame (ground: z up; camera: OpenCV axes, z ahead)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from worldline.errors import InputError

Motions = Float[np.ndarray, "t 4 4"]
Vector = tuple[float, float, float]
PATHS = ("handheld", "dolly", "orbit", "rotate", "static", "zoom", "pause", "return", "slide", "forward", "backward")


def camera_path(
    kind: str, times_s: Float[np.ndarray, "t"], eye: Vector, target: Vector, *, travel_m: float = 0.8, seed: int = 0
) -> Motions:
    """A path of one of `PATHS` that starts near `eye`, looks about `target`, and covers about `travel_m`.

    Raises:
        InputError: no path of that name.
    """
    share = (times_s - times_s[0]) / max(float(times_s[-1] - times_s[0]), 1e-9)
    start, aim = np.array(eye), np.array(target)
    build: dict[str, Callable[[], Motions]] = {
        "handheld": lambda: _handheld(times_s, share, start, aim, travel_m, seed),
        "dolly": lambda: _dolly(share, start, aim, travel_m),
        "orbit": lambda: _orbit(share, start, aim, travel_m),
        "rotate": lambda: _rotate(share, start, aim),
        "static": lambda: look_at(np.repeat(start[None], len(share), 0), aim),
        "zoom": lambda: look_at(np.repeat(start[None], len(share), 0), aim),
        "pause": lambda: _pause(share, start, aim, travel_m),
        "return": lambda: _return(share, start, aim, travel_m),
        "slide": lambda: _slide(share, start, aim, travel_m),
        "forward": lambda: _along(share, start, aim, travel_m),
        "backward": lambda: _along(1 - share, start, aim, travel_m),
    }
    if kind not in build:
        raise InputError(f"there is no camera path {kind!r}; choose one of {', '.join(PATHS)}.")
    return build[kind]()


def look_at(
    eyes: Float[np.ndarray, "t 3"],
    targets: Float[np.ndarray, "*t 3"],
    *,
    roll_rad: Float[np.ndarray, "t"] | None = None,
) -> Motions:
    """ground_from_cam of cameras at `eyes` that look at `targets`, upright up to `roll_rad`."""
    z = targets - eyes
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    y = np.cross(z, x)
    if roll_rad is not None:
        c, s = np.cos(roll_rad)[:, None], np.sin(roll_rad)[:, None]
        x, y = c * x + s * y, c * y - s * x
    motions = np.tile(np.eye(4), (len(eyes), 1, 1))
    motions[:, :3] = np.stack([x, y, z, eyes], -1)
    return motions


def shake(times_s: Float[np.ndarray, "t"], size: Float[np.ndarray, "k"], seed: int) -> Float[np.ndarray, "t k"]:
    """Smooth random motion between 0.7 and 4 Hz with a standard deviation of about `size`, zero at the start."""
    random = np.random.default_rng(seed)
    hertz = np.geomspace(0.7, 4.0, 5)[:, None] * random.uniform(0.85, 1.15, (5, len(size)))
    phase = random.uniform(0, 2 * np.pi, (5, len(size)))
    weight = random.normal(size=(5, len(size))) * (0.7 / hertz)
    waves = np.sin(2 * np.pi * hertz * times_s[:, None, None] + phase)
    motion = (weight * (waves - waves[:1])).sum(1)
    return motion * size


def _handheld(
    times_s: np.ndarray, share: np.ndarray, eye: np.ndarray, aim: np.ndarray, travel: float, seed: int
) -> np.ndarray:
    ahead, side = _axes(eye, aim)
    eased = (share - np.sin(2 * np.pi * share) / (4 * np.pi))[:, None]
    sweep = (side * 0.88 + ahead * 0.42) * eased + np.array([0, 0, 0.10]) * np.sin(np.pi * share)[:, None] ** 2
    eyes = eye + travel * sweep + shake(times_s, np.array([0.010, 0.010, 0.014]), seed)
    wander = shake(times_s, np.array([0.016, 0.016, 0.012, 0.008]), seed + 1)
    distance = np.linalg.norm(aim - eye)
    return look_at(eyes, aim + 0.25 * travel * side * eased + wander[:, :3] * distance, roll_rad=wander[:, 3])


def _dolly(share: np.ndarray, eye: np.ndarray, aim: np.ndarray, travel: float) -> np.ndarray:
    ahead, side = _axes(eye, aim)
    eyes = eye + share[:, None] * travel * (0.92 * ahead + 0.39 * side)
    return look_at(eyes, aim + np.zeros_like(eyes))


def _orbit(share: np.ndarray, eye: np.ndarray, aim: np.ndarray, travel: float) -> np.ndarray:
    arm = eye - aim
    angle = share * travel / np.linalg.norm(arm[:2])
    c, s = np.cos(angle), np.sin(angle)
    turned = np.stack([c * arm[0] - s * arm[1], s * arm[0] + c * arm[1], np.full_like(c, arm[2])], -1)
    return look_at(aim + turned, aim)


def _rotate(share: np.ndarray, eye: np.ndarray, aim: np.ndarray) -> np.ndarray:
    _, side = _axes(eye, aim)
    reach = np.linalg.norm(aim - eye) * np.tan(np.radians(9))
    eyes = np.repeat(eye[None], len(share), 0)
    lift = np.array([0, 0, 0.3]) * np.sin(2 * np.pi * share)[:, None]
    return look_at(eyes, aim + reach * (side * (2 * share[:, None] - 1) + lift))


def _pause(share: np.ndarray, eye: np.ndarray, aim: np.ndarray, travel: float) -> np.ndarray:
    """Stands still for the first 40 per cent, then goes off."""
    return _dolly(np.clip((share - 0.4) / 0.6, 0, 1), eye, aim, travel)


def _return(share: np.ndarray, eye: np.ndarray, aim: np.ndarray, travel: float) -> np.ndarray:
    """Aside, turned away from where it looked, and back to where it began."""
    ahead, side = _axes(eye, aim)
    reach = np.sin(np.pi * share)[:, None] ** 2
    eyes = eye + 0.5 * travel * reach * (0.9 * side + 0.3 * ahead)
    return look_at(eyes, aim + 0.9 * np.linalg.norm(aim - eye) * reach * side)


def _slide(share: np.ndarray, eye: np.ndarray, aim: np.ndarray, travel: float) -> np.ndarray:
    """Straight aside without turning."""
    _, side = _axes(eye, aim)
    eyes = eye + travel * share[:, None] * side
    return look_at(eyes, aim + travel * share[:, None] * side)


def _along(share: np.ndarray, eye: np.ndarray, aim: np.ndarray, travel: float) -> np.ndarray:
    """Straight along the line of sight without turning."""
    step = travel * share[:, None] * (aim - eye) / np.linalg.norm(aim - eye)
    return look_at(eye + step, aim + step)


def with_shake(ground_from_cam: Motions, times_s: Float[np.ndarray, "t"], seed: int) -> Motions:
    """The path in a hand: about a centimetre and half a degree besides."""
    sway = shake(times_s, np.array([0.010, 0.010, 0.010]), seed)
    turn = shake(times_s, np.array([0.012, 0.012, 0.008]), seed + 1)
    shaken = np.tile(np.eye(4), (len(times_s), 1, 1))
    shaken[:, :3, :3] = Rotation.from_rotvec(turn).as_matrix()
    shaken[:, :3, 3] = sway
    return ground_from_cam @ shaken


def _axes(eye: np.ndarray, aim: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Level directions ahead and to the right."""
    ahead = (aim - eye) * [1, 1, 0]
    ahead = ahead / np.linalg.norm(ahead)
    return ahead, np.array([ahead[1], -ahead[0], 0.0])
