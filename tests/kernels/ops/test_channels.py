from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slimtask.kernels import ref
from slimtask.kernels.layouts import OutChannelLayout
from slimtask.kernels.ops import (
    appended,
    assemble,
    complete,
    delta_out_channels,
    places,
    split,
    tensors_of,
)

CHANNELS = [[0, 2, 5], [1], []]


def changed(delta: Tensor) -> Tensor:
    """Keep the changed channels of a delta [T, M, ...] or of a bias [T, M]."""
    kept = torch.zeros(delta.shape[:2], dtype=delta.dtype)
    for task, channels in enumerate(CHANNELS):
        kept[task, channels] = 1
    return delta * kept.reshape(*kept.shape, *[1] * (delta.ndim - 2))


def packed(delta: Tensor, delta_bias: Tensor | None, **sizes: int) -> list[Tensor]:
    layout = OutChannelLayout.pack(
        delta.double().numpy(), None if delta_bias is None else delta_bias.double().numpy(), **sizes
    )
    arrays = tensors_of(layout)
    return [
        arrays["channel"],
        arrays["count"],
        *(arrays[name].to(delta.dtype) for name in ("value", "bias") if name in arrays),
    ]


@pytest.mark.parametrize("gelu", [False, True])
def test_one_product_is_the_definition(dtype: torch.dtype, gelu: bool, case: Any) -> None:
    drawn = case(dtype)
    x, weight, delta = drawn.draw(7, 33), drawn.draw(6, 33), changed(drawn.draw(3, 6, 33))
    bias, delta_bias = drawn.draw(6), changed(drawn.draw(3, 6))
    residual = drawn.draw(7, 6) if gelu else None
    channel, count, *values = packed(delta, delta_bias, multiple=4)
    weights, biases = appended(weight, bias, channel, *values)
    assert weights.shape == (6 + 3 * 4, 33)
    base, compact = split(delta_out_channels(channel, weights, x, biases, residual, gelu), channel)
    assert compact.shape == (3, 7, 4)
    exact = [tensor.double().numpy() for tensor in (x, weight, delta, bias, delta_bias)]
    rest = None if residual is None else residual.double().numpy()
    expected_base, expected = ref.delta_linear(
        exact[0], exact[1], exact[2], bias_M=exact[3], delta_bias_TM=exact[4], gelu=gelu, residual_NM=rest
    )
    magnitude = np.abs(exact[0]) @ (np.abs(exact[1]) + np.abs(exact[2])).swapaxes(1, 2)
    magnitude = magnitude + np.abs(exact[3]) + np.abs(exact[4])[:, None] + (0 if rest is None else np.abs(rest))
    drawn.close(base, expected_base, magnitude[2], terms=35)
    drawn.close(complete(base, compact, channel, count), expected, magnitude, terms=35, roundings=2)  # weights, output


def test_one_gather_assembles_the_same(case: Any) -> None:
    drawn = case(torch.float32)
    x, weight, bias = drawn.draw(7, 33), drawn.draw(6, 33), drawn.draw(6)
    channel, count, value = packed(changed(drawn.draw(3, 6, 33)), None, multiple=4)
    extended = delta_out_channels(channel, *appended(weight, bias, channel, value)[:1], x, None)
    base, compact = split(extended, channel)
    found = assemble(extended, places(channel, count, 6))
    assert torch.equal(found, complete(base, compact, channel, count))
    assert found.is_contiguous()


def test_nothing_changed_costs_nothing(case: Any) -> None:
    drawn = case(torch.float64)
    x, weight = drawn.draw(4, 9), drawn.draw(6, 9)
    channel, count, value = packed(torch.zeros(2, 6, 9, dtype=torch.float64), None)
    weights, biases = appended(weight, None, channel, value)
    assert biases is None
    assert weights.shape == weight.shape
    base, compact = split(delta_out_channels(channel, weights, x), channel)
    torch.testing.assert_close(base, x @ weight.T, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(complete(base, compact, channel, count), base.expand(2, 4, 6), rtol=0, atol=0)


def test_every_channel_changed_is_the_dense_model_of_every_task(case: Any) -> None:
    drawn = case(torch.float64)
    x, weight, delta = drawn.draw(4, 9), drawn.draw(6, 9), drawn.draw(2, 6, 9)
    channel, count, value = packed(delta, None)
    base, compact = split(delta_out_channels(channel, appended(weight, None, channel, value)[0], x), channel)
    expected = x @ (weight + delta).transpose(1, 2)
    torch.testing.assert_close(complete(base, compact, channel, count), expected, rtol=1e-13, atol=1e-13)


def test_a_bias_that_only_the_tasks_have(case: Any) -> None:
    drawn = case(torch.float64)
    x, weight, delta_bias = drawn.draw(4, 9), drawn.draw(6, 9), changed(drawn.draw(3, 6))
    channel, count, *values = packed(torch.zeros(3, 6, 9, dtype=torch.float64), delta_bias)
    weights, biases = appended(weight, None, channel, *values)
    base, compact = split(delta_out_channels(channel, weights, x, biases), channel)
    expected = x @ weight.T + delta_bias[:, None]
    torch.testing.assert_close(complete(base, compact, channel, count), expected, rtol=1e-13, atol=1e-13)


def test_opcheck_and_compile_are_clean(case: Any, traces: Any) -> None:
    drawn = case()
    channel, _, *values = packed(changed(drawn.draw(3, 6, 9)), changed(drawn.draw(3, 6)))
    weights, biases = appended(drawn.draw(6, 9), drawn.draw(6), channel, *values)
    traces(delta_out_channels, [channel, weights, drawn.draw(4, 9), biases, drawn.draw(4, 6), True])


def test_what_does_not_fit_is_one_sentence() -> None:
    channel, _, value = packed(changed(torch.ones(3, 6, 9)), None)
    weight, x = torch.ones(6, 9), torch.ones(4, 9)
    weights, _ = appended(weight, None, channel, value)
    with pytest.raises(ValueError, match="weights have 6 rows for 9 changed channels; append them first"):
        delta_out_channels(channel, weight, x)
    with pytest.raises(ValueError, match=r"weights has shape \[15, 9\], the other arguments ask for \[any, 8\]"):
        delta_out_channels(channel, weights, x[:, :8])
    with pytest.raises(ValueError, match=r"biases has shape \[6\], the other arguments ask for \[15\]"):
        delta_out_channels(channel, weights, x, torch.ones(6))
    with pytest.raises(ValueError, match="channel holds an index beyond 0 to 4"):
        appended(weight[:5], None, channel, value)
    with pytest.raises(ValueError, match=r"value has shape \[3, 3, 9\], the other arguments ask for \[3, 3, 8\]"):
        appended(weight[:, :8], None, channel, value)
