"""Worlds without end: a random place full of random things, some of which fly about, and a camera among them."""

from __future__ import annotations

import numpy as np

from worldline.geometry.camera import Camera
from worldline.synthetic import movers
from worldline.synthetic.camera_paths import camera_path, with_shake
from worldline.synthetic.materials import Material
from worldline.synthetic.movers import Times, Vector
from worldline.synthetic.world import Light, Part, Shape, World

PATHS = ("handheld", "dolly", "orbit", "rotate", "static", "slide", "forward", "backward")
"""Paths of the camera that are drawn from."""

_NEAREST_M = 1.0


def clutter(
    seed: int,
    *,
    frames: int = 24,
    size: tuple[int, int] = (240, 160),
    fps: float = 15.0,
    things: tuple[int, int] = (8, 24),
    flying: tuple[int, int] = (1, 4),
) -> World:
    """A world that the seed decides on: place, things, textures, motions, lens and path of the camera.

    Args:
        seed: of everything. frames, size (width, height), fps: of the clip.
        things, flying: least and most things that rest and that move.
    """
    random = np.random.default_rng(seed)
    times = np.arange(frames) / fps
    indoors = bool(random.random() < 0.6)
    eye, aim = _stand(random)
    parts = [
        *(_walls(random) if indoors else _ground(random)),
        *(_thing(random, eye, aim) for _ in range(random.integers(things[0], things[1] + 1))),
        *(_flyer(random, times, eye, aim, k + 1) for k in range(random.integers(flying[0], flying[1] + 1))),
    ]
    camera = Camera.from_fov_deg(random.uniform(45, 85), *size)
    path = str(random.choice(PATHS))
    motions = camera_path(path, times, eye, aim, travel_m=random.uniform(0.2, 1.2), seed=seed)
    motions = with_shake(motions, times, seed) if random.random() < 0.5 else motions
    return World(f"clutter-{path}-{seed}", times, camera, motions, tuple(parts), _light(random), not indoors, seed)


def _stand(random: np.random.Generator) -> tuple[Vector, Vector]:
    """Where the camera stands, and what it looks at."""
    eye = (random.uniform(-0.5, 0.5), random.uniform(-2.4, -1.8), random.uniform(1.0, 1.8))
    return eye, (random.uniform(-0.6, 0.6), random.uniform(1.0, 2.0), random.uniform(0.5, 1.2))


def _light(random: np.random.Generator) -> Light:
    at = (random.uniform(-4, 4), random.uniform(-5, 2), random.uniform(5, 9))
    return Light(at, (0.0, 1.0, 0.0), radius_m=random.uniform(0.2, 0.6), ambient=random.uniform(0.4, 0.6))


def _material(random: np.random.Generator) -> Material:
    def colour() -> tuple[float, float, float]:
        return (random.uniform(0.05, 0.95), random.uniform(0.05, 0.95), random.uniform(0.05, 0.95))

    cell = random.uniform(0.1, 0.5)
    return Material(
        colour(),
        colour(),
        colour(),
        accent_share=random.uniform(0.05, 0.3),
        grain_m=random.uniform(0.08, 0.4),
        contrast=random.uniform(0.8, 1.8),
        rough=random.uniform(0.5, 0.9),
        cell_m=(cell, cell, cell) if random.random() < 0.3 else (0.0, 0.0, 0.0),
        cell_contrast=random.uniform(0, 0.3),
    )


def _walls(random: np.random.Generator) -> list[Part]:
    """A closed box around everything, higher than it needs to be for the lamp."""
    width, ahead, height = random.uniform(2.2, 4.5), random.uniform(3.0, 6.0), 10.0
    back = np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
    side = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])

    def panel(centre: Vector, axes: np.ndarray, half: tuple[float, float]) -> Part:
        motion = movers.affine(axes @ np.diag([*half, 1.0]), np.array(centre))
        return Part(Shape.QUAD, _material(random), np.array([*half, 1.0]), motion, casts_shadow=False)

    return [
        panel((0, 0, 0), np.eye(3), (width, ahead)),
        panel((0, 0, height), np.eye(3), (width, ahead)),
        panel((0, ahead, height / 2), back, (width, height / 2)),
        panel((0, -ahead, height / 2), back, (width, height / 2)),
        panel((width, 0, height / 2), side, (ahead, height / 2)),
        panel((-width, 0, height / 2), side, (ahead, height / 2)),
    ]


def _ground(random: np.random.Generator) -> list[Part]:
    ground = movers.affine(np.diag([80.0, 80.0, 1.0]), np.zeros(3))
    return [Part(Shape.QUAD, _material(random), np.array([80.0, 80.0, 1.0]), ground, casts_shadow=False)]


def _place(random: np.random.Generator, eye: Vector, aim: Vector, farthest_m: float, size_m: float) -> np.ndarray:
    """Somewhere in front of the camera, not so near that it would be inside."""
    ahead = np.array(aim) - np.array(eye)
    ahead /= np.linalg.norm(ahead)
    side = np.cross(ahead, [0.0, 0.0, 1.0])
    distance = random.uniform(_NEAREST_M + 2 * size_m, farthest_m)
    spread = 0.5 * distance * random.uniform(-1, 1, 2)
    return np.asarray(eye + distance * ahead + spread[0] * side + spread[1] * np.array([0, 0, 0.6]))


def _thing(random: np.random.Generator, eye: Vector, aim: Vector) -> Part:
    size = float(np.exp(random.uniform(np.log(0.08), np.log(0.6))))
    half = size * random.uniform(0.5, 1.2, 3)
    centre = _place(random, eye, aim, 6.0, size)
    centre[2] = half[2] if random.random() < 0.6 else max(centre[2], half[2])
    shape = Shape.BOX if random.random() < 0.6 else Shape.SPHERE
    at, sizes = (float(centre[0]), float(centre[1]), float(centre[2])), (float(half[0]), float(half[1]), float(half[2]))
    return movers.at_rest(shape, _material(random), at, sizes, yaw_deg=random.uniform(0, 180))


def _flyer(random: np.random.Generator, times_s: Times, eye: Vector, aim: Vector, number: int) -> Part:
    """Straight, turning, and swaying a little; about where the camera looks half way through the clip."""
    half = random.uniform(0.15, 0.45) * random.uniform(0.6, 1.2, 3)
    since = (times_s - times_s[len(times_s) // 2])[:, None]
    velocity = random.normal(size=3) * [0.6, 0.6, 0.2]
    sway = 0.1 * random.normal(size=3) * np.sin(random.uniform(2, 5) * since)
    turning = movers.turn(2, random.uniform(-1.5, 1.5) * times_s) @ movers.turn(0, random.uniform(-1, 1) * times_s)
    centre = _place(random, eye, aim, 3.5, float(half.max()))
    motion = movers.affine(turning * half, centre + velocity * since + sway)
    shape = Shape.BOX if random.random() < 0.5 else Shape.SPHERE
    return Part(shape, _material(random), half, motion, number)
