"""Streams that are stacked, and rows chosen, gathered and put back, against loops and the definition's mask."""

from __future__ import annotations

import pytest
import torch

from slimtask.compress.structures.patterns import Rows
from slimtask.export.shared.streams import Streams, advance, advance_all, freshest, put, stacked, take


def test_the_rows_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    own, base = torch.randn(3, 11, 4), torch.randn(3, 11, 4)
    rows = freshest(own, base, 4)
    mask = torch.zeros(33, dtype=torch.bool)
    mask[rows] = True
    assert mask.sum() == 12
    assert torch.equal(mask.view(3, 11, 1), Rows.project(own - base, 4 / 11))


def test_taking_and_putting_back() -> None:
    x = torch.arange(2 * 5 * 3.0).view(2, 5, 3)
    rows = torch.tensor([4, 0, 5, 7])
    assert torch.equal(take(x, rows), torch.stack([x[0, [4, 0]], x[1, [0, 2]]]))
    changed = put(x, rows, -take(x, rows))
    for image in range(2):
        for token in range(5):
            sign = -1 if (image, token) in ((0, 4), (0, 0), (1, 0), (1, 2)) else 1
            assert torch.equal(changed[image, token], sign * x[image, token])


def test_large_differences_are_told_apart_in_half_precision() -> None:
    """Squares beyond 65504, the largest number of float16: the streams of transformers have channels of hundreds."""
    own = torch.zeros(1, 6, 4)
    own[0, :, 1] = torch.tensor([10.0, 400.0, 300.0, 500.0, 600.0, 700.0])
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        near = torch.zeros(1, 6, 4, dtype=dtype)
        assert set(freshest(own.to(dtype), near, 2).tolist()) == {4, 5}
        assert Rows.project(own.to(dtype) - near, 2 / 6).flatten().tolist() == [False] * 4 + [True] * 2


def test_a_task_that_goes_on_alone_leaves_no_old_stack() -> None:
    streams: Streams = {}
    advance_all(streams, ("a", "b"), torch.tensor([[1.0], [2.0]]))
    assert torch.equal(stacked(streams, ("a", "b")), torch.tensor([[1.0], [2.0]]))
    advance(streams, "b", torch.tensor([5.0]))
    assert torch.equal(stacked(streams, ("a", "b")), torch.tensor([[1.0], [5.0]]))
    advance_all(streams, ("b", "c"), torch.tensor([[6.0], [7.0]]))
    assert torch.equal(stacked(streams, ("a", "b")), torch.tensor([[1.0], [6.0]]))
    with pytest.raises(KeyError, match="d"):
        stacked(streams, ("a", "d"))
