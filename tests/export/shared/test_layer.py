"""First layers as base and delta, against the network that computes every task densely."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from slimtask.compress.structures.delta import Execution
from slimtask.export.onnx import export_onnx
from slimtask.export.shared import SharedViT
from slimtask.export.shared.layer import FirstLayers
from slimtask.export.shared.plan import Packing
from slimtask.kernels.units import Layer

MakeNet = Callable[..., Any]
EXECUTIONS = {"own": Execution(), "base": Execution(feed="base"), "rows": Execution(rows=0.3)}
PACKINGS = {
    "square": Packing("block", 64),
    "vector": Packing("vector", 32),
    "tall": Packing("vector", 64),
    "in-channels": Packing("vector", 64),
    "element": Packing("csr"),
    "block": Packing("csr"),
    "out-channels": Packing("out-channels"),
}


def error(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """Return the largest difference of any task relative to its largest value."""
    assert got.keys() == want.keys()
    return max(float((got[t] - want[t]).abs().max() / want[t].abs().max()) for t in want)


def packings(shared: SharedViT, task: str) -> set[Packing]:
    """Return the packings of the task's branches of the form "layer"."""
    return {step.packing for step in shared.trunk.steps(task).values() if step.form == "layer" and step.packing}


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", PACKINGS)
@torch.no_grad()
def test_it_is_the_network(kind: str, execution: str, make_net: MakeNet, x: Tensor) -> None:
    net = make_net(dict.fromkeys(("depth", "normals"), (kind, EXECUTIONS[execution])))
    shared = SharedViT.of(net, prefer="kernels")
    assert packings(shared, "depth") | packings(shared, "normals") == {PACKINGS[kind]}
    assert error(shared(x), net(x)) < 1e-5
    exact = SharedViT.of(net.double(), prefer="kernels", batched=True)
    assert error(exact(x.double()), net(x.double())) < 1e-12


@pytest.mark.parametrize("second", ["base", "rows"])
@torch.no_grad()
def test_packings_and_units_live_in_one_branch(second: str, make_net: MakeNet, x: Tensor) -> None:
    """Attention widened by a task's heads, with another's changed channels behind, beside a third's single entries."""
    kinds = {
        "depth": ("out-channels", EXECUTIONS["base"]),
        "normals": ("element", EXECUTIONS[second]),
        "edges": ("heads", EXECUTIONS["base"]),
    }
    net = make_net(kinds).double()
    for batched in (False, True):
        shared = SharedViT.of(net, prefer="kernels", batched=batched)
        forms = {step.task: step.form for step in shared.trunk.each()[4].steps}
        assert forms == {"depth": "layer", "normals": "layer", "edges": "units"}
        assert error(shared(x.double()), net(x.double())) < 1e-12


@torch.no_grad()
def test_tasks_of_one_packing_are_one_launch(make_net: MakeNet) -> None:
    kinds = {"depth": ("element", EXECUTIONS["base"]), "normals": ("block", EXECUTIONS["rows"])}
    branch = SharedViT.of(make_net(kinds), prefer="kernels").trunk.each()[4]
    assert branch.base.deltas.groups == (("csr", ("depth", "normals")),)
    assert "first_weight" not in branch.own["depth"]._buffers  # its delta is all that it needs of the first layer
    assert "first_weight" in branch.own["normals"]._buffers  # the rows that are its own need the merged weights


@torch.no_grad()
def test_rows_that_are_all_its_own_run_merged_weights(make_net: MakeNet, x: Tensor) -> None:
    net = make_net({"depth": ("element", EXECUTIONS["rows"])})
    merged = make_net({"depth": ("element", EXECUTIONS["own"])})
    shared = SharedViT.of(net, prefer="kernels")
    shared.trunk.limit_rows_("depth", dict.fromkeys(shared.trunk.row_branches("depth"), 21))
    assert error(shared(x), merged(x)) < 1e-5


@pytest.fixture
def mixed(make_net: MakeNet) -> SharedViT:
    """Three tasks on row budgets, each with a packing of its own."""
    kinds = {"depth": "out-channels", "normals": "vector", "edges": "element"}
    net = make_net({task: (kind, EXECUTIONS["rows"]) for task, kind in kinds.items()})
    return SharedViT.of(net, prefer="kernels")


@torch.no_grad()
def test_it_compiles_as_one_graph(mixed: SharedViT, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    want = mixed(x)
    with monkeypatch.context() as patch:  # the compiler does not follow the checks of annotations
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        made = torch.compile(mixed, fullgraph=True, backend="eager")(x)
    assert error(made, want) < 1e-6


@pytest.mark.slow
@torch.no_grad()
def test_onnx_runtime_runs_the_bodies_of_delta_nodes(mixed: SharedViT, x: Tensor, tmp_path: Path) -> None:
    path = export_onnx(mixed, None, x, tmp_path / "shared.onnx")
    kinds = {node.op_type for node in onnx.load(path).graph.node if node.domain}
    assert {kind[:8] for kind in kinds} == {"DeltaCsr", "DeltaVec"}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    made = dict(zip(names, map(torch.from_numpy, session.run(None, {"image": x.numpy()})), strict=True))
    assert error(made, mixed(x)) < 1e-5


@pytest.mark.parametrize("packing", sorted({*PACKINGS.values()}, key=str), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_biases_and_tasks_that_change_little_are_exact(packing: Packing, dtype: torch.dtype) -> None:
    """One task changes one entry, one a bias alone, one nothing; half precision to one rounding of base and result."""
    generator = torch.Generator().manual_seed(4)
    base = Layer(torch.randn(70, 40, generator=generator).to(dtype), torch.randn(70, generator=generator).to(dtype))
    own = {name: Layer(base.weight.clone(), base.bias.clone()) for name in ("entry", "bias", "nothing")}
    own["entry"].weight[69, 3] = 2.0
    own["bias"].bias[5] = -3.0
    x = torch.randn(2, 9, 40, generator=generator).to(dtype)
    layers = FirstLayers(base, own, dict.fromkeys(own, packing))
    wide = layers.extend(base, own)
    whole, changed = layers.apart(x, wide._asdict())
    made = layers(x, whole, changed)
    for task, layer in own.items():
        want = x.double() @ layer.weight.double().T + layer.bias.double()
        rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
        assert (made[task].double() - want).abs().max() <= rounding * want.abs().max()
    assert (made["entry"] - made["nothing"]).abs().flatten(0, 1).amax(0).nonzero().flatten().tolist() == [69]
    assert (made["bias"] - made["nothing"]).abs().flatten(0, 1).amax(0).nonzero().flatten().tolist() == [5]
