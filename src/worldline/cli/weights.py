"""`worldline weights`: which weights are known and which are here; add, fetch, check and remove them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, configure, subcommand

from worldline.engines import engine_module
from worldline.errors import FormatError, InputError, MissingWeights
from worldline.nets import hub, weights
from worldline.nets.published import PUBLISHED, UNKNOWN, Licence, published
from worldline.nets.weights import Converter, Own

Dtype = Annotated[Literal["fp32", "bf16"], arg(metavar="fp32|bf16")]
Name = Annotated[str, arg(metavar="NAME"), Positional]


@dataclass(frozen=True)
class List:
    """Known weights and their licences, and which of them are on this machine.

    Attributes:
        as_json: print JSON
    """

    as_json: Annotated[bool, arg(name="json")] = False

    def __call__(self) -> None:
        """Print the table."""
        facts = [_facts(name) for name in sorted({entry.name for entry in PUBLISHED} | {*weights.stored()})]
        text = "\n".join(_line(row) for row in facts) + f"\n\nstored in {weights.folder()}"
        print(json.dumps(facts, indent=1) if self.as_json else text)


@dataclass(frozen=True)
class Add:
    """Convert a file of weights once into worldline's own form, and keep it under a name.

    Attributes:
        name: one of `worldline weights list`, or a new one for weights of your own
        file: as it was published (.pth or .safetensors)
        dtype: how they are stored; bf16 takes half the space
        network: whose they are, for weights of your own
        licence: under which licence, for weights of your own
        commercial: that licence allows commercial use
        overwrite: replace what is stored under this name
    """

    name: Name
    file: Annotated[Path, arg(metavar="FILE"), Positional]
    dtype: Dtype = "fp32"
    network: Annotated[str | None, arg(metavar="NETWORK")] = None
    licence: Annotated[str, arg(metavar="LICENCE")] = UNKNOWN.name
    commercial: bool = False
    overwrite: bool = False

    def __call__(self) -> None:
        """Convert and say what came of it."""
        if entry := published(self.name):
            print(f"licence of {entry.name}: {entry.licence}", flush=True)
        own = None if self.network is None else Own(self.network, Licence(self.licence, self.commercial))
        _add(self.name, self.file, own, dtype=self.dtype, overwrite=self.overwrite)


@dataclass(frozen=True)
class Fetch:
    """Download published weights and convert them.

    Attributes:
        name: one of `worldline weights list`
        place: a folder that holds the file, or the address of a mirror of the hub
        dtype: how they are stored; bf16 takes half the space
        overwrite: replace what is stored under this name
    """

    name: Name
    place: Annotated[str | None, arg(name="from", metavar="FOLDER_OR_URL")] = None
    dtype: Dtype = "fp32"
    overwrite: bool = False

    def __call__(self) -> None:
        """Say the licence, download, convert."""
        entry = published(self.name)
        if entry is None:
            known = ", ".join(entry.name for entry in PUBLISHED)
            raise InputError(f"nobody publishes weights {self.name!r}; choose one of {known}.")
        weights.check_new(self.name, overwrite=self.overwrite)
        print(f"licence of {entry.name}: {entry.licence}", flush=True)
        path = hub.fetched(entry, self.place)
        source = f"{entry.repository}/{entry.file}"
        try:
            _add(self.name, path, None, dtype=self.dtype, overwrite=self.overwrite, source=source)
        except FormatError:
            weights.forget_download(self.name)  # a wrong file is of no use to the next attempt
            raise
        weights.forget_download(self.name)


@dataclass(frozen=True)
class Check:
    """Compare stored weights with their checksums.

    Attributes:
        name: only these; all if left out
    """

    name: Annotated[str | None, arg(metavar="NAME"), Positional] = None

    def __call__(self) -> None:
        """One line per name; the first that is not as it was stored is an error."""
        faults = []
        names = [self.name] if self.name else weights.stored()
        if not names:
            print(f"no weights are stored in {weights.folder()}")
        for name in names:
            try:
                weights.check(file := weights.find(name))
                print(f"{name}: as stored, sha256 {file.checksum}")
            except FormatError as error:
                faults.append(error)
        if faults:
            raise faults[0]


@dataclass(frozen=True)
class Remove:
    """Delete stored weights.

    Attributes:
        name: which
    """

    name: Name

    def __call__(self) -> None:
        """Delete, and say what."""
        print(f"deleted {weights.remove(self.name)}")


@configure(OmitArgPrefixes, OmitSubcommandPrefixes)
def run(
    action: (
        Annotated[List, subcommand("list")]
        | Annotated[Add, subcommand("add")]
        | Annotated[Fetch, subcommand("fetch")]
        | Annotated[Check, subcommand("check")]
        | Annotated[Remove, subcommand("remove")]
    ),
) -> None:
    """Weights of networks: list, add, fetch, check, remove."""
    action()


def _add(name: str, path: Path, own: Own | None, *, dtype: str, overwrite: bool, source: str = "") -> None:
    file, notes = weights.add(name, path, _converter, own=own, dtype=dtype, source=source, overwrite=overwrite)
    for note in notes:
        print(f"note: {note}")
    size_mb = file.path.stat().st_size / 1e6
    print(f"stored {file.path} ({size_mb:.0f} MB, {file.dtype}, sha256 {file.checksum})")


def _converter(network: str) -> Converter:
    """What the engine of that name says about its published weights."""
    module = f"{engine_module(network).__name__}.checkpoint"
    try:
        return import_module(module).convert
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise InputError(f"the engine {network} has no weights; worldline weights list names those that are.") from None


def _facts(name: str) -> dict[str, Any]:
    """What is known of weights, JSON-like."""
    entry = published(name)
    facts: dict[str, Any] = {"name": name, "state": "not here", "file": None}
    try:
        file = weights.find(name)
        facts |= {"state": f"{file.path.stat().st_size / 1e6:.0f} MB, {file.dtype}", "file": str(file.path)}
        facts |= {"network": file.network, "source": file.source, "sha256": file.checksum, "licence": str(file.licence)}
    except MissingWeights:
        pass
    except FormatError as error:
        facts |= {"state": "damaged", "error": str(error)}
    if entry is not None:
        facts |= {"network": entry.network, "source": f"{entry.repository}/{entry.file}", "licence": str(entry.licence)}
    return facts


def _line(facts: dict[str, Any]) -> str:
    return (
        f"{facts['name']:<22} {facts['state']:<15} {facts.get('source', '')}\n{'':<23}licence: {facts.get('licence')}"
    )
