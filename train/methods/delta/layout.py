"""Which parameters of a transformer trunk may change, and which of their entries share a gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slimtask.compress.structures.patterns import (
    Block,
    Heads,
    HiddenUnits,
    OutChannels,
    Pattern,
    Unstructured,
    WholeTensor,
)
from slimtask.errors import InputError
from slimtask.train.methods.delta.config import DeltaConfig

Shapes = Mapping[str, tuple[int, ...]]

_ATTENTION, _FIRST, _SECOND = ".self_attention.", ".mlp.0.", ".mlp.3."


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A parameter's pattern, and the name of the gates of its units; parameters with the same name share them."""

    pattern: Pattern
    gates: str


def gated_parameters(shapes: Shapes, config: DeltaConfig, *, head_width: int) -> dict[str, Gated]:
    """Return the gated ones of the trunk's parameters ``shapes`` by name, as the recipe's section asks for.

    With ``feed`` "base" only the linear layers of the blocks may change: norms and embeddings would make the layers'
    inputs differ. Of hidden units and heads the layers change with them, the rest stays.
    """
    kind = config.gates.kind
    if kind in ("hidden-units", "heads", "units"):
        made = _units(shapes, kind, head_width)
    else:
        names = [name for name in shapes if config.feed == "own" or _linear(name)]
        made = {name: _part(name, shapes[name], config) for name in names}
    if not made:
        raise InputError(f"the trunk has no {kind} that could change; take a transformer such as vit_tiny.")
    return made


def _part(name: str, shape: tuple[int, ...], config: DeltaConfig) -> Gated:
    kind, side = config.gates.kind, config.gates.block
    if kind == "element":
        return Gated(pattern=Unstructured(), gates=name)
    if kind == "tensor":
        return Gated(pattern=WholeTensor(), gates=name)
    if kind == "block":
        return Gated(pattern=Block(height=side, width=side), gates=name)
    return Gated(pattern=OutChannels(), gates=_layer(name))


def _units(shapes: Shapes, kind: str, head_width: int) -> dict[str, Gated]:
    made: dict[str, Gated] = {}
    for name in shapes:
        block, rest = _split(name)
        hidden = _hidden(f"{block}.mlp", rest) if kind != "heads" else None
        head = _head(f"{block}.self_attention", rest, head_width) if kind != "hidden-units" else None
        pattern = hidden or head
        if pattern is not None:
            made[name] = Gated(pattern=pattern, gates=pattern.of)
    return made


def _hidden(of: str, rest: str) -> HiddenUnits | None:
    if rest in ("mlp.0.weight", "mlp.0.bias"):
        return HiddenUnits(of=of, side="out")
    return HiddenUnits(of=of, side="in") if rest == "mlp.3.weight" else None


def _head(of: str, rest: str, width: int) -> Heads | None:
    if rest in ("self_attention.in_proj_weight", "self_attention.in_proj_bias"):
        return Heads(of=of, side="out", width=width)
    return Heads(of=of, side="in", width=width) if rest == "self_attention.out_proj.weight" else None


def _split(name: str) -> tuple[str, str]:
    """Return (block, what of it) of a parameter's name; ("", name) for one outside the blocks."""
    for part in (_ATTENTION, _FIRST, _SECOND):
        at = name.find(part)
        if at >= 0:
            return name[:at], name[at + 1 :]
    return "", name


def _linear(name: str) -> bool:
    return _split(name)[0] != ""


def _layer(name: str) -> str:
    """Return the layer of a weight or bias, whose output channels both have; other tensors are their own."""
    owner, _, leaf = name.rpartition(".")
    if leaf in ("in_proj_weight", "in_proj_bias"):
        return f"{owner}.in_proj"
    return owner if leaf in ("weight", "bias") else name
