"""Uni4D: depth, tracks and masks, from whatever source, fitted into one 4D scene by staged optimisation."""

from worldline.engines.uni4d.engine import Config, Uni4D, build

__all__ = ["Config", "Uni4D", "build"]
