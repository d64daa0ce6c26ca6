"""Parameters and FLOPs of a network, stated beside a measured latency, never for it: a speed is a measurement."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor, nn

from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import axes_of
from slimtask.compress.graph.operations import operation_flops
from slimtask.compress.network.inputs import Inputs
from slimtask.compress.network.tape import Tape
from slimtask.compress.network.trace import record


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable and frozen parameters; buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(model: nn.Module, example: Inputs) -> int:
    """Return the floating-point operations of one forward pass; one multiply-add counts as two.

    Convolutions and matrix products only (torch.utils.flop_counter); element-wise work and resizing are not counted.
    ``model`` is not run. Raises InputError if it does not run on the example.
    """
    return flops_of(record(model, example))


def flops_of(tape: Tape) -> int:
    """Return the floating-point operations of a recorded pass, as ``count_flops`` counts them."""
    return sum(map(operation_flops, tape.operations))


class SizeModel:
    """The parameters of the modules under ``prefix`` as a function of how many channels each group keeps.

    A tensor's size is the product of its axes, at most two of which are cut, and each of those is affine in the group
    counts, so many candidate removals are priced at once without touching the network.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], prefix: str = "") -> None:
        modules = dict(model.named_modules())
        sizes = {name: p.shape for name, p in model.named_parameters() if name.startswith(prefix)}
        rows = {name: row for row, name in enumerate(sizes)}
        self._full = torch.tensor([group.channels for group in groups], dtype=torch.float64)
        self._cut = torch.zeros(2, len(rows), len(groups), dtype=torch.float64)
        axes: dict[str, list[int]] = {name: [] for name in sizes}
        for column, group in enumerate(groups):
            for member in group.members:
                for name, axis in axes_of(member, modules[member.module]):
                    if name in rows:
                        if axis not in axes[name]:
                            axes[name].append(axis)
                        self._cut[axes[name].index(axis), rows[name], column] += len(member.local) / group.channels
        self._sizes = torch.ones(2, len(rows), dtype=torch.float64)
        self._rest = torch.ones(len(rows), dtype=torch.float64)
        for name, shape in sizes.items():
            for axis, size in enumerate(shape):
                if axis in axes[name]:
                    self._sizes[axes[name].index(axis), rows[name]] = size
                else:
                    self._rest[rows[name]] *= size

    @property
    def total(self) -> int:
        """Return the parameters of the uncut modules."""
        return int(self(self._full))

    def __call__(self, kept: Shaped[Tensor, "*batch groups"]) -> Float64[Tensor, "*batch"]:
        """Return the parameters left (float64) when group g keeps ``kept[..., g]`` channels."""
        gone = self._full - kept.double()
        first, second = (self._sizes[side] - gone @ self._cut[side].T for side in (0, 1))
        return (first * second * self._rest).sum(dim=-1)
