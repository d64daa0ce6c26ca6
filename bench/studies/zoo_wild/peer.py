"""The same half of the channels by torch-pruning, set up as its documentation and its examples say."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.studies.torch_pruning import prune_uniformly_
from slimtask.bench.studies.zoo.models import noise_like
from slimtask.bench.studies.zoo.steps import Row
from slimtask.bench.studies.zoo_wild.outputs import complaint, tensors
from slimtask.bench.studies.zoo_wild.subjects import Subject
from slimtask.compress.network.inputs import Inputs, call
from slimtask.compress.score.cost import count_parameters

RATIO = 0.5
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads")
_FUSED = {"qkv": 3, "qkv_proj": 3, "to_qkv": 3, "in_proj": 3, "kv": 2, "to_kv": 2}  # projections in one layer
_SINGLE = tuple(form.format(one) for form in ("{}", "{}_proj", "to_{}") for one in "qkv")
_SINGLE += tuple(form.format(one) for form in ("{}", "projection_{}") for one in ("query", "key", "value"))
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def halve(what: Subject, row: Row) -> None:
    """Remove half of every group by group magnitude, layer by layer, and write what came of it into ``row``.

    A network that breaks is tried once more with its attention left whole, as users of torch-pruning do.
    """
    fresh = noise_like(what.example, seed=11)
    with torch.no_grad():
        dense = call(what.model.eval(), fresh)
    attempts = ("heads", "attention left whole") if heads_of(what.model) else ("no attention",)
    for attempt in attempts:
        row.set(part=f"removal ({attempt})", attempt=attempt)
        try:
            smaller, seconds = _cut(copy.deepcopy(what.model), fresh, whole=attempt != "heads")
            row.set(seconds=seconds, **_counts(smaller, row.values["params_before"]))
            with torch.no_grad():
                wrong = complaint(dense, call(smaller.eval(), fresh), counted=what.counted)
        except Exception:
            if attempt == attempts[-1]:
                raise
            continue
        row.set(status="fail" if wrong else "runs", reason=wrong)
        if not wrong:
            return


def _counts(smaller: nn.Module, before: int) -> dict[str, Any]:
    after = count_parameters(smaller)
    return {"params_after": after, "share": round(1 - after / before, 4)}


def _cut(model: nn.Module, inputs: Inputs, *, whole: bool) -> tuple[nn.Module, float]:
    """Return ``model`` after half of its channels went, in place, and the CPU seconds that took.

    The projections of attention lose as many channels of every head, or none if they are left ``whole``.
    """
    started = time.process_time()
    heads = heads_of(model)
    pruner = prune_uniformly_(
        model,
        inputs,
        RATIO,
        [*output_layers(model, inputs), *(heads if whole else ())],
        forward_fn=call,
        output_transform=lambda outputs: [x for x in tensors(outputs) if x.requires_grad],
        num_heads={} if whole else heads,
    )
    tell_attention_(model, pruner.num_heads)
    return model, round(time.process_time() - started, 2)


def output_layers(model: nn.Module, inputs: Inputs) -> list[nn.Module]:
    """Return every convolution and linear layer from which an output is reached without another one in between."""
    owners = {id(module.weight): module for module in model.modules() if isinstance(module, _LAYERS)}
    with torch.enable_grad():
        outputs = tensors(call(model, inputs))
    pending: list[Any] = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    seen, found = set(pending), dict[int, nn.Module]()
    while pending:
        before = [node for node, _ in pending.pop().next_functions if node is not None]
        layers = [key for node in before for key in _weights(node) if key in owners]
        found |= {key: owners[key] for key in layers}
        pending += [node for node in before if not layers and node not in seen]
        seen.update(before)
    return list(found.values())


def _weights(node: Any) -> list[int]:
    """Return the identity of the parameter that a node of autograd stands for, also where it is first transposed."""
    nodes = [node] if hasattr(node, "variable") else [up for up, _ in node.next_functions if hasattr(up, "variable")]
    if not hasattr(node, "variable") and type(node).__name__ != "TBackward0":
        return []
    return [id(up.variable) for up in nodes]


def heads_of(model: nn.Module) -> dict[nn.Module, int]:
    """Return the number of heads of every projection of every attention module, read off its usual attributes."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        heads = next((n for name in _HEADS if isinstance(n := getattr(module, name, None), int)), 0)
        for name in (*_FUSED, *_SINGLE):
            layer, width = getattr(module, name, None), getattr(module, "head_dim", None)
            if not isinstance(layer, _LAYERS):
                continue
            own = heads or (layer.weight.shape[0] // width if isinstance(width, int) and name in _SINGLE else 0)
            if own > 1 and layer.weight.shape[0] % own == 0:
                found[layer] = own
    return found


def tell_attention_(model: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Set the sizes that attention modules keep as numbers to those of their layers, as torch-pruning's examples do."""
    for module in model.modules():
        for name, parts in {**dict.fromkeys(_SINGLE, 1), **_FUSED}.items():
            layer = getattr(module, name, None)
            if not isinstance(layer, nn.Module) or layer not in heads:
                continue
            width = _width(layer) // parts
            for attribute in ("head_dim", "attention_head_size", "dim_head"):
                if isinstance(getattr(module, attribute, None), int):
                    setattr(module, attribute, width // heads[layer])
            for attribute in ("attn_dim", "all_head_size", "embed_dim", "inner_dim"):
                if isinstance(getattr(module, attribute, None), int):
                    setattr(module, attribute, width)


def _width(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return int(weight.shape[0])
