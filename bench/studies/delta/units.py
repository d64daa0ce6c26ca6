"""MLPs and attentions as modules: of one task, of T tasks in one batch, of a base and T sub-tasks as corrections."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slimtask.kernels.units import attention, mlp
from slimtask.kernels.units.correction import Correction, Layer, correct, correct_batched, correction

Tokens = Float[Tensor, "1 n width"]


class Pair(nn.Module):
    """An MLP (``head_width`` 0) or a self-attention: two linear layers with GELU or attention between."""

    def __init__(self, first: Layer, second: Layer, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        for name, layer in (("first", first), ("second", second)):
            self.register_buffer(f"{name}_weight", layer.weight)
            self.register_buffer(f"{name}_bias", layer.bias)

    @classmethod
    def random(cls, width: int, inner: int, head_width: int) -> Pair:
        """Return one with normal weights that keep the scale; ``inner`` hidden units, or channels of all heads."""
        rows = 3 * inner if head_width else inner
        return cls(_random_layer(rows, width), _random_layer(width, inner), head_width)

    @property
    def first(self) -> Layer:
        """Return the first layer."""
        return Layer(self.get_buffer("first_weight"), self.get_buffer("first_bias"))

    @property
    def second(self) -> Layer:
        """Return the second layer."""
        return Layer(self.get_buffer("second_weight"), self.get_buffer("second_bias"))

    @property
    def inner(self) -> int:
        """Return the number of columns of the second layer."""
        return self.second.weight.shape[1]

    @property
    def width(self) -> int:
        """Return the number of channels of a token."""
        return self.second.weight.shape[0]

    @property
    def units(self) -> int:
        """Return the number of hidden units or heads."""
        return self.inner // max(1, self.head_width)

    def middle(self, first: Tensor) -> Tensor:
        """Return what the second layer reads."""
        return attention.attend(first, self.head_width) if self.head_width else F.gelu(first)

    def forward(self, x: Tokens) -> Tokens:
        """Return the output for ``x``."""
        return F.linear(self.middle(F.linear(x, *self.first)), *self.second)

    def rows(self, units: Int64[Tensor, " p"]) -> Tensor:
        """Return the rows of the first layer that belong to hidden units or heads."""
        return attention.rows_of(units, self.units, self.head_width) if self.head_width else units

    def columns(self, units: Int64[Tensor, " p"]) -> Tensor:
        """Return the columns of the second layer that read them."""
        return attention.columns_of(units, self.head_width) if self.head_width else units

    def changed(self, units: Int64[Tensor, " p"]) -> Pair:
        """Return a sub-task's pair, whose ``units`` differ by a tenth of the weights' size, biases included."""
        made = [layer.clone() for layer in (*self.first, *self.second)]
        rows, columns = self.rows(units), self.columns(units)
        made[0][rows] += 0.1 * torch.randn_like(made[0][rows]) / math.sqrt(made[0].shape[1])
        made[1][rows] += 0.01 * torch.randn_like(made[1][rows])
        made[2][:, columns] += 0.1 * torch.randn_like(made[2][:, columns]) / math.sqrt(made[2].shape[1])
        made[3] += 0.01 * torch.randn_like(made[3])
        return Pair(Layer(*made[:2]), Layer(*made[2:]), self.head_width)


class StackedPair(nn.Module):
    """The pairs of T tasks on one input: one product with all first layers, then a batched one."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        super().__init__()
        self.tasks, self.head_width = len(pairs), pairs[0].head_width
        self.register_buffer("weight", torch.cat([pair.first.weight for pair in pairs]))
        self.register_buffer("bias", torch.cat([pair.first.bias for pair in pairs]))
        self.register_buffer("second", torch.stack([pair.second.weight.T for pair in pairs]).contiguous())
        self.register_buffer("second_bias", torch.stack([pair.second.bias for pair in pairs]).unsqueeze(1))

    def forward(self, x: Tokens) -> Float[Tensor, "t n width"]:
        """Return the outputs of all tasks."""
        wide = F.linear(x, self.get_buffer("weight"), self.get_buffer("bias"))
        stacked = wide.reshape(x.shape[1], self.tasks, -1).transpose(0, 1)
        mixed = attention.attend(stacked, self.head_width) if self.head_width else F.gelu(stacked)
        return torch.bmm(mixed, self.get_buffer("second")) + self.get_buffer("second_bias")


class DeltaPair(nn.Module):
    """The base's pair and T sub-tasks as corrections for their changed units; no kernel, exact."""

    def __init__(self, base: Pair, pairs: Sequence[Pair], units: Sequence[Tensor], *, batched: bool) -> None:
        super().__init__()
        self.head_width, self.batched = base.head_width, batched
        rows = [Layer(*(part[own.rows(which)] for part in own.first)) for own, which in zip(pairs, units, strict=True)]
        wide = attention.widen(base.first, rows, base.head_width) if base.head_width else mlp.widen(base.first, rows)
        self.wide = Pair(wide, base.second, base.head_width)
        self.sizes = [base.inner, *(len(base.columns(which)) for which in units)]
        for task, (own, which) in enumerate(zip(pairs, units, strict=True)):
            made = correction(base.second, own.second, base.columns(which))
            for name, tensor in made._asdict().items():
                self.register_buffer(f"{name}_{task}", tensor)

    def forward(self, x: Tokens) -> tuple[Tokens, ...]:
        """Return the outputs of the base and of every sub-task."""
        mixed = self.wide.middle(F.linear(x, *self.wide.first))
        shared, *changed = torch.split(mixed, self.sizes, dim=-1)
        base = F.linear(shared, *self.wide.second)
        made = [Correction(*(self.get_buffer(f"{n}_{t}") for n in Correction._fields)) for t in range(len(changed))]
        if self.batched:
            differences = correct_batched(shared, changed, made).unbind(0)
        else:
            differences = tuple(correct(shared, own, one) for own, one in zip(changed, made, strict=True))
        return base, *(base + difference for difference in differences)


def export_module(module: nn.Module, example: Any, outputs: Sequence[str], path: Path, inputs: Sequence[str]) -> Path:
    """Return ``path`` with the ONNX graph of ``module``, opset 20; its weights lie beside it."""
    with warnings.catch_warnings(), torch.no_grad():
        for category in (DeprecationWarning, FutureWarning):  # the exporter's own, against itself
            warnings.filterwarnings("ignore", category=category)
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=20,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    if program is None:
        raise AssertionError("torch exported nothing")
    program.save(path, external_data=True)
    return path


def _random_layer(outputs: int, inputs: int) -> Layer:
    return Layer(torch.randn(outputs, inputs) / math.sqrt(inputs), 0.1 * torch.randn(outputs))
