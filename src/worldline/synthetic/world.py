"""A small world as a value: textured primitives with affine motions, a light, and a camera that moves.

Everything is built in the `ground` frame (x right, y ahead, z up, metres); all results are in the world frame, which
is the first camera's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float, Int, UInt8

from worldline.errors import InputError
from worldline.geometry.camera import Camera
from worldline.synthetic.materials import Material


class Shape(IntEnum):
    """The canonical primitives, in object coordinates."""

    SPHERE = 0
    """The unit ball; an affine motion makes it an ellipsoid."""
    BOX = 1
    """[-1, 1] cubed."""
    QUAD = 2
    """[-1, 1] squared in the plane z = 0."""


@dataclass(frozen=True, eq=False)
class Part:
    """One primitive and how it moves.

    Attributes:
        shape: in object coordinates, of unit half size.
        half_size_m: (3,) half sizes at rest in metres; texture sticks to the object at this size.
        ground_from_object: (4, 4) at rest, or (T, 4, 4) affine: rigid motions and deformations.
        moving: object number, 0 static. casts_shadow: off for what encloses the scene.
    """

    shape: Shape
    material: Material
    half_size_m: Float[np.ndarray, "3"]
    ground_from_object: Float[np.ndarray, "*t 4 4"]
    moving: int = 0
    casts_shadow: bool = True


@dataclass(frozen=True)
class Light:
    """A round lamp above everything that casts a shadow, and the light that comes from all sides."""

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    radius_m: float = 0.25
    strength: float = 0.75
    ambient: float = 0.5
    falloff_m: float = 0.0
    """Distance over which the lamp fades (0: like the sun, not at all)."""


@dataclass(frozen=True, eq=False)
class World:
    """All that is needed to render a clip and to know its truth.

    Attributes:
        times_s: (T,) seconds. camera: shared, or per frame for a zoom. ground_from_cam: (T, 4, 4).
        parts: the primitives. sky: whether rays that hit nothing see a sky (else black). seed: of the textures.
    """

    name: str
    times_s: Float[np.ndarray, "t"]
    camera: Camera
    ground_from_cam: Float[np.ndarray, "t 4 4"]
    parts: tuple[Part, ...]
    light: Light
    sky: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("a world needs at least one part; add a Part.")
        for part in self.parts:
            if part.ground_from_object.shape not in ((4, 4), (len(self), 4, 4)):
                raise InputError(f"a part has {len(part.ground_from_object)} motions for {len(self)} frames; give T.")

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def world_from_ground(self) -> Float[np.ndarray, "4 4"]:
        """From the frame in which the world is built to the first camera's."""
        return np.linalg.inv(self.ground_from_cam[0])

    @property
    def world_from_cam(self) -> Float[np.ndarray, "t 4 4"]:
        """Camera motions; the first is the identity."""
        motions = self.world_from_ground @ self.ground_from_cam
        motions[0] = np.eye(4)
        return motions

    def ground_from_object(self, frame: int) -> Float[np.ndarray, "p 4 4"]:
        """Affine motions of all parts at one frame."""
        motions = (p.ground_from_object for p in self.parts)
        return np.stack([m[frame] if m.ndim == 3 else m for m in motions])

    @property
    def shapes(self) -> Int[np.ndarray, "p"]:
        """Shape of every part."""
        return np.array([p.shape for p in self.parts], dtype=np.int64)

    @property
    def moving(self) -> UInt8[np.ndarray, "p"]:
        """Object number of every part."""
        return np.array([p.moving for p in self.parts], dtype=np.uint8)
