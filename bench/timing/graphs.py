"""Networks as ONNX graphs, and their latencies on this processor, all in one interleaved run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from slimtask.bench.timing.backends import BACKENDS
from slimtask.bench.timing.measure import Measurement
from slimtask.bench.timing.protocol import measure_interleaved
from slimtask.compress.network.contents import independent_copy

BACKEND = "onnxruntime-cpu"


def measure_graphs(
    graphs: Mapping[str, Path], *, threads: int, rounds: int = 30, min_sample_ms: float | int = 1.0
) -> dict[str, Measurement]:
    """Return one measurement per graph under ONNX Runtime; options as in ``measure_interleaved``."""
    opened = {name: BACKENDS[BACKEND].open(path, threads=threads) for name, path in graphs.items()}
    calls = {name: one.call for name, one in opened.items()}
    conditions = {name: one.conditions for name, one in opened.items()}
    return measure_interleaved(calls, conditions, rounds=rounds, min_sample_ms=min_sample_ms)


def export(model: nn.Module, example: Tensor, path: Path) -> Path:
    """Return ``path`` after writing the network in eval mode there as one ONNX file (opset 20) with its weights.

    A copy is what the exporter runs: it leaves tensors without values in what a network keeps of a pass.
    """
    model = independent_copy(model).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (example,), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    program.save(path, external_data=False)
    return path
