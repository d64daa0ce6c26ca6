"""Our FLOPs against those that torch counts while the network runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from slimtask.compress.structures.delta import Execution
from slimtask.errors import InputError
from slimtask.export.shared import SharedViT, layer
from slimtask.export.shared.explain import explain
from slimtask.kernels.ops import channels, sparse

MakeNet = Callable[..., Any]


def counted(function: Callable[[], object]) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("batched", [False, True])
def test_it_counts_what_runs(batched: bool, make_net: MakeNet, x: torch.Tensor) -> None:
    thresholds = {"encoder_layer_3.fc1": 0.1}
    heads, units = ("heads", Execution(feed="base")), ("hidden-units", Execution(rows=0.3))
    dense, tensor = ("everything", Execution(thresholds=thresholds)), ("tensor", Execution(rows=0.2))
    for first, second in ((heads, units), (dense, tensor), (tensor, heads), (heads, heads), (units, units)):
        net = make_net({"depth": first, "normals": second})
        shared = SharedViT.of(net, batched=batched)
        made = explain(shared, 32, 40)
        assert made.flops == counted(lambda shared=shared: shared.trunk(x[:1])), (first, second)
    assert made.dense_flops == 3 * counted(lambda: net.trunk(x[:1])["edges"])


@pytest.mark.parametrize("kind", ["square", "vector", "out-channels"])
@pytest.mark.parametrize("execution", [Execution(feed="base"), Execution(rows=0.3)], ids=["base", "rows"])
def test_it_counts_deltas_as_they_lie(
    kind: str, execution: Execution, make_net: MakeNet, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fills blocks and lists up is computed too; torch counts it where the operators are plain functions."""
    plain = {"block": sparse.blocks, "vector": sparse.vectors, "out-channels": channels.out_channels}
    monkeypatch.setattr(layer, "OPERATORS", plain)
    shared = SharedViT.of(make_net(dict.fromkeys(("depth", "normals"), (kind, execution))), prefer="kernels")
    assert "layer" in {step.form for step in shared.trunk.steps("depth").values()}
    assert explain(shared, 32, 40).flops == counted(lambda: shared.trunk(x[:1]))


def test_single_entries_count_once(make_net: MakeNet) -> None:
    net = make_net({"depth": ("element", Execution(feed="base"))})
    shared = SharedViT.of(net, prefer="kernels")
    branch = shared.trunk.each()[3]
    changed = net.trunk.weights_of("depth")["encoder.layers.encoder_layer_1.mlp.0.weight"]
    entries = int((changed != net.trunk.encoder.layers[1].mlp[0].weight).sum())
    assert branch.base.deltas.stored == {"depth": entries}
    (line,) = [line for line in explain(shared, 32, 40).lines if (line.part, line.task) == (branch.name, "depth")]
    assert line.flops == 2 * 21 * (entries + 32 * 128)  # the delta, and all of the second layer


def test_it_tells_what_dispatch_expects(make_net: MakeNet) -> None:
    net = make_net({"depth": ("out-channels", Execution(feed="base"))})
    text = str(explain(SharedViT.of(net), 32, 40))
    assert "dense, since no delta was measured to be faster on this CPU; first layers on " in text
    assert re.search(r"out-channels \S+ ms \(floor\)", text)
    assert re.search(r"batched \S+ ms \(floor\).*; \d+ excluded", text)
    forced = str(explain(SharedViT.of(net, prefer="kernels"), 32, 40))
    assert "too many to correct; first layer as a delta (out-channels), as asked for; first layers on " in forced


def test_it_reads_as_a_table(make_net: MakeNet) -> None:
    net = make_net({"depth": ("hidden-units", Execution(feed="base")), "normals": ("heads", Execution(rows=0.3))})
    made = explain(SharedViT.of(net), 32, 40)
    text = str(made)
    assert made.ratio > 1.5
    assert f"{made.ratio:.2f}x fewer" in text
    assert "10 of 128 hidden units changed" in text
    assert "rows 7, units" in text


def test_it_refuses_the_sizes_that_the_network_does(make_net: MakeNet) -> None:
    shared = SharedViT.of(make_net({"depth": ("heads", Execution())}))
    with pytest.raises(InputError, match="multiples of 8 pixels, not 30 x 40"):
        explain(shared, 30, 40)
