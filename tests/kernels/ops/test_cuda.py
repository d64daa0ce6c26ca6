from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slimtask.kernels.layouts import BlockLayout, CsrLayout, RowLayout, VectorLayout
from slimtask.kernels.ops import STANDARD, chosen, cuda, delta_blocks, delta_csr, delta_rows, delta_vectors, tensors_of


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Let every kernel be there, and record what is launched: (module, function, positional, named)."""
    calls: list[Any] = []

    def kernel(module: str, name: str) -> Callable[..., Tensor]:
        def launch(*arguments: Any, **named: Any) -> Tensor:
            calls.append((module.removeprefix("slimtask.kernels."), name, arguments, named))
            return torch.zeros(1)

        return launch

    monkeypatch.setattr(cuda, "kernel", kernel)
    return calls


def test_blocks_go_to_the_kernel_that_is_made_for_them(launched: list[Any]) -> None:
    x, base = torch.ones(3, 70), torch.ones(3, 130)
    for height, dtype in ((64, torch.bfloat16), (32, torch.bfloat16), (64, torch.float32)):
        arrays = tensors_of(BlockLayout.pack(np.ones((2, 130, 70), np.float32), height=height))
        arrays["value"] = arrays["value"].to(dtype)
        assert cuda.blocks(*arrays.values(), x.to(dtype), base.to(dtype), gelu=True) is not None
    assert [call[:2] for call in launched] == [
        ("cuda.launch", "launch_blocks"),
        ("triton.blocks", "launch_blocks"),
        ("triton.blocks", "launch_blocks"),
    ]
    for _, _, positional, named in launched:
        assert [type(argument) for argument in positional] == [Tensor] * 5
        assert named == {"tasks": 2, "delta_bias_TM": None, "residual_NM": None, "gelu": True}


def test_what_no_kernel_fits_is_left_to_standard_operators(launched: list[Any]) -> None:
    arrays = tensors_of(BlockLayout.pack(np.ones((2, 130, 70)), height=24)).values()
    assert cuda.blocks(*arrays, torch.ones(3, 70), torch.ones(3, 130)) is None
    arrays = tensors_of(VectorLayout.pack(np.ones((1, 8, 8), np.float32), height=8)).values()
    assert cuda.vectors(*arrays, torch.ones(3, 8), torch.ones(3, 8)) is None
    arrays = tensors_of(BlockLayout.pack(np.ones((1, 256, 256), np.float32), height=256, width=256)).values()
    assert cuda.blocks(*arrays, torch.ones(3, 256), torch.ones(3, 256)) is None  # no GPU has the shared memory
    assert launched == []
    assert chosen("delta_rows", torch.float64) == chosen("delta_csr", torch.float64) == STANDARD
    assert chosen("delta_rows", torch.float16) == "slimtask.kernels.triton.rows"


class OnGpu(Tensor):
    """A tensor that says it lies on a GPU."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


@pytest.mark.parametrize(("capability", "launches"), [((7, 5), 0), ((8, 0), 4)])
def test_a_gpu_older_than_the_kernels_runs_standard_operators(
    launched: list[Any], monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], launches: int
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    x, base, delta = (
        torch.ones(3, 8).half().as_subclass(OnGpu),
        torch.ones(3, 40).half(),
        np.ones((2, 40, 8), np.float16),
    )
    for call, layout in ((cuda.blocks, BlockLayout), (cuda.vectors, VectorLayout), (cuda.csr, CsrLayout)):
        call(*tensors_of(layout.pack(delta)).values(), x, base)
    index = tensors_of(RowLayout.pack(np.ones((2, 3), bool))).values()
    cuda.rows(*index, torch.ones(2, 3, 8).as_subclass(OnGpu), torch.ones(2, 40, 8))
    assert len(launched) == launches


