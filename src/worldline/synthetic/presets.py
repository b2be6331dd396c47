"""Worlds to start from: a furnished room, an outdoor ground, tiny ones for tests, and the one of the demo."""

from __future__ import annotations

import numpy as np

from worldline.errors import InputError
from worldline.geometry.camera import Camera
from worldline.synthetic import looks, movers
from worldline.synthetic.camera_paths import camera_path, with_shake
from worldline.synthetic.materials import Material
from worldline.synthetic.movers import Vector, at_rest
from worldline.synthetic.world import Light, Part, Shape, World

KINDS = ("room", "outdoor", "wall")


def tiny_world(
    seed: int = 0,
    path: str = "handheld",
    kind: str = "room",
    *,
    frames: int = 10,
    width: int = 96,
    height: int = 64,
    movers: bool = True,
) -> World:
    """A small clip for tests, fast to render. `path` is one of camera_paths.PATHS, `kind` one of KINDS.

    Raises:
        InputError: no path or world of that name.
    """
    return build(kind, path, seed=seed, frames=frames, size=(width, height), fps=10.0, with_movers=movers)


def demo_world(seed: int = 3) -> World:
    """The clip of `worldline demo`: a handheld walk through a furnished room with a walker and a bouncing ball."""
    return build("room", "handheld", seed=seed, frames=40, size=(480, 320), fps=20.0, travel_m=0.85)


def build(
    kind: str,
    path: str,
    *,
    seed: int = 0,
    frames: int = 24,
    size: tuple[int, int] = (240, 160),
    fps: float = 15.0,
    travel_m: float = 0.6,
    fov_deg: float = 62.0,
    with_movers: bool = True,
    zoom: float = 1.0,
    zoom_from: float = 0.0,
    zoom_until: float = 1.0,
    hand: bool = False,
    subject: bool = False,
) -> World:
    """A world of one of KINDS seen along one of camera_paths.PATHS.

    Args:
        kind, path: names. seed: of layout, textures and hand.
        frames, size (width, height), fps, fov_deg: of the clip; travel_m: about how far the camera goes.
        with_movers: whether anything moves but the camera.
        zoom: last focal length over the first; a path "zoom" that is not told otherwise reaches 1.4.
        zoom_from, zoom_until: shares of the clip at which it begins and ends.
        hand: whether the camera is held in a hand that shakes ("handheld" is, without being told).
        subject: whether something that fills half of the picture goes ahead of the camera, which follows it.

    Raises:
        InputError: no path or world of that name.
    """
    times = np.arange(frames) / fps
    if kind == "room":
        parts, light, eye, aim = room(times, seed, with_movers=with_movers)
    elif kind == "outdoor":
        parts, light, eye, aim = outdoor(times, seed, with_movers=with_movers)
    elif kind == "wall":
        parts, light, eye, aim = wall(times, seed, with_movers=with_movers)
    else:
        raise InputError(f"there is no world {kind!r}; choose one of {', '.join(KINDS)}.")
    motions = camera_path(path, times, eye, aim, travel_m=travel_m, seed=seed)
    motions = with_shake(motions, times, seed) if hand else motions
    name = f"{kind}-{path}-{seed}"
    lens = _lens(1.4 if path == "zoom" and zoom == 1 else zoom, (zoom_from, zoom_until), fov_deg, size, frames)
    parts += movers.companion(times, looks.TOY, motions) if subject else []
    return World(name, times, lens, motions, tuple(parts), light, kind == "outdoor", seed)


def _lens(zoom: float, during: tuple[float, float], fov_deg: float, size: tuple[int, int], frames: int) -> Camera:
    camera = Camera.from_fov_deg(fov_deg, *size)
    if zoom == 1:
        return camera
    factor = np.interp(np.linspace(0, 1, frames), during, (1.0, zoom))[:, None] ** [1, 1, 0, 0]
    return Camera(camera.intrinsics * factor, *size)


Layout = tuple[list[Part], Light, Vector, Vector]


