"""Tables of sensor readings: columns found by their names, and the units that those names or the values tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from worldline.errors import FormatError
from worldline.io.known.number_tables import text_of

STANDARD_GRAVITY_MPS2 = 9.80665

_BRACKETS = re.compile(r"[\[(]([^\])]*)[\])]")
_UNITS = {
    "s": ("s", 1.0), "sec": ("s", 1.0), "secs": ("s", 1.0), "seconds": ("s", 1.0),
    "ms": ("s", 1e-3), "msec": ("s", 1e-3), "us": ("s", 1e-6), "usec": ("s", 1e-6), "ns": ("s", 1e-9),
    "nsec": ("s", 1e-9), "nanoseconds": ("s", 1e-9),
    "rad": ("rad", 1.0), "radians": ("rad", 1.0), "deg": ("rad", np.pi / 180), "degrees": ("rad", np.pi / 180),
    "rad/s": ("rad/s", 1.0), "rads-1": ("rad/s", 1.0), "radps": ("rad/s", 1.0), "rads": ("rad/s", 1.0),
    "deg/s": ("rad/s", np.pi / 180), "degs-1": ("rad/s", np.pi / 180), "dps": ("rad/s", np.pi / 180),
    "degps": ("rad/s", np.pi / 180), "°/s": ("rad/s", np.pi / 180),
    "m/s2": ("m/s^2", 1.0), "m/s²": ("m/s^2", 1.0), "ms-2": ("m/s^2", 1.0), "mps2": ("m/s^2", 1.0),
    "m/s/s": ("m/s^2", 1.0), "g": ("m/s^2", STANDARD_GRAVITY_MPS2), "mg": ("m/s^2", STANDARD_GRAVITY_MPS2 / 1000),
    "m": ("m", 1.0), "metres": ("m", 1.0), "meters": ("m", 1.0), "cm": ("m", 0.01), "mm": ("m", 1e-3),
    "m/s": ("m/s", 1.0), "mps": ("m/s", 1.0), "ms-1": ("m/s", 1.0), "km/h": ("m/s", 1 / 3.6), "kmh": ("m/s", 1 / 3.6),
}  # fmt: skip
_SPELT_OUT = (
    (re.compile(r"rad[_ ]?(?:/|per[_ ]|_)[_ ]?s(?:ec)?$"), " radps"),
    (re.compile(r"deg[_ ]?(?:/|per[_ ]|_)[_ ]?s(?:ec)?$"), " dps"),
    (re.compile(r"\bm[_ ]?(?:/|per[_ ]|_)[_ ]?s[_^ ]?2$"), " mps2"), (re.compile(r"(?<=_)m_s[_^]?2$"), " mps2"),
    (re.compile(r"(?<=_)m_s$"), " mps"),
)  # fmt: skip
"""Units of two words at the end of a name, as `rad_s` and `m_s2`."""

_TIME_STEPS = ((0.06, 1.0, "seconds"), (60.0, 1e-3, "milliseconds"), (6e4, 1e-6, "microseconds"))


@dataclass(frozen=True)
class Name:
    """A column's name as lower-case words, without its unit; `unit` as written, None where the name has none."""

    words: tuple[str, ...]
    unit: str | None

    @classmethod
    def of(cls, text: str) -> Name:
        """The name in a header; a unit stands in brackets, or is the last word."""
        bracketed = _BRACKETS.search(text)
        bare = _BRACKETS.sub(" ", text).strip().lstrip("#%").lower()
        for spelt, unit in _SPELT_OUT:
            bare = spelt.sub(unit, bare)
        words = tuple(w for w in re.split(r"[^a-z0-9°²]+", bare) if w)
        if bracketed:
            return cls(words, re.sub(r"[\s^*·]", "", bracketed.group(1).lower()))
        if len(words) > 1 and words[-1] in _UNITS and words[-1] not in ("g", "m"):
            return cls(words[:-1], words[-1])
        return cls(words[:-1], words[-1]) if len(words) > 1 and words[-1] in ("g", "m") else cls(words, None)

    def factor(self, kind: str) -> float | None:
        """What brings values of this unit to "s", "rad", "rad/s", "m/s^2", "m" or "m/s"; None where it is no such."""
        known = _UNITS.get(self.unit or "")
        return known[1] if known is not None and known[0] == kind else None


