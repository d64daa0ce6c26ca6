"""SharedViT on a GPU: the network's numbers, in a CUDA graph too, and dispatch by what was measured there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slimtask.bench.layers.delta_costs import measure_costs
from slimtask.compress.structures.delta import Execution
from slimtask.export.shared import SharedViT
from slimtask.kernels.device import Device
from slimtask.kernels.dispatch import choose

MakeNet = Callable[..., Any]
EXECUTIONS = {"own": Execution(), "base": Execution(feed="base"), "rows": Execution(rows=0.3)}
KINDS = ("hidden-units", "heads", "out-channels", "square", "vector", "element", "everything")
pytestmark = pytest.mark.gpu


def close(made: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    for task, value in want.items():
        difference = (made[task].float().cpu() - value).abs().max()
        assert float(difference) < tolerance * float(value.abs().max()), task


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_is_the_network(kind: str, execution: str, make_net: MakeNet, x: Tensor) -> None:
    net = make_net(dict.fromkeys(("depth", "normals"), (kind, EXECUTIONS[execution])))
    want = net(x)
    net.cuda()
    for prefer in ("expected", "kernels"):
        for batched in (False, True):
            close(SharedViT.of(net, batched=batched, prefer=prefer)(x.cuda()), want, 1e-4)
    if execution != "rows":  # in half precision other rows may be the freshest
        close(SharedViT.of(net.half(), prefer="kernels", batched=True)(x.cuda().half()), want, 2e-2)


@pytest.mark.parametrize("execution", EXECUTIONS)
@torch.no_grad()
def test_a_cuda_graph_holds_it(execution: str, make_net: MakeNet, x: Tensor) -> None:
    net = make_net(dict.fromkeys(("depth", "normals"), ("heads", EXECUTIONS[execution])))
    want = net(2 * x)
    shared, held = SharedViT.of(net.cuda(), batched=True), x.cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            shared(held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = shared(held)
    held.copy_(2 * x)
    graph.replay()
    torch.cuda.synchronize()
    close(made, want, 1e-4)


def test_what_was_measured_decides(make_net: MakeNet, tmp_path: Path) -> None:
    net = make_net(dict.fromkeys(("depth", "normals"), ("square", Execution(feed="base"))))
    costs, problems = measure_costs(net, backend="cuda", precision="fp16", folder=tmp_path)
    assert costs.device == Device.current("cuda")
    for problem in problems:
        choice = choose(problem, costs)
        measured = {each.candidate for each in choice.alternatives if each.source == "measured"}
        assert {"dense", "batched", "blocks-cuda", "blocks-triton"} <= measured
        assert choice.source == "measured"
