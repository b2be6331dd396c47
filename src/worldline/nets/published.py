"""Weights that somebody publishes: names, places and licences, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """Of weights. `commercial`: whether it clearly allows commercial use; `note`: what else a user should know."""

    name: str
    commercial: bool
    note: str = ""

    def __str__(self) -> str:
        use = "commercial use allowed" if self.commercial else "no commercial use"
        return f"{self.name}, {use}" + (f" ({self.note})" if self.note else "")


UNKNOWN = Licence("not known", commercial=False)


@dataclass(frozen=True)
class Published:
    """Weights that somebody publishes.

    Attributes:
        name: ours. network: folder of the engine or cue that has their converter. repository, file: on the model hub.
        megabytes: size of that file, about. start: they lack parts of the network, so training can begin with them,
        and nothing else.
    """

    name: str
    network: str
    repository: str
    file: str
    megabytes: int
    licence: Licence
    start: bool = False


PUBLISHED = (
    Published(
        "any4d", "any4d", "airlabshare/any4d-checkpoint", "any4d_4v_combined.pth", 7700,
        Licence("not stated", commercial=False, note="trained on research data sets, begun with MapAnything's weights"),
    ),
    Published(
        "mapanything-v1", "any4d", "facebook/map-anything-v1", "model.safetensors", 2250,
        Licence("CC-BY-NC-4.0", commercial=False), start=True,
    ),
    Published(
        "mapanything-apache-v1", "any4d", "facebook/map-anything-apache-v1", "model.safetensors", 2250,
        Licence("Apache-2.0", commercial=True), start=True,
    ),
)  # fmt: skip


def published(name: str) -> Published | None:
    """The entry of that name."""
    return next((entry for entry in PUBLISHED if entry.name == name), None)
