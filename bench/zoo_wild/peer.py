"""The same half of the channels by torch-pruning, set up as its documentation and its examples say."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.bench.zoo_models import noise_like
from slimtask.bench.zoo_steps import Row
from slimtask.bench.zoo_wild.outputs import complaint, tensors
from slimtask.bench.zoo_wild.subjects import Subject
from slimtask.compress.cost import count_parameters
from slimtask.compress.inputs import Inputs, call

RATIO = 0.5
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads")
_FUSED = {"qkv": 3, "qkv_proj": 3, "to_qkv": 3, "in_proj": 3, "kv": 2, "to_kv": 2}  # projections in one layer
_SINGLE = ("q", "k", "v", "query", "key", "value", "q_proj", "k_proj", "v_proj", "to_q", "to_k", "to_v")
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def halve(what: Subject, row: Row) -> None:
    """Remove half of every group by group magnitude, layer by layer, and write what came of it into ``row``."""
    import torch_pruning as tp

    model = what.model.eval()
    fresh = noise_like(what.example, seed=11)
    with torch.no_grad():
        dense = call(model, fresh)
    row.set(part="removal")
    started = time.process_time()
    heads = heads_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            model,
            fresh,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=RATIO,
            ignored_layers=output_layers(model, fresh),
            forward_fn=call,
            output_transform=lambda outputs: [x for x in tensors(outputs) if x.requires_grad],
            num_heads=dict(heads),
            in_channel_groups={},  # these defaults are shared by all calls, so that one network would leak into another
            out_channel_groups={},
            channel_groups={},
            customized_pruners={},
        )
        pruner.step()
    row.set(seconds=round(time.process_time() - started, 2))
    tell_attention_(model, pruner.num_heads)
    after = count_parameters(model)
    row.set(params_after=after, share=round(1 - after / row.values["params_before"], 4), part="forward")
    with torch.no_grad():
        smaller = call(model.eval(), fresh)
    wrong = complaint(dense, smaller, counted=what.counted)
    row.set(status="fail" if wrong else "runs", reason=wrong)


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
            layer = getattr(module, name, None)
            if heads > 1 and isinstance(layer, _LAYERS) and layer.weight.shape[0] % heads == 0:
                found[layer] = heads
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
