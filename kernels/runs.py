"""Runs of the candidates, and a timer that takes them in turns: what `slimtask.kernels.costs.measure` is given.

A run returns (base, tasks): the base's output [N, M] and those of the sub-tasks, whole. Merged weights share nothing:
theirs is (None, tasks) for all tasks, the base included if it is one. Weights are packed, appended and merged before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from slimtask.kernels import ops
from slimtask.kernels.candidates import CANDIDATES
from slimtask.kernels.layouts import pack
from slimtask.kernels.problem import Problem
from slimtask.kernels.samples import Sample, width_of
from slimtask.kernels.units import Layer, attend, correct, correct_joined, correction, joined, widen

TOGETHER = ("cuda",)  # devices on which launches decide, so corrections of all tasks are one batched product
Output = tuple[Tensor | None, Tensor | list[Tensor]]
Run = Callable[[], Output]


def prepare(problem: Problem, *, seed: int = 0) -> dict[str, Run]:
    """Return a run of every candidate that executes ``problem`` exactly, on its device, by name.

    Weights and inputs are random, of ``seed``; the changed units are ``density`` of all, rounded, at least one.
    """
    sample = Sample(problem=problem, seed=seed)
    able = [each.name for each in CANDIDATES if each.excluded(problem) is None]
    with torch.inference_mode():
        return {name: _MAKERS[name](sample) for name in able}


def interleaved_ms(
    runs: Mapping[str, Callable[[], object]], *, rounds: int = 15, finish: Callable[[], object] | None = None
) -> dict[str, float]:
    """Return the median ms of every run, all taken in turns for ``rounds`` rounds after one that does not count.

    ``finish`` waits until the device is done (torch.cuda.synchronize); launches and the wait count then.
    """
    samples: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if finish is not None:
                    finish()
                samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times[1:]) for name, times in samples.items()}


def _dense(its: Sample) -> Run:
    inputs, merged = its.inputs.unbind(), its.merged
    return lambda: (None, [_through(x, layers, its.problem) for x, layers in zip(inputs, merged, strict=True)])


def _through(x: Tensor, layers: list[Layer], problem: Problem) -> Tensor:
    out = F.linear(x, *layers[0])
    if problem.operator == "linear":
        return out
    inner = F.gelu(out) if problem.operator == "mlp" else attend(out[None], width_of(problem))[0]
    return F.linear(inner, *layers[1])


def _batched(its: Sample) -> Run:
    inputs, operator, width = its.inputs.contiguous(), its.problem.operator, width_of(its.problem)
    columns = list(zip(*its.merged, strict=True))
    weights = [torch.stack([layer.weight for layer in column]).transpose(1, 2) for column in columns]
    biases = [torch.stack([layer.bias for layer in column])[:, None] for column in columns]

    def run() -> Output:
        out = torch.baddbmm(biases[0], inputs, weights[0])
        if operator == "linear":
            return None, out
        inner = F.gelu(out) if operator == "mlp" else attend(out, width)
        return None, torch.baddbmm(biases[1], inner, weights[1])

    return run


def _with_rows(its: Sample, shared: Callable[[], tuple[Tensor, Tensor]]) -> Run:
    """What ``shared`` returns, the rows that differ overwritten through merged weights."""
    if not its.index.shape[1]:
        return shared
    index, count, rows, stacked = its.index, its.count, its.x_rows, its.stacked
    mlp, overwrite = its.problem.operator == "mlp", ops.overwriting(rows)

    def run() -> Output:
        base, tasks = shared()
        inputs = ops.delta_rows(index, count, rows, *stacked[0], None, mlp) if mlp else rows
        weight, bias = stacked[-1]
        if overwrite is None:
            return base, ops.scatter_rows(index, count, ops.delta_rows(index, count, inputs, weight, bias), tasks)
        whole = tasks.clone(memory_format=torch.contiguous_format) if tasks.data_ptr() == base.data_ptr() else tasks
        return base, overwrite(index, count, weight, inputs, bias_TM=bias, out_TNM=whole, compact=True)

    return run


def _rows(its: Sample) -> Run:
    layers, problem = its.base, its.problem

    def base() -> tuple[Tensor, Tensor]:
        out = _through(its.x, layers, problem)
        return out, out.expand(problem.deltas, -1, -1)

    return _with_rows(its, base)


def _out_channels(its: Sample) -> Run:
    x, base = its.x, its.base[0]
    layout = ops.tensors_of(pack("out-channels", its.deltas[0]), x.device)
    channel = layout["channel"]
    weights, biases = ops.appended(*base, channel, layout["value"].to(x.dtype))
    places = ops.places(channel, layout["count"], len(base[0]))

    def appended() -> tuple[Tensor, Tensor]:
        extended = ops.delta_out_channels(channel, weights, x, biases)
        out, changed = ops.split(extended, channel)
        if x.device.type == "cuda":
            return out, ops.assemble(extended, places)
        return out, ops.complete(out, changed, channel, layout["count"])

    return _with_rows(its, appended)


def _sparse(kind: str, operator: Callable[..., Tensor]) -> Callable[[Sample], Run]:
    def maker(its: Sample) -> Run:
        x, base = its.x, its.base[0]
        arrays = ops.tensors_of(pack(kind, its.deltas[0]), x.device)
        given = [each.to(x.dtype) if each.is_floating_point() else each for each in arrays.values()]

        def delta() -> tuple[Tensor, Tensor]:
            out = F.linear(x, *base)
            return out, operator(*given, x, out)

        return _with_rows(its, delta)

    return maker


def _triton_blocks(start: Tensor, column: Tensor, value: Tensor, x: Tensor, base: Tensor) -> Tensor:
    from slimtask.kernels.triton.blocks import launch_blocks

    tasks = (len(start) - 1) // -(-base.shape[1] // value.shape[1])
    return launch_blocks(start, column, value, x, base, tasks=tasks)


def _units(its: Sample) -> Run:
    """One product over all units, the base's next layer, and corrections; what depends on weights alone before."""
    x, (first, second), width = its.x, its.base, width_of(its.problem)
    of_mlp = its.problem.operator == "mlp"
    changed = [torch.from_numpy(mask.any(axis=0).nonzero()[0]).to(x.device) for mask in its.masks[1]]
    kept = [torch.from_numpy(mask.any(axis=1).nonzero()[0]).to(x.device) for mask in its.masks[0]]
    own = [Layer(its.stacked[0].weight[t][rows], first.bias[rows]) for t, rows in enumerate(kept)]
    made = [correction(second, Layer(its.stacked[1].weight[t], second.bias), own) for t, own in enumerate(changed)]
    wide = widen(first, own, 1 if of_mlp else 3)
    sizes = [second.weight.shape[1], *(len(columns) for columns in changed)]
    together = joined(made) if x.device.type in TOGETHER and len(set(sizes[1:])) == 1 else None

    def units() -> tuple[Tensor, Tensor]:
        out = F.linear(x, *wide)
        inner = F.gelu(out) if of_mlp else attend(out[None], width)[0]
        if together is not None:
            shared, behind = torch.split(inner, [sizes[0], sum(sizes[1:])], dim=-1)
            base = F.linear(shared, *second)
            return base, base + correct_joined(shared, behind, together)
        shared, *parts = torch.split(inner, sizes, dim=-1)
        base = F.linear(shared, *second)
        return base, torch.stack([base + correct(shared, part, one) for part, one in zip(parts, made, strict=True)])

    return _with_rows(its, units)


_MAKERS: dict[str, Callable[[Sample], Run]] = {
    "dense": _dense,
    "batched": _batched,
    "rows": _rows,
    "out-channels": _out_channels,
    "blocks-cuda": _sparse("block", ops.delta_blocks),
    "blocks-triton": _sparse("block", _triton_blocks),
    "blocks-torch": _sparse("block", ops.delta_blocks),
    "vectors": _sparse("vector", ops.delta_vectors),
    "csr": _sparse("csr", ops.delta_csr),
    "units": _units,
}
