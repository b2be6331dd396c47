"""Small worlds whose truth is known: render a Video, the exact Scene, and Observations with chosen noise."""

from worldline.synthetic.noise import NoiseModel, observations
from worldline.synthetic.presets import build, demo_world, tiny_world
from worldline.synthetic.rendering import Quality, Rendered, render
from worldline.synthetic.truth import OpticalFlow, optical_flow, pixel_tracks, world_tracks
from worldline.synthetic.world import Light, Part, Shape, World

__all__ = [
    "Light", "NoiseModel", "OpticalFlow", "Part", "Quality", "Rendered", "Shape", "World",
    "build", "demo_world", "observations", "optical_flow", "pixel_tracks", "render", "tiny_world", "world_tracks",
]  # fmt: skip
