"""The table of tiles: what it picks by hand-computed waves, and that no tile asks for more than a GPU has."""

from __future__ import annotations

import pytest

from slimtask.kernels.triton.tiles import GPUS, RAGGED, Tile, block_tile, candidates, row_tile


def test_a_large_product_takes_the_largest_tile() -> None:
    tile = row_tile(90, tasks=4, rows=2048, outputs=4096, inputs=1024)
    assert (tile.rows, tile.outputs, tile.inputs, tile.warps, tile.stages) == (128, 128, 64, 8, 4)


def test_few_changed_rows_take_low_tiles() -> None:
    """60 rows of 12 x 64 outputs: 128 rows would be computed more than twice over for nothing."""
    assert row_tile(90, tasks=1, rows=60, outputs=768, inputs=768).rows == 64


def test_the_waves_decide_between_two_tiles() -> None:
    """T = 3, R = 103, M = 3072 on 132 multiprocessors.

    128 x 128: 72 programs, one wave of 16384 products an input at full reuse. 128 x 64: 144 programs, two waves of
    8192 at 43 / 64. 64 x 128: the same number and rate. 64 x 64: 288 programs, three waves of 4096 at half.
    The costs are 16384, 24576, 24576 and 24576.
    """
    tile = row_tile(90, tasks=3, rows=103, outputs=3072, inputs=768)
    assert (tile.rows, tile.outputs) == (128, 128)


def test_a_short_reduction_has_no_more_stages_than_steps() -> None:
    assert row_tile(90, tasks=4, rows=2048, outputs=4096, inputs=192).stages == 3
    assert row_tile(90, tasks=4, rows=2048, outputs=4096, inputs=16).stages == 2


@pytest.mark.parametrize("sm", GPUS)
@pytest.mark.parametrize("bits", [16, 32])
def test_every_tile_fits_into_shared_memory(sm: int, bits: int) -> None:
    limit = GPUS[sm].shared_bytes if sm == 90 else 48 * 1024
    for tile in (*candidates(sm, bits), block_tile(sm, bits=bits), block_tile(sm, bits=bits, even=False), RAGGED):
        assert tile.shared_bytes(sm, bits) <= limit
    wide = block_tile(sm, height=32, width=128, bits=bits)
    assert wide.shared_bytes(sm, bits) <= GPUS[sm].shared_bytes


def test_sizes_that_are_no_multiples_of_16_take_the_ragged_tile() -> None:
    sizes = {"tasks": 4, "rows": 2048}
    assert (
        row_tile(90, outputs=4096, inputs=1001, **sizes) == row_tile(80, outputs=4001, inputs=1024, **sizes) == RAGGED
    )
    assert block_tile(90, even=False).warps == 2 * block_tile(90).warps


def test_a_newer_device_than_the_table_knows_takes_the_nearest_older_entry() -> None:
    sizes = {"tasks": 3, "rows": 300, "outputs": 768, "inputs": 768}
    assert row_tile(87, **sizes) == row_tile(86, **sizes)
    assert row_tile(121, **sizes) == row_tile(120, **sizes)


def test_a_device_without_bf16_tensor_cores_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^compute capability 7\.5 is too old for these kernels; 8\.0 is the oldest$"):
        row_tile(75, tasks=1, rows=16, outputs=16, inputs=16)


def test_intensity_is_products_over_operands() -> None:
    assert Tile(rows=128, outputs=64, inputs=64, warps=4, stages=2).intensity == pytest.approx(128 * 64 / 192)