@dataclass(frozen=True, eq=False)
class NamedColumns:
    """The rows of a file, and the names of its columns; None where it has no header."""

    path: Path
    names: tuple[Name, ...] | None
    values: Float[np.ndarray, "n c"]

    def find(self, pattern: str, axis: str | None = None, *, but: str = "(?!)") -> int | None:
        """The first column of which a word fits the pattern and none fits `but`; `axis` (x, y, z) ends that word or is
        the last one."""
        fits, unfit = re.compile(f"(?:{pattern})$"), re.compile(f"(?:{but})$")
        for number, name in enumerate(self.names or ()):
            words = name.words
            if axis is None and any(fits.match(w) for w in words) and not any(unfit.match(w) for w in words):
                return number
            if axis is None or not words or words[-1][-1] != axis:
                continue
            stems = (*words[:-1], words[-1][:-1])
            if (len(words[-1]) == 1 or len(stems) == 1 or fits.match(stems[-1])) and any(fits.match(w) for w in stems):
                return number
        return None


def read_columns(path: Path) -> NamedColumns:
    """A text file of numbers with or without a line of names; separated by commas, semicolons, tabs or blanks.

    Raises:
        InputError: it cannot be read. FormatError: no numbers, or rows of unlike lengths or with words in them.
    """
    lines = [(n, line.strip()) for n, line in enumerate(text_of(path).splitlines(), start=1) if line.strip()]
    begin = next((i for i, (_, line) in enumerate(lines) if _numbers(line) is not None), None)
    if begin is None:
        raise FormatError(f"{path} holds no rows of numbers; check that it is the right file.")
    rows = [_row(path, n, line) for n, line in lines[begin:] if line[0] not in "#%"]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise FormatError(
                f"row {number} of {path} has {len(row)} numbers but the first has {len(rows[0])}; give rows of one "
                "length."
            )
    names = _names(lines[begin - 1][1], len(rows[0])) if begin else None
    return NamedColumns(path, names, np.array(rows, dtype=np.float64))


def seconds_of(times: Float[np.ndarray, "n"], name: Name | None) -> tuple[Float[np.ndarray, "n"], tuple[str, ...]]:
    """Times in seconds, by the unit in their name or by the usual step of a sensor of 17 Hz to 8 kHz; and what was
    assumed."""
    factor = None if name is None else name.factor("s")
    if factor is not None:
        return times * factor, ()
    steps = np.diff(times)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    found = next(((f, word) for limit, f, word in _TIME_STEPS if usual < limit), (1e-9, "nanoseconds"))
    return times * found[0], (f"its times were taken to be {found[1]}",) if found[1] != "seconds" else ()


def _numbers(line: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(word) for word in _split(line))
    except ValueError:
        return None


def _row(path: Path, number: int, line: str) -> tuple[float, ...]:
    row = _numbers(line)
    if row is None:
        raise FormatError(f"line {number} of {path} holds something that is no number; correct or remove it.")
    return row


def _split(line: str) -> list[str]:
    separator = next((s for s in ",;\t" if s in line), None)
    words = line.split(separator)
    return [w.strip() or "nan" for w in (words[:-1] if separator and not words[-1].strip() else words)]


def _names(line: str, count: int) -> tuple[Name, ...] | None:
    words = _split(line) if any(s in line for s in ",;\t") else _BRACKETS.sub(_joined, line.lstrip("#% ")).split()
    return tuple(Name.of(word) for word in words) if len(words) == count else None


def _joined(match: re.Match[str]) -> str:
    return f"[{match.group(1).replace(' ', '')}]"
