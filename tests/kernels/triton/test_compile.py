"""What the compiler makes of the kernels without a GPU; arguments agree with the kernels they are of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slimtask.kernels.triton.compile import EPILOGUES, KERNELS, Compiled, Variant, compile_variant
from slimtask.kernels.triton.tiles import GPUS, RAGGED, Tile, block_tile, candidates, row_tile

ROOT = Path(__file__).parents[3]
TILE = Tile(rows=64, outputs=64, inputs=64, warps=4, stages=4)
UNDER_THE_INTERPRETER = """
from slimtask.kernels.triton.compile import Variant, compile_variant
from slimtask.kernels.triton.tiles import block_tile
compile_variant(Variant(kernel="blocks", sm=80, dtype="bfloat16", tile=block_tile(80)))
"""
VIT_FC1 = {"tasks": 4, "rows": 1024, "outputs": 3072, "inputs": 768}


def rows(sm: int, **changes: object) -> Variant:
    settings = {"epilogue": "bias_gelu", "scatter": True, "tile": row_tile(sm, **VIT_FC1), **changes}
    return Variant(**{"kernel": "rows", "sm": sm, "dtype": "bfloat16", **settings})


def blocks(sm: int, **changes: object) -> Variant:
    settings = {"epilogue": "bias_residual", "tile": block_tile(sm), **changes}
    return Variant(**{"kernel": "blocks", "sm": sm, "dtype": "bfloat16", **settings})


@pytest.fixture(scope="module")
def hopper() -> Compiled:
    return compile_variant(rows(90))


@pytest.fixture(scope="module")
def artifacts(hopper: Compiled) -> dict[tuple[str, int], Compiled]:
    """Return both kernels for the two generations of tensor cores, and one of each for the rest."""
    variants = [rows(80), rows(89), rows(120), blocks(86), blocks(90), blocks(120)]
    compiled = {(variant.kernel, variant.sm): compile_variant(variant) for variant in variants}
    return {("rows", 90): hopper, **compiled}


def test_all_compute_capabilities_are_compiled_for(artifacts) -> None:
    assert {sm for _, sm in artifacts} == set(GPUS)


def test_tensor_cores_do_the_products(artifacts) -> None:
    for (_, sm), artifact in artifacts.items():
        assert (artifact.counts.wgmma > 0) == (sm == 90)
        assert (artifact.counts.mma > 0) == (sm != 90)


def test_copies_are_asynchronous_and_16_bytes_wide(artifacts) -> None:
    for artifact in artifacts.values():
        assert artifact.counts.cp_async_16 >= 8
        assert artifact.counts.loads_narrow <= 1  # the bias, once for each output


def test_nothing_is_spilled(artifacts) -> None:
    for artifact in artifacts.values():
        assert artifact.counts.spills == artifact.counts.stack_bytes == 0
        assert 0 < artifact.counts.registers * artifact.threads <= 65536


def test_shared_memory_is_what_the_table_says_and_fits(artifacts) -> None:
    for (kernel, sm), artifact in artifacts.items():
        assert 0 < artifact.shared_bytes <= GPUS[sm].shared_bytes
        if kernel == "rows":
            tile = row_tile(sm, **VIT_FC1)
            assert artifact.shared_bytes == tile.shared_bytes(sm, 16)
        if sm != 90:
            assert artifact.shared_bytes <= 48 * 1024


def test_without_the_promised_multiples_nothing_is_pipelined() -> None:
    """The trap: this is what Triton makes ahead of time of the same kernel when nobody promises alignment."""
    bare = compile_variant(rows(80), hints=False)
    assert bare.counts.cp_async == bare.counts.loads_16 == 0
    assert bare.counts.loads_narrow > 16
    assert bare.counts.mma > 0


def test_a_ragged_variant_compiles_without_spills() -> None:
    artifact = compile_variant(rows(80, aligned=False, tile=RAGGED))
    assert artifact.counts.spills == 0
    assert artifact.counts.mma > 0


def test_the_largest_blocks_in_float32_spill_nothing() -> None:
    tile = block_tile(80, height=128, width=128, bits=32)
    artifact = compile_variant(Variant(kernel="blocks", sm=80, dtype="float32", tile=tile, epilogue="bias_gelu"))
    assert artifact.counts.spills == artifact.counts.stack_bytes == 0


def test_float32_stays_off_the_tensor_cores() -> None:
    artifact = compile_variant(rows(90, dtype="float32", tile=candidates(90, 32)[0]))
    assert artifact.counts.wgmma == artifact.counts.mma == artifact.counts.spills == 0
    assert "fma.rn.f32" in artifact.ptx


def test_the_same_variant_compiles_to_the_same_bytes_without_a_path(hopper: Compiled) -> None:
    again = compile_variant(rows(90))
    assert (again.ptx, again.cubin) == (hopper.ptx, hopper.cubin)
    assert ".py" not in hopper.ptx
    assert str(ROOT).encode() not in hopper.cubin


def test_under_the_interpreter_it_refuses_in_one_sentence() -> None:
    command, env = [sys.executable, "-c", UNDER_THE_INTERPRETER], {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ValueError: TRITON_INTERPRET is set, which replaces the compiler; unset it to compile ahead of time"
    )


def test_names_stay() -> None:
    variant = Variant(kernel="rows", sm=90, dtype="bfloat16", tile=TILE, epilogue="bias_gelu", scatter=True)
    assert variant.name == "rows_scatter_bf16_64x64x64_bias_gelu_sm90"


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
