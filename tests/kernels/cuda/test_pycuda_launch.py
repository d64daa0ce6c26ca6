from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from slimtask.kernels.cuda import pycuda_launch
from slimtask.kernels.cuda.calls import pitch
from slimtask.kernels.cuda.compile import compile_kernel, save
from slimtask.kernels.cuda.pycuda_launch import PycudaKernels
from slimtask.kernels.cuda.variants import Gpu, Variant
from slimtask.kernels.layouts import BlockLayout, CsrLayout, VectorLayout

GPU = Gpu(sm=90, multiprocessors=3, shared_bytes=99 * 1024)


class Array:
    """An array of PyCUDA's, in main memory."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.ptr = values.ctypes.data
        self.flags = SimpleNamespace(c_contiguous=values.flags.c_contiguous)


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    kept = np.repeat(np.repeat(generator.random((2, 2, 3)) < 0.5, 32, 1), 64, 2)[:, :40, :136]
    return {
        "delta": (generator.normal(size=(2, 40, 136)) / 12 * kept).astype(np.float16),
        "x": generator.normal(size=(13, 136)).astype(np.float16),
        "base": generator.normal(size=(13, 40)).astype(np.float32),
        "residual": generator.normal(size=(13, 40)).astype(np.float16),
    }


def exact(given: dict[str, np.ndarray]) -> np.ndarray:
    x, delta = given["x"].astype(np.float64), given["delta"].astype(np.float64)
    return given["base"] + np.einsum("nk,tmk->tnm", x, delta) + given["residual"]


def run_all(kernels: PycudaKernels, given: dict[str, np.ndarray], to_device, to_host) -> None:
    x, base, residual = (to_device(given[name]) for name in ("x", "base", "residual"))
    x_t = to_device(np.empty((136, pitch(13)), dtype=np.float16))
    kernels.transpose(x, x_t)
    runs = ((BlockLayout, kernels.blocks, x), (VectorLayout, kernels.vectors, x_t), (CsrLayout, kernels.csr, x_t))
    for layout, run, source in runs:
        arrays = [to_device(array) for array in layout.pack(given["delta"]).arrays().values()]
        y = to_device(np.full((2, 13, 40), np.nan, dtype=np.float16))
        run(*arrays, source, base, y, residual=residual)
        np.testing.assert_allclose(to_host(y), exact(given), rtol=6e-4, atol=1e-5)


def test_the_same_kernels_run_on_arrays_that_are_not_torchs(simulator, monkeypatch):
    monkeypatch.setattr(pycuda_launch, "_current_gpu", lambda: GPU)
    monkeypatch.setattr(PycudaKernels, "_run", lambda self, call, stream: simulator.run(call))
    run_all(PycudaKernels(), inputs(), Array, lambda array: array.values)
    assert [call.variant.kernel for call in simulator.calls] == ["transpose", "blocks", "vectors", "csr"]


def test_bits_of_bfloat16_are_uint16_and_strided_arrays_are_refused():
    assert pycuda_launch._buffer(Array(np.zeros((2, 3), dtype=np.uint16))).dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"an array of shape \[3, 2\] is not contiguous"):
        pycuda_launch._buffer(Array(np.zeros((2, 3)).T))


def test_no_torch_is_imported():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['jaxtyping'] = None; "
        "import slimtask.kernels.cuda.pycuda_launch; print('slimtask.kernels.cuda.calls' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.gpu
def test_cubins_from_a_folder_run_on_pycudas_arrays(tmp_path):
    cuda = pytest.importorskip("pycuda.driver", reason="PyCUDA is not installed")
    from pycuda import gpuarray

    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        run_all(PycudaKernels(), inputs(), gpuarray.to_gpu, lambda array: array.get())
        kernels = PycudaKernels(tmp_path)
        one = Variant(kernel="transpose", element="float16", base="float16")
        save(compile_kernel(one, f"sm_{kernels._gpu.sm}"), tmp_path)
        x = gpuarray.to_gpu(inputs()["x"])
        x_t = gpuarray.to_gpu(np.ones((136, 16), dtype=np.float16))
        kernels.transpose(x, x_t)
        np.testing.assert_array_equal(x_t.get()[:, :13], inputs()["x"].T)
        assert not x_t.get()[:, 13:].any()
    finally:
        context.pop()
