"""The log of a run for people: what every stage cost, what was noted, and what it ran on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def log_text(record: Mapping[str, Any]) -> str:
    """A run's record as plain text: one line per stage with wall and CPU seconds and the peak memory so far."""
    request, scene = record["request"], record["scene"]
    return "\n".join(
        [
            f"{request['source']}: {scene['frames']} frames of {scene['size'][0]}x{scene['size'][1]}",
            f"key {record['key']}, finished {record['finished']}",
            "",
            f"{'stage':<28}{'wall s':>10}{'cpu s':>10}{'peak MB':>10}",
            *(_line(stage) for stage in record["stages"]),
            _total(record),
            "",
            *(f"note: {note}" for note in record["notes"]),
            "versions: " + ", ".join(f"{name} {number}" for name, number in record["versions"].items()),
            "threads: " + ", ".join(f"{name} {count}" for name, count in record["threads"].items()),
            "",
        ]
    )


def _line(stage: Mapping[str, Any]) -> str:
    resumed = "  reused" if stage["resumed"] else ""
    return f"{stage['name']:<28}{stage['wall_s']:>10.2f}{stage['cpu_s']:>10.2f}{stage['peak_mb']:>10.0f}{resumed}"


def _total(record: Mapping[str, Any]) -> str:
    stages = record["stages"]
    cpu_s = sum(s["cpu_s"] for s in stages)
    peak_mb = max((s["peak_mb"] for s in stages), default=0.0)
    return f"{'total':<28}{record['wall_s']:>10.2f}{cpu_s:>10.2f}{peak_mb:>10.0f}"
