"""Tiny transformers whose tasks have random deltas of every kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from slimtask.compress.edits.deltas import install_deltas_
from slimtask.compress.structures.delta import Change, Delta, Execution, digest
from slimtask.compress.structures.patterns import (
    Block,
    Heads,
    HiddenUnits,
    InChannels,
    OutChannels,
    Unstructured,
    WholeTensor,
)
from slimtask.tasks import TaskSpec
from slimtask.train.models import MultiTaskNet, multitask_net
from slimtask.train.models.vit import VITS, ViTShape

TASKS = tuple(TaskSpec(name=name, kind=name, channels=c) for name, c in (("depth", 1), ("normals", 3), ("edges", 1)))
MakeNet = Callable[..., MultiTaskNet]


def base_net() -> MultiTaskNet:
    """Return a network of 2 heads, 32 channels wide; its biases and norms are not those of a fresh one."""
    torch.manual_seed(0)
    net = multitask_net(tasks=TASKS, trunk="vit_tiny", head="convnext", head_hidden=128).eval()
    with torch.no_grad():
        for name, parameter in net.trunk.named_parameters():
            if name.endswith("bias") or ".ln" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def pattern_of(kind: str, name: str) -> object | None:
    """Return the pattern in which the trunk's parameter ``name`` changes, None if it does not."""
    _, _, rest = name.partition("encoder_layer_")
    block, leaf = rest.split(".", 1) if rest else ("", name)
    if kind == "everything":
        return Unstructured()
    if not block or int(block) not in (1, 2) or leaf.startswith("ln"):
        return None
    if kind in ("hidden-units", "heads"):
        sides = {"mlp.0.weight": "out", "mlp.0.bias": "out", "mlp.3.weight": "in"}
        if kind == "hidden-units":
            return HiddenUnits(of=block, side=sides[leaf]) if leaf in sides else None
        sides = {"in_proj_weight": "out", "in_proj_bias": "out", "out_proj.weight": "in"}
        leaf = leaf.removeprefix("self_attention.")
        return Heads(of=block, side=sides[leaf], width=16) if leaf in sides else None
    patterns = {
        "out-channels": OutChannels(),
        "in-channels": InChannels() if leaf.endswith("weight") else OutChannels(),
        "block": Block(height=16, width=16),
        "square": Block(),
        "vector": Block(height=32, width=1),
        "tall": Block(height=128, width=2),
        "element": Unstructured(),
    }
    if kind == "tensor":
        return WholeTensor() if block == "2" and leaf in ("mlp.0.weight", "self_attention.out_proj.weight") else None
    return patterns[kind]


def random_delta(net: nn.Module, task: str, kind: str, execution: Execution, *, seed: int) -> Delta:
    """Return a delta of random units (the same ones in parameters that share them) and values."""
    changes = {}
    for name, parameter in net.named_parameters():
        pattern = pattern_of(kind, name) if name.startswith("trunk.") else None
        if pattern is not None:
            shape = tuple(parameter.shape)
            generator = torch.Generator().manual_seed(seed + int("".join(c for c in name if c.isdigit())[:1] or 0))
            chosen = torch.randperm(pattern.units(shape), generator=generator)
            kept = torch.zeros(len(chosen), dtype=torch.bool)
            kept[chosen[: max(1, len(kept) // 12)]] = True
            mask = pattern.expand(kept, shape)
            changes[name] = Change.of(pattern, 0.2 * torch.randn(shape, generator=generator) * mask, mask)
    return Delta(task=task, base=digest(net, changes), changes=changes, execution=execution)


@pytest.fixture
def make_net(monkeypatch: pytest.MonkeyPatch) -> MakeNet:
    """A function of {task: (kind, execution)} to a network whose tasks have such deltas; the others are base tasks."""

    tiny = ViTShape(patch=8, depth=4, heads=2, head_width=16, grid=(3, 3))
    monkeypatch.setitem(VITS, "vit_tiny", tiny)  # tests take less time with less of everything

    def make(deltas: dict[str, tuple[str, Execution]]) -> MultiTaskNet:
        net = base_net()
        made = [
            random_delta(net, task, kind, execution, seed=17 * i)
            for i, (task, (kind, execution)) in enumerate(deltas.items())
        ]
        install_deltas_(net, made)
        return net.eval()

    return make


@pytest.fixture
def x() -> torch.Tensor:
    """Two images of 4 x 5 patches: 21 tokens."""
    torch.manual_seed(3)
    return torch.randn(2, 3, 32, 40)
