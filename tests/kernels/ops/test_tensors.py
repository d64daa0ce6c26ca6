from __future__ import annotations

import numpy as np
import pytest
import torch

from slimtask.kernels.dtypes import bfloat16
from slimtask.kernels.layouts import CsrLayout
from slimtask.kernels.ops.tensors import finished, tensor_of, tensors_of


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, bfloat16(), np.uint16])
def test_layouts_become_tensors_of_their_dtype(dtype: object) -> None:
    delta = np.array([[[0, 1.5, -2]]], np.float32).astype(bfloat16() if dtype == np.uint16 else dtype)
    layout = CsrLayout.pack(delta.view(np.uint16) if dtype == np.uint16 else delta)
    tensors = tensors_of(layout)
    assert list(tensors) == ["start", "column", "value"]
    assert str(tensors["value"].dtype) == f"torch.{layout.dtype}"
    assert tensors["value"].tolist() == [1.5, -2]
    assert tensors["start"].dtype == tensors["column"].dtype == torch.int32


def test_tensors_are_copies() -> None:
    array = np.zeros(2, np.float32)
    tensor_of(array).fill_(1)
    assert array.tolist() == [0, 0]


def test_sums_are_rounded_once() -> None:
    total = torch.tensor([1.0 + 2**-8, 3.0])  # the first is halfway between two bfloat16 numbers
    y = finished(total, torch.tensor([2**-12, 0.0]).bfloat16(), None, gelu=False, dtype=torch.bfloat16)
    assert y.tolist() == [1 + 2**-7, 3]  # rounding before the bias would give 1
