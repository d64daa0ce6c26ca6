"""SharedViT against the network that it is made of, which computes every task densely, to the letter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jaxtyping
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from slimtask.checkpoint import Architecture, Checkpoint, json_safe
from slimtask.compress.edits.deltas import DeltaPath, DeltaPaths, deltas_of
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.structures.delta import Execution
from slimtask.errors import InputError
from slimtask.export.onnx import export_onnx
from slimtask.export.shared import SharedViT
from slimtask.tasks import Preprocessing

KINDS = ("hidden-units", "heads", "out-channels", "block", "element", "tensor", "everything")
EXECUTIONS = {"own": Execution(), "base": Execution(feed="base"), "rows": Execution(rows=0.3)}
MakeNet = Callable[..., Any]
BLOCK = "encoder_layer_{}."


def error(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any task relative to its largest value."""
    assert got.keys() == want.keys()
    return max(float((got[t] - want[t]).abs().max() / want[t].abs().max()) for t in want)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_is_the_network(kind: str, execution: str, make_net: MakeNet, x: torch.Tensor) -> None:
    """Both tasks' deltas of one kind; the second's units are others, so that none is computed for both."""
    net = make_net(dict.fromkeys(("depth", "normals"), (kind, EXECUTIONS[execution])))
    want = net(x)
    for task in ("depth", "normals"):
        base, own = net.trunk(x)["edges"], net.trunk(x)[task]
        assert (own - base).abs().max() > 1e-2
    assert error(SharedViT.of(net)(x), want) < 1e-5
    assert error(SharedViT.of(net, batched=True)(x), want) < 1e-5


@pytest.mark.parametrize("first", EXECUTIONS)
@pytest.mark.parametrize("second", ["base", "rows"])
@torch.no_grad()
def test_tasks_that_are_executed_differently_live_together(
    first: str, second: str, make_net: MakeNet, x: torch.Tensor
) -> None:
    """Units of different numbers in one branch; in float64, where the order of sums is all that can differ."""
    kinds = {"depth": ("hidden-units", EXECUTIONS[first]), "normals": ("everything", EXECUTIONS[second])}
    net = make_net(kinds | {"edges": ("heads", EXECUTIONS[first])}).double()
    want = net(x.double())
    for batched in (False, True):
        shared = SharedViT.of(net, batched=batched)
        assert error(shared(x.double()), want) < 1e-12
    assert error(SharedViT.of(net, ["edges"])(x.double()), {"edges": want["edges"]}) < 1e-12
    assert error(shared(x.double(), tasks=["normals"]), {"normals": want["normals"]}) < 1e-12


@pytest.mark.parametrize("rows", [None, 0.3])
@torch.no_grad()
def test_thresholds_keep_the_bases_values(rows: float | None, make_net: MakeNet, x: torch.Tensor) -> None:
    sites = ("norm1", "qkv", "proj", "norm2", "fc1", "act", "fc2")
    thresholds = {BLOCK.format(i) + site: 0.02 * (i - 1) for i in range(1, 4) for site in sites}
    plain = make_net({"depth": ("element", Execution(rows=rows))}).double()
    net = make_net({"depth": ("element", Execution(rows=rows, thresholds=thresholds))}).double()
    want = net(x.double())
    assert error(want, plain(x.double())) > 1e-3
    shared = SharedViT.of(net)
    assert error(shared(x.double()), want) < 1e-12
    forms = {name: step.form for name, step in shared.trunk.steps("depth").items()}
    assert forms["encoder_layer_2.mlp"] == "thresholds"
    assert forms["encoder_layer_1.mlp"] != "thresholds"  # thresholds of 0 change nothing


@torch.no_grad()
def test_row_budgets_by_branch(make_net: MakeNet, x: torch.Tensor) -> None:
    """All rows give merged weights; fewer give what a dense pass does that mixes the streams so."""
    net = make_net({"depth": ("block", Execution(rows=0.1))})
    budgets = {f"encoder_layer_{i}.{kind}": 3 + i for i in range(4) for kind in ("attention", "mlp")}
    everything = SharedViT.of(net, rows={"depth": dict.fromkeys(budgets, 21)})
    merged = make_net({"depth": ("block", Execution())})(x)
    assert error(everything(x), merged) < 1e-5
    record: dict[str, torch.Tensor] = {}
    net.trunk(x, at=record.setdefault)

    def mixed(site: str, own: torch.Tensor) -> torch.Tensor:
        if site not in budgets:
            return own
        distance = (own - record[site]).norm(dim=2)
        least = distance.sort(dim=1, descending=True).values[:, budgets[site] - 1, None]
        return torch.where((distance >= least).unsqueeze(2), own, record[site])

    weights = net.trunk.weights_of("depth")
    features = torch.func.functional_call(net.trunk, weights, (x,), {"at": mixed})
    made = SharedViT.of(net, rows={"depth": budgets}).trunk(x)
    torch.testing.assert_close(made["depth"], features, rtol=1e-4, atol=1e-5)
    assert (features - everything.trunk(x)["depth"]).abs().max() > 1e-2