def test_vectors_csr_and_rows_are_handed_over(launched: list[Any]) -> None:
    x, base = torch.ones(3, 8).half(), torch.ones(3, 40).half()
    delta = np.ones((2, 40, 8), np.float16)
    assert cuda.vectors(*tensors_of(VectorLayout.pack(delta)).values(), x, base) is not None
    assert cuda.csr(*tensors_of(CsrLayout.pack(delta)).values(), x, base) is not None
    index = tensors_of(RowLayout.pack(np.ones((2, 3), bool))).values()
    assert cuda.rows(*index, torch.ones(2, 3, 8), torch.ones(2, 40, 8), gather=True) is not None
    assert [call[:2] for call in launched] == [
        ("cuda.launch", "launch_vectors"),
        ("cuda.launch", "launch_csr"),
        ("triton.rows", "launch_rows"),
    ]
    assert launched[0][3].keys() == {"delta_bias_TM", "residual_NM", "gelu"}
    assert launched[1][3]["tasks"] == 2
    assert launched[2][2][2].shape == (2, 40, 8)  # weights before inputs
    assert launched[2][3] == {"bias_TM": None, "residual": None, "gelu": False, "compact": False}


@pytest.mark.parametrize(
    ("module", "name", "more"),
    [
        ("cuda.launch", "launch_blocks", {"tasks"}),
        ("cuda.launch", "launch_vectors", set()),
        ("cuda.launch", "launch_csr", {"tasks"}),
        ("triton.blocks", "launch_blocks", {"tasks"}),
        ("triton.rows", "launch_rows", {"compact"}),
    ],
)
def test_launch_functions_take_what_they_are_given(module: str, name: str, more: set[str]) -> None:
    if module.startswith("triton"):
        pytest.importorskip("triton")
    source = importlib.import_module(f"slimtask.kernels.{module}")
    parameters = inspect.signature(getattr(source, name)).parameters
    rest = {"bias_TM", "residual"} if name == "launch_rows" else {"delta_bias_TM", "residual_NM"}
    assert {"gelu", *rest, *more} <= {each.name for each in parameters.values() if each.kind is each.KEYWORD_ONLY}
    positional = [each.name for each in parameters.values() if each.kind is not each.KEYWORD_ONLY]
    expected = {
        "launch_blocks": ["start", "column", "value", "x_NK", "base_NM"],
        "launch_vectors": ["column", "value", "x_NK", "base_NM"],
        "launch_csr": ["start", "column", "value", "x_NK", "base_NM"],
        "launch_rows": ["index_TR", "count_T", "weight_TMK", "x"],
    }
    assert positional == expected[name]


def test_a_module_that_cannot_be_imported_is_no_kernel() -> None:
    assert cuda.kernel("slimtask.kernels.nowhere", "launch") is None
    assert cuda.kernel("slimtask.kernels.dtypes", "launch") is None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernels_are_the_standard_operators(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, base, bias = torch.randn(70, 200).to(dtype), torch.randn(70, 130), torch.randn(2, 130).to(dtype)
    delta = np.random.default_rng(0).standard_normal((2, 130, 200)).astype(np.float32)
    delta[:, 64:] = 0
    index, count = tensors_of(RowLayout.of([np.arange(9), np.arange(3, 5)], 70)).values()
    forms: list[tuple[Any, list[Any]]] = [(delta_rows, [index, count, torch.randn(2, 70, 200).to(dtype)])]
    forms[0][1].extend([torch.randn(2, 130, 200).to(dtype), bias, base.to(dtype), True, True])
    layouts = (BlockLayout.pack(delta), VectorLayout.pack(delta), CsrLayout.pack(delta))
    for operator, layout in zip((delta_blocks, delta_vectors, delta_csr), layouts, strict=True):
        arrays = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors_of(layout).values()]
        forms.append((operator, [*arrays, x, base, bias, base.to(dtype), True]))
    for operator, given in forms:
        expected = operator(*given)
        actual = operator(*(value.cuda() if isinstance(value, Tensor) else value for value in given))
        tolerance = 1e-4 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(actual.cpu(), expected, rtol=tolerance, atol=20 * tolerance)
