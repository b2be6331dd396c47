"""A training run as a value: network, batches, loss, optimiser and length; `paper()` and `tiny()` are two of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Literal

from worldline.engines.any4d.config import NetworkConfig
from worldline.errors import InputError
from worldline.train.batches import BatchConfig, InputConfig
from worldline.train.colours import ColourConfig
from worldline.train.losses import LossConfig
from worldline.train.optimiser import OptimiserConfig
from worldline.train.samples import Mixture, Source
from worldline.train.worlds import Worlds, any_clutter, any_preset, few_things

Precision = Literal["float32", "mixed"]


@dataclass(frozen=True)
class Recipe:
    """All that decides on the weights that come out, besides the source of the samples and the weights at the start.

    Attributes:
        network, batches, losses, optimiser: see there. steps: of the optimiser. seed: of the first weights and of all
        samples. precision: "float32", or "mixed": bfloat16 for the transformers where the device can.
        recompute: blocks keep no activations but compute them again for the gradient: less memory, a third slower.
        save_every, log_every: steps between two states on the disk, and between two lines of the log.
        watched: batches, without faults and told nothing but images, that the run is judged by before and after.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    batches: BatchConfig = BatchConfig()
    losses: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    steps: int = 100_000
    seed: int = 0
    precision: Precision = "mixed"
    recompute: bool = True
    save_every: int = 1000
    log_every: int = 20
    watched: int = 4

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batches.images < 1 or min(self.save_every, self.log_every, self.watched) < 1:
            raise InputError("a training needs at least one step and one image in a batch; give positive numbers.")

    @property
    def fingerprint(self) -> str:
        """Equal for recipes that give the same weights."""
        told = replace(self, save_every=1, log_every=1, batches=replace(self.batches, workers=0))
        return sha256(json.dumps(asdict(told), sort_keys=True, default=repr).encode()).hexdigest()[:16]


def paper() -> tuple[Recipe, Source]:
    """The published recipe as far as it is known, on worlds without end; docs/training.md tells what is ours."""
    return Recipe(), Mixture((Worlds(any_clutter), Worlds(any_preset)), (2.0, 1.0))


def tiny() -> tuple[Recipe, Source]:
    """Eight small worlds learnt by heart on one thread of a CPU, to see that everything works."""
    sizes = ((56, 42), (42, 56))
    batches = BatchConfig(
        images=8, views=(2, 2), sizes=sizes, inputs=InputConfig(multimodal=0.3), colours=ColourConfig.none(),
        repeats=0, streams=2, workers=0,
    )  # fmt: skip
    recipe = Recipe(
        network=NetworkConfig.tiny(), batches=batches,
        optimiser=OptimiserConfig(rate=1e-3, encoder_rate=1e-3, warm_up=0.2, decay=0.0),
        steps=600, precision="float32", recompute=False, save_every=100, log_every=10, watched=2,
    )  # fmt: skip
    return recipe, Worlds(few_things, unscaled=0)


RECIPES: dict[str, Callable[[], tuple[Recipe, Source]]] = {"paper": paper, "tiny": tiny}
"""Settings, and the source that they are meant for, by name."""
