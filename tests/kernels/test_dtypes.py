from __future__ import annotations

import numpy as np
import pytest
import torch

from slimtask.kernels.dtypes import bfloat16, finite, name_of, nonzero, widened


def test_bits_of_bfloat16_widen_as_torch_widens_them() -> None:
    values = torch.randn(64, generator=torch.Generator().manual_seed(0)).bfloat16()
    bits = values.view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(widened(bits), values.float().numpy())
    np.testing.assert_array_equal(widened(bits.view(bfloat16())), values.float().numpy())
    assert name_of(bits) == name_of(bits.view(bfloat16())) == "bfloat16"


def test_zero_infinity_and_nan_are_seen_in_bits() -> None:
    values = torch.tensor([0.0, -0.0, 1e-40, -1.0]).bfloat16()
    assert nonzero(values.view(torch.int16).numpy().view(np.uint16)).tolist() == [False, False, True, True]
    for wrong in (float("inf"), float("-inf"), float("nan")):
        bits = torch.tensor([1.0, wrong]).bfloat16().view(torch.int16).numpy().view(np.uint16)
        assert not finite(bits)
        assert finite(bits[:1])


def test_sums_are_made_in_float32_or_float64() -> None:
    assert widened(np.ones(2, np.float16)).dtype == np.float32
    assert widened(np.ones(2, np.float64)).dtype == np.float64
    with pytest.raises(ValueError, match="dtype int8 cannot be packed"):
        name_of(np.ones(2, np.int8))
