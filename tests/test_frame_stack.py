"""Stages of many frames: kept on disk frame by frame, the same as in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldline.scene.frame_stack import FrameStack, open_frames, write_frames
from worldline.scene.journal import Journal

DEPTH = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)


def frames():
    return ({"depth": z, "far": z > 0} for z in DEPTH)


@pytest.fixture
def stack(tmp_path: Path) -> FrameStack:
    write_frames(tmp_path / "s", frames(), len(DEPTH))
    return open_frames(tmp_path / "s")["depth"]


@pytest.mark.parametrize(
    "index", [0, -1, 3, np.int64(2), slice(1, 4), slice(None), [4, 0], (2, 1, 3), (slice(0, 2), 1)]
)
def test_a_stack_is_indexed_like_the_array_it_holds(stack, index):
    np.testing.assert_array_equal(stack[index], DEPTH[index])


def test_a_stack_has_the_array_s_shape_and_becomes_it(stack):
    assert (stack.shape, stack.ndim, stack.dtype, stack.nbytes) == (DEPTH.shape, 3, DEPTH.dtype, DEPTH.nbytes)
    np.testing.assert_array_equal(np.asarray(stack), DEPTH)
    np.testing.assert_array_equal(list(stack), DEPTH)


def test_an_index_beyond_the_stack_is_an_error(stack):
    with pytest.raises(IndexError):
        stack[5]


def test_a_stack_that_was_cut_off_is_no_stack(stack):
    stack.path.write_bytes(stack.path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no whole stack"):
        FrameStack.open(stack.path)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_stage_by_frame_is_computed_once(tmp_path, where):
    journal = Journal("k", tmp_path if where == "disk" else None)
    for resumed in (False, True):
        found = journal.run_by_frame("fusion", frames, len(DEPTH), settings={"a": 1})
        assert journal.times[-1].resumed is resumed
        np.testing.assert_array_equal(np.asarray(found["far"]), DEPTH > 0)
    journal.run_by_frame("fusion", frames, len(DEPTH), settings={"a": 2})
    assert not journal.times[-1].resumed


def test_a_damaged_stage_by_frame_is_computed_again(tmp_path):
    journal = Journal("k", tmp_path)
    journal.run_by_frame("fusion", frames, len(DEPTH))
    next(tmp_path.glob("*.frames/depth.npy")).write_bytes(b"cut off")
    again = journal.run_by_frame("fusion", frames, len(DEPTH))
    assert not journal.times[-1].resumed
    np.testing.assert_array_equal(again["depth"][2], DEPTH[2])


def test_an_interrupted_stage_by_frame_leaves_nothing(tmp_path):
    def stopped():
        yield {"depth": DEPTH[0]}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Journal("k", tmp_path).run_by_frame("fusion", stopped, len(DEPTH))
    assert not list(tmp_path.iterdir())
