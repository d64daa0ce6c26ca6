"""What SharedViT reads of a network with deltas: the tensors of the base and of every task, part by part.

The parts of a trunk are the embedding, two residual branches per block (attention, MLP) and the last norm. A residual
branch is ``second(middle(first(norm(x))))``: qkv, attention, proj; or fc1, GELU, fc2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.compress.edits.deltas import ChangedParameter, DeltaTrunk
from slimtask.compress.structures.delta import Execution
from slimtask.compress.structures.patterns import Pattern
from slimtask.errors import InputError

EMBEDDING, LAST = "embedding", "ln"
_NAMES: dict[str, dict[str, str]] = {
    EMBEDDING: {name: name for name in ("class_token", "conv_proj.weight", "conv_proj.bias")}
    | {"positions": "encoder.pos_embedding"},
    LAST: {"weight": "encoder.ln.weight", "bias": "encoder.ln.bias"},
    "attention": {
        "norm.weight": "ln_1.weight",
        "norm.bias": "ln_1.bias",
        "first.weight": "self_attention.in_proj_weight",
        "first.bias": "self_attention.in_proj_bias",
        "second.weight": "self_attention.out_proj.weight",
        "second.bias": "self_attention.out_proj.bias",
    },
    "mlp": {
        "norm.weight": "ln_2.weight",
        "norm.bias": "ln_2.bias",
        "first.weight": "mlp.0.weight",
        "first.bias": "mlp.0.bias",
        "second.weight": "mlp.3.weight",
        "second.bias": "mlp.3.bias",
    },
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """The base's tensors of a part of the trunk, and per task those that are its own; ``eps`` of the part's norm.

    ``width`` is that of an attention head, 0 in the other parts; ``patterns`` are those in which tasks change the first
    layer's weights.
    """

    name: str
    base: dict[str, Tensor]
    own: dict[str, dict[str, Tensor]]
    eps: float = 0.0
    width: int = 0
    patterns: dict[str, Pattern] = field(default_factory=dict)

    def merged(self, task: str) -> dict[str, Tensor]:
        """Return the tensors of a plain network of ``task``."""
        return self.base | self.own.get(task, {})


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A transformer with deltas: its parts in order of execution and how each delta is executed, by task."""

    patch: int
    grid: tuple[int, int]
    embedding: Part
    branches: tuple[Part, ...]
    last: Part
    executions: dict[str, Execution] = field(default_factory=dict)


def read_source(network: nn.Module) -> Source:
    """Return the parts, on the CPU, of a network as ``rebuild`` gives it; InputError without deltas or with others."""
    trunk: Any = getattr(network, "trunk", None)
    if not isinstance(trunk, DeltaTrunk):
        raise InputError(
            "the network has no deltas to share a pass between; give the one of a delta checkpoint, rebuilt."
        )
    if problem := _unlike(trunk):
        raise InputError(
            f"the trunk with deltas {problem}; SharedViT takes transformers such as vit_b_16 and vit_tiny."
        )
    return _read(trunk, trunk.executions)


def _read(trunk: Any, executions: dict[str, Execution]) -> Source:
    base = {name: p.detach().cpu() for name, p in trunk.named_parameters() if not name.startswith("deltas.")}
    with torch.no_grad():
        own = {task: _changed(base, trunk.weights_of(task)) for task in executions}
    patterns = {task: _patterns(trunk.deltas[task].changes) for task in executions}
    reader, branches = _Reader(base, own, patterns), []
    for name, block in trunk.encoder.layers.named_children():
        width, prefix = block.self_attention.head_dim, f"encoder.layers.{name}."
        branches += [
            reader.part("attention", prefix, f"{name}.attention", eps=block.ln_1.eps, width=width),
            reader.part("mlp", prefix, f"{name}.mlp", eps=block.ln_2.eps),
        ]
    source = Source(
        patch=trunk.patch,
        grid=tuple(trunk.encoder.grid),
        embedding=reader.part(EMBEDDING, "", EMBEDDING),
        branches=tuple(branches),
        last=reader.part(LAST, "", LAST, eps=trunk.encoder.ln.eps),
        executions=dict(executions),
    )
    if reader.left:
        raise InputError(
            f"the trunk has a parameter '{min(reader.left)}' that SharedViT does not know; export it merged."
        )
    return source


class _Reader:
    """Takes the tensors of one part after the other; ``left`` are the names that none has taken."""

    def __init__(
        self,
        base: Mapping[str, Tensor],
        own: Mapping[str, Mapping[str, Tensor]],
        patterns: Mapping[str, Mapping[str, Pattern]],
    ) -> None:
        self.base, self.own, self.patterns, self.left = base, own, patterns, set(base)

    def part(self, kind: str, prefix: str, name: str, *, eps: float = 0.0, width: int = 0) -> Part:
        """Return the part of ``kind`` whose parameters' names begin with ``prefix``; InputError if one is missing."""
        names = {short: prefix + long for short, long in _NAMES[kind].items()}
        for long in names.values():
            if long not in self.base:
                raise InputError(f"the trunk has no parameter '{long}', which SharedViT needs; export it merged.")
        self.left -= set(names.values())
        own = {
            task: {short: weights[long].clone() for short, long in names.items() if long in weights}
            for task, weights in self.own.items()
        }
        base = {short: self.base[long].clone() for short, long in names.items()}
        first = names.get("first.weight", "")
        return Part(
            name=name,
            base=base,
            own={t: w for t, w in own.items() if w},
            eps=eps,
            width=width,
            patterns={task: listed[first] for task, listed in self.patterns.items() if first in listed},
        )


def _patterns(changes: Sequence[ChangedParameter]) -> dict[str, Pattern]:
    """Return the patterns by the names that parameters have in the trunk."""
    return {change.parameter.removeprefix("trunk."): change.pattern for change in changes}


def _changed(base: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that differ from the base's: a delta of zeros changes nothing."""
    there = {name: weight.detach().cpu() for name, weight in own.items()}
    return {name: weight for name, weight in there.items() if not torch.equal(weight, base[name])}


def _unlike(trunk: Any) -> str | None:
    """Return how the trunk differs from the transformer that this package executes, None if it does not."""
    layers = getattr(getattr(trunk, "encoder", None), "layers", None)
    if not isinstance(layers, nn.Sequential) or not hasattr(trunk.encoder, "grid") or not hasattr(trunk, "patch"):
        return "has no 'patch' and 'encoder' with 'grid' and 'layers'"
    for name, block in layers.named_children():
        norms = [getattr(block, norm, None) for norm in ("ln_1", "ln_2")]
        if not all(isinstance(norm, nn.LayerNorm) for norm in norms):
            return f"has a block '{name}' without the norms 'ln_1' and 'ln_2'"
        mlp = getattr(block, "mlp", None)
        act = mlp[1] if isinstance(mlp, nn.Sequential) and len(mlp) == 4 else None
        if not isinstance(act, nn.GELU) or act.approximate != "none":
            return f"has a block '{name}' whose MLP is not Linear, GELU (exact), dropout, Linear"
        if not hasattr(getattr(block, "self_attention", None), "head_dim"):
            return f"has a block '{name}' without a 'self_attention' of known head width"
    return None
