"""`make gpu`: every GPU test and measurement of a CUDA machine in one call under nine minutes, as one JSON file.

Latency: networks of published width whose channel groups were zeroed at random and removed exactly, in PyTorch inside
a CUDA graph, so that launches cost nothing and only the kernels differ; per sample one graph replay between two CUDA
events, levels interleaved. Random groups measure what removal buys at a size, not accuracy.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

from slimtask.bench.studies.delta import gpu as deltas
from slimtask.bench.timing.environment import environment
from slimtask.bench.timing.isolated import Failed, Isolated, Lost, NoTime, Runner, Say, reason
from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.compress.api.models import Cost, cost
from slimtask.compress.removal.remove import remove_zeros
from slimtask.errors import SlimtaskError, Unsupported
from slimtask.files import write_json
from slimtask.tasks import TaskSpec

TASKS = (
    TaskSpec(name="segmentation", kind="segmentation", channels=40),
    TaskSpec(name="depth", kind="depth", channels=1),
    TaskSpec(name="normals", kind="normals", channels=3),
)
LEVELS = (0.0, 0.5, 0.7, 0.9)
TRUNKS = (("resnet18", (torch.float32,)), ("resnetd50", (torch.float32, torch.float16)))
SECONDS = 510.0  # of the nine minutes a call may take
TEST_SECONDS = 20.0  # for the tests at least
SMALL = (120, 160)  # pixels at which channels are removed and the removal certified: seconds instead of minutes
TRUNK_SECONDS = 150.0  # removal on the CPU included; what takes longer hangs


def main() -> None:
    """Measure and write the JSON; exit status 2 with one sentence without a CUDA device, 1 where some failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--skip-tests", action="store_true", help="only measure")
    parser.add_argument("--delta-seconds", type=float, default=180.0, help="time for layers with sparse deltas")
    arguments = parser.parse_args()
    try:
        with Isolated(SECONDS) as runner:
            result = measure(
                runner,
                tests=not arguments.skip_tests,
                delta_seconds=arguments.delta_seconds,
                keep=lambda so_far: write_json(arguments.json, so_far),
            )
    except SlimtaskError as error:
        print(f"gpu: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        print(f"gpu: interrupted; what was measured is in '{arguments.json}'.", file=sys.stderr)
        raise SystemExit(130) from None
    if result["tests"] is not None and result["tests"]["exit_status"] != 0:
        print(f"gpu: the GPU tests did not pass: {result['tests']['closing_line']}", file=sys.stderr)
    failed = [*result["failed"], *(result["delta"] or {"failed": []})["failed"]]
    if failed:
        print(f"gpu: {len(failed)} measurements failed, {failed[0]['name']}: {failed[0]['error']}", file=sys.stderr)
    if failed or (result["tests"] or {"exit_status": 0})["exit_status"] != 0:
        raise SystemExit(1)


def measure(
    runner: Runner,
    *,
    tests: bool = True,
    delta_seconds: float = 0.0,
    keep: Callable[[dict[str, Any]], None] = lambda so_far: None,
) -> dict[str, Any]:
    """Return everything measured on the CUDA device, deltas first. Raises Unsupported where there is none.

    ``delta_seconds`` are for layers whose sub-tasks are sparse deltas; with 0 they are left out. ``runner`` calls what
    touches the GPU; what fails is named and costs nothing else. ``keep`` is called with the result so far, before the
    first part and after each.
    """
    if not torch.cuda.is_available():
        raise Unsupported("the GPU measurement", "this machine", "no CUDA device is visible", "run it on one that has")
    start = time.monotonic()
    result: dict[str, Any] = {
        "command": "make gpu",
        "environment": {**environment(), "gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda},
        "delta": None,
        "latency": [],
        "tests": None,
        "failed": [],
        "left_out": [],
    }
    keep(result)  # a file that cannot be written is found out now
    if delta_seconds > 0:
        try:
            result["delta"] = deltas.measure(delta_seconds, runner=runner)
        except Exception as error:  # the other parts do not depend on it
            result["failed"].append({"name": "deltas", "error": reason(error)})
        keep(result)
    for trunk, precisions in TRUNKS:
        try:
            result["latency"] += runner.run(trunk_latency, trunk, precisions, seconds=TRUNK_SECONDS)
        except NoTime:
            result["left_out"].append(f"latency of {trunk}")
        except (Failed, Lost) as error:
            result["failed"].append({"name": f"latency of {trunk}", "error": str(error)})
        keep(result)
    runner.rest()  # the tests get the GPU's memory
    if tests:
        result["tests"] = gpu_tests(max(TEST_SECONDS, SECONDS - (time.monotonic() - start)))
        keep(result)
    return result


def gpu_tests(timeout_seconds: float) -> dict[str, Any]:
    """Return pytest's exit status and closing line for the tests marked ``gpu``."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired as late:
        last = (late.stdout or b"").decode(errors="replace").strip().splitlines()[-1:]
        return {"exit_status": None, "closing_line": f"not finished after {timeout_seconds:.0f} s: {''.join(last)}"}
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    closing = lines[-1] if lines else done.stderr.strip()[-500:]
    return {"exit_status": done.returncode, "closing_line": closing, "failed": failed}


def trunk_latency(say: Say, trunk: str, precisions: Sequence[torch.dtype]) -> list[dict[str, Any]]:
    """Return the rows of a trunk at every level, in each precision; images of 480 x 640."""
    size = (480, 640)
    levels = cut_levels(trunk, LEVELS, size)
    return [row for dtype in precisions for row in latency(levels, size, dtype, clock=graph_timer, device="cuda")]


@dataclass(frozen=True, kw_only=True)
class CutLevel:
    """One network with a share of its channel groups removed, its size, and the certificate's difference."""

    trunk: str
    target: float
    model: nn.Module
    size: Cost
    certificate: float | None


def cut_levels(trunk: str, levels: Sequence[float], size: tuple[int, int], *, width: float = 1.0) -> list[CutLevel]:
    """Return the dense network and one with each level of its groups zeroed and removed; costs are for ``size``."""
    example, made = torch.zeros(1, 3, *size), []
    for level in levels:
        model, proof = random_level(trunk, level, torch.zeros(1, 3, *SMALL), width=width)
        made.append(CutLevel(trunk=trunk, target=level, model=model, size=cost(model, example), certificate=proof))
    return made


def latency(
    levels: Sequence[CutLevel],
    size: tuple[int, int],
    dtype: torch.dtype,
    *,
    clock: Callable[[dict[str, nn.Module], Tensor], dict[str, list[float]]],
    device: str,
) -> list[dict[str, Any]]:
    """Return one row per level, the first being the baseline: sizes, certificate, samples and speed-up of ``clock``."""
    x = torch.randn(1, 3, *size).to(device, dtype).to(memory_format=torch.channels_last)
    networks = {
        f"{level.target:g}": copy.deepcopy(level.model).to(device, dtype).to(memory_format=torch.channels_last)
        for level in levels
    }
    precision = str(dtype).removeprefix("torch.")
    conditions = Conditions(
        backend="pytorch",
        backend_version=torch.__version__,
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        precision=precision,
        threads=1,
        batch=1,
        shape=(3, *size),
        graph=device == "cuda",
        run_id=uuid4().hex,
    )
    samples = clock(networks, x)
    measured = {name: Measurement(samples_ms=tuple(values), conditions=conditions) for name, values in samples.items()}
    baseline = measured[f"{levels[0].target:g}"]
    return [
        {
            "trunk": level.trunk,
            "target": level.target,
            **vars(level.size),
            "certificate": level.certificate,
            "speedup": baseline.ratio(measured[f"{level.target:g}"]).model_dump(),
            "measurement": measured[f"{level.target:g}"].to_json(),
        }
        for level in levels
    ]


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
            begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            graph.replay()
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            samples[name].append(begin.elapsed_time(end))
    return samples


def _captured(network: nn.Module, x: Tensor) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
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
