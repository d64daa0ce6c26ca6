from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtask.kernels.dtypes import bfloat16
from slimtask.kernels.layouts import OutChannelLayout, RowLayout

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))


def channel_delta(shape: tuple[int, int, int], density: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    delta = generator.standard_normal(shape).astype(np.float32)
    return delta * (generator.random(shape[:2]) < density)[:, :, None]


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.sampled_from([0.0, 0.2, 0.6, 1.0]), st.integers(0, 99), st.integers(1, 5))
def test_channels_give_back_what_they_packed(
    shape: tuple[int, int, int], density: float, seed: int, multiple: int
) -> None:
    delta = channel_delta(shape, density, seed)
    packed = OutChannelLayout.pack(delta, multiple=multiple)
    np.testing.assert_array_equal(packed.dense(), delta)
    np.testing.assert_array_equal(OutChannelLayout.from_arrays(packed.arrays(), **packed.sizes()).dense(), delta)
    assert packed.channel.shape[1] % multiple == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 99))
def test_rows_give_back_what_they_packed(tasks: int, length: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((tasks, length)) < density
    layout = RowLayout.pack(mask, budget=length)
    np.testing.assert_array_equal(layout.dense(), mask)
    np.testing.assert_array_equal(RowLayout.of(layout.lists(), length).dense(), mask)
    assert layout.index.shape == (tasks, length)


def test_filling_repeats_the_last_channel_and_its_values() -> None:
    delta = np.zeros((3, 4, 2), dtype=np.float32)
    delta[0, 1], delta[0, 3], delta[1, 2] = 1, 2, 3
    layout = OutChannelLayout.pack(delta)
    assert layout.channel.tolist() == [[1, 3], [2, 2], [0, 0]]
    assert layout.count.tolist() == [2, 1, 0]
    assert layout.value[:, :, 0].tolist() == [[1, 2], [3, 3], [0, 0]]
    assert list(layout.arrays()) == ["channel", "count", "value"]


def test_a_channel_of_which_only_the_bias_changes_is_changed() -> None:
    delta, bias = np.zeros((2, 3, 2), np.float32), np.zeros((2, 3), np.float32)
    delta[0, 0], bias[0, 2] = 1, 4
    layout = OutChannelLayout.pack(delta, bias, multiple=4)
    assert layout.channel.tolist() == [[0, 2, 2, 2], [0, 0, 0, 0]]
    assert layout.bias is not None
    assert layout.bias.tolist() == [[0, 4, 4, 4], [0, 0, 0, 0]]
    dense = layout.dense_bias()
    assert dense is not None
    np.testing.assert_array_equal(dense, bias)
    np.testing.assert_array_equal(layout.dense(), delta)
    assert list(layout.arrays()) == ["channel", "count", "value", "bias"]
    again = OutChannelLayout.from_arrays(layout.arrays(), **layout.sizes())
    np.testing.assert_array_equal(again.bias, bias[:, [0, 2, 2, 2]] * [[1], [0]])


def test_rows_out_of_order_and_double_become_a_set() -> None:
    layout = RowLayout.of([np.array([5, 2, 5]), np.array([], int)], 6, budget=3)
    assert layout.index.tolist() == [[2, 5, 5], [0, 0, 0]]
    assert layout.count.tolist() == [2, 0]


@pytest.mark.parametrize("dtype", [np.float64, np.float16, bfloat16()])
def test_other_dtypes_round_trip(dtype: object) -> None:
    delta = channel_delta((2, 5, 12), 0.5, 3).astype(dtype)
    np.testing.assert_array_equal(OutChannelLayout.pack(delta).dense(), delta)


def test_a_budget_exceeded_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="task 1 changes 3 rows, its budget is 2; raise it or change fewer"):
        RowLayout.of([np.arange(1), np.arange(3)], 6, budget=2)
    with pytest.raises(ValueError, match="task 0 changes 4 output channels, its budget is 2"):
        OutChannelLayout.pack(np.ones((1, 4, 2), np.float32), budget=2)
    with pytest.raises(ValueError, match="task 0 names rows beyond 0 to 5"):
        RowLayout.of([np.array([6])], 6)
    with pytest.raises(ValueError, match=r"biases has shape \[1, 3\] instead of \[1, 4\]"):
        OutChannelLayout.pack(np.ones((1, 4, 2), np.float32), np.ones((1, 3), np.float32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"channel": np.array([[1, 4], [2, 2]], np.int32)},
            "the index 4 in channel, which must be 0 to 3, the outputs",
        ),
        ({"channel": np.array([[3, 1], [2, 2]], np.int32)}, "does not rise up to its count"),
        ({"channel": np.array([[1, 3], [2, 1]], np.int32)}, "repeat the last one"),
        ({"count": np.array([3, 1], np.int32)}, "the index 3 in count"),
        ({"count": np.array([2, 0], np.int32)}, "does not rise up to its count"),
        (
            {"value": np.array([[[1], [2]], [[3], [4]]], np.float32)},
            "filling that is not that of the channel it repeats",
        ),
        ({"value": np.ones((2, 1, 1), np.float32)}, r"value of shape \[2, 1, 1\] instead of \[2, 2, 1\]"),
    ],
)
def test_wrong_channels_are_one_sentence(change: dict[str, object], words: str) -> None:
    delta = np.zeros((2, 4, 1), dtype=np.float32)
    delta[0, 1], delta[0, 3], delta[1, 2] = 1, 2, 3
    with pytest.raises(ValueError, match=words):
        replace(OutChannelLayout.pack(delta), **change)


def test_wrong_rows_are_one_sentence() -> None:
    rows = RowLayout.of([np.array([1, 2])], 4)
    with pytest.raises(ValueError, match="the index 4 in index, which must be 0 to 3, the rows"):
        replace(rows, index=np.array([[1, 4]], np.int32))
