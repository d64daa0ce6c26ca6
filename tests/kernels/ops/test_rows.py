from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from slimtask.kernels import ref
from slimtask.kernels.layouts import RowLayout
from slimtask.kernels.ops import delta_rows, scatter_rows, tensors_of

ROWS = [np.array([0, 3, 6]), np.array([5]), np.array([], int)]


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("gather", [False, True])
def test_changed_rows_are_the_definition(dtype: torch.dtype, gelu: bool, gather: bool, case: Any) -> None:
    tokens, outputs, inputs = 7, 5, 33
    drawn = case(dtype)
    x, own, weight = drawn.draw(tokens, inputs), drawn.draw(3, tokens, inputs), drawn.draw(outputs, inputs)
    delta, bias, delta_bias = drawn.draw(3, outputs, inputs), drawn.draw(outputs), drawn.draw(3, outputs)
    residual = drawn.draw(tokens, outputs) if gelu else None
    merged, biases = weight + delta, bias + delta_bias  # the rounded weights are those that the task has
    layout = RowLayout.of(ROWS, tokens, budget=4)
    index, count = tensors_of(layout).values()
    given = own if gather else own.gather(1, index.long()[:, :, None].expand(-1, -1, inputs))
    y = delta_rows(index, count, given, merged, biases, residual, gelu, gather)
    exact = [tensor.double().numpy() for tensor in (x, own, merged, biases)]
    _, expected = ref.delta_linear(
        exact[0],
        np.zeros((outputs, inputs)),
        exact[2],
        delta_bias_TM=exact[3],
        rows=ROWS,
        x_rows=[exact[1][task, rows] for task, rows in enumerate(ROWS)],
        gelu=gelu,
        residual_NM=None if residual is None else residual.double().numpy(),
    )
    for task, rows in enumerate(ROWS):
        magnitude = np.abs(exact[1][task, rows]) @ np.abs(exact[2][task]).T + np.abs(exact[3][task])
        magnitude += 0 if residual is None else residual.double().abs().numpy()[rows]
        drawn.close(y[task, : len(rows)], expected[task, rows], magnitude, terms=inputs + 2)
    assert y.shape == (3, 4, outputs)


@pytest.mark.parametrize("own", [False, True])
def test_scatter_overwrites_the_changed_rows_alone(own: bool, case: Any) -> None:
    drawn = case()
    index, count = tensors_of(RowLayout.of(ROWS, 7, budget=4)).values()
    base = drawn.draw(3, 7, 5) if own else drawn.draw(7, 5)
    rows = drawn.draw(3, 4, 5)
    rows[0, 3], rows[1, 1:], rows[2] = float("nan"), float("nan"), float("nan")  # what fills up counts for nothing
    kept = base.clone()
    y = scatter_rows(index, count, rows, base)
    expected = base.expand(3, 7, 5).clone()
    for task, numbers in enumerate(ROWS):
        for place, row in enumerate(numbers):
            expected[task, row] = rows[task, place]
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    torch.testing.assert_close(base, kept, rtol=0, atol=0)


def test_all_rows_are_the_dense_model_of_every_task(case: Any) -> None:
    drawn = case(torch.float64)
    x, weight, base = drawn.draw(2, 6, 9), drawn.draw(2, 5, 9), drawn.draw(6, 5)
    index, count = tensors_of(RowLayout.pack(np.ones((2, 6), bool))).values()
    y = scatter_rows(index, count, delta_rows(index, count, x, weight, gather=True), base)
    torch.testing.assert_close(y, x @ weight.transpose(1, 2), rtol=1e-13, atol=1e-13)


def test_residuals_of_every_task_are_taken_at_its_rows(case: Any) -> None:
    drawn = case(torch.float64)
    index, count = tensors_of(RowLayout.of(ROWS, 7, budget=4)).values()
    x, weight, residual = drawn.draw(3, 4, 9), drawn.draw(3, 5, 9), drawn.draw(3, 7, 5)
    y = delta_rows(index, count, x, weight, None, residual)
    for task in range(3):
        expected = x[task] @ weight[task].T + residual[task, index[task].long()]
        torch.testing.assert_close(y[task], expected, rtol=1e-13, atol=1e-13)


def test_opcheck_and_compile_are_clean(case: Any, traces: Any) -> None:
    drawn = case()
    index, count = tensors_of(RowLayout.of(ROWS, 7, budget=4)).values()
    traces(
        delta_rows, [index, count, drawn.draw(3, 4, 9), drawn.draw(3, 5, 9), drawn.draw(3, 5), drawn.draw(7, 5), True]
    )
    traces(scatter_rows, [index, count, torch.ones(3, 4, 5), drawn.draw(7, 5)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.ones(3, 5, 9)}, r"x has shape \[3, 5, 9\], the other arguments ask for \[3, 4, 9\]"),
        ({"weight": torch.ones(2, 5, 9)}, r"weight has shape \[2, 5, 9\]"),
        ({"weight": torch.ones(3, 5, 9).double()}, "weight is float64 on cpu but x is float32"),
        ({"count": torch.ones(3)}, "count is float32 on cpu; give int32"),
        ({"bias": torch.ones(5)}, r"bias has shape \[5\]"),
        ({"residual": torch.ones(6, 5)}, "index holds an index beyond 0 to 5"),
        ({"residual": torch.ones(3, 5)}, "the row budget is 4 of only 3 rows"),
        ({"x": torch.ones(3, 3, 9), "gather": True}, "the row budget is 4 of only 3 rows"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change: dict[str, Any], words: str) -> None:
    index, count = tensors_of(RowLayout.of(ROWS, 7, budget=4)).values()
    given = {"index": index, "count": count, "x": torch.ones(3, 4, 9), "weight": torch.ones(3, 5, 9)}
    with pytest.raises(ValueError, match=words):
        delta_rows(**{**given, **change})


def test_scatter_refuses_rows_that_are_not_there() -> None:
    index, count = tensors_of(RowLayout.of(ROWS, 7, budget=4)).values()
    with pytest.raises(ValueError, match="index holds an index beyond 0 to 5"):
        scatter_rows(index, count, torch.ones(3, 4, 5), torch.ones(6, 5))
    with pytest.raises(ValueError, match=r"base has shape \[2, 7, 5\]"):
        scatter_rows(index, count, torch.ones(3, 4, 5), torch.ones(2, 7, 5))
