"""Layers with changed hidden units and heads, put together of their parts, against the definition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimtask.kernels import ref
from slimtask.kernels.units import (
    Layer,
    attend,
    columns_of,
    correct,
    correct_batched,
    correction,
    padded,
    padded_rows,
    rows_of,
    widen,
)

K, H, M, N = 20, 40, 10, 9
HEADS, WIDTH = 5, 4
UNITS = ([0, 7, 39], [], [5], [5, 6, 7, 8, 30])
CHANGED_HEADS = ([0, 3], [4], [])
PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]


class Case:
    """An MLP (``heads`` off) or an attention, and tasks that change some of its units and both biases."""

    def __init__(self, dtype: torch.dtype = torch.float64, *, heads: bool = False) -> None:
        torch.manual_seed(0)
        self.heads, self.parts, inner = heads, 3 if heads else 1, K if heads else H
        self.x = torch.randn(N, K).to(dtype)
        self.first = Layer(torch.randn(self.parts * inner, K).to(dtype), torch.randn(self.parts * inner).to(dtype))
        outputs = K if heads else M
        self.second = Layer(torch.randn(outputs, inner).to(dtype), torch.randn(outputs).to(dtype))
        self.units = [torch.tensor(each, dtype=torch.long) for each in (CHANGED_HEADS if heads else UNITS)]
        self.rows = [rows_of(each, HEADS, WIDTH) if heads else each for each in self.units]
        self.columns = [columns_of(each, WIDTH) if heads else each for each in self.units]
        self.tasks = [self._changed(*each) for each in zip(self.rows, self.columns, strict=True)]

    def _changed(self, rows: Tensor, columns: Tensor) -> tuple[Layer, Layer]:
        first, second = (Layer(*(part.clone() for part in layer)) for layer in (self.first, self.second))
        first.weight[rows] += torch.randn(len(rows), K).to(self.x.dtype)
        first.bias[rows] += 1
        second.weight[:, columns] += torch.randn(len(second.bias), len(columns)).to(self.x.dtype)
        return first, Layer(second.weight, second.bias + torch.randn(len(second.bias)).to(self.x.dtype))

    def defined(self) -> list[Tensor]:
        """Return the outputs of the base and of every task, in float64."""
        dense = [part.double().numpy() for layer in (self.first, self.second) for part in layer]
        merged = [[part.double().numpy() for layer in task for part in layer] for task in self.tasks]
        deltas = [np.stack([own[i] - dense[i] for own in merged]) for i in range(4)]
        x = self.x.double().numpy()
        names = ("delta_qkv_weight_TDC", "delta_qkv_bias_TD", "delta_proj_weight_TCC", "delta_proj_bias_TC")
        if self.heads:
            base, tasks = ref.delta_attention(x, *dense, heads=HEADS, **dict(zip(names, deltas, strict=True)))
        else:
            names = ("delta_w1_THK", "delta_b1_TH", "delta_w2_TMH", "delta_b2_TM")
            base, tasks = ref.delta_mlp(x, *dense, **dict(zip(names, deltas, strict=True)))
        return [torch.from_numpy(each) for each in (base, *tasks)]

    def in_parts(self, *, batched: bool) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the base's output and what every task's differs from it."""
        new = [Layer(*(t[rows] for t in first)) for (first, _), rows in zip(self.tasks, self.rows, strict=True)]
        corrections = [
            correction(self.second, own, which) for (_, own), which in zip(self.tasks, self.columns, strict=True)
        ]
        if batched:
            size = max(map(len, self.columns))
            corrections, new = (
                [padded(each, size) for each in corrections],
                [padded_rows(each, size, self.parts) for each in new],
            )
        out = F.linear(self.x, *widen(self.first, new, self.parts))
        inner = attend(out[None], WIDTH)[0] if self.heads else F.gelu(out)
        sizes = [self.second.weight.shape[1], *(len(each.column) for each in corrections)]
        shared, *changed = torch.split(inner, sizes, dim=-1)
        base = F.linear(shared, *self.second)
        if batched:
            return base, correct_batched(shared, changed, corrections).unbind(0)
        return base, [correct(shared, own, one) for own, one in zip(changed, corrections, strict=True)]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("dtype", "close"), PRECISIONS)
def test_changed_hidden_units_are_every_tasks_dense_mlp(dtype: torch.dtype, close: float, batched: bool) -> None:
    case = Case(dtype)
    base, differences = case.in_parts(batched=batched)
    defined, *tasks = case.defined()
    scale = defined.abs().max()
    assert (base - defined).abs().max() < close * scale
    for difference, task in zip(differences, tasks, strict=True):
        assert (task - defined).abs().max() > 0.1
        assert (base.double() + difference.double() - task).abs().max() < close * scale


@pytest.mark.parametrize("batched", [False, True])
def test_changed_heads_are_every_tasks_dense_attention(batched: bool) -> None:
    case = Case(heads=True)
    base, differences = case.in_parts(batched=batched)
    defined, *tasks = case.defined()
    torch.testing.assert_close(base, defined, rtol=1e-11, atol=1e-11)
    for difference, task in zip(differences, tasks, strict=True):
        assert difference.abs().max() > 0.1
        torch.testing.assert_close(base + difference, task, rtol=1e-11, atol=1e-11)


def test_the_rows_of_a_head_are_its_queries_keys_and_values() -> None:
    assert rows_of(torch.tensor([1, 3]), 4, 2).tolist() == [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23]
    assert columns_of(torch.tensor([1, 3]), 2).tolist() == [2, 3, 6, 7]


def test_it_computes_only_what_changed() -> None:
    """(H + sum p) K + H M + sum 2 p M multiply-adds per row, and no product H x M of a task alone."""
    from torch.utils.flop_counter import FlopCounterMode

    case = Case(torch.float32)
    with FlopCounterMode(display=False) as counter:
        case.in_parts(batched=False)
    p = sum(len(u) for u in UNITS)
    assert counter.get_total_flops() == 2 * N * ((H + p) * K + H * M + 2 * p * M)


def test_bad_columns_are_named() -> None:
    case = Case()
    own = case.tasks[0][1]
    with pytest.raises(ValueError, match=r"columns \[40\] are not rising numbers below 40"):
        correction(case.second, own, torch.tensor([H]))
    with pytest.raises(ValueError, match=r"columns \[7, 0, 39\] are not rising"):
        correction(case.second, own, torch.tensor([7, 0, 39]))
    with pytest.raises(ValueError, match="column 39, which is none of its changed"):
        correction(case.second, own, torch.tensor([0, 7]))
    with pytest.raises(ValueError, match="give equal shapes"):
        correction(case.second, Layer(own.weight[:, :3], own.bias), torch.tensor([0]))


def test_a_changed_bias_alone_needs_no_column() -> None:
    base, none = Layer(torch.randn(4, 8), torch.randn(4)), torch.zeros(0, dtype=torch.long)
    shared, changed = torch.randn(2, 3, 8), torch.zeros(2, 3, 0)
    made = [correction(base, Layer(base.weight, base.bias + step), none) for step in (1.0, 2.0)]
    together = correct_batched(shared, [changed, changed], made)
    for step, one, difference in zip((1.0, 2.0), made, together, strict=True):
        torch.testing.assert_close(difference, torch.full((2, 3, 4), step))
        torch.testing.assert_close(correct(shared, changed, one), torch.full((2, 3, 4), step))
