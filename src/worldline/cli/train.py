"""`worldline train`: a network learns from rendered worlds; stopped at any time, the same command goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from worldline.cli.progress import shown
from worldline.train.loop import Trained, train
from worldline.train.recipes import RECIPES
from worldline.train.recordings import Recordings
from worldline.train.samples import Mixture

RecipeName = Literal["tiny", "paper"]


def run(
    engine: Annotated[Literal["any4d"], arg(metavar="ENGINE"), Positional],
    /,
    out: Annotated[Path, arg(aliases=["-o"], metavar="OUT")] = Path("worldline_training"),
    *,
    config: RecipeName = "paper",
    steps: Annotated[int | None, arg(metavar="N")] = None,
    images: Annotated[int | None, arg(metavar="N")] = None,
    seed: Annotated[int, arg(metavar="N")] = 0,
    data: Annotated[tuple[Path, ...], arg(metavar="PATH...")] = (),
    init: Annotated[Path | None, arg(metavar="FILE")] = None,
    device: Annotated[str, arg(metavar="NAME")] = "auto",
    precision: Literal["float32", "mixed"] | None = None,
    workers: Annotated[int | None, arg(metavar="N")] = None,
    save_every: Annotated[int | None, arg(metavar="N")] = None,
    as_json: Annotated[bool, arg(name="json")] = False,
    quiet: bool = False,
) -> None:
    """Train a network: weights.safetensors, log.jsonl and state.pt in one folder.

    An interrupted run goes on where it was when the same command is given again. On several GPUs:
    torchrun --nproc-per-node 8 --no-python worldline train any4d

    Args:
        engine: whose network
        out: output folder
        config: tiny: eight small worlds learnt by heart on a CPU, in minutes; paper: the published recipe
        steps: of the optimiser, instead of the recipe's
        images: in each batch of one process, instead of the recipe's
        seed: of the weights at the start and of all samples
        data: clips of datasets, which half of the samples are drawn from then
        init: weights to begin with, of Any4D or of MapAnything
        device: auto, cpu, cuda, cuda:1
        precision: float32, or bfloat16 in the transformers
        workers: processes that render in the background
        save_every: steps between two states on the disk
        as_json: print the losses as JSON, and nothing else, on stdout
        quiet: show no progress
    """
    recipe, source = RECIPES[config]()
    source = Mixture((source, Recordings.read(data))) if data else source
    recipe = _told(recipe, steps=steps, seed=seed, precision=precision, save_every=save_every)
    recipe = replace(recipe, batches=_told(recipe.batches, images=images, workers=workers))
    with shown(quiet=quiet) as progress:
        trained = train(recipe, source, out, initial=init, device=device, progress=progress)
    if trained.weights is None:  # one of several processes, and not the one that speaks
        return
    record = {**asdict(trained), "weights": str(trained.weights)}
    print(json.dumps(record, indent=1) if as_json else table(trained))


def _told(settings: Any, **given: object) -> Any:
    """Settings with those that were given on the command line."""
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def table(trained: Trained) -> str:
    """Every loss before and after, for people."""
    rows = [
        f"  {name:<14}{before:>12.4f}{trained.after[name]:>12.4f}{_share(before, trained.after[name]):>9}"
        for name, before in trained.before.items()
    ]
    head = f"  {'loss':<14}{'before':>12}{'after':>12}{'left':>9}   images alone, mean over views"
    lost = [f"  {trained.skipped} steps were left out: their gradient was not finite"] if trained.skipped else []
    done = f"{trained.steps} steps in {trained.spent_s:.0f} s; weights: {trained.weights}"
    return "\n".join([done, head, *rows, *lost])


def _share(before: float, after: float) -> str:
    return f"{after / before:.1%}" if before > 0 else "-"
