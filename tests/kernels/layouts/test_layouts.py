from __future__ import annotations

import numpy as np
import pytest

from slimtask.kernels.layouts import pack


def test_every_kind_of_weights_packs_by_name() -> None:
    delta = np.zeros((2, 4, 8), np.float32)
    delta[1, 2, 4:6] = 1
    for kind in ("csr", "block", "vector", "out-channels"):
        layout = pack(kind, delta)
        assert layout.kind == kind
        np.testing.assert_array_equal(layout.dense(), delta)


def test_an_unsupported_pattern_is_one_sentence() -> None:
    for kind in ("rows", "tensor"):
        with pytest.raises(ValueError, match=f"there is no layout '{kind}' of weights; take one of csr, block"):
            pack(kind, np.ones((1, 2, 2), np.float32))