@torch.no_grad()
def test_a_rebuilt_checkpoint_is_shared_and_left_alone(make_net: MakeNet, x: torch.Tensor) -> None:
    net = make_net({"depth": ("hidden-units", Execution(feed="base"))})
    edit = DeltaPaths(paths=tuple(DeltaPath.of(delta) for delta in deltas_of(net).values()))
    arguments = {"trunk": "vit_tiny", "head": "convnext", "head_hidden": 128, "image_head": "pooled"}
    rebuilt = rebuild(
        Checkpoint(
            weights=net.state_dict(),
            architecture=Architecture(name="multitask-net", arguments=arguments),
            tasks=net.tasks,
            preprocessing=Preprocessing(height=32, width=40),
            edits=(json_safe(edit.model_dump(mode="json")),),
        )
    ).eval()
    before = copy.deepcopy(rebuilt.state_dict())
    shared = SharedViT.of(rebuilt).train()
    assert not shared.training
    assert error(shared(x), net(x)) < 1e-5
    for parameter in rebuilt.parameters():
        parameter.zero_()
    assert error(shared(x), net(x)) < 1e-5  # its weights are its own
    assert before.keys() == rebuilt.state_dict().keys()
    assert not [name for name, _ in shared.named_buffers() if "deltas" in name]


@torch.no_grad()
def test_onnx_runtime_runs_it_in_standard_operators(make_net: MakeNet, x: torch.Tensor, tmp_path: Path) -> None:
    kinds = {"depth": ("hidden-units", Execution(feed="base")), "normals": ("heads", Execution(rows=0.3))}
    shared = SharedViT.of(make_net(kinds))
    path = export_onnx(shared, None, x, tmp_path / "shared.onnx")
    graph = onnx.load(path).graph
    assert {node.domain for node in graph.node} == {""}
    assert not {node.op_type for node in graph.node} & {"NonZero", "If", "Loop", "Scan"}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    made = dict(zip(names, map(torch.from_numpy, session.run(None, {"image": x.numpy()})), strict=True))
    assert error(made, shared(x)) < 1e-5


@torch.no_grad()
def test_it_compiles_as_one_graph(make_net: MakeNet, x: torch.Tensor) -> None:
    kinds = {"depth": ("hidden-units", Execution(feed="base")), "normals": ("heads", Execution(rows=0.3))}
    shared = SharedViT.of(make_net(kinds), batched=True)
    want = shared(x)
    with patch.object(jaxtyping.config, "jaxtyping_disable", True):  # whose checks the compiler does not follow
        made = torch.compile(shared, fullgraph=True, backend="eager")(x)
    assert error(made, want) < 1e-6


def test_what_does_not_fit_is_refused_in_one_sentence(make_net: MakeNet, x: torch.Tensor) -> None:
    net = make_net({"depth": ("heads", Execution()), "normals": ("heads", Execution(feed="base"))})
    last = "encoder_layer_3.mlp"
    with pytest.raises(InputError, match="has no deltas to share"):
        SharedViT.of(nn.Linear(1, 1))
    with pytest.raises(InputError, match="unknown task 'depht'"):
        SharedViT.of(net, ["depht"])
    with pytest.raises(InputError, match="'normals' is none"):
        SharedViT.of(net, rows={"normals": {last: 3}})
    with pytest.raises(InputError, match=r"for 'encoder_layer_3\.mpl'.*did you mean 'encoder_layer_3\.mlp'"):
        SharedViT.of(net, rows={"depth": {"encoder_layer_3.mpl": 3}})
    with pytest.raises(InputError, match="row budget 0 of 'depth'"):
        SharedViT.of(net, rows={"depth": {last: 0}})
    with pytest.raises(InputError, match="row budget 22 of 'depth' exceeds the 21 tokens"):
        SharedViT.of(net, rows={"depth": {last: 22}})(x)
    with pytest.raises(InputError, match="multiples of 8 pixels, not 30 x 40"):
        SharedViT.of(net)(x[:, :, :30])
    half: Any = {"depth": {last: 0.5}}
    with (
        patch.object(jaxtyping.config, "jaxtyping_disable", True),
        pytest.raises(InputError, match=r"row budget 0\.5 of 'depth' .* is no whole number"),
    ):
        SharedViT.of(net, rows=half)
    odd = copy.deepcopy(net)
    odd.trunk.extra = nn.Parameter(torch.ones(1))
    with pytest.raises(InputError, match="parameter 'extra' that SharedViT does not know"):
        SharedViT.of(odd)
    net.trunk.encoder.layers[0].mlp[1] = nn.GELU(approximate="tanh")
    with pytest.raises(InputError, match="block 'encoder_layer_0' whose MLP is not"):
        SharedViT.of(net)
