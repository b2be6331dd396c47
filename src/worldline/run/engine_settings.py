"""Settings of an engine from texts `name=value`, as a command line gives them; names and types are its Config's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from worldline.errors import InputError

_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def adjusted(config: Any, texts: Sequence[str]) -> Any:
    """A config with some settings changed; `a.b=1` sets b of the settings that a is, `a=tiny` all of them.

    Raises:
        InputError: no such setting, or a value of another kind.
    """
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} sets nothing; write NAME=VALUE.")
        config = _with(config, name.strip(), name.strip().split("."), value.strip())
    return config


def files_named(texts: Sequence[str]) -> list[Path]:
    """Files that values name, whose content is then part of what a run depends on."""
    paths = [Path(text.partition("=")[2].strip()) for text in texts]
    return [path for path in paths if path.is_file()]


def _with(config: Any, whole: str, path: list[str], value: str) -> Any:
    names = [f.name for f in fields(config)] if is_dataclass(config) else []
    if path[0] not in names:
        raise InputError(f"there is no setting {whole!r}; choose one of {', '.join(names) or 'none, it has no parts'}.")
    now = getattr(config, path[0])
    if len(path) > 1:
        return replace(config, **{path[0]: _with(now, whole, path[1:], value)})
    return replace(config, **{path[0]: _value(whole, value, get_type_hints(type(config))[path[0]])})


def _value(name: str, text: str, kind: Any) -> Any:
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if NoneType in kinds and text.lower() == "none":
        return None
    for one in kinds:
        try:
            return _as(text, one)
        except ValueError:
            continue
    named = " or ".join("none" if k is NoneType else getattr(k, "__name__", str(k)) for k in kinds)
    raise InputError(f"{name} cannot be {text!r}; it is {named}.")


def _as(text: str, kind: Any) -> Any:
    """ValueError where the text is not of that kind."""
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise ValueError(text)
        return _TRUTH[text.lower()]
    if kind in (int, float, str, Path):
        return kind(text)
    if is_dataclass(kind) and isinstance(vars(kind).get(text), classmethod):
        return getattr(kind, text)()
    if get_origin(kind) is tuple:
        parts, each = [p for p in text.replace("x", ",").split(",") if p], get_args(kind)
        if each[-1] is not Ellipsis and len(parts) != len(each):
            raise ValueError(text)
        return tuple(_as(part, each[0]) for part in parts)
    raise ValueError(text)
