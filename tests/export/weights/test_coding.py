"""Matrices told by others: decoding gives them back to the bit, and stores no more than what is new."""

import numpy as np
import pytest

from slimtask.export.weights.coding import Pool


@pytest.fixture
def base():
    return np.random.default_rng(0).standard_normal((48, 32)).astype(np.float32)


@pytest.fixture
def pool(base):
    made = Pool()
    made.add(np.random.default_rng(1).standard_normal((48, 32)).astype(np.float32))
    made.add(base)
    return made


def changed(base, where):
    task = base.copy()
    task[where] += np.random.default_rng(2).standard_normal(task[where].shape).astype(np.float32)
    return task


ROWS, COLUMNS = ([3, 40],), (slice(None), [0, 31])
SCATTERED = (np.arange(0, 48, 4), np.arange(0, 36, 3) % 32)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("where", "stored"),
    [(ROWS, 2 * 32 + 2), (COLUMNS, 2 * 48 + 2), (SCATTERED, 12 + 12)],
    ids=["rows", "columns", "few"],
)
def test_what_changed_is_stored_and_its_places(base, pool, where, stored, transposed):
    task = changed(base, where)
    matrix = np.ascontiguousarray(task.T) if transposed else task
    coding = pool.code(matrix)
    np.testing.assert_array_equal(pool.decode(coding), matrix)
    assert coding.bytes == 4 * stored
    assert [number for number, _ in coding.sources] == [1]


def test_a_wide_layer_is_the_base_and_the_tasks_rows_in_order(base, pool):
    own = [np.random.default_rng(seed).standard_normal((3, 32)).astype(np.float32) for seed in (3, 4)]
    pool.add(own[0])
    wide = np.concatenate([base, *own])
    coding = pool.code(wide)
    np.testing.assert_array_equal(pool.decode(coding), wide)
    assert (coding.index, coding.sources) == (None, ((1, False), (2, False)))
    np.testing.assert_array_equal(coding.new, own[1])  # the other task's rows are known
    mixed = np.concatenate([base[:24], own[0], base[24:], own[1]])  # as query, key and value rows of heads lie
    assert pool.code(mixed).bytes == own[1].nbytes + 4 * len(mixed)
    np.testing.assert_array_equal(pool.decode(pool.code(mixed)), mixed)


def test_a_correction_takes_the_bases_columns_negative(base, pool):
    new = np.random.default_rng(5).standard_normal((4, 48)).astype(np.float32)
    weight = np.concatenate([new, -base[:, [1, 5, 9, 30]].T])
    coding = pool.code(weight)
    np.testing.assert_array_equal(pool.decode(coding), weight)
    assert coding.bytes == new.nbytes + 2 * 4 * 8
    np.testing.assert_array_equal(pool.decode(pool.code(weight.T)), weight.T)


def test_the_same_matrix_needs_nothing(base, pool):
    assert pool.code(base).same
    across = pool.code(np.ascontiguousarray(base.T))
    assert not across.same
    assert across.bytes == 0


def test_what_is_no_kin_stays_as_it_is(base, pool):
    other = np.random.default_rng(6).standard_normal((48, 32)).astype(np.float32)
    assert pool.code(other) is None
    assert pool.code(np.zeros_like(base)) is None
    assert pool.code(other[:, :31]) is None
    halves = changed(base, (slice(0, 40),))  # most rows changed
    assert pool.code(halves) is None


def test_half_precision_too(base):
    half = base.astype(np.float16)
    pool = Pool()
    pool.add(half)
    task = changed(half, ROWS)
    np.testing.assert_array_equal(pool.decode(pool.code(task)), task)


def test_the_sign_of_a_zero_is_kept(base):
    """Zeros of either sign, in rows taken as they are, taken negative, and overwritten; the comparison is of bytes."""
    base[:, ::5] = np.where(np.arange(48)[:, None] % 3 == 0, np.float32(-0.0), np.float32(0))
    pool = Pool()
    pool.add(base)
    few, most = base.copy(), base.copy()
    few[[1, 30], 5] *= -1  # other zeros, nothing else
    most[4:40] = np.random.default_rng(7).standard_normal((36, 32))
    new = np.random.default_rng(8).standard_normal((4, 48)).astype(np.float32)
    negative = np.concatenate([new, -base[:, [1, 6, 9, 30]].T])
    known = base.copy()
    known[0, 3] = np.nan
    for matrix in (few, most[:4].repeat(4, axis=0), negative, known):
        coding = pool.code(matrix)
        assert pool.decode(coding).tobytes() == matrix.tobytes()
        assert not coding.same
    assert pool.code(few).bytes == 2 * (4 + 4)
    assert pool.code(known).bytes == 4 + 4


def test_a_matrix_of_another_dtype_tells_nothing(base):
    half = base.astype(np.float16)
    pool = Pool()
    pool.add(half)
    assert pool.code(half.astype(np.float32)) is None
