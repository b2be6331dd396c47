"""Set before anything of worldline or torch is imported: one thread, and shapes that are checked.

Idle torch threads spin and starve each other on small machines. The shapes in the signatures of CHECKED are compared
with every call that a test makes; in production they cost nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import jaxtyping
import pytest

CHECKED = tuple(f"worldline.{name}" for name in ("geometry", "scene", "synthetic", "io", "data", "evaluate", "view"))

os.environ.setdefault("OMP_NUM_THREADS", "1")
jaxtyping.install_import_hook(CHECKED, "shape_checks.checked")


@pytest.fixture
def production() -> Iterator[None]:
    """Shapes unchecked, as users run it: for tests of what wrong input is told."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
