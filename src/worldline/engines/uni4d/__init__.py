"""Uni4D: depth, tracks and masks, from whatever source, fitted into one 4D scene by staged optimisation."""

from worldline.engines.uni4d.engine import Uni4D, build
from worldline.engines.uni4d.inputs import Config

__all__ = ["Config", "Uni4D", "build"]
