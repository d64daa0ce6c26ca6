"""The layers of a network as the latency tables see them: shape, channel counts, and which groups drive those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from slimtask.compress.graph.groups import Group
from slimtask.compress.latency.table import LayerShape
from slimtask.compress.network.look import look
from slimtask.errors import InputError

_CONVOLUTION = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The channel count of one side of a layer: ``fixed`` plus, per group, ``parts[group]`` entries a kept channel."""

    fixed: int
    parts: Mapping[int, int] = field(default_factory=dict)

    def count(self, kept: Sequence[int]) -> int:
        """Return the channel count when group g keeps ``kept[g]`` channels."""
        return self.fixed + sum(entries * kept[group] for group, entries in self.parts.items())


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One call of a convolution or linear layer: its shape, and what its outputs and inputs are made of."""

    module: str
    shape: LayerShape
    outputs: Axis
    inputs: Axis

    @property
    def elements_per_output(self) -> int:
        """Return the elements of the output map of one channel, over the batch."""
        height, width = self.shape.out_size
        return self.shape.batch * height * width


def layer_specs(model: nn.Module, groups: Sequence[Group], example: Tensor, **call: Any) -> tuple[LayerSpec, ...]:
    """Return every convolution and linear call of one forward pass on ``example``, in order.

    A module called twice gives two specs. ``call`` goes to the model's forward, e.g. ``tasks=["depth"]``. Layers over
    three spatial axes are not listed. InputError if the pass has no such call.
    """
    axes = _axes(model, groups)
    calls = look(model, example, lambda network, x: _calls(network, x, call))
    if not calls:
        raise InputError(f"{type(model).__name__} calls no convolution or linear layer; there is nothing to time.")
    return tuple(
        LayerSpec(module=name, shape=shape, outputs=axes[name, "out"], inputs=axes[name, "in"]) for name, shape in calls
    )


def task_paths(model: nn.Module, example: Tensor, task_sets: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """Return, per named task set, the modules that ``model(example, tasks=...)`` calls for it: its path."""

    def see(network: nn.Module, x: Tensor) -> dict[str, frozenset[str]]:
        return {
            name: frozenset(module for module, _ in _calls(network, x, {"tasks": list(tasks)}))
            for name, tasks in task_sets.items()
        }

    return look(model, example, see)


def axis_ranges(
    specs: Sequence[LayerSpec], groups: Sequence[Group], smallest: int = 1
) -> dict[LayerShape, tuple[tuple[int, int], tuple[int, int]]]:
    """Return, per distinct shape, the (smallest, largest) input count and output count a removal can lead to.

    Every group keeps at least ``smallest`` channels or all of them; a refused one keeps all.
    """
    full = [group.channels for group in groups]
    least = [min(smallest, g.channels) if g.refused is None else g.channels for g in groups]
    ranges: dict[LayerShape, np.ndarray] = {}
    for spec in specs:
        mine = np.array([[axis.count(least), axis.count(full)] for axis in (spec.inputs, spec.outputs)])
        known = ranges.setdefault(spec.shape, mine)
        known[:, 0], known[:, 1] = np.minimum(known[:, 0], mine[:, 0]), np.maximum(known[:, 1], mine[:, 1])
    return {
        shape: ((int(found[0, 0]), int(found[0, 1])), (int(found[1, 0]), int(found[1, 1])))
        for shape, found in ranges.items()
    }


def _calls(model: nn.Module, example: Tensor, keywords: Mapping[str, Any]) -> list[tuple[str, LayerShape]]:
    """Return the module and shape of every convolution and linear call of one pass, in order."""
    found: list[tuple[str, LayerShape]] = []

    def note(name: str, module: nn.Module, x: Tensor) -> None:
        found.append((name, _shape(module, x)))

    handles = [
        module.register_forward_pre_hook(lambda module, args, name=name: note(name, module, args[0]))
        for name, module in model.named_modules()
        if isinstance(module, (*_CONVOLUTION, nn.Linear))
    ]
    model(example, **keywords)
    for handle in handles:
        handle.remove()
    return found


def _axes(model: nn.Module, groups: Sequence[Group]) -> dict[tuple[str, str], Axis]:
    """Return both axes of every layer by (module, side)."""
    parts: dict[tuple[str, str], dict[int, int]] = {}
    for index, group in enumerate(groups):
        for member in group.members:
            entries = len(member.local) // group.channels
            mine = parts.setdefault((member.module, member.side), {})
            mine[index] = mine.get(index, 0) + entries
    axes = {}
    for name, module in model.named_modules():
        if isinstance(module, (*_CONVOLUTION, nn.Linear)):
            for side, size in zip(("out", "in"), _sizes(module), strict=True):
                mine = parts.get((name, side), {})
                taken = sum(entries * groups[index].channels for index, entries in mine.items())
                axes[name, side] = Axis(fixed=size - taken, parts=mine)
    return axes


def _sizes(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    assert isinstance(module, nn.modules.conv._ConvNd)
    return module.out_channels, module.in_channels


def _shape(module: nn.Module, x: Tensor) -> LayerShape:
    if isinstance(module, nn.Linear):
        batch = x.shape[0] if x.ndim > 1 else 1
        return LayerShape(kind="linear", batch=1, size=(x.shape[1:-1].numel() * batch, 1))
    assert isinstance(module, nn.modules.conv._ConvNd)
    kind = "transposed" if module.transposed else "conv"
    if module.groups > 1:
        kind = "depthwise" if module.groups == module.in_channels == module.out_channels else "grouped"
    padding = module.padding if not isinstance(module.padding, str) else _named_padding(module)
    values = (module.kernel_size, module.stride, padding, module.dilation)
    kernel, stride, pads, dilation = (_pair(value, blank) for value, blank in zip(values, (1, 1, 0, 1), strict=True))
    return LayerShape.model_validate(
        {
            "kind": kind,
            "batch": x.shape[0],
            "size": (x.shape[-2] if len(module.kernel_size) == 2 else 1, x.shape[-1]),
            "kernel": kernel,
            "stride": stride,
            "padding": pads,
            "dilation": dilation,
            "width": module.in_channels // module.groups if module.groups > 1 else 1,
        }
    )


def _named_padding(module: nn.modules.conv._ConvNd) -> tuple[int, ...]:
    """Return the padding that "same" or "valid" stands for, rounded down where it is uneven."""
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    return tuple(d * (k - 1) // 2 for k, d in zip(module.kernel_size, module.dilation, strict=True))


def _pair(values: Sequence[int], blank: int) -> tuple[int, int]:
    return (values[0], values[1]) if len(values) == 2 else (blank, values[0])
