"""What NVRTC makes of the kernels, without a GPU."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest

from slimtask.kernels.cuda.compile import Compiled, compile_kernel
from slimtask.kernels.cuda.variants import TARGETS, Variant
from slimtask.kernels.sass import counts, found

STREAMED = Variant(kernel="blocks", element="bfloat16", base="bfloat16", rows=128)
RESIDENT = Variant(kernel="blocks", element="float16", base="float32", rows=128, resident=True)
VECTORS = Variant(kernel="vectors", element="bfloat16", base="bfloat16", rows=128, height=64)
CSR = Variant(kernel="csr", element="bfloat16", base="bfloat16", rows=64, resident=True)
TRANSPOSE = Variant(kernel="transpose", element="bfloat16", base="bfloat16")
# One kernel for every target, the others for the first and the last of them or for Hopper: compiling takes a second.
MATRIX = [*((STREAMED, sm) for sm in TARGETS), (RESIDENT, 90), (VECTORS, 80), (VECTORS, 120)]

PTX_THEN_BYTES = """
from slimtask.kernels.cuda.compile import compile_kernel
from slimtask.kernels.cuda.variants import Variant
compile_kernel(Variant(kernel="transpose", element="bfloat16", base="bfloat16"), "compute_80")
print([value for value in range(256) if bytes([value])[0] != value])
"""


@cache
def compiled(variant: Variant, target: str) -> Compiled:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    return compile_kernel(variant, target)


@pytest.mark.parametrize(("variant", "sm"), MATRIX, ids=lambda value: getattr(value, "name", value))
def test_products_use_tensor_cores_asynchronous_copies_and_no_local_memory(variant, sm):
    one = compiled(variant, f"sm_{sm}")
    made = counts(one.ptx, one.cubin)
    assert made.mma == 32  # two by four fragments, four steps of 16 inputs
    assert made.wgmma == 0
    assert made.cp_async_16 == made.cp_async >= 2
    assert found(r"ldmatrix\.sync", one.ptx) == 16
    assert made.spills == one.spill_bytes == made.stack_bytes == 0
    assert made.registers == one.registers <= 65536 // (variant.threads * variant.per_multiprocessor)


def test_single_entries_stay_in_registers():
    one = compiled(CSR, "sm_90")
    made = counts(one.ptx, one.cubin)
    assert made.mma == 0
    assert made.cp_async_16 == made.cp_async >= 1
    assert made.spills == one.spill_bytes == made.stack_bytes == 0
    assert one.registers <= 65536 // (CSR.threads * CSR.per_multiprocessor)


def test_ptx_alone_serves_every_later_gpu():
    one = compiled(TRANSPOSE, "compute_80")
    assert ".target sm_80" in one.ptx
    assert ".visible .entry transpose(" in one.ptx
    assert (one.cubin, one.registers, one.image[-1]) == (b"", 0, 0)


def test_an_empty_log_is_not_written_into_an_object_of_the_interpreter():
    """NVRTC's log of PTX alone is one NUL; CPython holds each `bytes` of length one once, so b" " must not take it."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    done = subprocess.run([sys.executable, "-c", PTX_THEN_BYTES], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_parameters_are_pointers_then_32_bit_integers_then_the_output():
    one = compiled(STREAMED, "sm_90")
    kinds = [line.split()[1] for line in one.ptx.splitlines() if line.strip().startswith(".param .")]
    assert kinds[:13] == [".u64"] * 7 + [".u32"] * 5 + [".u64"]


def test_an_unknown_target_is_named():
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    with pytest.raises(RuntimeError, match="NVRTC cannot compile transpose-bfloat16-bfloat16-64x64 for sm_12"):
        compile_kernel(TRANSPOSE, "sm_12")


def test_without_nvrtc_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(RuntimeError, match="install nvidia-cuda-nvrtc and cuda-bindings"):
        compile_kernel(TRANSPOSE, "sm_91")
