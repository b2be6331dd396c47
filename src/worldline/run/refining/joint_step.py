"""What a step of the joint refinement hands on: the scene, the entry of the history, sentences for the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldline.scene.scene import Scene, Step


@dataclass(frozen=True, eq=False)
class Stepped:
    """The scene after a step (the one before it where it was undone), and how the step went."""

    scene: Scene
    step: Step
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether anything was changed."""
        return self.step.outcome.get("kept") != "start"


def undone(scene: Scene, name: str, why: str, outcome: dict[str, Any] | None = None, *notes: str) -> Stepped:
    """The scene as it was, and why."""
    return Stepped(scene, Step(name, {}, {**(outcome or {}), "kept": "start", "why": why}), notes)


def done(scene: Scene, name: str, outcome: dict[str, Any], *notes: str) -> Stepped:
    """The scene as it has become."""
    return Stepped(scene, Step(name, {}, {**outcome, "kept": "result"}), notes)
