"""Where sensors sit relative to each other: the fixed transforms of a log (tf)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from worldline.geometry import se3
from worldline.io.sensors.contents import TRANSFORMS
from worldline.io.sensors.foxglove import ros_type
from worldline.io.sensors.log_files import Log

_FIXED = 1e-6
Motion = Float[np.ndarray, "4 4"]


@dataclass(frozen=True, eq=False)
class Transforms:
    """Fixed transforms: `parent_from_child[child]` is the parent's name and the 4x4 matrix."""

    parent_from_child: dict[str, tuple[str, Motion]]

    def between(self, target: str, source: str) -> Motion | None:
        """`target_from_source`, None where no chain of fixed transforms joins the two frames."""
        if not target or not source:
            return None
        reached: dict[str, Motion] = {source: np.eye(4)}
        waiting = deque([source])
        while waiting and target not in reached:
            frame = waiting.popleft()
            for other, other_from_frame in self._neighbours(frame):
                if other not in reached:
                    reached[other] = other_from_frame @ reached[frame]
                    waiting.append(other)
        return reached.get(target)

    def _neighbours(self, frame: str) -> list[tuple[str, Motion]]:
        down = [(c, np.linalg.inv(m)) for c, (p, m) in self.parent_from_child.items() if p == frame]
        up = self.parent_from_child.get(frame)
        return down if up is None else [up, *down]


def transforms_of(log: Log) -> Transforms:
    """The transforms of a log that never change."""
    topics = [t.name for t in log.topics.values() if ros_type(t.type) in TRANSFORMS]
    found: dict[str, tuple[str, Motion]] = {}
    moving: set[str] = set()
    for message in log.messages(*topics) if topics else ():
        for transform in message.content.transforms:
            child, parent = transform.child_frame_id.lstrip("/"), transform.header.frame_id.lstrip("/")
            motion = motion_of(transform.transform.translation, transform.transform.rotation)
            before = found.setdefault(child, (parent, motion))
            if before[0] != parent or np.abs(before[1] - motion).max() > _FIXED:
                moving.add(child)
    return Transforms({child: pair for child, pair in found.items() if child not in moving})


def motion_of(translation: Any, rotation: Any) -> Motion:
    """A 4x4 matrix of ROS's vector and quaternion (x, y, z, w); not finite where the quaternion is none."""
    quaternion = torch.tensor([[rotation.w, rotation.x, rotation.y, rotation.z]], dtype=torch.float64)
    motion = np.eye(4)
    norm = float(quaternion.norm())
    motion[:3, :3] = se3.rotation_from_wxyz(quaternion / norm)[0].numpy() if norm > 0.5 else np.nan
    motion[:3, 3] = (translation.x, translation.y, translation.z)
    return motion
