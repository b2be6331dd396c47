"""Arrays that may still be on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    LazyArray: TypeAlias = np.ndarray
else:
    LazyArray: TypeAlias = Any
"""A numpy array, or one on disk (zarr) with its shape and dtype, which becomes numpy when it is indexed."""
