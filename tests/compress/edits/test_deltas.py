"""Networks with deltas against plain networks with merged weights, and against the recurrence of base feeding."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.checkpoint import Architecture, Checkpoint, json_safe
from slimtask.compress.edits.deltas import DeltaPath, DeltaPaths, deltas_of, install_deltas_
from slimtask.compress.edits.reuse import Record, Reuse
from slimtask.compress.pruning import prune
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.score.budget import Budget
from slimtask.compress.structures.delta import Change, Delta, Execution, digest
from slimtask.compress.structures.patterns import Heads, HiddenUnits, OutChannels, Unstructured
from slimtask.errors import InputError
from slimtask.export.onnx import export_onnx
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.models import MultiTaskNet, multitask_net

TASKS = tuple(TaskSpec(name=name, kind=name, channels=c) for name, c in (("depth", 1), ("normals", 3), ("edges", 1)))
ARGUMENTS = {"trunk": "vit_tiny", "width": 0.5, "head": "convnext", "head_hidden": 128}
BLOCK = "trunk.encoder.layers.encoder_layer_{}."


def base_net() -> MultiTaskNet:
    torch.manual_seed(0)
    return multitask_net(tasks=TASKS, **ARGUMENTS).eval()


def make_delta(model: nn.Module, task: str, execution: Execution, *, scale: float = 0.3, seed: int = 1) -> Delta:
    """Return a random delta of hidden units in block 1, a head in block 2, single weights in 3, channels in 4."""
    torch.manual_seed(seed)
    patterns: dict[str, Any] = {
        BLOCK.format(1) + "mlp.0.weight": HiddenUnits(of="1", side="out"),
        BLOCK.format(1) + "mlp.0.bias": HiddenUnits(of="1", side="out"),
        BLOCK.format(1) + "mlp.3.weight": HiddenUnits(of="1", side="in"),
        BLOCK.format(2) + "self_attention.in_proj_weight": Heads(of="2", side="out", width=32),
        BLOCK.format(2) + "self_attention.out_proj.weight": Heads(of="2", side="in", width=32),
        BLOCK.format(3) + "mlp.0.weight": Unstructured(),
        BLOCK.format(4) + "self_attention.out_proj.weight": OutChannels(),
        BLOCK.format(5) + "mlp.3.bias": Unstructured(),
    }
    parameters, changes = dict(model.named_parameters()), {}
    for name, pattern in patterns.items():
        shape = tuple(parameters[name].shape)
        kept = torch.zeros(pattern.units(shape), dtype=torch.bool)
        if name != BLOCK.format(5) + "mlp.3.bias":  # one parameter that could change but does not
            kept[:: max(2, len(kept) // 3)] = True
        mask = pattern.expand(kept, shape)
        changes[name] = Change.of(pattern, scale * torch.randn(shape) * mask, mask)
    return Delta(task=task, base=digest(model, changes), changes=changes, execution=execution)


def edited(*deltas: Delta) -> MultiTaskNet:
    model = base_net()
    install_deltas_(model, deltas)
    return model.eval()


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(2, 3, 32, 40)


@torch.no_grad()
def test_an_own_fed_task_is_the_merged_network_and_the_base_stays(x: torch.Tensor) -> None:
    model = base_net()
    depth, normals = (make_delta(model, task, Execution(), seed=i) for i, task in enumerate(("depth", "normals")))
    out, base = edited(depth, normals)(x), base_net()(x)
    assert torch.equal(out["edges"], base["edges"])
    for delta in (depth, normals):
        merged = delta.merged(model)(x)[delta.task]
        assert torch.equal(out[delta.task], merged)
        assert (merged - base[delta.task]).abs().max() > 1e-2
    assert torch.equal(edited(depth, normals)(x, tasks=["normals"])["normals"], out["normals"])


@torch.no_grad()
def test_a_base_fed_task_is_the_recurrence(x: torch.Tensor) -> None:
    """E(l + 1) = E(l) + B_t(X_b(l)) - B_b(X_b(l)), in float64, over both residual branches of every block."""
    model = base_net()
    delta = make_delta(model, "depth", Execution(feed="base"))
    features = edited(delta).double().trunk(x.double())["depth"]
    task_net = copy.deepcopy(model).double()
    for name, change in delta.changes.items():
        task_net.get_parameter(name).add_(change.dense().double())
    b, t = model.double().trunk, task_net.trunk
    stream = torch.cat([b.class_token.expand(2, -1, -1), b.conv_proj(x.double()).flatten(2).transpose(1, 2)], dim=1)
    stream = stream + b.encoder.positions(4, 5)
    difference = torch.zeros_like(stream)
    plain = Record()
    for base, task in zip(b.blocks.values(), t.blocks.values(), strict=True):
        attention = [block.self_attention(block.ln_1(stream), plain) for block in (base, task)]
        difference += attention[1] - attention[0]
        stream = stream + attention[0]
        mlp = [block.mlp(block.ln_2(stream)) for block in (base, task)]
        difference += mlp[1] - mlp[0]
        stream = stream + mlp[0]
    expected = b.encoder.ln(stream + difference)[:, 1:].transpose(1, 2).reshape(2, -1, 4, 5)
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
    assert (features - t(x.double())).abs().max() > 1e-3  # and not what merged weights give


@pytest.mark.parametrize("feed", ["own", "base"])
@torch.no_grad()
def test_a_zero_delta_is_the_base_bit_by_bit(feed: str, x: torch.Tensor) -> None:
    model = base_net()
    delta = make_delta(model, "depth", Execution(feed=feed), scale=0.0)
    assert delta.density > 0
    assert torch.equal(edited(delta)(x)["depth"], model(x)["depth"])


def sites(trunk: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    record = Record(True)
    trunk(x, at=record)
    return record.sites


@torch.no_grad()
def test_threshold_zero_is_exact_and_infinity_gives_the_base(x: torch.Tensor) -> None:
    model = base_net()
    delta = make_delta(model, "depth", Execution())
    layers = [f"encoder_layer_{i}.{site}" for i in range(6) for site in ("qkv", "proj", "fc1", "fc2")]
    merged, base = delta.merged(model).trunk, model.trunk
    exact = edited(
        Delta(
            task="depth",
            base=delta.base,
            changes=delta.changes,
            execution=Execution(thresholds=dict.fromkeys(layers, 0.0)),
        )
    )
    assert torch.equal(exact.trunk(x)["depth"], merged(x))
    record = Record(True)
    base(x, at=record)
    nothing = Execution(thresholds=dict.fromkeys(layers, 1e30))
    assert torch.equal(merged(x, at=Reuse(record, nothing)), base(x))
    some = Execution(thresholds=dict.fromkeys(layers, 0.05))
    through, reuse = {}, Reuse(record, some)

    def look(site: str, value: torch.Tensor) -> torch.Tensor:
        through[site] = reuse(site, value)
        return through[site]

    merged(x, at=look)
    reference = sites(base, x)
    for site in layers:
        change = (through[site] - reference[site]).abs()
        assert not ((change > 0) & (change < 0.05)).any()
    assert any((through[site] != reference[site]).any() for site in layers)


@torch.no_grad()
def test_a_row_budget_computes_that_many_tokens_anew(x: torch.Tensor) -> None:
    model = base_net()
    delta = make_delta(model, "depth", Execution(rows=0.3))
    whole = Delta(task="depth", base=delta.base, changes=delta.changes, execution=Execution(rows=1.0))
    merged = Delta(task="depth", base=delta.base, changes=delta.changes).merged(model)
    assert torch.equal(edited(whole)(x)["depth"], merged(x)["depth"])
    record, seen = Record(True), {}
    model.trunk(x, at=record)
    reuse = Reuse(record, delta.execution)

    def look(site: str, value: torch.Tensor) -> torch.Tensor:
        seen[site] = reuse(site, value)
        return seen[site]

    features = merged.trunk(x, at=look)
    assert torch.equal(features, edited(delta).trunk(x)["depth"])
    for i, branch in [(i, branch) for i in range(6) for branch in ("attention", "mlp")]:
        site = f"encoder_layer_{i}.{branch}"
        changed = (seen[site] != record.sites[site]).any(dim=-1).sum(dim=1)
        untouched = i == 0 or (i, branch) in ((1, "attention"), (1, "mlp"))  # the first delta is in block 1's MLP
        assert changed.tolist() == ([0, 0] if untouched else [math.ceil(0.3 * 21)] * 2)


def checkpoint_of(model: MultiTaskNet, edit: Any) -> Checkpoint:
    return Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={**ARGUMENTS, "image_head": "pooled"}),
        tasks=TASKS,
        preprocessing=Preprocessing(height=32, width=40),
        edits=(json_safe(edit.model_dump(mode="json")),),
    )


def test_a_checkpoint_gives_back_network_and_deltas(tmp_path: Path, x: torch.Tensor) -> None:
    model = base_net()
    deltas = [
        make_delta(model, "depth", Execution(feed="base")),
        make_delta(model, "normals", Execution(rows=0.5, thresholds={"encoder_layer_0.fc1": 0.1}), seed=2),
    ]
    checkpoint_of(model, install_deltas_(model, deltas)).save(tmp_path / "c.safetensors")
    loaded = Checkpoint.load(tmp_path / "c.safetensors")
    again = rebuild(loaded)
    with torch.no_grad():
        one, two = model(x), again(x)
    assert all(torch.equal(one[task], two[task]) for task in one)
    for delta in deltas:
        read = deltas_of(again)[delta.task]
        assert (read.base, read.execution) == (delta.base, delta.execution)
        assert all(torch.equal(read.changes[n].dense(), change.dense()) for n, change in delta.changes.items())
    places = "trunk.deltas.depth.places_0"
    for value in (-1, 10**6):
        weights = dict(loaded.weights)
        weights[places] = weights[places].clone()
        weights[places][0 if value < 0 else -1] = value
        with pytest.raises(InputError, match="rising numbers below"):
            rebuild(loaded.with_changes(weights=weights))


def test_what_cannot_have_deltas_is_refused() -> None:
    model = base_net()
    delta = make_delta(model, "depth", Execution())
    with pytest.raises(InputError, match="has deltas already"):
        install_deltas_(edited(delta), [delta])
    with pytest.raises(InputError, match="no head; did you mean 'depth'"):
        install_deltas_(model, [make_delta(model, "depths", Execution())])
    resnet = multitask_net(tasks=TASKS, width=0.125)
    with pytest.raises(InputError, match="layers are sites"):
        install_deltas_(resnet, [Delta(task="depth", base=digest(resnet, []), changes={})])


def test_it_exports_to_onnx(tmp_path: Path, x: torch.Tensor) -> None:
    import onnxruntime

    executions = {
        "depth": Execution(),
        "normals": Execution(feed="base"),
        "edges": Execution(rows=0.3, thresholds={"encoder_layer_4.fc1": 0.02}),
    }
    model = base_net()
    model = edited(*(make_delta(model, task, execution, seed=4) for task, execution in executions.items()))
    path = export_onnx(model, None, x, tmp_path / "d.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run([task.name for task in TASKS], {"image": x.numpy()})
    with torch.no_grad():
        expected = model(x)
    for task, output in zip(TASKS, got, strict=True):
        torch.testing.assert_close(torch.from_numpy(output), expected[task.name], rtol=1e-3, atol=1e-4)


def test_what_can_be_removed_from_it_is_removed_exactly(x: torch.Tensor) -> None:
    """Parameters with deltas serve several sets of weights and stay; those of the heads and of other layers go."""
    delta = make_delta(base_net(), "depth", Execution(feed="base"))
    model = edited(delta)
    before = {name: p.shape for name, p in model.named_parameters()}
    done = prune(model, x[:1], budget=Budget(keep=0.7))
    assert done.certificate
    after = dict(done.model.named_parameters())
    assert all(after[name].shape == before[name] for name, change in delta.changes.items() if len(change.kept))
    for cut in ("heads.depth.blocks.0.expand.weight", BLOCK.format(0) + "mlp.0.weight"):
        assert after[cut].shape != before[cut]
    assert deltas_of(done.model)["depth"].density == pytest.approx(delta.density)


def test_a_task_has_one_delta_and_a_parameter_one_change() -> None:
    """Otherwise the last one would count, silently."""
    net = base_net()
    delta = make_delta(net, "depth", Execution())
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match="two deltas of task 'depth'"):
        install_deltas_(net, [delta, make_delta(net, "depth", Execution(feed="base"), seed=2)])
    path = DeltaPath.of(delta)
    twice = DeltaPath(task="depth", changes=path.changes + path.changes[:1])
    with pytest.raises(InputError, match=f"delta of 'depth' changes '{path.changes[0].parameter}' twice"):
        DeltaPaths(paths=(twice,)).apply_(net)
    assert before.keys() == net.state_dict().keys()


def test_deltas_are_given_back_in_their_own_precision() -> None:
    net = base_net().double()
    made = make_delta(net, "depth", Execution())
    changes = {
        name: Change(pattern=one.pattern, shape=one.shape, kept=one.kept, values=one.values.double() + 1e-10)
        for name, one in made.changes.items()
    }
    install_deltas_(net, [Delta(task="depth", base=made.base, changes=changes)])
    for name, change in deltas_of(net)["depth"].changes.items():
        assert torch.equal(change.values, changes[name].values)