def room(times_s: np.ndarray, seed: int, *, with_movers: bool = True) -> Layout:
    """A room of 5.2 x 5.6 x 2.7 m: parts, light, and where the camera starts and looks."""
    parts = [*_shell(), *_furniture(np.random.default_rng(seed))]
    if with_movers:
        parts += movers.walker(
            times_s, looks.JUMPER, looks.JEANS, looks.SKIN, looks.HAIR, (-0.95, 0.25, 0.0), 8.0, speed=0.9
        )
        parts += movers.ball(times_s, looks.BALL, (1.15, 0.25, 0.0), (-0.42, -0.25), radius_m=0.24, height_m=0.4)
    light = Light((-0.6, -0.9, 4.6), (0.2, 0.6, 0.0), radius_m=0.30, strength=0.72, ambient=0.52)
    return parts, light, (-0.55, -2.25, 1.45), (0.10, 1.2, 0.85)


def _shell() -> list[Part]:
    quad = Shape.QUAD
    up, side = np.eye(3), np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    back = np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])

    def panel(material: Material, centre: Vector, axes: np.ndarray, half: tuple[float, float]) -> Part:
        scaled = movers.affine(axes @ np.diag([*half, 1.0]), np.array(centre))
        return Part(quad, material, np.array([*half, 1.0]), scaled, casts_shadow=False)

    return [
        panel(looks.FLOOR, (0, 0, 0), up, (2.6, 2.8)),
        panel(looks.CEILING, (0, 0, 2.7), up, (2.6, 2.8)),
        panel(looks.WALLPAPER, (0, 2.8, 1.35), back, (2.6, 1.35)),
        panel(looks.PLASTER, (0, -2.8, 1.35), back, (2.6, 1.35)),
        panel(looks.BRICK, (-2.6, 0, 1.35), side, (2.8, 1.35)),
        panel(looks.PLASTER, (2.6, 0, 1.35), side, (2.8, 1.35)),
    ]


def _furniture(random: np.random.Generator) -> list[Part]:
    box, sphere = Shape.BOX, Shape.SPHERE
    parts = [
        at_rest(box, looks.RUG, (0.1, 0.45, 0.008), (1.35, 0.95, 0.008), yaw_deg=random.uniform(-8, 8)),
        at_rest(box, looks.PAINTING, (-0.75, 2.77, 1.65), (0.55, 0.03, 0.40)),
        at_rest(box, looks.FRAME, (-0.75, 2.785, 1.65), (0.60, 0.02, 0.45)),
        at_rest(box, looks.POSTER, (0.45, 2.78, 1.75), (0.30, 0.015, 0.42)),
        at_rest(box, looks.POSTER_B, (2.585, 1.5, 1.6), (0.015, 0.45, 0.34)),
        at_rest(box, looks.SKIRTING, (0, 2.785, 0.06), (2.6, 0.015, 0.06)),
        at_rest(box, looks.SKIRTING, (2.585, 0, 0.06), (0.015, 2.8, 0.06)),
        *_sofa((-0.55, 2.2, 0.0)),
        *_table((1.25, 1.35, 0.0), random.uniform(-25, 10)),
        *_shelf((1.9, 2.58, 0.0), random),
        *_plant((-2.1, 2.25, 0.0), random),
        *_lamp((2.15, 0.4, 0.0)),
        at_rest(box, looks.CRATE, (-2.05, 0.75, 0.28), (0.30, 0.34, 0.28), yaw_deg=random.uniform(5, 25)),
        at_rest(box, looks.SUITCASE, (-2.02, 0.72, 0.68), (0.24, 0.18, 0.12), yaw_deg=random.uniform(-30, 0)),
        at_rest(sphere, looks.POUF, (0.95, -0.55, 0.22), (0.32, 0.32, 0.22)),
    ]
    return parts


def _sofa(at: Vector) -> list[Part]:
    x, y, _ = at
    box = Shape.BOX
    return [
        at_rest(box, looks.SOFA, (x, y, 0.22), (0.85, 0.40, 0.20)),
        at_rest(box, looks.SOFA, (x, y + 0.38, 0.50), (0.85, 0.13, 0.38)),
        at_rest(box, looks.SOFA, (x - 0.90, y, 0.33), (0.11, 0.42, 0.31)),
        at_rest(box, looks.SOFA, (x + 0.90, y, 0.33), (0.11, 0.42, 0.31)),
        at_rest(Shape.SPHERE, looks.CUSHION_A, (x - 0.50, y + 0.13, 0.60), (0.24, 0.13, 0.21), yaw_deg=14),
        at_rest(Shape.SPHERE, looks.CUSHION_B, (x + 0.48, y + 0.13, 0.60), (0.24, 0.13, 0.21), yaw_deg=-18),
    ]


