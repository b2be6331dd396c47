"""The loop: batches in, weights out; stopped at any time, it goes on where it was, to the same bits."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import worldline
from worldline.engines.any4d.checkpoint import load_network
from worldline.engines.any4d.network import Any4D
from worldline.scene.journal import Progress, Silent
from worldline.train import forward_modes, fresh
from worldline.train.batches import Batch, Batches, InputConfig
from worldline.train.colours import ColourConfig
from worldline.train.losses import Losses, losses
from worldline.train.optimiser import optimiser, set_rates, share
from worldline.train.processes import Place, joined_processes
from worldline.train.recipes import Recipe
from worldline.train.run_state import RunState, begin_log, load_state, log, save_state, save_weights
from worldline.train.samples import Source
from worldline.train.sensors import SensorConfig


@dataclass(frozen=True)
class Trained:
    """What came out of a run.

    Attributes:
        before, after: means of the watched losses by name. steps: of the run; skipped: of them, whose gradient was not
        finite. spent_s: seconds, of all runs that this one went on from too. weights: the file; None in processes other
        than the first.
    """

    before: dict[str, float]
    after: dict[str, float]
    steps: int
    skipped: int
    spent_s: float
    weights: Path | None


def train(
    recipe: Recipe,
    source: Source,
    out: Path,
    *,
    initial: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Trained:
    """Train a network and write its weights, its log and a state to go on from into a folder.

    Where the folder holds an unfinished run of this recipe, that run goes on; the weights are those, to the bit, of a
    run that was never stopped. Under `torchrun` all processes train one network together.

    Args:
        recipe: all settings. source: of the samples. initial: weights to begin with, of Any4D or MapAnything; None:
            drawn from the seed. device: "auto", "cpu", "cuda".

    Raises:
        InputError: the folder holds a run of another recipe; there is no such device. FormatError, MissingWeights: the
        initial weights cannot be used. OutputError: the folder cannot be written.
        KeyboardInterrupt: the run was told to stop, and its state is safe.
    """
    with joined_processes(device) as place:
        progress = progress if progress is not None and place.first else Silent()
        return _Run(recipe, source, out, place, initial, progress).finished()


class _Run:
    """One run in one process, while it lasts."""

    def __init__(
        self, recipe: Recipe, source: Source, out: Path, place: Place, initial: Path | None, progress: Progress
    ) -> None:
        self.recipe, self.out, self.place, self.progress = recipe, out, place, progress
        self.batches = Batches(source, recipe.batches, recipe.seed, place.rank)
        self.network = first_network(recipe, initial).to(place.device).train()
        self.optimiser = optimiser(self.network, recipe.optimiser)
        found = load_state(out, _fingerprint(recipe, initial, place.count))
        if found is not None:
            self.state, tensors = found
            self.network.load_state_dict(tensors["network"])
            self.optimiser.load_state_dict(tensors["optimiser"])
            progress.note(f"going on behind step {self.state.step} of {recipe.steps}")
        self._choose_modes()
        self.spread = place.spread(self.network)
        if found is None:
            self.state = RunState(_fingerprint(recipe, initial, place.count), 0, self.watched())

    def _choose_modes(self) -> None:
        if self.recipe.recompute:
            forward_modes.recompute(self.network)
        if self.recipe.precision == "mixed" and forward_modes.can_halve(self.place.device):
            forward_modes.halve(self.network, self.place.device)

    def watched(self) -> dict[str, float]:
        """Losses of exact samples of which only the images are told, mean over a few batches."""
        quiet = quietened(self.batches, held_out=self.recipe.batches.repeats > 0)
        with torch.no_grad():
            told = [self.losses(quiet[k].to(self.place.device)).means() for k in range(self.recipe.watched)]
        return {name: math.fsum(means[name] for means in told) / len(told) for name in told[0]}

    def losses(self, batch: Batch, network: nn.Module | None = None) -> Losses:
        """Of one batch."""
        return losses((network or self.network)(batch.views), batch.truth, self.recipe.losses)

    def finished(self) -> Trained:
        """Go through all steps that are left."""
        if self.place.first:
            begin_log(self.out, self.state.step)
        self.progress.stage("train")
        with _told_to_stop() as stop:
            began, spent = time.monotonic(), self.state.spent_s
            for batch in self.batches.from_step(self.state.step, self.recipe.steps):
                self.step(batch.to(self.place.device))
                self.state.spent_s = spent + time.monotonic() - began
                self.progress.share(self.state.step / self.recipe.steps)
                if self.place.any(bool(stop)):
                    self.keep()
                    raise KeyboardInterrupt
                if self.state.step % self.recipe.save_every == 0:
                    self.keep()
        self.keep()
        return self.result()

    def step(self, batch: Batch) -> None:
        """One step of the optimiser."""
        number = self.state.step
        rate = share(number, self.recipe.steps, self.recipe.optimiser)
        set_rates(self.optimiser, rate)
        found = self.losses(batch, self.spread)
        found.total.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimiser.clip)
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
        else:
            self.state.skipped += 1
        self.optimiser.zero_grad(set_to_none=True)
        self.state.step += 1
        if self.place.first and number % self.recipe.log_every == 0:
            log(self.out, _line(number, rate, found, norm, self.state.spent_s))

    def keep(self) -> None:
        """Write the state; the first process does, and the others wait."""
        if self.place.first:
            save_state(self.out, self.state, self.network, self.optimiser)
        self.place.wait()

    def result(self) -> Trained:
        """Weights on the disk, and what they are worth."""
        after = self.watched()
        state = self.state
        told = {"engine": "any4d", "worldline": worldline.__version__, "steps": str(state.step)}
        path = save_weights(self.out, self.network, told) if self.place.first else None
        self.place.wait()
        return Trained(state.first, after, state.step, state.skipped, state.spent_s, path)


def first_network(recipe: Recipe, initial: Path | None) -> Any4D:
    """The network before its first step."""
    if initial is not None:
        return load_network(initial, recipe.network, start=True, seed=recipe.seed)
    network = Any4D(recipe.network)
    fresh.begin(network, recipe.seed)
    return network


def quietened(batches: Batches, *, held_out: bool) -> Batches:
    """The same source through perfect sensors, images alone told; worlds of another seed where it is `held_out`."""
    config = replace(
        batches.config, inputs=InputConfig.images_only(), sensors=SensorConfig.exact(), colours=ColourConfig.none()
    )
    return Batches(batches.source, config, batches.seed + 1 if held_out else batches.seed, batches.rank)


@contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """A list that fills when the process is asked to end; a second request ends it at once."""
    told: list[int] = []

    def note(number: int, frame: Any) -> None:
        if told:
            raise KeyboardInterrupt
        told.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us there stops us in another way
        before = {}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fingerprint(recipe: Recipe, initial: Path | None, count: int) -> str:
    return f"{recipe.fingerprint}-{count}-{initial.name if initial else 'fresh'}"


def _line(step: int, rate: float, found: Losses, norm: Tensor, spent_s: float) -> dict[str, Any]:
    terms = {name: round(value, 6) for name, value in found.means().items()}
    total, length = float(found.total.detach()), float(norm)
    return {"step": step, "rate": rate, "loss": total, "gradient": length, "spent_s": round(spent_s, 1), **terms}
