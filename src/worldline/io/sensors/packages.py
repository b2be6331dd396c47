"""The packages that only logs need, loaded when a log is read."""

from __future__ import annotations

import struct
from importlib import import_module
from typing import Any

from worldline.errors import InputError


def package(name: str) -> Any:
    """A module of the extra `robotics`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).split(".")[0]
        raise InputError(
            f"reading a log needs the package {missing}, which is not installed; pip install 'worldline[robotics]'."
        ) from error


def damage() -> tuple[type[Exception], ...]:
    """What the readers of log files raise on bytes that are not what they should be."""
    return (
        OSError,
        ValueError,
        LookupError,
        ArithmeticError,
        RuntimeError,
        AssertionError,
        EOFError,
        struct.error,
        package("mcap.exceptions").McapError,
        package("rosbags.rosbag1").ReaderError,
        package("rosbags.rosbag2").ReaderError,
        package("rosbags.serde").SerdeError,
        package("rosbags.typesys").TypesysError,
        package("apsw").Error,
        package("zstandard").ZstdError,
    )
