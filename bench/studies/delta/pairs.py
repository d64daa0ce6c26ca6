"""MLPs and attentions: of one task, of T in one batch, of a base and T sub-tasks as corrections, exported by torch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from slimtask.bench.studies.delta.compare import Call, Form, in_turn, max_rel_error
from slimtask.bench.studies.delta.graphs import Session
from slimtask.bench.studies.delta.grid import chosen
from slimtask.kernels.units import (
    Correction,
    Layer,
    attend,
    columns_of,
    correct,
    correct_batched,
    correction,
    rows_of,
    widen,
)

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
        return attend(first, self.head_width) if self.head_width else F.gelu(first)

    def forward(self, x: Tokens) -> Tokens:
        """Return the output for ``x``."""
        return F.linear(self.middle(F.linear(x, *self.first)), *self.second)

    def rows(self, units: Int64[Tensor, " p"]) -> Tensor:
        """Return the rows of the first layer that belong to hidden units or heads."""
        return rows_of(units, self.units, self.head_width) if self.head_width else units

    def columns(self, units: Int64[Tensor, " p"]) -> Tensor:
        """Return the columns of the second layer that read them."""
        return columns_of(units, self.head_width) if self.head_width else units

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
        mixed = attend(stacked, self.head_width) if self.head_width else F.gelu(stacked)
        return torch.bmm(mixed, self.get_buffer("second")) + self.get_buffer("second_bias")


class DeltaPair(nn.Module):
    """The base's pair and T sub-tasks as corrections for their changed units; no kernel, exact."""

    def __init__(self, base: Pair, pairs: Sequence[Pair], units: Sequence[Tensor], *, batched: bool) -> None:
        super().__init__()
        self.head_width, self.batched = base.head_width, batched
        rows = [Layer(*(part[own.rows(which)] for part in own.first)) for own, which in zip(pairs, units, strict=True)]
        wide = widen(base.first, rows, 3 if base.head_width else 1)
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


Array = Shaped[np.ndarray, "..."]
TRUTH = "float64"


def pair_forms(
    base: Pair, *, tokens: int, points: Sequence[tuple[int, float]], folder: Path, threads: int
) -> tuple[dict[str, Call], list[Form]]:
    """Return baselines and forms of a pair at the (tasks, density) ``points``, all sub-tasks on one input.

    Batched corrections are there at the first point only. The base is computed besides the sub-tasks: a delta form has
    one output more than its T dense models.
    """
    bench = _Bench(base, torch.randn(1, tokens, base.width), folder, threads)
    for tasks, density in points:
        bench.add(tasks, density)
    return bench.baselines, bench.forms


@dataclass
class _Bench:
    base: Pair
    x: Tensor
    folder: Path
    threads: int
    baselines: dict[str, Call] = field(default_factory=dict)
    forms: list[Form] = field(default_factory=list)
    dense: list[Session] = field(default_factory=list)

    def add(self, tasks: int, density: float) -> None:
        """Add the forms of ``tasks`` sub-tasks that change ``density`` of the units, and their baselines."""
        count = chosen(self.base.units, density)
        units = [torch.randperm(self.base.units)[:count].sort().values for _ in range(tasks)]
        pairs = [self.base.changed(which) for which in units]
        self._add_baselines(pairs)
        truth = [copy.deepcopy(pair).double()(self.x.double()).numpy() for pair in (self.base, *pairs)]
        for batched in (False, True) if not self.forms else (False,):
            module = DeltaPair(self.base, pairs, units, batched=batched)
            self._add_form(module, tasks, density, truth, batched)

    def _add_baselines(self, pairs: Sequence[Pair]) -> None:
        tasks = len(pairs)
        if f"dense {tasks}" in self.baselines:  # other weights of the same sizes take the same time
            return
        for pair in pairs[len(self.dense) :]:
            self.dense.append(self._open(pair, ["y"], f"dense_{len(self.dense)}"))
        self.baselines[f"dense {tasks}"] = in_turn([session.call for session in self.dense[:tasks]])
        self.baselines[f"batched {tasks}"] = self._open(StackedPair(pairs), ["y"], f"batched_{tasks}").call

    def _add_form(self, module: DeltaPair, tasks: int, density: float, truth: Sequence[Array], batched: bool) -> None:
        names = ["base", *(f"task_{task}" for task in range(tasks))]
        session = self._open(module, names, f"delta_{len(self.forms)}")
        found = session.outputs()
        form = Form(
            call=session.call,
            pattern="heads" if self.base.head_width else "hidden-units",
            density=density,
            rows=0.0,
            tasks=tasks,
            flop_ratio=flop_ratio(self.base, self.x.shape[1], tasks, chosen(self.base.units, density)),
            max_rel_error=max_rel_error([found[name] for name in names], truth),
            reference=TRUTH,
            dense=f"dense {tasks}",
            batched=f"batched {tasks}",
            also={"form": "units, corrections batched" if batched else "units"},
        )
        self.forms.append(form)

    def _open(self, module: nn.Module, outputs: Sequence[str], name: str) -> Session:
        path = export_module(module, (self.x,), outputs, self.folder / f"{name}.onnx", ["x"])
        return Session(path, {"x": self.x.numpy()}, threads=self.threads)


def flop_ratio(base: Pair, tokens: int, tasks: int, units: int) -> float:
    """Return the FLOPs of T dense pairs over those of base and T corrections for ``units`` changed units each."""
    size, times = (base.head_width, 3) if base.head_width else (1, 1)

    def flops(channels: int, columns: int) -> float:
        mixing = 4.0 * tokens**2 * channels if base.head_width else 0.0
        return 2.0 * tokens * base.width * (times * channels + columns) + mixing

    dense, delta = flops(base.inner, base.inner), flops(units * size, 2 * units * size)
    return tasks * dense / (dense + tasks * delta)
