"""Any4D: N images and whatever sensors add, through one feed-forward network, to metric geometry and motion."""

from worldline.engines.any4d.config import Config, NetworkConfig
from worldline.engines.any4d.engine import Any4DEngine, build

__all__ = ["Any4DEngine", "Config", "NetworkConfig", "build"]