def _table(at: Vector, yaw_deg: float) -> list[Part]:
    x, y, _ = at
    yaw = np.radians(yaw_deg)
    across, along = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    feet = [np.array([x, y]) + i * 0.40 * across + j * 0.26 * along for i in (-1, 1) for j in (-1, 1)]
    legs = [at_rest(Shape.BOX, looks.TABLE, (*foot, 0.24), (0.03, 0.03, 0.24), yaw_deg=yaw_deg) for foot in feet]
    return [
        at_rest(Shape.BOX, looks.TABLE, (x, y, 0.505), (0.48, 0.33, 0.025), yaw_deg=yaw_deg),
        *legs,
        at_rest(Shape.SPHERE, looks.VASE, (x - 0.16, y + 0.05, 0.67), (0.10, 0.10, 0.15)),
        at_rest(Shape.BOX, looks.BOOKS[0], (x + 0.18, y - 0.06, 0.555), (0.15, 0.10, 0.025), yaw_deg=yaw_deg + 20),
        at_rest(Shape.BOX, looks.BOOKS[2], (x + 0.18, y - 0.05, 0.60), (0.13, 0.09, 0.02), yaw_deg=yaw_deg - 5),
    ]


def _shelf(at: Vector, random: np.random.Generator) -> list[Part]:
    x, y, _ = at
    boards = [at_rest(Shape.BOX, looks.SHELF, (x, y, z), (0.52, 0.17, 0.02)) for z in (0.12, 0.62, 1.12, 1.62)]
    sides = [at_rest(Shape.BOX, looks.SHELF, (x + s * 0.53, y, 0.84), (0.02, 0.17, 0.84)) for s in (-1, 1)]
    books = []
    for level in (0.14, 0.64, 1.14):
        left = x - 0.48
        while left < x + 0.30:
            half = (random.uniform(0.035, 0.085), random.uniform(0.10, 0.14), random.uniform(0.12, 0.20))
            look = looks.BOOKS[random.integers(len(looks.BOOKS))]
            books.append(
                at_rest(Shape.BOX, look, (left + half[0], y - 0.02, level + half[2]), half, casts_shadow=False)
            )
            left += 2 * half[0] + random.choice([0.004, 0.004, 0.07])
    return [*boards, *sides, *books]


def _plant(at: Vector, random: np.random.Generator) -> list[Part]:
    x, y, _ = at
    pot = at_rest(Shape.SPHERE, looks.POT, (x, y, 0.20), (0.21, 0.21, 0.22))
    crowns = []
    for k in range(6):
        angle = 2 * np.pi * k / 6 + random.uniform(-0.3, 0.3)
        reach, high = random.uniform(0.10, 0.20), random.uniform(0.65, 1.25)
        half = (random.uniform(0.14, 0.2), random.uniform(0.12, 0.17), random.uniform(0.16, 0.26))
        centre = (x + reach * np.cos(angle), y + reach * np.sin(angle), high)
        crowns.append(at_rest(Shape.SPHERE, looks.LEAVES, centre, half, yaw_deg=random.uniform(0, 180)))
    stem = at_rest(Shape.BOX, looks.TABLE, (x, y, 0.55), (0.025, 0.025, 0.25))
    return [pot, stem, *crowns]


def _lamp(at: Vector) -> list[Part]:
    x, y, _ = at
    return [
        at_rest(Shape.BOX, looks.FRAME, (x, y, 0.02), (0.16, 0.16, 0.02), yaw_deg=30),
        at_rest(Shape.BOX, looks.FRAME, (x, y, 0.75), (0.018, 0.018, 0.73)),
        at_rest(Shape.SPHERE, looks.SHADE, (x, y, 1.55), (0.24, 0.24, 0.20)),
    ]


