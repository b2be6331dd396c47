"""`worldline bench`: methods side by side, from the reports that `evaluate --json` wrote."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from worldline.errors import FormatError, InputError
from worldline.evaluate.ranking import rank
from worldline.evaluate.report import Report


def run(
    methods: Annotated[tuple[Path, ...], arg(metavar="FOLDER"), Positional],
    /,
    *,
    by: Annotated[str, arg(metavar="METRIC")] = "apd",
    beside: Annotated[str | None, arg(metavar="PART")] = None,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Rank methods by the mean of a metric over sequences; reports of unlike protocols are refused.

    Args:
        methods: a folder for each method, named after it, with the report of every sequence (evaluate --json)
        by: the metric
        beside: print published numbers on this part of a benchmark too: pstudio, drivetrack, adt, dynamic_replica
        as_json: print JSON
    """
    found = rank({folder.name: _reports(folder) for folder in methods}, by=by, beside=beside)
    print(json.dumps(asdict(found), indent=1) if as_json else found.as_text())


def _reports(folder: Path) -> list[Report]:
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder} holds no reports; write one per sequence with worldline evaluate --json.")
    return [_report(file) for file in files]


def _report(file: Path) -> Report:
    try:
        return Report.from_json(json.loads(file.read_text()))
    except (OSError, ValueError, FormatError) as error:
        raise FormatError(f"{file} is no report; write one with worldline evaluate --json.") from error
