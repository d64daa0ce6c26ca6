"""`make gpu`: every GPU test and measurement of a CUDA machine in one call under nine minutes, as one JSON file.

Latency: networks of published width whose channel groups were zeroed at random and removed exactly, in PyTorch inside
a CUDA graph, so that launches cost nothing and only the kernels differ; per sample one graph replay between two CUDA
events, levels interleaved. Random groups measure what removal buys at a size, not accuracy.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.environment import environment
from slimtask.compress.compress import cost
from slimtask.compress.remove import remove_zeros
from slimtask.errors import SlimtaskError, Unsupported
from slimtask.files import write_json
from slimtask.tasks import TaskSpec

TASKS = (
    TaskSpec(name="segmentation", kind="segmentation", channels=40),
    TaskSpec(name="depth", kind="depth", channels=1),
    TaskSpec(name="normals", kind="normals", channels=3),
)
LEVELS = (0.0, 0.5, 0.7, 0.9)


def main() -> None:
    """Measure and write the JSON; exit status 2 with one sentence where there is no CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--skip-tests", action="store_true", help="only measure")
    arguments = parser.parse_args()
    try:
        write_json(arguments.json, measure(tests=not arguments.skip_tests))
    except SlimtaskError as error:
        print(f"gpu: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None


def measure(*, tests: bool = True) -> dict[str, Any]:
    """Return everything measured on the CUDA device. Raises Unsupported where there is none."""
    if not torch.cuda.is_available():
        raise Unsupported("the GPU measurement", "this machine", "no CUDA device is visible", "run it on one that has")
    return {
        "command": "make gpu",
        "environment": {**environment(), "gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda},
        "tests": gpu_tests() if tests else "skipped by --skip-tests",
        "latency": [
            row
            for trunk, dtype in (("resnet18", torch.float32), ("resnetd50", torch.float32), ("resnetd50", torch.float16))
            for row in latency(trunk, dtype, LEVELS, size=(480, 640), time=graph_timer, device="cuda")
        ],
    }


def gpu_tests(timeout_seconds: int = 240) -> dict[str, Any]:
    """Return pytest's exit status and closing line for the tests marked ``gpu``."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"exit_status": None, "closing_line": f"not finished after {timeout_seconds} s"}
    lines = done.stdout.strip().splitlines()
    return {"exit_status": done.returncode, "closing_line": lines[-1] if lines else done.stderr.strip()[-500:]}


def latency(
    trunk: str,
    dtype: torch.dtype,
    levels: Sequence[float],
    *,
    size: tuple[int, int],
    time: Callable[[dict[str, nn.Module], Tensor], dict[str, list[float]]],
    device: str,
    width: float = 1.0,
) -> list[dict[str, Any]]:
    """Return one row per level: sizes, certificate and the latency samples of ``time`` in milliseconds."""
    example = torch.zeros(1, 3, *size)
    networks, rows = {}, []
    for level in levels:
        model, proof = random_level(trunk, level, example, width=width)
        dense_or_cut = cost(model, example)
        rows.append(
            {
                "trunk": trunk,
                "dtype": str(dtype).removeprefix("torch."),
                "image": list(size),
                "target": level,
                "params": dense_or_cut.params,
                "trunk_params": dense_or_cut.trunk_params,
                "flops": dense_or_cut.flops,
                "certificate": proof,
            }
        )
        networks[f"{level}"] = model.to(device, dtype).to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, *size, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    samples = time(networks, x)
    for row in rows:
        values = torch.tensor(samples[f"{row['target']}"]).double()
        row["ms"] = {
            "median": float(values.median()),
            "p10": float(values.quantile(0.1)),
            "p90": float(values.quantile(0.9)),
            "n": len(values),
        }
        row["speedup"] = float(torch.tensor(samples[f"{levels[0]}"]).double().median()) / row["ms"]["median"]
    return rows


def random_level(trunk: str, level: float, example: Tensor, *, width: float = 1.0) -> tuple[nn.Module, float | None]:
    """Return a multi-task network without ``level`` of its coupled trunk groups, and the certificate's difference."""
    from slimtask.train.models import multitask_net
    from slimtask.train.recipe import SparsityConfig
    from slimtask.train.sparsity.structure import sparse_structure

    torch.manual_seed(0)
    model = multitask_net(tasks=TASKS, trunk=trunk, width=width).eval()
    if not level:
        return model, None
    structure = sparse_structure(model, example, SparsityConfig(target=level))
    dead = torch.rand(len(structure.layout)) < level
    parameters = dict(model.named_parameters())
    for member in structure.layout.members:
        index = ((member.groups >= 0) & dead[member.groups.clamp_min(0)]).nonzero().flatten()
        parameters[member.parameter].data.index_fill_(member.axis, index, 0.0)
    done = remove_zeros(model, example, align=8)
    return done.model, done.certificate.max_rel_error


def graph_timer(networks: dict[str, nn.Module], x: Tensor, rounds: int = 100) -> dict[str, list[float]]:
    """Return milliseconds per CUDA-graph replay of each network on ``x``, interleaved, by CUDA events."""
    graphs = {name: _captured(network, x) for name, network in networks.items()}
    samples: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for name, graph in graphs.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            graph.replay()
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            samples[name].append(begin.elapsed_time(end))
    return samples


def _captured(network: nn.Module, x: Tensor) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(5):
            network(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        network(x)
    return graph


if __name__ == "__main__":
    main()
