"""Parameters and FLOPs of a network. Both are stated beside a measured latency, never instead of it (law 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor, nn

from slimtask.compress.groups import Group
from slimtask.compress.plan import channel_sizes


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable and frozen parameters; buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(model: nn.Module, example: Float[Tensor, "batch 3 height width"]) -> int:
    """Return the floating-point operations of one forward pass; one multiply-add counts as two.

    Convolutions and matrix products only (torch.utils.flop_counter); element-wise work and resizing are not counted.
    """
    from torch.utils.flop_counter import FlopCounterMode

    was_training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example)
    model.train(was_training)
    return int(counter.get_total_flops())


class SizeModel:
    """The parameters of the modules under ``prefix`` as a function of how many channels each group keeps.

    A layer's size is bilinear in its outputs and inputs, and both are affine in the group counts, so many candidate
    removals are priced at once without touching the network.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], prefix: str = "") -> None:
        modules = dict(model.named_modules())
        names = [
            name
            for name, module in modules.items()
            if f"{name}.".startswith(prefix) and any(True for _ in module.parameters(recurse=False))
        ]
        rows = {name: row for row, name in enumerate(names)}
        sizes = [_factors(modules[name]) for name in names]
        self._outputs, self._inputs, self._taps, self._biases, self._fixed = (
            torch.tensor(column, dtype=torch.float64) for column in zip(*sizes, strict=True)
        )
        self._full = torch.tensor([group.channels for group in groups], dtype=torch.float64)
        self._per_output = torch.zeros(len(names), len(groups), dtype=torch.float64)
        self._per_input = torch.zeros(len(names), len(groups), dtype=torch.float64)
        for column, group in enumerate(groups):
            for member in group.members:
                if member.module in rows:
                    table = self._per_output if member.side == "out" else self._per_input
                    table[rows[member.module], column] += len(member.local) / group.channels

    @property
    def total(self) -> int:
        """Return the parameters of the uncut modules."""
        return int(self(self._full))

    def __call__(self, kept: Shaped[Tensor, "*batch groups"]) -> Float64[Tensor, "*batch"]:
        """Return the parameters left (float64) when group g keeps ``kept[..., g]`` channels."""
        gone = self._full - kept.double()
        outputs = self._outputs - gone @ self._per_output.T
        inputs = self._inputs - gone @ self._per_input.T
        return (outputs * (inputs * self._taps + self._biases) + self._fixed).sum(dim=-1)


def _factors(module: nn.Module) -> tuple[int, int, int, int, int]:
    """Return (outputs, inputs, weights per output and input, further parameters per output, fixed parameters)."""
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        outputs, inputs = channel_sizes(module)
        taps, bias = module.weight[0, 0].numel(), int(module.bias is not None)
        grouped = isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1
        return (outputs, 0, 0, own // outputs, 0) if grouped else (outputs, inputs, taps, bias, 0)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.num_features, 0, 0, own // module.num_features, 0
    return 0, 0, 0, 0, own
