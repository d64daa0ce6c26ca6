from __future__ import annotations

import numpy as np
import pytest

from slimtask.kernels.layouts import BlockLayout, CsrLayout, OutChannelLayout
from slimtask.kernels.size import LayoutSize, size_of, size_report


def test_sizes_of_a_known_delta() -> None:
    delta = np.zeros((2, 128, 192), np.float16)
    delta[1, 64:, :64] = 1
    blocks = size_of(BlockLayout.pack(delta))
    assert blocks == LayoutSize(value_bytes=64 * 64 * 2, index_bytes=4 * (1 + 5), dense_bytes=2 * 128 * 192 * 2)
    csr = size_of(CsrLayout.pack(delta))
    assert csr.index_bytes == 4 * (4096 + 257)
    assert blocks.ratio == pytest.approx(8216 / 98304)


def test_biases_count_as_values() -> None:
    delta, bias = np.zeros((1, 4, 3), np.float32), np.zeros((1, 4), np.float32)
    delta[0, 1], bias[0, 1] = 1, 1
    size = size_of(OutChannelLayout.pack(delta, bias))
    assert size == LayoutSize(value_bytes=4 * 3 + 4, index_bytes=4 + 4, dense_bytes=4 * 4 * 3 + 4 * 4)


def test_the_report_sums_up() -> None:
    delta = np.eye(4, dtype=np.float32)[None]
    report = size_report({"a": CsrLayout.pack(delta), "b": CsrLayout.pack(delta * 2)})
    assert report["total"] == report["a"] + report["b"]
    assert report["total"].bytes == 2 * (16 + 16 + 20)
    with pytest.raises(ValueError, match="named 'total'"):
        size_report({"total": CsrLayout.pack(delta)})
