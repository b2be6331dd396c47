"""What a file holds against what a network needs: other names of the same tensor, and whether everything fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from worldline.errors import FormatError

_SHOWN, _LONGEST = 3, 100


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    """Of every tensor of its state dict, by name."""
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def weights_in(content: object) -> dict[str, Tensor]:
    """The tensors of a checkpoint: those under `model` or `state_dict`, or all; without the prefix of DDP.

    Raises:
        FormatError: there are none, or something among them is not a tensor.
    """
    if isinstance(content, Mapping):
        content = next((content[k] for k in ("model", "state_dict") if isinstance(content.get(k), Mapping)), content)
    if not isinstance(content, Mapping) or not content:
        raise FormatError(
            "there are no weights in it, neither under 'model' nor at the top; give the checkpoint itself."
        )
    if strange := [str(name) for name, value in content.items() if not isinstance(value, Tensor)]:
        raise FormatError(f"{_some(strange)} among its weights is not a tensor; give the checkpoint itself.")
    wrapped = all(str(name).startswith("module.") for name in content)
    return {str(name).removeprefix("module.") if wrapped else str(name): value for name, value in content.items()}


def one_name_each(tensors: Mapping[str, Tensor], canonical: Callable[[str], str]) -> dict[str, Tensor]:
    """Every tensor once, under its canonical name.

    Raises:
        FormatError: two names of one tensor hold different values.
    """
    found: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first, kept = found.setdefault(canonical(name), (name, tensor))
        if not _same(kept, tensor):
            raise FormatError(
                f"{_some([first])} and {_some([name])} are two names of one tensor but differ; give the published file."
            )
    return {name: tensor for name, (_, tensor) in found.items()}


def check_fit(tensors: Mapping[str, Tensor], needed: Mapping[str, torch.Size], network: str) -> None:
    """Raise unless the tensors are exactly those that are needed.

    Raises:
        FormatError: weights of another network; or names that are missing or unexpected, another shape, no numbers.
    """
    missing = [name for name in needed if name not in tensors]
    unexpected = [name for name in tensors if name not in needed]
    if 2 * len(unexpected) > len(tensors):
        raise FormatError(
            f"these are weights of another network, not of {network} (they have {_some(unexpected[:1])}); "
            f"give a file of {network}."
        )
    both = [name for name in needed if name in tensors]
    reshaped = [
        f"{name}: {tuple(tensors[name].shape)} for {tuple(needed[name])}"
        for name in both
        if tensors[name].shape != needed[name]
    ]
    untyped = [f"{name}: {tensors[name].dtype}" for name in both if not tensors[name].is_floating_point()]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped, "no floats": untyped}
    if any(faults.values()):
        told = ", ".join(f"{len(names)} {what} ({_some(names)})" for what, names in faults.items() if names)
        raise FormatError(f"the weights do not fit {network}: {told}; give a whole file of {network}.")


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)


def _some(names: Iterable[str]) -> str:
    """The first of them, as far as a terminal should see what a file calls its tensors."""
    shown = [name if name.isprintable() else ascii(name) for name in names]
    return ", ".join(name[:_LONGEST] for name in shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")
