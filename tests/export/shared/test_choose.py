"""Which first layers become base and delta: what qualifies, whose costs count, and what is said about it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimtask.compress.structures.delta import Execution
from slimtask.compress.structures.patterns import (
    Block,
    Heads,
    HiddenUnits,
    InChannels,
    OutChannels,
    Unstructured,
    WholeTensor,
)
from slimtask.errors import InputError
from slimtask.export.shared import SharedViT
from slimtask.export.shared.choose import match
from slimtask.export.shared.plan import Packing, Step
from slimtask.kernels.costs import Costs
from slimtask.kernels.device import Device
from slimtask.kernels.dispatch import Choice

MakeNet = Callable[..., Any]
BASE, ROWS = Execution(feed="base"), Execution(rows=0.3)
GPU = Device(backend="cuda", name="NVIDIA H200", sm=90, versions=(("triton", "3.6"), ("cuda-bindings", "13.0")))
ATTENTION = "encoder_layer_1.attention"


def step(shared: SharedViT, branch: str = ATTENTION, task: str = "depth") -> Step:
    return shared.trunk.steps(task)[branch]


def choice(shared: SharedViT, branch: str = ATTENTION) -> Choice:
    made = step(shared, branch).choice
    assert made is not None
    return made


def layers(shared: SharedViT, task: str = "depth") -> list[str]:
    return [name for name, each in shared.trunk.steps(task).items() if each.form == "layer"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (Block(), ("block", Packing("block", 64))),
        (Block(height=128, width=64), ("block", Packing("block", 64))),
        (Block(height=64, width=1), ("vector", Packing("vector", 64))),
        (Block(height=96, width=64), ("vector", Packing("vector", 32))),
        (Block(height=16, width=16), ("unstructured", Packing("csr"))),
        (InChannels(), ("in-channels", Packing("vector", 64))),
        (OutChannels(), ("out-channels", Packing("out-channels"))),
        (HiddenUnits(of="mlp", side="out"), ("out-channels", Packing("out-channels"))),
        (Heads(of="attention", side="out", width=16), ("out-channels", Packing("out-channels"))),
        (Unstructured(), ("unstructured", Packing("csr"))),
        (WholeTensor(), None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_pattern_has_the_kernel_that_is_meant_for_it(pattern: Any, expected: object) -> None:
    assert match(pattern) == expected


def test_only_branches_that_read_what_the_base_reads_qualify(make_net: MakeNet) -> None:
    changed = [f"encoder_layer_{i}.{kind}" for i in (1, 2) for kind in ("attention", "mlp")]
    for execution, expected in ((BASE, changed), (ROWS, changed), (Execution(), changed[:1])):
        assert layers(SharedViT.of(make_net({"depth": ("element", execution)}), prefer="kernels")) == expected
    for kind in ("everything", "tensor"):  # another norm, hence another input; no pattern that a kernel is for
        assert not layers(SharedViT.of(make_net({"depth": (kind, BASE)}), prefer="kernels"))
    with_thresholds = Execution(thresholds={"encoder_layer_1.qkv": 0.1})
    assert not layers(SharedViT.of(make_net({"depth": ("element", with_thresholds)}), prefer="kernels"))


def test_without_measurements_this_cpu_runs_merged_weights(make_net: MakeNet, caplog: pytest.LogCaptureFixture) -> None:
    net = make_net({"depth": ("out-channels", BASE)})
    with caplog.at_level(logging.INFO):
        shared = SharedViT.of(net)
    assert choice(shared).candidate == "out-channels"
    assert not layers(shared)
    assert "dense, since no delta was measured to be faster on this CPU" in step(shared).why
    assert "merged weights, since nothing measured says that out-channels is faster" in caplog.text


def test_measured_costs_decide(make_net: MakeNet, tmp_path: Path) -> None:
    """On this CPU as well, and from a folder; where dense was measured to be faster, it is taken."""
    net = make_net(dict.fromkeys(("depth", "normals"), ("element", BASE)))
    problem = choice(SharedViT.of(net)).problem
    assert (problem.tasks, problem.base_included, problem.rows, problem.tokens) == (3, True, 0.0, 10)
    assert (problem.inputs, problem.outputs, problem.pattern, problem.dtype) == (32, 96, "unstructured", "float32")
    assert problem.density == pytest.approx(1 / 12, rel=1e-3)
    for csr_ms, packing in ((0.01, Packing("csr")), (1.0, None)):
        costs = Costs(device=problem.device)
        costs.add("csr", problem, csr_ms)
        costs.add("batched", problem, 0.1)
        costs.save(tmp_path)
        for given in (costs, tmp_path, str(tmp_path)):
            shared = SharedViT.of(net, costs=given)
            assert step(shared).packing == packing
            assert choice(shared).source == "measured"
    assert "dense first layers are expected to be faster" in step(shared).why


def test_a_gpu_may_be_chosen_for_by_floors(make_net: MakeNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLIMTASK_COSTS", str(tmp_path))
    net = make_net({"depth": ("out-channels", ROWS), "edges": ("square", BASE)})
    shared = SharedViT.of(net, device=GPU)
    assert step(shared).packing == Packing("out-channels")
    assert choice(shared).source == "floor"
    assert step(shared, task="edges").form == "merged"  # so small a layer is all launches
    problem = step(shared, task="edges").choice
    assert problem is not None
    costs = Costs(device=GPU)
    costs.add("vectors", problem.problem, 1e-4)  # takes no float32
    costs.add("blocks-triton", problem.problem, 1e-4)
    costs.save()
    assert step(SharedViT.of(net, device=GPU), task="edges").packing == Packing("block", 64)


@pytest.mark.parametrize(("kind", "rows"), [("vector", 96), ("tall", 128), ("out-channels", 96)])
def test_the_density_is_the_share_that_its_layout_multiplies(make_net: MakeNet, kind: str, rows: int) -> None:
    """Lists of inputs are as long as the longest of all tiles and tasks, whatever the mean is."""
    net = make_net(dict.fromkeys(("depth", "normals"), (kind, BASE)))
    branch = SharedViT.of(net, prefer="kernels").trunk.each()[2]
    assert branch.name == ATTENTION
    density = choice(SharedViT.of(net)).problem.density
    assert set(branch.base.deltas.stored.values()) == {round(density * rows * 32)}


def test_rows_of_its_own_count_as_their_share(make_net: MakeNet) -> None:
    net = make_net({"depth": ("element", ROWS)})
    assert choice(SharedViT.of(net), "encoder_layer_2.mlp").problem.rows == pytest.approx(0.3)
    budgets = {"depth": {"encoder_layer_2.mlp": 4}}
    assert choice(SharedViT.of(net, rows=budgets), "encoder_layer_2.mlp").problem.rows == pytest.approx(0.4)
    assert choice(SharedViT.of(net), ATTENTION).problem.rows == 0  # its first change reads the base's stream


def test_a_base_that_nobody_else_needs_counts_as_besides(make_net: MakeNet) -> None:
    net = make_net({"depth": ("element", Execution())})
    assert choice(SharedViT.of(net)).problem.tasks == 2
    alone = choice(SharedViT.of(net, ["depth"])).problem
    assert (alone.tasks, alone.base_included) == (1, False)


def test_costs_that_do_not_fit_are_refused(make_net: MakeNet, tmp_path: Path) -> None:
    net = make_net({"depth": ("element", BASE)})
    with pytest.raises(InputError, match=r"the costs are those of NVIDIA H200 \(sm90\), the network is to run on"):
        SharedViT.of(net, costs=Costs(device=GPU))
    (tmp_path / GPU.file_name).write_text("{")
    with pytest.raises(InputError, match=r"the costs '.*' are damaged .*; delete the file"):
        SharedViT.of(net, device=GPU, costs=tmp_path)