def outdoor(times_s: np.ndarray, seed: int, *, with_movers: bool = True) -> Layout:
    """A yard under the sky with houses, hills, crates and stones: parts, light, where the camera starts and looks."""
    random = np.random.default_rng(seed)
    ground = movers.affine(np.diag([60.0, 60.0, 1.0]), np.zeros(3))
    parts = [
        Part(Shape.QUAD, looks.GRASS, np.array([60.0, 60.0, 1.0]), ground, casts_shadow=False),
        at_rest(Shape.QUAD, looks.PAVING, (0.4, 3.0, 0.004), (1.5, 9.0, 1.0), yaw_deg=-12, casts_shadow=False),
        at_rest(Shape.BOX, looks.HOUSE_A, (-6.0, 13.0, 1.9), (2.6, 2.2, 1.9), yaw_deg=18),
        at_rest(Shape.BOX, looks.HOUSE_B, (6.5, 15.0, 2.4), (2.4, 2.6, 2.4), yaw_deg=-14),
        at_rest(Shape.SPHERE, looks.HILL, (-14.0, 42.0, -2.0), (22.0, 9.0, 9.0)),
        at_rest(Shape.SPHERE, looks.HILL, (20.0, 48.0, -3.0), (26.0, 9.0, 11.0)),
        at_rest(Shape.BOX, looks.CRATE, (-1.9, 5.2, 0.45), (0.5, 0.5, 0.45), yaw_deg=random.uniform(10, 40)),
        at_rest(Shape.BOX, looks.SUITCASE, (-1.8, 5.1, 1.12), (0.36, 0.3, 0.22), yaw_deg=random.uniform(-20, 10)),
        at_rest(Shape.BOX, looks.GARDEN_WALL, (3.0, 6.2, 0.5), (1.0, 0.22, 0.5), yaw_deg=random.uniform(-35, -15)),
    ]
    for x, y in ((-3.6, 8.5), (3.4, 10.0), (-0.6, 17.0)):
        parts += _tree(x, y, random)
    parts += [_stone(random) for _ in range(9)]
    if with_movers:
        parts += movers.walker(times_s, looks.JUMPER, looks.JEANS, looks.SKIN, looks.HAIR, (-0.9, 3.2, 0.0), 12.0)
        parts += movers.tumbling_box(times_s, looks.TOY, (1.5, 3.4, 0.0), 150.0, half_m=0.25)
    light = Light((-22.0, -14.0, 34.0), (0.0, 8.0, 0.0), radius_m=0.8, strength=0.75, ambient=0.5)
    return parts, light, (0.1, -0.6, 1.5), (0.15, 5.0, 0.9)


def wall(times_s: np.ndarray, seed: int, *, with_movers: bool = True) -> Layout:
    """A single plane, seen at a slant: parts, light, where the camera starts and looks."""
    up = np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
    slant = movers.turn(2, np.radians([25.0]))[0] @ up @ np.diag([40.0, 30.0, 1.0])
    plane = Part(Shape.QUAD, looks.BRICK, np.array([40.0, 30.0, 1.0]), movers.affine(slant, np.array([0.0, 3.0, 0.0])))
    moving = movers.tumbling_box(times_s, looks.TOY, (-0.5, 1.6, 0.6), 10.0, half_m=0.15) if with_movers else []
    light = Light((-0.6, -2.9, 4.6), (0.2, 0.6, 0.0), radius_m=0.30, strength=0.72, ambient=0.52)
    return [plane, *moving], light, (-0.55, -2.25, 1.45), (0.10, 1.2, 0.85)


def _tree(x: float, y: float, random: np.random.Generator) -> list[Part]:
    trunk = at_rest(Shape.BOX, looks.BARK, (x, y, 0.8), (0.13, 0.13, 0.8), yaw_deg=25)
    crowns = []
    for angle in random.uniform(0, 2 * np.pi) + np.arange(4) * np.pi / 2:
        size = random.uniform(0.6, 0.85)
        centre = (x + 0.45 * np.cos(angle), y + 0.45 * np.sin(angle), random.uniform(2.0, 3.1))
        crowns.append(at_rest(Shape.SPHERE, looks.LEAVES_TREE, centre, (size, size, 0.9 * size)))
    return [trunk, *crowns]


def _stone(random: np.random.Generator) -> Part:
    size = random.uniform(0.1, 0.35)
    side = random.choice([-1, 1]) * random.uniform(1.3, 4.0)
    centre = (side, random.uniform(2.5, 9.0), 0.3 * size)
    return at_rest(Shape.SPHERE, looks.STONE, centre, (size, 0.8 * size, 0.7 * size), yaw_deg=random.uniform(0, 180))
