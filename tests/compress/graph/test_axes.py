"""Carrying facts through views and moves, against PyTorch moving the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from slimtask.compress.graph.axes import Mixed, move, reshape, squeeze_equal
from slimtask.compress.network.trace import record


class Apply(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def carried(function: Any, array: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return the array as the function's operations carry it."""
    tape = record(Apply(function), torch.zeros(shape))
    first = tape.operations[0].args[0]
    values = {first.number: array}
    for op in tape.operations:
        moved = move(op, values[op.args[0].number], op.args[0])
        assert moved is not None
        values |= {out.number: piece for out, piece in zip(op.outputs, moved, strict=False)}
    return [values[ref.number] for ref in tape.outputs.values()]


MOVES = {
    "flatten": lambda x: x.flatten(1),
    "heads": lambda x: x.permute(0, 2, 3, 1).reshape(2, 12, 3, 2).transpose(1, 2),
    "windows": lambda x: x.reshape(2, 6, 2, 2, 3, 1).permute(0, 2, 4, 1, 3, 5).reshape(-1, 6, 2),
    "slice": lambda x: x[:, 1:5:2],
    "select": lambda x: x[:, 3],
    "unsqueeze": lambda x: x.unsqueeze(2).squeeze(2).expand(2, 6, 4, 3),
    "chunk": lambda x: x.chunk(3, dim=1),
    "unbind": lambda x: x.unbind(1),
    "roll space": lambda x: x.roll(1, 3).flip(2),
    "mean over space": lambda x: x.mean((2, 3)),
    "keepdim": lambda x: x.amax((2, 3), keepdim=True),
    "softmax over space": lambda x: x.softmax(-1),
    "index": lambda x: x[:, :, torch.tensor([0, 2])],
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_fact_per_channel_arrives_where_the_channel_does(name: str) -> None:
    """Entries that hold their channel's number end up where the carried array says that channel is."""
    channel = np.arange(1, 7).reshape(1, 6, 1, 1)
    x = torch.from_numpy(np.broadcast_to(channel, (2, 6, 4, 3)).astype(np.float32).copy())
    outputs = MOVES[name](x)
    outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
    for output, array in zip(outputs, carried(MOVES[name], channel, (2, 6, 4, 3)), strict=True):
        if name.startswith("softmax"):
            continue  # the values change, their places do not
        assert np.array_equal(np.broadcast_to(array, output.shape), output.numpy().round())


@pytest.mark.parametrize(
    "mix",
    [
        *(lambda x: x.mean(1), lambda x: x.softmax(1), lambda x: x.roll(1, 1), lambda x: x[:, torch.tensor([0, 2])]),
        lambda x: F.max_pool3d(x.unsqueeze(1), (3, 1, 1), 1, (1, 0, 0)),  # as many, but each the largest of three
    ],
)
def test_what_runs_over_the_channels_is_named_so(mix: Any) -> None:
    with pytest.raises(Mixed):
        carried(mix, np.arange(6).reshape(1, 6, 1, 1), (2, 6, 4, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4), st.data())
def test_any_view_carries_any_array_as_numpy_does(old: list[int], data: Any) -> None:
    size = int(np.prod(old))
    new, rest = [], size
    while rest > 1:
        factor = data.draw(st.sampled_from([d for d in range(2, rest + 1) if rest % d == 0]))
        new.append(factor)
        rest //= factor
    new.insert(data.draw(st.integers(0, len(new))), 1)
    shape = [n if data.draw(st.booleans()) else 1 for n in old]
    array = np.arange(int(np.prod(shape))).reshape(shape)
    got = reshape(array, old, new)
    assert np.array_equal(np.broadcast_to(got, new), np.broadcast_to(array, old).reshape(new))


def test_nan_equals_itself_when_axes_are_squeezed() -> None:
    assert squeeze_equal(np.full((2, 3), np.nan)).shape == (1, 1)
    assert squeeze_equal(np.array([[1.0, np.nan], [1.0, np.nan]])).shape == (1, 2)
