"""The networks of the realised-speed benchmark, and how both sides cut them: torch-pruning's way, and ours."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from slimtask.bench.latency_table import measure_table
from slimtask.compress.contents import independent_copy
from slimtask.compress.cost import count_flops, count_parameters
from slimtask.compress.groups import Group, find_groups
from slimtask.compress.importance import score_channels
from slimtask.compress.latency.choose import Align, Chosen, LatencyChooser
from slimtask.compress.latency.specs import LayerSpec, axis_ranges, layer_specs
from slimtask.compress.latency.table import LatencyTable
from slimtask.compress.remove import remove_channels
from slimtask.errors import CheckFailed, InputError

MODELS = ("resnet18", "resnet50", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny")
CRITERION = "l2"
FLOOR = 0.99  # the least share of the FLOP budget that a choice should use


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How one choice is made: which counts, how far from the fastest, the least share of a uniform cut, and the rest.

    ``rest``: whether what the dense network takes beyond its layers in the table is priced by the elements it writes.
    """

    align: Align
    slack: float = 0.0
    share: float = 0.25
    rest: bool = True


SETTINGS = (
    Setting(align="auto", slack=0.02, share=0.5),
    Setting(align="auto"),
    Setting(align=16, slack=0.02, share=0.5),
    Setting(align=16),
    Setting(align=16, rest=False),
    Setting(align=16, share=0.5, rest=False),
)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A cut network with its cost, and the share of the importance scores (sum over channels) that it kept."""

    model: nn.Module
    flops: int
    parameters: int
    importance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A dense network with everything that choosing its channels needs."""

    model: nn.Module
    example: Tensor
    groups: tuple[Group, ...]
    specs: tuple[LayerSpec, ...]
    scores: tuple[Float64[Tensor, " _channels"], ...]
    table: LatencyTable


def dense_network(name: str, size: int = 224, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Return torchvision's network with seeded random weights in eval mode, and an example of batch 1."""
    from torchvision import models

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = models.get_model(name, weights=None)
    return model.eval(), torch.randn(1, 3, size, size)


def subject(model: nn.Module, example: Tensor, *, threads: int, budget_seconds: float, **table: Any) -> Subject:
    """Return the network with its groups, its scores and its latency table, measured if it is not yet known.

    ``table`` goes to ``measure_table``: ``cache``, ``timer``, ``progress``.
    """
    groups = find_groups(model, example)
    specs = layer_specs(model, groups, example)
    ranges = axis_ranges(specs, groups)
    return Subject(
        model=model,
        example=example,
        groups=groups,
        specs=specs,
        scores=tuple(score_channels(model, groups, CRITERION)),
        table=measure_table(ranges, threads=threads, budget_seconds=budget_seconds, **table),
    )


def cut_by_torch_pruning(model: nn.Module, example: Tensor, level: float) -> Cut:
    """Return a copy cut by torch-pruning: the same share ``level`` of every group, least group magnitude first.

    Its classifier's outputs stay. The explicit empty dictionaries replace defaults that leak between networks.
    """
    import torch_pruning as tp

    copied = copy.deepcopy(model)
    classifier = [module for module in copied.modules() if isinstance(module, nn.Linear)][-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.MetaPruner(
            copied,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=level,
            ignored_layers=[classifier],
            round_to=None,
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
            channel_groups={},
            customized_pruners={},
        )
        pruner.step()
    copied.eval()
    return Cut(model=copied, flops=count_flops(copied, example), parameters=count_parameters(copied))


def choices_for_latency(what: Subject, flops: int, level: float, dense_ms: float) -> list[Chosen]:
    """Return distinct choices of channels with at most ``flops`` FLOPs, each for the least latency in its own setting.

    One per entry of ``SETTINGS``. Their least share of every group is at least a quarter of what a uniform ``level``
    would leave it, so that the fastest network is not one that nobody could train.
    """
    found: dict[tuple[int, ...], Chosen] = {}
    full = [group.channels for group in what.groups]
    layers_ms = sum(what.table.ms(s.shape, s.inputs.count(full), s.outputs.count(full)) for s in what.specs)
    for setting in SETTINGS:
        least = [max(1, round(channels * (1.0 - level) * setting.share)) for channels in full]
        chooser = LatencyChooser(
            what.groups,
            what.specs,
            what.scores,
            what.table,
            {"the network": dense_ms if setting.rest else min(dense_ms, layers_ms)},
            align=setting.align,
            smallest=least,
        )
        try:
            chosen = chooser.for_flops(float(flops), floor=FLOOR, slack=setting.slack)
        except InputError:  # multiples of 16 alone are too coarse for the smallest budgets
            continue
        found.setdefault(chosen.kept, chosen)
    if not found:
        raise InputError(f"no choice of channels has at most {flops} FLOPs; ask for a lower level.")
    return list(found.values())


def cut_as_chosen(what: Subject, chosen: Chosen, flops: int) -> Cut:
    """Return the copy with the chosen channels; CheckFailed if it costs more than ``flops``."""
    model = cut(what, chosen.keep)
    spent = count_flops(model, what.example)
    if spent > flops:
        raise CheckFailed(f"the cut network takes {spent} FLOPs instead of at most {flops}; no figure is written.")
    return Cut(model=model, flops=spent, parameters=count_parameters(model), importance=chosen.importance)


def cut(what: Subject, keep: Sequence[Bool[Tensor, " _channels"]]) -> nn.Module:
    """Return a copy of the dense network with only the channels where ``keep`` is true, certified."""
    done = remove_channels(what.model, what.example, what.groups, keep, why="chosen for latency", thorough=False)
    return done.model


def export(model: nn.Module, example: Tensor, path: Path) -> Path:
    """Return ``path`` after writing the network in eval mode there as one ONNX file (opset 20) with its weights.

    A copy is what the exporter runs: it leaves tensors without values in what a network keeps of a pass.
    """
    model = independent_copy(model).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (example,), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    program.save(path, external_data=False)
    return path
