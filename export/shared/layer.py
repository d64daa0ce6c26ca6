"""First layers of tasks as the base's output and a delta on its input: those of one packing are one launch.

Where a task reads what the base reads, Y_task = Y_base + X_base D_task^T (+ changed bias), by `slimtask.kernels.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.export.shared.core import Tensors
from slimtask.export.shared.plan import Packing
from slimtask.export.shared.streams import Stream
from slimtask.kernels import ops
from slimtask.kernels.layouts import OutChannelLayout, pack
from slimtask.kernels.units import Layer

Outputs = Float[Tensor, "batch tokens outputs"]
OPERATORS: dict[str, Callable[..., Tensor]] = {
    "block": ops.delta_blocks,
    "vector": ops.delta_vectors,
    "csr": ops.delta_csr,
    "out-channels": ops.delta_out_channels,
}
_ARRAYS = {"block": ("start", "column", "value"), "csr": ("start", "column", "value"), "vector": ("column", "value")}


class FirstLayers(nn.Module):
    """The first layers of tasks, ``own`` by task, on the input of the ``base``'s; ``packings`` say how deltas lie.

    Changed output channels are computed with the tasks' own weights, in one product with the base's (`extend`).
    """

    def __init__(self, base: Layer, own: Mapping[str, Layer], packings: Mapping[str, Packing]) -> None:
        super().__init__()
        groups: dict[Packing, list[str]] = {}
        for task, packing in packings.items():
            groups.setdefault(packing, []).append(task)
        self.groups = tuple((packing.kind, tuple(tasks)) for packing, tasks in groups.items())
        self.stored: dict[str, int] = {}
        """By task, how many numbers of its delta are multiplied with each row, those that fill up included."""
        layouts = []
        for packing, tasks in groups.items():
            tensors, sizes = _packed(base, [own[task] for task in tasks], packing)
            layouts.append(Tensors(tensors))
            self.stored |= dict(zip(tasks, sizes, strict=True))
        self.layouts: Any = nn.ModuleList(layouts)

    def extend(self, wide: Layer, own: Mapping[str, Layer]) -> Layer:
        """Return the layer ``wide`` with the changed output channels behind it, the tasks' own to the last bit."""
        channels = self._channels()
        if channels is None:
            return wide
        layers = [own[task] for task in channels[0]]
        chosen = list(zip(layers, channels[1]["channel"].long(), strict=True))
        return Layer(
            torch.cat([wide.weight, *(layer.weight[which] for layer, which in chosen)]),
            torch.cat([wide.bias, *(layer.bias[which] for layer, which in chosen)]),
        )

    def apart(self, x: Stream, extended: Mapping[str, Tensor] | Tensors) -> tuple[Outputs, Tensor | None]:
        """Return the output of what `extend` took, and the tasks' changed channels [tasks, rows, channels] if any."""
        channels = self._channels()
        if channels is None:
            return F.linear(x, extended["weight"], extended["bias"]), None
        number = channels[1]["channel"]
        out = OPERATORS["out-channels"](number, extended["weight"], x.flatten(0, 1), extended["bias"])
        whole, changed = ops.split(out, number)
        return whole.reshape(*x.shape[:2], -1), changed

    def forward(self, x: Stream, base: Outputs, changed: Tensor | None) -> dict[str, Tensor]:
        """Return every task's output by task: ``base`` is the base's, ``changed`` what `apart` returned for ``x``."""
        outputs: dict[str, Tensor] = {}
        rows, below = x.flatten(0, 1), base.flatten(0, 1).contiguous()
        for (kind, tasks), stored in zip(self.groups, self.layouts, strict=True):
            if changed is not None and kind == "out-channels":
                out = ops.complete(below, changed, stored["channel"], stored["count"])
            else:
                bias: Tensor | None = getattr(stored, "bias", None)
                out = OPERATORS[kind](*(stored[name] for name in _ARRAYS[kind]), rows, below, bias)
            outputs.update(zip(tasks, out.reshape(len(tasks), *base.shape).unbind(0), strict=True))
        return outputs

    def _channels(self) -> tuple[tuple[str, ...], Tensors] | None:
        """Return the tasks whose deltas are changed output channels, and those; None if there are no such tasks."""
        for (kind, tasks), layout in zip(self.groups, self.layouts, strict=True):
            if kind == "out-channels":
                return tasks, layout
        return None


def _packed(base: Layer, own: Sequence[Layer], packing: Packing) -> tuple[dict[str, Tensor], list[int]]:
    """Return the tensors of the deltas of several tasks, and how many numbers of each multiply a row."""
    dtype, device = base.weight.dtype, base.weight.device
    delta_TMK = _delta(base.weight, [layer.weight for layer in own])
    bias_TM = _delta(base.bias, [layer.bias for layer in own])
    if packing.kind == "out-channels":
        changed = OutChannelLayout.pack(delta_TMK, bias_TM)
        sizes = [each.size for each in changed.value]
        return {n: ops.tensor_of(a, device) for n, a in (("channel", changed.channel), ("count", changed.count))}, sizes
    layout = pack(packing.kind, delta_TMK, **({"height": packing.height} if packing.height else {}))
    tensors = {name: ops.tensor_of(array, device) for name, array in layout.arrays().items()}
    tensors["value"] = tensors["value"].to(dtype)
    if bias_TM.any():
        tensors["bias"] = torch.from_numpy(bias_TM).to(device, dtype)
    if "start" not in tensors:
        return tensors, [each.size for each in layout.value]
    ends = tensors["start"][:: (len(tensors["start"]) - 1) // len(own)].tolist()
    return tensors, [layout.value[start:stop].size for start, stop in pairwise(ends)]


def _delta(base: Tensor, own: Sequence[Tensor]) -> Float[np.ndarray, "tasks ..."]:
    """Return own - base of every task, made in float32 (float64 for float64)."""
    exact = ops.tensors.wide(base.dtype)
    return torch.stack([each.to(exact) - base.to(exact) for each in own]).cpu().numpy()
