"""What papers report, with the protocol that they state: a table to print beside own results.

The numbers are in `published.csv`, one row per method and part of a benchmark. A row whose paper does not say how the
estimate was aligned has the protocol "not stated" and is comparable with nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from worldline.errors import InputError
from worldline.evaluate.protocols import AnyProtocol

NOT_STATED = "not stated"
SOURCES = {
    "DELTA": (
        "Ngo et al., DELTA, arXiv 2410.24211, table on TAPVid-3D, whole evaluation split; the scaling is the "
        "benchmark's default, which the table does not repeat"
    ),
    "Any4D": (
        "Karhade et al., Any4D, workshop version, table on allocentric motion, 192 sequences of 50 to 64 frames; "
        "neither the sequences nor the alignment are published"
    ),
}
_PLAIN = ("method", "part", "protocol", "source")


@dataclass(frozen=True)
class Published:
    """One row: metrics under worldline's names (shares in [0, 1], metres), the name of the protocol, the paper."""

    method: str
    part: str
    protocol: str
    metrics: Mapping[str, float]
    source: str


@cache
def rows() -> tuple[Published, ...]:
    """All rows."""
    text = files("worldline.evaluate").joinpath("published.csv").read_text()
    return tuple(
        Published(
            **{name: row[name] for name in ("method", "part", "protocol")},
            metrics={name: float(value) for name, value in row.items() if name not in _PLAIN and value},
            source=SOURCES[row["source"]],
        )
        for row in csv.DictReader(text.splitlines())
    )


def comparable(part: str, rules: AnyProtocol) -> tuple[Published, ...]:
    """The rows of a part of a benchmark that were measured under this protocol.

    Raises:
        InputError: nothing is known of the part, or only under other protocols.
    """
    of_part = [row for row in rows() if row.part == part]
    if not of_part:
        raise InputError(f"no published numbers on {part!r} are known; choose {', '.join(sorted(parts()))}.")
    found = tuple(row for row in of_part if row.protocol == rules.name)
    if not found:
        theirs = ", ".join(sorted({row.protocol for row in of_part}))
        raise InputError(
            f"published numbers on {part} were measured under other protocols ({theirs}) than {rules.name}, so they do "
            "not compare; choose that protocol, or leave them out."
        )
    return found


def parts() -> frozenset[str]:
    """Names of the parts of benchmarks that there are numbers for."""
    return frozenset(row.part for row in rows())
