from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtask.kernels.dtypes import bfloat16
from slimtask.kernels.layouts import BlockLayout, CsrLayout, VectorLayout

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 19), st.integers(1, 23))


def random_delta(shape: tuple[int, ...], density: float, seed: int, dtype: object = np.float32) -> np.ndarray:
    generator = np.random.default_rng(seed)
    delta = generator.standard_normal(shape) * (generator.random(shape) < density)
    return delta.astype(dtype)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 99), st.integers(1, 8), st.integers(1, 8))
def test_sparse_layouts_give_back_what_they_packed(
    shape: tuple[int, int, int], density: float, seed: int, height: int, width: int
) -> None:
    delta = random_delta(shape, density, seed)
    csr, blocks = CsrLayout.pack(delta), BlockLayout.pack(delta, height=height, width=width)
    for layout in (csr, blocks):
        np.testing.assert_array_equal(layout.dense(), delta)
        again = type(layout).from_arrays(layout.arrays(), **layout.sizes())
        np.testing.assert_array_equal(again.dense(), delta)
        assert all(array.flags.c_contiguous for array in layout.arrays().values())
        assert layout.start.dtype == layout.column.dtype == np.int32
    assert csr.value.size == np.count_nonzero(delta)


def test_csr_of_a_known_matrix() -> None:
    delta = np.array([[[0, 2, 0], [0, 0, 0]], [[0, 0, 0], [3, 0, 4]]], dtype=np.float32)
    layout = CsrLayout.pack(delta)
    assert layout.start.tolist() == [0, 1, 1, 1, 3]
    assert layout.column.tolist() == [1, 0, 2]
    assert layout.value.tolist() == [2, 3, 4]
    assert layout.bytes == 4 * (5 + 3 + 3)
    assert layout.dense_bytes == 48
    assert list(layout.arrays()) == ["start", "column", "value"]


def test_blocks_of_a_known_matrix_are_sorted_and_padded() -> None:
    delta = np.zeros((2, 3, 5), dtype=np.float32)
    delta[0, 2, 4] = 1  # the smaller block at the corner
    delta[1, 0, 3] = 2
    delta[1, 1, 0] = 3
    layout = BlockLayout.pack(delta, height=2, width=2)
    assert layout.start.tolist() == [0, 0, 1, 3, 3]
    assert layout.column.tolist() == [2, 0, 1]
    assert layout.value.tolist() == [[[1, 0], [0, 0]], [[0, 0], [3, 0]], [[0, 2], [0, 0]]]
    assert layout.sizes() == {"shape": (2, 3, 5), "height": 2, "width": 2}


def test_one_block_and_no_block() -> None:
    delta = np.zeros((3, 130, 70), dtype=np.float32)
    assert BlockLayout.pack(delta).value.shape == (0, 64, 64)
    delta[1, 129, 69] = 5
    layout = BlockLayout.pack(delta)
    assert layout.column.tolist() == [1]
    assert np.flatnonzero(np.diff(layout.start)).tolist() == [5]  # task 1, the third row of blocks


@pytest.mark.parametrize("layout", [CsrLayout, BlockLayout])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, bfloat16()])
def test_every_dtype_round_trips(layout: type[CsrLayout | BlockLayout], dtype: object) -> None:
    delta = random_delta((2, 9, 11), 0.3, 1).astype(dtype)
    packed = layout.pack(delta)
    assert packed.value.dtype == dtype
    assert packed.dtype == np.dtype(dtype).name
    np.testing.assert_array_equal(packed.dense(), delta)


def test_bits_of_bfloat16_are_values() -> None:
    bits = np.array([[[0x3F80, 0x8000, 0, 0xC000]]], dtype=np.uint16)  # 1, -0, 0, -2
    packed = CsrLayout.pack(bits)
    assert packed.dtype == "bfloat16"
    assert packed.column.tolist() == [0, 3]
    assert packed.value.tolist() == [0x3F80, 0xC000]


def test_permuted_tasks_permute_the_layout() -> None:
    delta = random_delta((3, 6, 7), 0.3, 2)
    order = [2, 0, 1]
    np.testing.assert_array_equal(BlockLayout.pack(delta[order], height=2, width=2).dense(), delta[order])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"column": np.array([1, 0, 9], np.int32)}, "the index 9 in column, which must be 0 to 2"),
        ({"column": np.array([1, -1, 2], np.int32)}, "the index -1 in column"),
        ({"column": np.array([1, 2, 2], np.int32)}, "do not rise within a row"),
        ({"column": np.array([1, 0, 2])}, "dtype int64, which must be int32"),
        ({"start": np.array([0, 2, 1, 1, 3], np.int32)}, "does not rise from 0 to 3"),
        ({"start": np.array([0, 1, 1, 3], np.int32)}, r"start of shape \[4\] instead of \[5\]"),
        ({"value": np.array([2, 3], np.float32)}, r"value of shape \[2\] instead of \[3\]"),
        ({"value": np.array([2, np.nan, 3], np.float32)}, "NaN or infinity in value"),
        ({"value": np.array([2, 3, 4])}, "dtype int64 cannot be packed"),
        ({"shape": (0, 2, 3)}, "each at least 1"),
    ],
)
def test_wrong_csr_is_one_sentence(change: dict[str, object], words: str) -> None:
    delta = np.array([[[0, 2, 0], [0, 0, 0]], [[0, 0, 0], [3, 0, 4]]], dtype=np.float32)
    with pytest.raises(ValueError, match=words) as error:
        replace(CsrLayout.pack(delta), **change)
    assert str(error.value).count("\n") == 0


def test_wrong_blocks_are_one_sentence() -> None:
    layout = BlockLayout.pack(np.ones((1, 3, 3), np.float32), height=2, width=2)
    with pytest.raises(ValueError, match="beyond the 3 outputs or 3 inputs"):
        replace(layout, value=np.ones_like(layout.value))
    with pytest.raises(ValueError, match="the index 2 in column, which must be 0 to 1, the columns of blocks"):
        replace(layout, column=np.array([0, 1, 0, 2], np.int32))
    with pytest.raises(ValueError, match="height and a width of at least 1"):
        BlockLayout.pack(np.ones((1, 3, 3), np.float32), height=0)
    with pytest.raises(ValueError, match=r"lacks or does not know: extra, value"):
        arrays = {**layout.arrays(), "extra": layout.column}
        BlockLayout.from_arrays({name: arrays[name] for name in arrays if name != "value"}, **layout.sizes())


def test_wrong_deltas_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"packs deltas \[tasks, outputs, inputs\], not of shape \[2, 2\]"):
        CsrLayout.pack(np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match="dtype int32 cannot be packed"):
        CsrLayout.pack(np.ones((1, 2, 2), np.int32))
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        BlockLayout.pack(np.full((1, 2, 2), np.inf, np.float32))


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
