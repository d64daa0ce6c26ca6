"""Lookup in a latency table: exact on the grid, bilinear between, monotone, honest about alignment and about gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from slimtask.compress.latency.table import Entry, LatencyTable, LayerShape, effective_count
from slimtask.errors import InputError

SHAPE = LayerShape(kind="conv", size=(14, 14), kernel=(3, 3), padding=(1, 1))
GRID = (4, 16, 32, 64)


def bilinear(n: float, m: float) -> float:
    return 0.1 + 0.02 * n + 0.03 * m + 0.004 * n * m


def entry(**changes: object) -> Entry:
    grid = tuple(tuple(bilinear(n, m) for m in GRID) for n in GRID)
    return Entry(**{"shape": SHAPE, "inputs": GRID, "outputs": GRID, "ms": grid, **changes})


def table(*entries: Entry) -> LatencyTable:
    return LatencyTable(device="test", backend="none", version="1", threads=1, entries=entries)


def test_a_bilinear_time_is_reproduced_between_grid_points() -> None:
    counts = [4, 7, 16, 20, 33, 48, 63, 64]
    expected = [[bilinear(n, m) for m in counts] for n in counts]
    np.testing.assert_allclose(table(entry()).grid_ms(SHAPE, counts, counts), expected, rtol=1e-12)


def test_noise_never_makes_a_smaller_layer_slower() -> None:
    noisy = np.array(entry().ms) * np.random.default_rng(0).uniform(1.0, 3.0, (4, 4))
    times = table(entry(ms=tuple(map(tuple, noisy.tolist())))).grid_ms(SHAPE, range(1, 65), range(1, 65))
    assert (np.diff(times, axis=0) >= -1e-12).all()
    assert (np.diff(times, axis=1) >= -1e-12).all()
    assert times[-1, -1] == noisy[-1, -1]


def test_padded_counts_cost_their_block_and_worse_ones_more() -> None:
    padded = table(entry(output_penalty=(1.0, 1.0, 1.0, 1.0)))
    assert padded.ms(SHAPE, 64, 33) == pytest.approx(bilinear(64, 48))
    assert padded.ms(SHAPE, 64, 48) == pytest.approx(bilinear(64, 48))
    worse = table(entry(input_penalty=(2.0, 0.0, 0.0, 0.0)))
    assert worse.ms(SHAPE, 17, 64) == pytest.approx(bilinear(48, 64))
    assert worse.ms(SHAPE, 18, 64) == pytest.approx(bilinear(18, 64))


@pytest.mark.parametrize(("count", "expected"), [(5, 5), (16, 16), (17, 32), (24, 28), (40, 44), (50, 50)])
def test_effective_count_by_alignment(count: int, expected: float) -> None:
    assert effective_count(count, (4, 50, 64), (1.0, 0.0, 0.0, 0.75)) == expected


def test_a_depthwise_layer_is_looked_up_by_its_outputs() -> None:
    shape = LayerShape(kind="depthwise", size=(7, 7))
    one = Entry(shape=shape, inputs=(1,), outputs=(16, 32), ms=((0.5, 1.0),))
    assert table(one).ms(shape, 999, 24) == pytest.approx(0.75)


def test_an_unmeasured_shape_is_named() -> None:
    with pytest.raises(InputError, match="has no conv"):
        table().ms(SHAPE, 4, 4)


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="one time per pair"):
        entry(inputs=(4, 16))
    with pytest.raises(ValidationError, match="must rise"):
        entry(inputs=(4, 32, 16, 64))


def test_joined_replaces_and_json_returns_the_same_table() -> None:
    slower = entry(ms=tuple(tuple(2 * t for t in row) for row in entry().ms))
    joined = table(entry()).joined([slower])
    assert joined.entries == (slower,)
    assert joined.ms(SHAPE, 32, 32) == pytest.approx(2 * bilinear(32, 32))
    assert LatencyTable.model_validate_json(joined.model_dump_json()).entries == joined.entries


@pytest.mark.parametrize("kind", ["conv", "transposed"])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [(3, 2, 1, 1), (5, 1, 0, 2), (2, 2, 0, 1)])
def test_output_size_is_that_of_torch(kind: str, kernel: int, stride: int, padding: int, dilation: int) -> None:
    make = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
    module = make(1, 1, kernel, stride, padding, dilation=dilation)
    pair = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": (padding,) * 2, "dilation": (dilation,) * 2}
    shape = LayerShape(kind=kind, size=(13, 17), **pair)
    assert shape.out_size == tuple(module(torch.zeros(1, 1, 13, 17)).shape[-2:])
