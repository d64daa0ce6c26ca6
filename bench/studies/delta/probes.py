"""Nine probes of what the floors assume: what single products, launches, caches and libraries give on this GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slimtask.bench.studies.delta.grid import DENSITY, TASKS, VIT_B, VIT_L, chosen
from slimtask.bench.studies.trunks import random_level
from slimtask.bench.timing.gpu_clock import Clock
from slimtask.bench.timing.isolated import Failed, Here, Lost, NoTime, Runner, Say

_DTYPE = torch.bfloat16
SECONDS = 60.0  # for one probe; what takes longer hangs
_TENSORRT = "needs TensorRT with ahead-of-time plugins, which this measurement does not use"
Run = Callable[[], object]
Probe = tuple[str, str | Callable[[Clock, str], Any]]
"""What is asked, and what answers it, or why nothing does."""


def run_probes(
    clock: Clock,
    *,
    seconds: float,
    device: str = "cuda",
    runner: Runner | None = None,
    probes: Sequence[Probe] | None = None,
) -> list[dict[str, Any]]:
    """Return one JSON-ready entry per probe: its ``result``, or why it was ``not_run``, or the ``error``.

    ``probes`` are those of this module by default.
    """
    made, start, runner = [], time.monotonic(), runner or Here()
    for number, (what, probe) in enumerate(PROBES if probes is None else probes, start=1):
        entry: dict[str, Any] = {"probe": number, "what": what}
        if isinstance(probe, str):
            entry["not_run"] = probe
        elif time.monotonic() - start >= seconds:
            entry["not_run"] = "no time was left"
        else:
            try:
                entry["result"] = runner.run(_without_gradients, probe, clock, device, seconds=SECONDS)
            except NoTime:
                entry["not_run"] = "no time was left"
            except (Failed, Lost) as error:  # one probe must not cost the others
                entry["error"] = str(error)
        made.append(entry)
    return made


def failed_probes(probes: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the probes that ended in an error, as failures of the run."""
    return [
        {"name": f"probe {each['probe']}: {each['what']}", "error": each["error"]} for each in probes if "error" in each
    ]


def _without_gradients(say: Say, probe: Callable[[Clock, str], Any], clock: Clock, device: str) -> Any:
    with torch.no_grad():
        return probe(clock, device)


