"""The variants compiled ahead of time: names, arguments and grids agree with the kernels they are of."""

from __future__ import annotations

from itertools import product

import pytest

from slimtask.kernels.triton.tiles import GPUS, Tile, block_tile
from slimtask.kernels.triton.variants import EPILOGUES, KERNELS, Variant, shipped

TILE = Tile(rows=64, outputs=64, inputs=64, warps=4, stages=4)


def test_names_differ_and_stay() -> None:
    variants = list(shipped())
    assert len({variant.name for variant in variants}) == len(variants)
    variant = Variant(kernel="rows", sm=90, dtype="bfloat16", tile=TILE, epilogue="bias_gelu", scatter=True)
    assert variant.name == "rows_scatter_bf16_64x64x64_bias_gelu_sm90"


def test_every_device_gets_every_kernel_epilogue_and_a_ragged_form() -> None:
    found = {(v.sm, v.dtype, v.kernel, v.epilogue, v.aligned) for v in shipped()}
    dtypes = ("bfloat16", "float16")
    assert found == set(product(GPUS, dtypes, KERNELS, EPILOGUES, (True, False)))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_arguments_and_constants_are_the_kernels_parameters_in_order(kernel: str, epilogue: str) -> None:
    variant = Variant(kernel=kernel, sm=80, dtype="float16", tile=TILE, epilogue=epilogue)
    names = variant.function().arg_names
    assert sorted([*variant.arguments, *variant.constants]) == sorted(names)
    assert [name for name in names if name in variant.arguments] == list(variant.arguments)
    assert ("residual" in variant.arguments) == (epilogue == "bias_residual")


def test_a_ragged_variant_promises_nothing_about_sizes() -> None:
    aligned = Variant(kernel="blocks", sm=80, dtype="float16", tile=block_tile(80))
    ragged = Variant(kernel="blocks", sm=80, dtype="float16", tile=block_tile(80), aligned=False)
    assert {"K", "M"} <= set(aligned.divisible)
    assert set(aligned.divisible) - set(ragged.divisible) == {"K", "M"}
    assert "N" not in aligned.divisible


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"dtype": "float64"}, "no dtype 'float64' to compile ahead of time; take one of bfloat16, float16, float32"),
        ({"kernel": "csr"}, "no kernel 'csr' to compile ahead of time; take one of rows, blocks"),
        ({"epilogue": "relu"}, "no epilogue 'relu' to compile ahead of time; take one of bias, bias_gelu, .*"),
    ],
)
def test_an_unknown_variant_is_refused(changed: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Variant(**{"kernel": "rows", "sm": 80, "dtype": "float16", "tile": TILE, **changed})
