"""Tasks computed together: equal to the network, and in launches that do not grow with their number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slimtask.compress.structures.delta import Execution
from slimtask.export.onnx import export_onnx
from slimtask.export.shared import SharedViT

MakeNet = Callable[..., Any]
ROWS, BASE = Execution(rows=0.3), Execution(feed="base")
VIEWS = {"t", "transpose", "permute", "view", "_unsafe_view", "expand", "split", "split_with_sizes", "slice", "unbind"}
VIEWS |= {"unsqueeze", "squeeze", "select", "alias", "detach"}


class Launches(TorchDispatchMode):
    """Counts the operators that would launch a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in VIEWS and func.namespace == "aten":
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def launches(net: Any, x: Tensor, *, batched: bool) -> int:
    """Return the launches of all branches, of which some are in front of the first change."""
    trunk = SharedViT.of(net, batched=batched).trunk
    base, streams = torch.randn(1, 21, 32), {}
    with Launches() as counted:
        for branch in trunk.each():
            base, streams = branch(base, streams)
    return len(counted.names)


@pytest.mark.parametrize(("kind", "execution"), [("heads", ROWS), ("hidden-units", ROWS), ("heads", BASE)])
@torch.no_grad()
def test_launches_do_not_grow_with_the_tasks(kind: str, execution: Execution, make_net: MakeNet, x: Tensor) -> None:
    two = make_net(dict.fromkeys(("depth", "normals"), (kind, execution)))
    three = make_net(dict.fromkeys(("depth", "normals", "edges"), (kind, execution)))
    assert launches(three, x, batched=True) == launches(two, x, batched=True)
    assert launches(three, x, batched=False) > launches(two, x, batched=False)


@pytest.mark.parametrize("second", [Execution(rows=0.3), Execution(rows=0.5), Execution(rows=1), Execution(rows=0.99)])
@torch.no_grad()
def test_tasks_that_change_different_branches_are_the_network(second: Execution, make_net: MakeNet, x: Tensor) -> None:
    """In every branch one of two tasks changed nothing; of different row budgets each is computed by itself."""
    net = make_net({"depth": ("heads", ROWS), "normals": ("hidden-units", second)}).double()
    shared = SharedViT.of(net, batched=True)
    assert any(branch.row_groups for branch in shared.trunk.each()) == (second.rows == ROWS.rows)
    want = net(x.double())
    made = shared(x.double())
    assert max(float((made[task] - want[task]).abs().max()) for task in want) < 1e-12


@torch.no_grad()
def test_every_row_budget_has_its_group(make_net: MakeNet, x: Tensor) -> None:
    third = Execution(rows=0.5)
    for executions in ((third, ROWS, ROWS), (ROWS, ROWS, third), (ROWS, third, ROWS)):
        names = ("depth", "normals", "edges")
        net = make_net({task: ("heads", execution) for task, execution in zip(names, executions, strict=True)}).double()
        shared = SharedViT.of(net, batched=True)
        together = tuple(t for t, execution in zip(names, executions, strict=True) if execution is ROWS)
        assert {branch.on_rows for branch in shared.trunk.each()} == {(), together}
        made, want = shared(x.double()), net(x.double())
        assert max(float((made[task] - want[task]).abs().max()) for task in want) < 1e-12


def test_what_no_task_changed_is_not_stacked(make_net: MakeNet) -> None:
    net = make_net(dict.fromkeys(("depth", "normals", "edges"), ("heads", ROWS)))
    for branch in SharedViT.of(net, batched=True).trunk.each():
        for group in branch.row_groups:
            stored = {name for name, _ in group.stored.named_buffers()}
            assert bool(stored) == (branch.core.name == "attention")
            assert ("first_weight" in stored) == ("encoder_layer_3" not in branch.name and bool(stored))


@torch.no_grad()
def test_onnx_runtime_runs_them(make_net: MakeNet, x: Tensor, tmp_path: Path) -> None:
    shared = SharedViT.of(make_net(dict.fromkeys(("depth", "normals"), ("heads", ROWS))), batched=True)
    path = export_onnx(shared, None, x, tmp_path / "shared.onnx")
    choices = [node for node in onnx.load(path).graph.node if node.op_type == "TopK"]
    assert choices
    assert not [node.name for node in choices for a in node.attribute if (a.name, a.i) == ("sorted", 0)]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    made = dict(zip(names, map(torch.from_numpy, session.run(None, {"image": x.numpy()})), strict=True))
    want = shared(x)
    assert max(float((made[task] - want[task]).abs().max() / want[task].abs().max()) for task in want) < 1e-5
