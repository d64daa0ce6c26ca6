"""Our FLOPs against those that torch counts while the network runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from slimtask.compress.delta import Execution
from slimtask.export.shared import SharedViT
from slimtask.export.shared.explain import explain

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


def test_it_reads_as_a_table(make_net: MakeNet) -> None:
    net = make_net({"depth": ("hidden-units", Execution(feed="base")), "normals": ("heads", Execution(rows=0.3))})
    made = explain(SharedViT.of(net), 32, 40)
    text = str(made)
    assert made.ratio > 1.5
    assert f"{made.ratio:.2f}x fewer" in text
    assert "10 of 128 hidden units changed" in text
    assert "rows 7, units" in text
