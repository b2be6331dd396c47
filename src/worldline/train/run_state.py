"""What a run leaves on the disk: a state to go on from, the weights, and a log of one line per few steps."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from worldline.errors import FormatError, InputError
from worldline.scene.atomic import check_free, write_whole, written_whole

STATE, WEIGHTS, LOG = "state.pt", "weights.safetensors", "log.jsonl"


@dataclass
class RunState:
    """Where a run is. All samples follow from the step, so no more is needed to go on exactly.

    Attributes:
        fingerprint: of the recipe. step: steps done. first: the watched losses before the first step. spent_s: so far.
        skipped: steps whose gradient was not finite.
    """

    fingerprint: str
    step: int
    first: dict[str, float]
    spent_s: float = 0.0
    skipped: int = 0


def save_state(folder: Path, run: RunState, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write it whole, in place of the one before.

    Raises:
        OutputError: it cannot be written.
    """
    content = {"run": vars(run), "network": network.state_dict(), "optimiser": optimiser.state_dict()}
    with written_whole(folder / STATE, overwrite=True) as temporary:
        torch.save(content, temporary)


def load_state(folder: Path, fingerprint: str) -> tuple[RunState, dict[str, Any]] | None:
    """The state in a folder, and its tensors by "network" and "optimiser"; None if nothing was begun there.

    Raises:
        FormatError: it cannot be read. InputError: it belongs to another recipe. OutputError: there is no state, but
        weights that a run would replace.
    """
    path = folder / STATE
    if not path.is_file():
        check_free(folder / WEIGHTS)
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        run = RunState(**content.pop("run"))
    except (RuntimeError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise FormatError(f"{path} is no state of a training run; delete it or choose another output.") from error
    if run.fingerprint != fingerprint:
        raise InputError(f"{folder} holds a run with other settings; choose another output, or give the same settings.")
    return run, content


def save_weights(folder: Path, network: nn.Module, told: dict[str, str]) -> Path:
    """The weights alone, under the published names, with a few words about them.

    Raises:
        OutputError: they cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return write_whole(folder / WEIGHTS, save(tensors, metadata=told), overwrite=True)


def begin_log(folder: Path, step: int) -> None:
    """Keep only the lines of steps that are done, so that a step that is done again is not told twice."""
    path = folder / LOG
    lines = path.read_text().splitlines() if path.is_file() else []
    kept = [line for line in lines if _step_of(line) < step]
    write_whole(path, "".join(f"{line}\n" for line in kept), overwrite=True)


def _step_of(line: str) -> float:
    """Infinite for a line that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def log(folder: Path, entry: dict[str, Any]) -> None:
    """Add one line."""
    with (folder / LOG).open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
