"""The candidates and the baselines of one layer on a GPU (or, to test them, a CPU), on the same weights and inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slimtask.kernels import ops
from slimtask.kernels.layouts import OutChannelLayout
from slimtask.kernels.problem import Problem
from slimtask.kernels.runs import prepare
from slimtask.kernels.samples import Sample, width_of
from slimtask.kernels.units import attend

ALIGNED = 8  # outputs: tensor cores want rows of 16 bytes
Whole = Callable[[Any], Tensor]
BASELINES = ("dense", "batched", "dense-streams", "wide", "bsr")


@dataclass(frozen=True, kw_only=True)
class GpuForm:
    """``run`` launches everything; ``whole`` makes all sub-tasks' outputs [D, N, M] of what it returns.

    ``candidate`` is the name of the dispatch's candidate whose floor and FLOPs it has.
    """

    run: Callable[[], Any]
    whole: Whole
    candidate: str
    output: str = "full"


def layer_forms(problem: Problem, *, seed: int) -> dict[str, GpuForm]:
    """Return every form that executes ``problem`` exactly, by name: the baselines first, compact outputs last."""
    forms = {name: GpuForm(run=run, whole=_tasks, candidate=name) for name, run in prepare(problem, seed=seed).items()}
    if problem.operator != "linear":
        return forms
    sample = Sample(problem=problem, seed=seed)
    baselines = {name: forms.pop(name) for name in ("dense", "batched")}
    if problem.device.backend == "cuda":
        baselines["dense-streams"] = GpuForm(run=_on_streams(sample), whole=_tasks, candidate="dense")
    if not problem.rows:
        baselines["wide"] = GpuForm(run=_wide(sample), whole=_tasks, candidate="batched")
    if problem.pattern == "block" and not problem.rows:
        baselines["bsr"] = GpuForm(run=_bsr(sample), whole=_tasks, candidate="dense")
    if problem.pattern == "out-channels":
        forms["out-channels compact"] = _compact_channels(sample)
    if problem.pattern == "rows" and problem.rows:
        forms["rows compact"] = _compact_rows(sample)
    return {**baselines, **forms}


def truth(problem: Problem, *, seed: int) -> Tensor:
    """Return all sub-tasks' outputs [D, N, M] by dense products in float32 of the same rounded numbers."""
    sample = Sample(problem=problem, seed=seed)
    inputs = sample.inputs.float()
    made = []
    for task, x in enumerate(inputs[-problem.deltas :]):
        layers = [(each.weight[task].float(), each.bias[task].float()) for each in sample.stacked]
        out = F.linear(x, *layers[0])
        if problem.operator == "attention":
            out = attend(out[None], width_of(problem))[0]
        made.append(
            out if len(layers) == 1 else F.linear(F.gelu(out) if problem.operator == "mlp" else out, *layers[1])
        )
    return torch.stack(made)


def _tasks(output: Any) -> Tensor:
    tasks = output[1]
    return tasks if isinstance(tasks, Tensor) else torch.stack(tasks)


def _on_streams(its: Sample) -> Callable[[], Any]:
    """T products on T streams, forked from the current one and joined."""
    inputs, merged = its.inputs.unbind(), its.merged
    streams: list[Any] = [torch.cuda.Stream() for _ in merged]  # type: ignore[no-untyped-call]

    def run() -> Any:
        current, outputs = torch.cuda.current_stream(), []
        for stream, x, layers in zip(streams, inputs, merged, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                outputs.append(F.linear(x, *layers[0]))
        for stream in streams:
            current.wait_stream(stream)
        return None, outputs

    return run


def _wide(its: Sample) -> Callable[[], Any]:
    """All sub-tasks by one product of the shared input with their weights side by side."""
    x, weight, bias = its.x, its.stacked[0].weight.flatten(0, 1), its.stacked[0].bias.flatten()
    tasks = its.problem.deltas
    return lambda: (None, F.linear(x, weight, bias).view(len(x), tasks, -1).transpose(0, 1))


def _bsr(its: Sample) -> Callable[[], Any]:
    """The base's product, and per sub-task torch's block-sparse product of 64 x 64 blocks added to it."""
    x, (weight, bias) = its.x, its.base[0]
    deltas: list[Tensor] = []

    def run() -> Any:
        if not deltas:  # made at the first run, where what the library refuses is noted under its name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that this layout is in beta
                deltas.extend(torch.from_numpy(each).to(x).to_sparse_bsr((64, 64)) for each in its.deltas[0])
        base = F.linear(x, weight, bias)
        return base, [torch.addmm(base.T, delta, x.T).T for delta in deltas]

    return run


def _compact_channels(its: Sample) -> GpuForm:
    """Design A: one product with appended columns; changed rows, if any, by themselves."""
    x, base = its.x, its.base[0]
    layout = ops.tensors_of(OutChannelLayout.pack(its.deltas[0], multiple=ALIGNED), x.device)
    channel, count = layout["channel"], layout["count"]
    weights, biases = ops.appended(*base, channel, layout["value"].to(x.dtype))
    rows = _rows(its)

    def run() -> Any:
        return F.linear(x, weights, biases), rows()

    def whole(output: Any) -> Tensor:
        out, changed = ops.split(output[0], channel)
        tasks = ops.complete(out, changed, channel, count)
        return tasks if output[1] is None else its.overwritten(tasks, output[1])

    return GpuForm(run=run, whole=whole, candidate="out-channels", output="compact")


def _compact_rows(its: Sample) -> GpuForm:
    """Design B: the base's product and the changed rows through merged weights."""
    x, base, rows = its.x, its.base[0], _rows(its)
    return GpuForm(
        run=lambda: (F.linear(x, *base), rows()),
        whole=lambda output: its.overwritten(output[0], output[1]),
        candidate="rows",
        output="compact",
    )


def _rows(its: Sample) -> Callable[[], Tensor | None]:
    if not its.index.shape[1]:
        return lambda: None
    index, count, rows, stacked = its.index, its.count, its.x_rows, its.stacked[0]
    return lambda: ops.delta_rows(index, count, rows, *stacked)
