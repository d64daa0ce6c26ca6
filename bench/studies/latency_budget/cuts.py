"""Three ways to cut one network to a measured speed-up: a latency budget, a FLOP budget, and torch-pruning."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from slimtask.bench.layers.meter import OnnxRuntimeMeter
from slimtask.bench.studies.latency_budget.network import PyramidNet
from slimtask.bench.studies.torch_pruning import prune_uniformly_
from slimtask.bench.timing.graphs import export, measure_graphs
from slimtask.bench.timing.measure import Measurement
from slimtask.compress.latency.budgets import ALL, prune_to_latency
from slimtask.compress.latency.close import WELL_USED
from slimtask.compress.pruning import prune
from slimtask.compress.score.budget import Budget
from slimtask.errors import CheckFailed

NEAR = 1.04
"""A cut by a ratio is near enough to its speed-up when it is at most this much faster."""
_STEPS = 7
_BUDGETS, _INSIDE = 4, 0.98


def measured(networks: Mapping[str, nn.Module], example: Tensor, threads: int, rounds: int) -> dict[str, Measurement]:
    """Return the latency of every network under ONNX Runtime on the CPU, interleaved in one process."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            name: export(network, example, Path(folder, f"{number}.onnx"))
            for number, (name, network) in enumerate(networks.items())
        }
        return measure_graphs(paths, threads=threads, rounds=rounds, min_sample_ms=4.0)


def by_latency(model: PyramidNet, example: Tensor, speedup: float, images: Sequence[Tensor], threads: int) -> nn.Module:
    """Return the network that a latency budget of the dense time over ``speedup`` leaves (compress --latency-ms).

    A budget is in milliseconds, and a machine that is busier or less so than when the dense network was timed makes it
    another speed-up; the rows are compared at equal speed-up, so it is asked again, by how far it was off beside the
    dense network.
    """
    budget = measured({"dense": model}, example, threads, 30)["dense"].median_ms / speedup
    best: tuple[float, nn.Module] | None = None
    for _ in range(_BUDGETS):
        done = prune_to_latency(model, example, {ALL: budget}, OnnxRuntimeMeter(threads=threads), images=images)
        cut = done.compressed.model
        found = measured({"dense": model, "cut": cut}, example, threads, 15)
        excess = found["dense"].median_ms / found["cut"].median_ms / speedup
        if excess >= 1 and (best is None or excess < best[0]):
            best = excess, cut
        if 1 <= excess <= 1 / WELL_USED:
            break
        budget *= _INSIDE * excess
    if best is None:
        raise CheckFailed(f"no budget tried makes the network {speedup} times as fast; no row is written.")
    return best[1]


def by_flops(model: PyramidNet, example: Tensor, speedup: float, images: Sequence[Tensor], threads: int) -> nn.Module:
    """Return the network of the most FLOPs that is ``speedup`` times as fast (compress --flops, its other defaults)."""

    def cut(ratio: float) -> nn.Module:
        return prune(model, example, budget=Budget(flops=ratio), align=8).model

    return _ratio(cut, model, example, speedup, threads)


def by_torch_pruning(
    model: PyramidNet, example: Tensor, speedup: float, images: Sequence[Tensor], threads: int
) -> nn.Module:
    """Return the network that torch-pruning's group magnitude leaves, the same share of every group, multiples of 8."""
    return _ratio(lambda share: _torch_pruned(model, example, 1.0 - share), model, example, speedup, threads)


WAYS: dict[str, Callable[[PyramidNet, Tensor, float, Sequence[Tensor], int], nn.Module]] = {
    "latency budget": by_latency,
    "FLOP budget": by_flops,
    "torch-pruning": by_torch_pruning,
}


def _ratio(
    cut: Callable[[float], nn.Module], model: nn.Module, example: Tensor, speedup: float, threads: int
) -> nn.Module:
    """Return ``cut(ratio)`` of the largest ratio found, by bisection, whose network is ``speedup`` times as fast."""
    low, high = 0.02, 1.0 / speedup**0.3
    best: nn.Module | None = None
    for _ in range(_STEPS):
        ratio = (low + high) / 2
        made = cut(ratio)
        found = measured({"dense": model, "cut": made}, example, threads, 15)
        faster = found["dense"].median_ms / found["cut"].median_ms
        if faster >= speedup:
            best, low = made, ratio
        else:
            high = ratio
        if speedup <= faster <= NEAR * speedup:
            break
    if best is None:
        raise CheckFailed(f"no ratio tried makes the network {speedup} times as fast; no row is written.")
    return best


def _torch_pruned(model: PyramidNet, example: Tensor, level: float) -> nn.Module:
    copied = copy.deepcopy(model)
    prune_uniformly_(copied, example, level, copied.outputs(), round_to=8)
    return copied.eval()
