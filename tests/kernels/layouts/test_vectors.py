from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtask.kernels.dtypes import bfloat16
from slimtask.kernels.layouts import VectorLayout


def random_delta(shape: tuple[int, ...], density: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) * (generator.random(shape) < density)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 19), st.integers(1, 40)),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.integers(0, 99),
    st.integers(1, 8),
)
def test_vectors_give_back_what_they_packed(
    shape: tuple[int, int, int], density: float, seed: int, height: int
) -> None:
    delta = random_delta(shape, density, seed)
    layout = VectorLayout.pack(delta, height=height)
    np.testing.assert_array_equal(layout.dense(), delta)
    again = VectorLayout.from_arrays(layout.arrays(), **layout.sizes())
    np.testing.assert_array_equal(again.dense(), delta)
    assert layout.column.shape[2] % 16 == 0
    assert layout.column.shape[2] > 0


def test_vectors_of_a_known_matrix() -> None:
    delta = np.zeros((1, 3, 20), dtype=np.float32)
    delta[0, 0, 0], delta[0, 1, 7], delta[0, 2, 19] = 1, 2, 3
    layout = VectorLayout.pack(delta, height=2)
    assert layout.column[0, :, :3].tolist() == [[0, 7, 0], [19, 0, 0]]
    assert layout.value[0, 0, :, :2].tolist() == [[1, 0], [0, 2]]
    assert layout.value.shape == (1, 2, 2, 16)
    assert list(layout.arrays()) == ["column", "value"]
    assert VectorLayout.pack(delta, height=2, budget=17).column.shape[2] == 32


@pytest.mark.parametrize("dtype", [np.float64, np.float16, bfloat16()])
def test_other_dtypes_round_trip(dtype: object) -> None:
    delta = random_delta((2, 5, 12), 0.2, 3).astype(dtype)
    np.testing.assert_array_equal(VectorLayout.pack(delta, height=2).dense(), delta)


def test_a_delta_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="a list of 40 inputs exceeds the budget of 16; raise it or prune"):
        VectorLayout.pack(np.ones((1, 2, 40), np.float32), budget=16)
    with pytest.raises(ValueError, match="height of 0 outputs"):
        VectorLayout.pack(np.ones((1, 2, 40), np.float32), height=0)


def test_wrong_vectors_are_one_sentence() -> None:
    delta = np.zeros((1, 3, 20), dtype=np.float32)
    delta[0, 0, 3], delta[0, 1, 7], delta[0, 2, 19] = 1, 2, 3
    layout = VectorLayout.pack(delta, height=2)
    column, value = layout.column.copy(), layout.value.copy()
    column[0, 0, 0] = 20
    with pytest.raises(ValueError, match="the index 20 in column, which must be 0 to 19"):
        replace(layout, column=column)
    column[0, 0, 0] = 7
    with pytest.raises(ValueError, match="a list that does not rise"):
        replace(layout, column=column)
    value[0, 0, 0, 5] = 1
    with pytest.raises(ValueError, match="a list that does not rise"):
        replace(layout, value=value)
    value = layout.value.copy()
    value[0, 1, 1, 0] = 1
    with pytest.raises(ValueError, match="values beyond the 3 outputs"):
        replace(layout, value=value)
    with pytest.raises(ValueError, match="lists of 8 inputs, which must be a multiple of 16"):
        replace(layout, column=layout.column[..., :8], value=layout.value[..., :8])
