"""MLPs and attentions of all tasks, exported by torch: T graphs, one batched graph, changed units as corrections."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from slimtask.bench.studies.delta.compare import Call, Form, in_turn, max_rel_error
from slimtask.bench.studies.delta.grid import chosen
from slimtask.bench.studies.delta.session import Session
from slimtask.bench.studies.delta.units import DeltaPair, Pair, StackedPair, export_module

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
