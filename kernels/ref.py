"""The definition: what every kernel, graph and operator of the delta layers must compute, in plain numpy.

T sub-tasks share the weights of a base and differ from it by deltas: W_t = W + D_t, b_t = b + db_t. Sums are made and
returned in float32, or in float64 if anything is float64; a kernel's one rounding to its output's dtype comes on top.

Axes: N rows (tokens), K inputs, M outputs, H hidden units, C channels, T sub-tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from slimtask.kernels.dtypes import widened

Array = Shaped[np.ndarray, "..."]
Pair = tuple[Array, Array]


def delta_linear(
    x_NK: Array,
    weight_MK: Array,
    delta_TMK: Array,
    *,
    bias_M: Array | None = None,
    delta_bias_TM: Array | None = None,
    rows: Sequence[Array] | None = None,
    x_rows: Sequence[Array] | None = None,
    gelu: bool = False,
    residual_NM: Array | None = None,
) -> Pair:
    """Return (base_NM, tasks_TNM), act(x W^T + b) + residual of the base and of every sub-task.

    Args:
        x_NK: the input that all share.
        weight_MK: the base's weights.
        delta_TMK: what every sub-task adds to them.
        bias_M: the base's bias.
        delta_bias_TM: what every sub-task adds to it.
        rows: for every sub-task the numbers [R_t] of the rows at which its input differs; a number given twice, as
            padding, must come with the same input.
        x_rows: for every sub-task its input [R_t, K] at these rows.
        gelu: whether act is GELU, exact (with erf), or nothing.
        residual_NM: added after it.

    Raises:
        ValueError: rows without inputs, or out of range.
    """
    _check(x_NK, weight_MK, delta_TMK)
    outputs = []
    for x, weight, bias in zip(
        _inputs(x_NK, len(delta_TMK), rows, x_rows),
        _merged(weight_MK, delta_TMK),
        _merged_biases(bias_M, delta_bias_TM, delta_TMK),
        strict=True,
    ):
        y = linear(x, weight, bias)
        y = exact_gelu(y) if gelu else y
        outputs.append(y if residual_NM is None else y + widened(residual_NM))
    return outputs[0], np.stack(outputs[1:])


def delta_mlp(
    x_NK: Array,
    w1_HK: Array,
    b1_H: Array,
    w2_MH: Array,
    b2_M: Array,
    *,
    delta_w1_THK: Array,
    delta_b1_TH: Array,
    delta_w2_TMH: Array,
    delta_b2_TM: Array,
) -> Pair:
    """Return (base_NM, tasks_TNM), gelu(x W1^T + b1) W2^T + b2 with the base's and with every sub-task's weights."""
    outputs = [
        linear(exact_gelu(linear(x_NK, w1, b1)), w2, b2)
        for w1, b1, w2, b2 in zip(
            _merged(w1_HK, delta_w1_THK),
            _merged_biases(b1_H, delta_b1_TH, delta_w1_THK),
            _merged(w2_MH, delta_w2_TMH),
            _merged_biases(b2_M, delta_b2_TM, delta_w2_TMH),
            strict=True,
        )
    ]
    return outputs[0], np.stack(outputs[1:])


def delta_attention(
    x_NC: Array,
    qkv_weight_DC: Array,
    qkv_bias_D: Array,
    proj_weight_CC: Array,
    proj_bias_C: Array,
    *,
    heads: int,
    delta_qkv_weight_TDC: Array,
    delta_qkv_bias_TD: Array,
    delta_proj_weight_TCC: Array,
    delta_proj_bias_TC: Array,
) -> Pair:
    """Return (base [..., N, C], tasks [T, ..., N, C]), self-attention with the base's and every sub-task's weights.

    D = 3 C: queries, keys and values one after the other, each ``heads`` slices of C / heads channels.
    """
    outputs = [
        linear(attention(linear(x_NC, qkv, qkv_bias), heads), proj, proj_bias)
        for qkv, qkv_bias, proj, proj_bias in zip(
            _merged(qkv_weight_DC, delta_qkv_weight_TDC),
            _merged_biases(qkv_bias_D, delta_qkv_bias_TD, delta_qkv_weight_TDC),
            _merged(proj_weight_CC, delta_proj_weight_TCC),
            _merged_biases(proj_bias_C, delta_proj_bias_TC, delta_proj_weight_TCC),
            strict=True,
        )
    ]
    return outputs[0], np.stack(outputs[1:])


def linear(x_NK: Array, weight_MK: Array, bias_M: Array | None) -> Array:
    """Return x W^T + b, [..., N, M]."""
    y = widened(x_NK) @ widened(weight_MK).T
    return np.asarray(y if bias_M is None else y + widened(bias_M))


def exact_gelu(x: Array) -> Array:
    """Return x (1 + erf(x / sqrt 2)) / 2 (Hendrycks and Gimpel, 2016)."""
    erf = np.asarray(np.frompyfunc(math.erf, 1, 1)(np.asarray(x / math.sqrt(2), dtype=np.float64)), dtype=np.float64)
    return np.asarray(x * (0.5 * (1 + erf)), dtype=x.dtype)


def attention(qkv_ND: Array, heads: int) -> Array:
    """Return softmax(Q K^T / sqrt d) V, heads side by side: [..., N, C] from [..., N, 3 C]."""
    *batch, tokens, width = widened(qkv_ND).shape
    split = widened(qkv_ND).reshape(*batch, tokens, 3, heads, width // (3 * heads))
    q, k, v = (split[..., part, :, :].swapaxes(-3, -2) for part in range(3))
    scores = q @ k.swapaxes(-2, -1) / np.asarray(math.sqrt(q.shape[-1]), dtype=q.dtype)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = weights @ v / weights.sum(axis=-1, keepdims=True)
    return np.asarray(mixed.swapaxes(-3, -2).reshape(*batch, tokens, width // 3))


def _merged(weight: Array, delta: Array) -> list[Array]:
    """Return the base's weights and those of every sub-task."""
    if delta.shape[1:] != weight.shape:
        raise ValueError(
            f"a delta of shape {list(delta.shape)} does not fit weights {list(weight.shape)}; stack T of them."
        )
    return [widened(weight), *(widened(weight) + widened(change) for change in delta)]


