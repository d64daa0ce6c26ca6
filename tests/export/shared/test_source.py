"""A transformer with deltas read part by part: base, and what every task has of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.compress.structures.delta import Execution
from slimtask.errors import InputError
from slimtask.export.shared.source import read_source

MakeNet = Callable[..., Any]


@pytest.mark.parametrize("kind", ["hidden-units", "tensor", "everything"])
def test_parts_are_the_parameters_and_the_merged_weights(kind: str, make_net: MakeNet) -> None:
    net = make_net({"depth": (kind, Execution(feed="base"))})
    source, own = read_source(net), net.trunk.weights_of("depth")
    parameters = {n: p for n, p in net.trunk.named_parameters() if not n.startswith("deltas.")}
    parts = (source.embedding, *source.branches, source.last)
    assert sum(len(part.base) for part in parts) == len(parameters)
    assert [part.name for part in source.branches][:2] == ["encoder_layer_0.attention", "encoder_layer_0.mlp"]
    for place, branch in enumerate(source.branches):
        leaf = "self_attention.in_proj_weight" if place % 2 == 0 else "mlp.0.weight"
        name = f"encoder.layers.encoder_layer_{place // 2}.{leaf}"
        assert torch.equal(branch.base["first.weight"], parameters[name])
        merged = own.get(name, parameters[name])
        assert torch.equal(branch.merged("depth")["first.weight"], merged)
        assert ("first.weight" in branch.own.get("depth", {})) is not torch.equal(merged, parameters[name])
        assert branch.merged("segmentation") == branch.base


def test_what_has_no_deltas_or_is_no_such_transformer_is_refused(make_net: MakeNet) -> None:
    with pytest.raises(InputError, match="has no deltas to share a pass between"):
        read_source(nn.Linear(2, 2))
    net = make_net({"depth": ("hidden-units", Execution())})
    net.trunk.encoder.layers[1].mlp[1] = nn.GELU(approximate="tanh")
    with pytest.raises(InputError, match="'encoder_layer_1' whose MLP is not Linear, GELU"):
        read_source(net)
