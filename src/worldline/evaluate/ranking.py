"""Methods side by side, and the refusal to put numbers side by side that were not measured in the same way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldline.errors import InputError
from worldline.evaluate.published import Published, comparable
from worldline.evaluate.report import Report

_LESS_IS_BETTER = ("_m", "_pct", "_deg", "error", "outlier", "abs_rel")
_SAME_COVERAGE = 0.01


@dataclass(frozen=True)
class Row:
    """A method's mean over sequences; `rank` counts from 1, and is None for numbers of a paper."""

    method: str
    value: float
    sequences: int
    rank: int | None = None


@dataclass(frozen=True)
class Ranking:
    """Methods from the best to the worst by one metric, with the one protocol of all of them."""

    by: str
    protocol: str
    rows: tuple[Row, ...]
    published: tuple[Row, ...] = ()
    sources: tuple[str, ...] = ()

    def as_text(self) -> str:
        """A table for people."""
        width = max(len(row.method) for row in (*self.rows, *self.published))
        lines = [f"{self.by}, protocol {self.protocol}, mean over {self.rows[0].sequences} sequences"]
        lines += [f"  {row.rank:>2}  {row.method:<{width}}  {row.value:.4g}" for row in self.rows]
        if self.published:
            lines += ["published, on all sequences of the part; not ranked among these:"]
            lines += [f"      {row.method:<{width}}  {row.value:.4g}" for row in self.published]
            lines += [f"  source: {source}" for source in self.sources]
        return "\n".join(lines)


def rank(results: Mapping[str, Sequence[Report]], *, by: str, beside: str | None = None) -> Ranking:
    """Order methods by the mean of one metric over sequences.

    A sequence in which a method has no number although another has one counts as its failure: as 0 of a share, and
    as infinitely far off. Errors in metres, which are means over what was answered, rank only at like coverage.

    Args:
        results: per method, a report on every sequence. by: a metric.
        beside: also give the published numbers on this part of a benchmark (`published.parts`).

    Raises:
        InputError: protocols, sequences, frames or coverage differ, a metric is missing, or published numbers were
            measured under another protocol.
    """
    reports = {method: list(of_method) for method, of_method in results.items()}
    if not any(reports.values()):
        raise InputError("there is nothing to rank; give at least one report.")
    first = next(iter(next(filter(None, reports.values()))))
    _check_alike(reports, first, by)
    values = np.array([[report.metrics[by] for report in _by_sequence(each)] for each in reports.values()])
    less = by.endswith(_LESS_IS_BETTER)
    judged = ~np.isnan(values).all(0)
    failed = np.where(np.isnan(values), np.inf if less else 0.0, values)[:, judged]
    means = failed.mean(1) if judged.any() else np.full(len(reports), np.nan)
    order = np.argsort(means if less else -means, kind="stable")
    names, count = list(reports), values.shape[1]
    ranked = tuple(Row(names[i], float(means[i]), count, place) for place, i in enumerate(order, start=1))
    theirs = () if beside is None else tuple(r for r in comparable(beside, first.protocol) if by in r.metrics)
    return Ranking(by, first.protocol.name, ranked, _rows(theirs, by), tuple(dict.fromkeys(r.source for r in theirs)))


def _rows(theirs: Sequence[Published], by: str) -> tuple[Row, ...]:
    return tuple(Row(row.method, row.metrics[by], 0) for row in theirs)


def _by_sequence(reports: Sequence[Report]) -> list[Report]:
    return sorted(reports, key=lambda report: report.truth)


def _check_alike(reports: Mapping[str, Sequence[Report]], first: Report, by: str) -> None:
    wanted = [(report.truth, report.frames) for report in _by_sequence(next(iter(reports.values())))]
    for method, of_method in reports.items():
        for report in of_method:
            if report.protocol != first.protocol:
                raise InputError(
                    f"{method} was measured on {report.truth} under the protocol {report.protocol.name} "
                    f"({_differences(report, first)}), others under {first.protocol.name} "
                    f"({_differences(first, report)}); measure all under one protocol."
                )
            if by not in report.metrics:
                raise InputError(f"the report of {method} on {report.truth} has no {by}; choose another metric.")
        if [(report.truth, report.frames) for report in _by_sequence(of_method)] != wanted:
            raise InputError(
                f"{method} was not measured on the sequences and frames of the others; measure all on one."
            )
    if by.endswith("_m"):
        _check_coverage(reports, by)


def _check_coverage(reports: Mapping[str, Sequence[Report]], by: str) -> None:
    for alike in zip(*(_by_sequence(each) for each in reports.values()), strict=True):
        coverage = [report.metrics.get("coverage", math.nan) for report in alike]
        if max(coverage) - min(coverage) > _SAME_COVERAGE:
            raise InputError(
                f"{by} is a mean over what was answered, and on {alike[0].truth} that is {min(coverage):.0%} for one "
                f"method and {max(coverage):.0%} for another; rank by a share such as apd or inlier."
            )


def _differences(report: Report, other: Report) -> str:
    """The items of a report's protocol that another's has not or has otherwise."""
    theirs = vars(other.protocol)
    items = {name: value for name, value in vars(report.protocol).items() if name != "name"}
    return ", ".join(f"{name} {value}" for name, value in items.items() if theirs.get(name) != value) or "no more"