def _merged_biases(bias: Array | None, delta: Array | None, like: Array) -> list[Array | None]:
    """Return the base's bias and those of every sub-task, as many as ``like`` has; None where there is none."""
    if delta is None:
        return [bias] * (len(like) + 1)
    return [bias, *_merged(np.zeros(like.shape[1], dtype=np.float32) if bias is None else bias, delta)[1:]]


def _inputs(x_NK: Array, tasks: int, rows: Sequence[Array] | None, x_rows: Sequence[Array] | None) -> list[Array]:
    """Return the base's input and that of every sub-task."""
    if rows is None and x_rows is None:
        return [x_NK] * (tasks + 1)
    if rows is None or x_rows is None or not len(rows) == len(x_rows) == tasks:
        raise ValueError(
            f"rows and x_rows go together, one array of each for every of the {tasks} sub-tasks; give both."
        )
    inputs = [x_NK]
    for task, (numbers, x) in enumerate(zip(rows, x_rows, strict=True)):
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(x_NK):
            raise ValueError(f"sub-task {task} names rows beyond 0 to {len(x_NK) - 1}; give rows of x.")
        if x.shape != (len(numbers), x_NK.shape[1]):
            raise ValueError(
                f"sub-task {task} has inputs {list(x.shape)} for {len(numbers)} rows of x; give one for each."
            )
        own = x_NK.copy()
        own[numbers] = x
        inputs.append(own)
    return inputs


def _check(x_NK: Array, weight_MK: Array, delta_TMK: Array) -> None:
    if not (x_NK.ndim == weight_MK.ndim == 2 and delta_TMK.ndim == 3 and x_NK.shape[1] == weight_MK.shape[1]):
        shapes = list(x_NK.shape), list(weight_MK.shape), list(delta_TMK.shape)
        raise ValueError(f"x {shapes[0]}, weights {shapes[1]} and delta {shapes[2]} are not [N, K], [M, K], [T, M, K].")
