"""What a trained network costs once deployed: what compress leaves of it, and of a policy the latency too."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from slimtask.architectures import build
from slimtask.bench.timing.graphs import measure_graphs
from slimtask.checkpoint import Checkpoint
from slimtask.compress.api.checkpoints import compress_checkpoint
from slimtask.compress.api.models import cost
from slimtask.compress.edits.tasks import Selected
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.score.cost import count_flops
from slimtask.export.onnx import subgraph, trace_onnx
from slimtask.export.weights.store import write_graphs

TOGETHER, APART = "together", "apart"


def shipped(run: Path) -> dict[str, int]:
    """Return parameters ("params") and FLOPs of one image ("flops") of what compress makes of the finished ``run``.

    All tasks together; a network in which nothing may go, and a policy's, which branches, as they are.
    """
    import slimtask.train.models  # noqa: F401  registers the architectures

    checkpoint = Checkpoint.load(run / "checkpoint.safetensors")
    example = checkpoint.example()
    if (run / "policy.json").exists():
        network = rebuild(checkpoint)
    else:
        network = compress_checkpoint(checkpoint, dense_is_fine=True)[1].model
    found = cost(network, example)
    return {"params": found.params, "flops": found.flops}


def deployed(run: Path, *, rounds: int = 30) -> dict[str, Any]:
    """Return the costs of the network of the finished ``run`` and of the dense one, measured interleaved on one thread.

    By network ("policy", "dense") and use ("together": all tasks in one graph, which branches; "apart": a graph per
    task, one after the other): ``flops`` of one image and ``median_ms``. ``steady`` is whether the processor was quiet.
    A latency does not depend on the weights, so the dense network is made anew. Raises InputError if the run has no
    checkpoint.
    """
    import slimtask.train.models  # noqa: F401  registers the architectures

    checkpoint = Checkpoint.load(run / "checkpoint.safetensors")
    example, names = checkpoint.example(), [task.name for task in checkpoint.tasks]
    assert isinstance(example, Tensor)  # a recipe's network takes one image
    fresh = build(checkpoint.architecture.name, checkpoint.architecture.arguments, checkpoint.tasks)
    networks = {"policy": rebuild(checkpoint), "dense": fresh.eval()}
    uses = {TOGETHER: names, **{name: [name] for name in names}}
    with tempfile.TemporaryDirectory() as folder:
        graphs: dict[str, Path] = {}
        for kind, network in networks.items():
            whole = trace_onnx(network, names, example)
            cut = {f"{kind}-{use}.onnx": subgraph(whole, tasks) for use, tasks in uses.items()}
            write_graphs(cut, folder, f"{kind}.weights.bin")
            graphs |= {f"{kind}/{use}": Path(folder) / file for use, file in zip(uses, cut, strict=True)}
        timed = measure_graphs(graphs, threads=1, rounds=rounds)
    found: dict[str, Any] = {"steady": all(one.steady for one in timed.values())}
    for kind, network in networks.items():
        flops = {use: count_flops(Selected(network, tasks), example) for use, tasks in uses.items()}
        latency = {use: timed[f"{kind}/{use}"].median_ms for use in uses}
        found[kind] = {
            TOGETHER: {"flops": flops[TOGETHER], "median_ms": latency[TOGETHER]},
            APART: {"flops": sum(map(flops.get, names)), "median_ms": sum(map(latency.get, names))},
        }
    return found
