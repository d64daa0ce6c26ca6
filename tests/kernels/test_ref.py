from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slimtask.kernels import ref
from slimtask.kernels.dtypes import bfloat16


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rest", [False, True])
def test_linear_is_torch_with_merged_weights(gelu: bool, rest: bool) -> None:
    x, weight, delta = draw(0, 7, 5), draw(1, 6, 5), draw(2, 3, 6, 5)
    bias, delta_bias = (draw(3, 6), draw(4, 3, 6)) if rest else (None, None)
    residual = draw(5, 7, 6) if rest else None
    rows = [np.array([1, 4]), np.array([], int), np.array([6, 6, 0])]
    x_rows = [draw(6, 2, 5), draw(7, 0, 5), draw(8, 2, 5)[[0, 0, 1]]]
    base, tasks = ref.delta_linear(
        x,
        weight,
        delta,
        bias_M=bias,
        delta_bias_TM=delta_bias,
        rows=rows,
        x_rows=x_rows,
        gelu=gelu,
        residual_NM=residual,
    )

    def expected(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> torch.Tensor:
        y = F.linear(t(x), t(weight), None if bias is None else t(bias))
        y = F.gelu(y) if gelu else y
        return y if residual is None else y + t(residual)

    torch.testing.assert_close(t(base), expected(x, weight, bias), rtol=1e-12, atol=1e-12)
    for task in range(3):
        own = x.copy()
        for row, value in zip(rows[task], x_rows[task], strict=True):
            own[row] = value
        merged = None if bias is None or delta_bias is None else bias + delta_bias[task]
        torch.testing.assert_close(t(tasks[task]), expected(own, weight + delta[task], merged), rtol=1e-12, atol=1e-12)


def test_linear_of_a_known_case() -> None:
    x, weight = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0]])
    base, tasks = ref.delta_linear(
        x, weight, np.array([[[0.0, 10.0]]]), rows=[np.array([1])], x_rows=[np.array([[5.0, 6.0]])]
    )
    assert base.tolist() == [[1], [3]]
    assert tasks.tolist() == [[[1 + 20], [5 + 60]]]


def test_a_delta_of_zero_is_the_base_and_tasks_can_be_permuted() -> None:
    x, weight, delta = draw(0, 4, 5), draw(1, 6, 5), draw(2, 3, 6, 5)
    delta[1] = 0
    base, tasks = ref.delta_linear(x, weight, delta, gelu=True)
    np.testing.assert_array_equal(tasks[1], base)
    _, permuted = ref.delta_linear(x, weight, delta[[2, 0, 1]], gelu=True)
    np.testing.assert_array_equal(permuted, tasks[[2, 0, 1]])


def test_all_rows_changed_is_the_dense_model_of_the_task() -> None:
    x, own, weight, delta = draw(0, 4, 5), draw(9, 4, 5), draw(1, 6, 5), draw(2, 1, 6, 5)
    _, tasks = ref.delta_linear(x, weight, delta, rows=[np.arange(4)], x_rows=[own])
    np.testing.assert_allclose(tasks[0], own @ (weight + delta[0]).T, rtol=1e-12)


def test_sums_are_float32_at_least() -> None:
    x, weight, delta = draw(0, 3, 300), draw(1, 2, 300), draw(2, 1, 2, 300)
    for dtype in (np.float16, bfloat16()):
        given = [array.astype(dtype) for array in (x, weight, delta)]
        base, tasks = ref.delta_linear(*given)
        exact_base, exact = ref.delta_linear(*(array.astype(np.float64) for array in given))
        assert base.dtype == tasks.dtype == np.float32
        np.testing.assert_allclose(tasks, exact, atol=300 * 2**-23 * 10)
        np.testing.assert_allclose(base, exact_base, atol=300 * 2**-23 * 10)


def test_mlp_is_torch_with_merged_weights() -> None:
    x, w1, b1, w2, b2 = draw(0, 7, 4), draw(1, 9, 4), draw(2, 9), draw(3, 5, 9), draw(4, 5)
    d1, e1, d2, e2 = draw(5, 2, 9, 4), draw(6, 2, 9), draw(7, 2, 5, 9), draw(8, 2, 5)
    base, tasks = ref.delta_mlp(x, w1, b1, w2, b2, delta_w1_THK=d1, delta_b1_TH=e1, delta_w2_TMH=d2, delta_b2_TM=e2)
    expected = F.linear(F.gelu(F.linear(t(x), t(w1), t(b1))), t(w2), t(b2))
    torch.testing.assert_close(t(base), expected, rtol=1e-12, atol=1e-12)
    for task in range(2):
        hidden = F.gelu(F.linear(t(x), t(w1 + d1[task]), t(b1 + e1[task])))
        expected = F.linear(hidden, t(w2 + d2[task]), t(b2 + e2[task]))
        torch.testing.assert_close(t(tasks[task]), expected, rtol=1e-12, atol=1e-12)


def test_attention_is_torch_multi_head_attention_with_merged_weights() -> None:
    heads, channels = 2, 6
    x, qkv, qkv_bias = draw(0, 3, 5, channels), draw(1, 18, channels), draw(2, 18)
    proj, proj_bias = draw(3, channels, channels), draw(4, channels)
    deltas = draw(5, 2, 18, channels), draw(6, 2, 18), draw(7, 2, channels, channels), draw(8, 2, channels)
    base, tasks = ref.delta_attention(
        x,
        qkv,
        qkv_bias,
        proj,
        proj_bias,
        heads=heads,
        delta_qkv_weight_TDC=deltas[0],
        delta_qkv_bias_TD=deltas[1],
        delta_proj_weight_TCC=deltas[2],
        delta_proj_bias_TC=deltas[3],
    )

    def expected(*weights: np.ndarray) -> torch.Tensor:
        module = torch.nn.MultiheadAttention(channels, heads, batch_first=True, dtype=torch.float64)
        names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        module.load_state_dict(dict(zip(names, map(t, weights), strict=True)))
        return module(t(x), t(x), t(x), need_weights=False)[0].detach()

    dense = (qkv, qkv_bias, proj, proj_bias)
    torch.testing.assert_close(t(base), expected(*dense), rtol=1e-12, atol=1e-12)
    for task in range(2):
        merged = [weight + delta[task] for weight, delta in zip(dense, deltas, strict=True)]
        torch.testing.assert_close(t(tasks[task]), expected(*merged), rtol=1e-12, atol=1e-12)


def test_what_does_not_fit_is_one_sentence() -> None:
    x, weight, delta = draw(0, 4, 5), draw(1, 6, 5), draw(2, 3, 6, 5)
    three = [np.array([0])] * 3
    with pytest.raises(ValueError, match=r"are not \[N, K\], \[M, K\], \[T, M, K\]"):
        ref.delta_linear(x, weight[:, :4], delta)
    with pytest.raises(ValueError, match=r"a delta of shape \[3, 6, 4\] does not fit weights \[6, 5\]"):
        ref.delta_linear(x, weight, delta[..., :4])
    with pytest.raises(ValueError, match="rows and x_rows go together"):
        ref.delta_linear(x, weight, delta, rows=three)
    with pytest.raises(ValueError, match="sub-task 0 names rows beyond 0 to 3"):
        ref.delta_linear(x, weight, delta, rows=[np.array([4])] * 3, x_rows=[x[:1]] * 3)
    with pytest.raises(ValueError, match=r"sub-task 0 has inputs \[2, 5\] for 1 rows"):
        ref.delta_linear(x, weight, delta, rows=three, x_rows=[x[:2]] * 3)
