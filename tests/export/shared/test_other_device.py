"""A SharedViT made of a network on another device than the CPU stays there, all of it, and computes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from slimtask.compress.structures.delta import Execution
from slimtask.export.shared import SharedViT

MakeNet = Callable[..., Any]
EXECUTIONS = {"own": Execution(), "base": Execution(feed="base"), "rows": Execution(rows=0.3)}
KINDS = ("hidden-units", "heads", "out-channels", "square", "vector", "element", "tensor", "everything")


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_is_the_network(kind: str, execution: str, make_net: MakeNet, x: Tensor, other_device: torch.device) -> None:
    net = make_net(dict.fromkeys(("depth", "normals"), (kind, EXECUTIONS[execution])))
    want = net(x)
    net.to(other_device)
    there = x.to(other_device)
    for prefer in ("expected", "kernels"):
        for batched in (False, True):
            made = SharedViT.of(net, batched=batched, prefer=prefer)(there)
            for task, value in want.items():
                assert made[task].device == other_device
                torch.testing.assert_close(made[task].cpu(), value, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_thresholds_and_budgets_by_branch(make_net: MakeNet, x: Tensor, other_device: torch.device) -> None:
    thresholds = {f"encoder_layer_{i}.fc1": 0.02 for i in range(1, 4)}
    net = make_net({"depth": ("element", Execution(thresholds=thresholds)), "normals": ("block", Execution(rows=0.1))})
    rows = {"normals": {"encoder_layer_2.mlp": 5, "encoder_layer_3.attention": 7}}
    want = SharedViT.of(net, rows=rows)(x)
    made = SharedViT.of(net.to(other_device), rows=rows)(x.to(other_device))
    for task, value in want.items():
        torch.testing.assert_close(made[task].cpu(), value, rtol=1e-4, atol=1e-5)
