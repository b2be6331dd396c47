"""The loop: batches in, weights out; stopped at any time, it goes on where it was, to the same bits."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import worldline
from worldline.engines.any4d.checkpoint import load_network
from worldline.engines.any4d.network import Any4D
from worldline.scene.journal import Progress, Silent
from worldline.train import forward_modes, fresh
from worldline.train.batches import Batch, Batches, InputConfig
from worldline.train.colours import ColourConfig
from worldline.train.losses import losses
from worldline.train.optimiser import optimiser, set_rates, share
from worldline.train.processes import Place, joined_processes
from worldline.train.recipes import Recipe
from worldline.train.run_state import RunState, begin_log, load_state, log, save_state, save_weights
from worldline.train.samples import Source
from worldline.train.sensors import SensorConfig

WATCHED_IMAGES = 8
"""In each of the batches that a run is judged by."""


@dataclass(frozen=True)
class Trained:
    """What came out of a run.

    Attributes:
        before, after: means of the watched losses by name, empty in processes other than the first. steps: of the
        run; skipped: of them, whose gradient was not finite. spent_s: seconds, of all runs that this one went on from
        too. weights: the file; None in processes other than the first.
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
        batches = Batches(source, recipe.batches, recipe.seed, place.rank)
        learner, state = _begun(recipe, initial, place, out)
        if place.first:
            begin_log(out, state.step if state else 0)
        if state is not None:
            progress.note(f"going on behind step {state.step} of {recipe.steps}")
        else:
            progress.stage("look at it before")
            state = RunState(_fingerprint(recipe, initial, place), 0, watched(learner.network, recipe, batches, place))
        progress.stage("train")
        with _told_to_stop() as stop:
            _go_through(recipe, learner, state, batches, out, place, stop, progress)
        return _result(recipe, learner.network, state, batches, out, place)


@dataclass(frozen=True, eq=False)
class Learner:
    """A network on its device, the same network spread over all processes, and what moves its weights."""

    network: Any4D
    spread: nn.Module
    optimiser: torch.optim.Optimizer


def _begun(recipe: Recipe, initial: Path | None, place: Place, out: Path) -> tuple[Learner, RunState | None]:
    """The network before its first step; or as a run that was stopped has left it, and where that was."""
    network = first_network(recipe, initial).to(place.device).train()
    updates = optimiser(network, recipe.optimiser)
    found = load_state(out, _fingerprint(recipe, initial, place))
    if found is not None:
        network.load_state_dict(found[1]["network"])
        updates.load_state_dict(found[1]["optimiser"])
    if recipe.recompute:
        forward_modes.recompute(network)
    if recipe.precision == "mixed" and forward_modes.can_halve(place.device):
        forward_modes.halve(network, place.device)
    return Learner(network, place.spread(network), updates), found[0] if found else None


def _go_through(
    recipe: Recipe, learner: Learner, state: RunState, batches: Batches, out: Path, place: Place, stop: list[int],
    progress: Progress,
) -> None:  # fmt: skip
    """All steps that are left; `state` is kept up to date, in memory and now and then on the disk."""
    began, spent, behind = time.monotonic(), state.spent_s, state.step
    for batch in batches.from_step(state.step, recipe.steps):
        line = one_step(recipe, learner, state, batch.to(place.device))
        state.spent_s = spent + time.monotonic() - began
        if place.first and (state.step - 1) % recipe.log_every == 0:
            log(out, {**line(), "spent_s": round(state.spent_s, 1)})
        progress.share((state.step - behind) / (recipe.steps - behind))  # so that the time left is right
        told = place.any(bool(stop))
        if told or state.step % recipe.save_every == 0 or state.step == recipe.steps:
            _keep(out, state, learner, place)
        if told:
            raise KeyboardInterrupt


def one_step(recipe: Recipe, learner: Learner, state: RunState, batch: Batch) -> Callable[[], dict[str, float]]:
    """One step of the optimiser, left out where the gradient is not finite; what it was like, for who asks."""
    step, rate = state.step, share(state.step, recipe.steps, recipe.optimiser)
    set_rates(learner.optimiser, rate)
    found = losses(learner.spread(batch.views), batch.truth, recipe.losses)
    found.total.backward()
    length = nn.utils.clip_grad_norm_(learner.network.parameters(), recipe.optimiser.clip)
    if bool(torch.isfinite(length)):
        learner.optimiser.step()
    else:
        state.skipped += 1
    learner.optimiser.zero_grad(set_to_none=True)
    state.step += 1
    total = found.total.detach()
    return lambda: {"step": step, "rate": rate, "loss": float(total), "gradient": float(length), **found.means()}


def _keep(out: Path, state: RunState, learner: Learner, place: Place) -> None:
    """The first process writes the state, and the others wait."""
    if place.first:
        save_state(out, state, learner.network, learner.optimiser)
    place.wait()


def _result(recipe: Recipe, network: Any4D, state: RunState, batches: Batches, out: Path, place: Place) -> Trained:
    """Weights on the disk, and what they are worth."""
    after = watched(network, recipe, batches, place)
    told = {"engine": "any4d", "trained_with": f"worldline {worldline.__version__}", "steps": str(state.step)}
    path = save_weights(out, network, told) if place.first else None
    place.wait()
    return Trained(state.first, after, state.step, state.skipped, state.spent_s, path)


def watched(network: Any4D, recipe: Recipe, batches: Batches, place: Place) -> dict[str, float]:
    """Losses of exact samples of which only the images are told, mean over views and a few batches.

    The first process looks; the others have nothing to tell.
    """
    quiet = quietened(batches, held_out=recipe.batches.repeats > 0)

    def told(step: int) -> dict[str, float]:
        batch = quiet[step].to(place.device)
        return losses(network(batch.views), batch.truth, recipe.losses).means()

    with torch.no_grad():
        every = [told(step) for step in range(recipe.watched)] if place.first else [{}]
    return {name: math.fsum(means[name] for means in every) / len(every) for name in every[0]}


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
        batches.config, images=min(batches.config.images, WATCHED_IMAGES), inputs=InputConfig.images_only(),
        sensors=SensorConfig.exact(), colours=ColourConfig.none(),
    )  # fmt: skip
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


def _fingerprint(recipe: Recipe, initial: Path | None, place: Place) -> str:
    return f"{recipe.fingerprint}-{place.count}-{initial.name if initial else 'fresh'}"