def time_ms(clock: Clock, runs: dict[str, Run], *, cold: bool = False) -> dict[str, float]:
    """Return the median ms of each run, captured and taken in turns."""
    samples = clock.time({name: [clock.capture(run)] for name, run in runs.items()}, cold=cold)
    return {name: sorted(each)[len(each) // 2] for name, each in samples.items()}


def dense_products(clock: Clock, device: str) -> list[dict[str, Any]]:
    """Return, per layer and number of tokens, ms of one product, of T in one graph and of T batched."""
    made = []
    for vit, tokens in ((VIT_B, 1024), (VIT_B, 2048), (VIT_L, 1024), (VIT_L, 2048)):
        for layer, (inputs, outputs) in vit.linears.items():
            x, weight = _random(device, TASKS, tokens, inputs), _random(device, TASKS, outputs, inputs)
            ms = time_ms(clock, _products(x, weight))
            tflops = 2e-9 * tokens * inputs * outputs / ms["one"]
            made.append({"model": vit.name, "layer": layer, "tokens": tokens, "ms": ms, "tflops_of_one": tflops})
    return made


def _products(x: Tensor, weight: Tensor) -> dict[str, Run]:
    def one() -> object:
        return F.linear(x[0], weight[0])

    def in_graph() -> object:
        return [F.linear(each, own) for each, own in zip(x, weight, strict=True)]

    return {"one": one, "in one graph": in_graph, "batched": lambda: torch.bmm(x, weight.transpose(1, 2))}


def launches(clock: Clock, device: str) -> dict[str, float]:
    """Return the gap between two nodes of a graph and the host's time for an eager launch, in microseconds."""
    x = torch.zeros(1, device=device)

    def many(count: int) -> Run:
        return lambda: [x.add_(1) for _ in range(count)]

    ms = time_ms(clock, {"1": many(1), "101": many(101)})
    start = time.perf_counter()
    many(1000)()
    host = time.perf_counter() - start
    return {"graph_node_us": 10 * (ms["101"] - ms["1"]), "eager_launch_us": 1e3 * host}


def caches(clock: Clock, device: str) -> dict[str, Any]:
    """Return the read bandwidth in TB/s of buffers that L2 holds, by size in MB, and of one that it does not."""
    buffers = {str(megabytes): torch.ones(megabytes * 2**18, device=device) for megabytes in (8, 16, 32, 512)}
    ms = time_ms(clock, {name: partial(torch.sum, buffer) for name, buffer in buffers.items()})
    read = {name: int(name) * 2**20 / (1e9 * value) for name, value in ms.items()}
    return {"read_tb_s_by_mb": read, "shared_memory": "not run: needs a kernel of its own"}


def gathered_rows(clock: Clock, device: str) -> dict[str, float]:
    """Return ms of the changed rows' grouped product with gathered and with contiguous rows, 10 % of 1024."""
    from slimtask.kernels import ops

    tokens, budget = 1024, 103
    inputs, outputs = VIT_B.linears["fc1"]
    x, weight = _random(device, TASKS, tokens, inputs), _random(device, TASKS, outputs, inputs)
    index = torch.stack([torch.randperm(tokens)[:budget].sort().values for _ in range(TASKS)]).int().to(device)
    count = torch.full((TASKS,), budget, dtype=torch.int32, device=device)
    rows = x.gather(1, index.long()[:, :, None].expand(-1, -1, inputs)).contiguous()
    return time_ms(
        clock,
        {
            "gathered": lambda: ops.delta_rows(index, count, x, weight, gather=True),
            "contiguous": lambda: ops.delta_rows(index, count, rows, weight),
            "library, contiguous": lambda: torch.bmm(rows, weight.transpose(1, 2)),
        },
    )


def block_sparse_library(clock: Clock, device: str) -> dict[str, float]:
    """Return ms of torch's BSR product of 64 x 64 blocks at 5 %, and of the dense one."""
    inputs, outputs = VIT_B.linears["fc1"]
    x, weight = _random(device, 1024, inputs), _random(device, outputs, inputs)
    kept = torch.rand(outputs // 64, inputs // 64, device=device) < DENSITY
    sparse = (weight * kept.repeat_interleave(64, 0).repeat_interleave(64, 1)).to_sparse_bsr((64, 64))
    return time_ms(clock, {"bsr": lambda: torch.matmul(sparse, x.T), "dense": lambda: F.linear(x, weight)})


def appended_columns(clock: Clock, device: str) -> dict[str, float]:
    """Return ms of fc1 and of fc1 with 5 % more outputs for each of T tasks, and both ratios: of time and of FLOPs."""
    inputs, outputs = VIT_B.linears["fc1"]
    more = TASKS * chosen(outputs, DENSITY)
    x, weight = _random(device, 1024, inputs), _random(device, outputs + more, inputs)
    own = weight[:outputs].contiguous()
    ms = time_ms(clock, {"base": lambda: F.linear(x, own), "appended": lambda: F.linear(x, weight)})
    return {**ms, "time_ratio": ms["appended"] / ms["base"], "flop_ratio": (outputs + more) / outputs}


def removed_channels(clock: Clock, device: str) -> list[dict[str, Any]]:
    """Return ms of a ResNet-50 and of one with half its channel groups removed, by batch and image size, fp16."""
    networks: dict[str, Any] = {}
    for name, level in (("dense", 0.0), ("half removed", 0.5)):
        with torch.enable_grad():
            network: Any = random_level("resnetd50", level, torch.zeros(1, 3, 64, 64))[0]
        networks[name] = network.trunk.to(device).half().to(memory_format=torch.channels_last).eval()
    made = []
    for batch, size in ((1, (224, 224)), (8, (224, 224)), (64, (224, 224)), (1, (512, 1024)), (8, (512, 1024))):
        x = torch.randn(batch, 3, *size, device=device).half().to(memory_format=torch.channels_last)
        runs: dict[str, Run] = {name: partial(network, x) for name, network in networks.items()}
        made.append({"batch": batch, "size": list(size), "ms": time_ms(clock, runs)})
    return made


def _random(device: str, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device).to(_DTYPE)


PROBES: tuple[Probe, ...] = (
    ("dense products: one, T in one graph, T batched", dense_products),
    ("gap between the nodes of a graph, cost of an eager launch", launches),
    ("bandwidth of L2 and of shared memory", caches),
    ("changed rows: gathered against contiguous", gathered_rows),
    ("torch's block-sparse product, 64 x 64 at 5 %", block_sparse_library),
    ("appended columns as one product", appended_columns),
    ("plugin with more than 48 KB of dynamic shared memory", _TENSORRT),
    ("three branches in one engine with 0, 2 and 7 auxiliary streams", _TENSORRT),
    ("ResNet-50 dense against half its channels, by batch and size", removed_channels),
)
