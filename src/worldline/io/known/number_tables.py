"""Text files of numbers: rows separated by blanks, commas, semicolons or tabs; `#` begins a comment."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from worldline.errors import FormatError, InputError

Row = tuple[float, ...]


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it cannot be read. FormatError: it is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not a text file; give a file of numbers in plain text.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from error


def first_row_length(path: Path) -> int:
    """How many words the first row has, which tells formats apart; 0 for an empty file."""
    rows = (_words(line) for line in text_of(path).splitlines())
    return next((len(words) for words in rows if words), 0)


def number_rows(path: Path, *, finite: bool = True) -> list[Row]:
    """The rows of a file, of any lengths.

    Raises:
        FormatError: something is no number, not finite (unless `finite` is off), or there is none at all.
    """
    lines = text_of(path).splitlines()
    rows = [_row(path, number, line, finite) for number, line in enumerate(lines, start=1)]
    full = [row for row in rows if row]
    if not full:
        raise FormatError(f"{path} holds no numbers; check that it is the right file.")
    return full


def number_table(path: Path, *, finite: bool = True) -> Float[np.ndarray, "n c"]:
    """The rows of a file that all have the same length.

    Raises:
        FormatError: as `number_rows`, or rows of unlike lengths.
    """
    rows = number_rows(path, finite=finite)
    width = len(rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise FormatError(
                f"row {number} of {path} has {len(row)} numbers but the first has {width}; give rows of one length."
            )
    return np.array(rows, dtype=np.float64)


def _row(path: Path, number: int, line: str, finite: bool) -> Row:
    try:
        row = tuple(float(word) for word in _words(line))
    except ValueError:
        raise FormatError(f"line {number} of {path} holds something that is no number; correct or remove it.") from None
    if finite and not np.isfinite(row).all():
        raise FormatError(f"line {number} of {path} holds a number that is not finite; correct or remove it.")
    return row


def _words(line: str) -> list[str]:
    return [word for word in re.split(r"[\s,;]+", line.split("#")[0]) if word]
