"""Costs for dispatch: what every candidate takes on the layers of one network with deltas, on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from slimtask.bench.timing.gpu_clock import Clock, GraphClock
from slimtask.errors import InputError
from slimtask.export.onnx import task_specs
from slimtask.export.shared import SharedViT
from slimtask.export.shared.explain import why_no_layer
from slimtask.kernels.costs import Costs, Timer, measure
from slimtask.kernels.device import Device
from slimtask.kernels.problem import Problem
from slimtask.kernels.runs import interleaved_ms, prepare

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def measure_costs(
    network: nn.Module,
    *,
    backend: Literal["cpu", "cuda"] = "cpu",
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    folder: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Costs, tuple[Problem, ...]]:
    """Return the costs of this device, with those of the network's layers, and what was measured.

    ``network`` is as ``rebuild`` gives it. Problems are those of all tasks together and of each with the base, on one
    image of ``size`` (height and width; default: the grid the network was made for). On a GPU runs are CUDA graphs, by
    the device's own clock; on the CPU they are PyTorch's. Costs are added to the device's file in ``folder`` (default:
    the cache), which is written after each problem; ``progress`` is called with (problems done, in all). Raises
    InputError for a network without deltas, one in which no layer can run as base and delta, an unknown precision and a
    missing GPU.
    """
    problems = problems_of(network, backend=backend, precision=precision, size=size)
    timer = graph_timer(GraphClock()) if backend == "cuda" else interleaved_ms
    try:
        return measure(problems, timer=timer, prepare=prepare, folder=folder, progress=progress), problems
    except ValueError as error:  # the file that is there is damaged
        raise InputError(str(error)) from None


def problems_of(
    network: nn.Module, *, backend: Literal["cpu", "cuda"], precision: str, size: tuple[int, int] | None
) -> tuple[Problem, ...]:
    """Return what dispatch is asked about the network's layers; raises as ``measure_costs``."""
    if precision not in DTYPES:
        raise InputError(f"there is no precision '{precision}'; take one of {', '.join(DTYPES)}.")
    try:
        device = Device.current(backend)
    except ValueError as error:
        raise InputError(str(error)) from None
    dtype = str(DTYPES[precision]).removeprefix("torch.")
    names = [spec.name for spec in task_specs(network)]
    found: dict[Problem, None] = {}
    whys: list[str] = []
    for tasks in [names, *([name] for name in names)]:
        shared = SharedViT.of(network, tasks, device=device, costs=Costs(device=device), dtype=dtype, size=size)
        whys.append(why_no_layer(shared))
        steps = [step for branch in shared.trunk.each() for step in branch.steps]
        found |= {step.choice.problem: None for step in steps if step.choice is not None}
    if not found:
        raise InputError(
            f"no layer of this network can run as base and delta, for most because: {whys[0]}; there is nothing to "
            "measure."
        )
    return tuple(found)


def graph_timer(clock: Clock) -> Timer:
    """Return a timer that takes replays of CUDA graphs in turns, weights and inputs warm."""

    def timed(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        replays = {name: [clock.capture(run)] for name, run in runs.items()}
        return {name: statistics.median(samples) for name, samples in clock.time(replays, cold=False).items()}

    return timed
