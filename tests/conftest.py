"""Idle torch threads spin and starve each other on small machines: one thread, set before torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
