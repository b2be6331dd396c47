"""Options of a verb from the words of a command line; what cannot be understood is told in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import wraps
from io import StringIO
from typing import Any

import tyro

from worldline.errors import InputError


def understood(run: Callable[..., None], verb: str, args: list[str]) -> Callable[[], None]:
    """The verb with its options, not yet begun.

    Raises:
        InputError: options that are missing, unknown or of another type, in one sentence.
    """

    @wraps(run)
    def later(*positional: Any, **named: Any) -> Callable[[], None]:
        return lambda: run(*positional, **named)

    said = StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(later, prog=f"worldline {verb}", args=args, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_in_one_sentence(said.getvalue())}; see worldline {verb} --help.") from None


def _in_one_sentence(boxed: str) -> str:
    """What the parser says in a box of several lines."""
    text = [" ".join(re.sub(r"[^\x20-\x7e]|-{4,}", " ", line).split()) for line in boxed.splitlines()]
    lines = [line for line in text if line and not line.startswith(("For full", "worldline ", "--help"))][1:]
    whole = " ".join(lines)
    if whole.startswith("Missing from"):
        names = re.findall(r"^\W*([A-Z][A-Z0-9_]*|--[\w-]+)(?: [A-Z]+)?$", "\n".join(lines), re.MULTILINE)
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    if action := re.match(r"Unrecognized options: (\S+) Available subcommands: ([^.]*)$", whole):
        return f"{action[1]} is not understood; choose one of {action[2]}"
    if unknown := re.match(r"Unrecognized options: (.*?)(?: Perhaps you meant: (--[\w-]+).*)?$", whole):
        meant = f", perhaps {unknown[2]} was meant" if unknown[2] else ""
        return f"{unknown[1]} {'is' if ',' not in unknown[1] else 'are'} not understood{meant}"
    plain = re.sub(r" ?(Got errors|Argument helptext):.*", "", whole).strip(" .")
    if wrong := re.match(r"Error parsing (\S+): .*'([^']*)'\]?$", plain):
        return f"{wrong[1]} cannot be {wrong[2]!r}"
    plain = plain.replace(". Expected", "; expected")
    return (plain[:1].lower() + plain[1:]) or "the options cannot be understood"
