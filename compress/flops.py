"""FLOPs of one forward pass as a function of how many channels each group keeps, without touching the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimtask.compress.cuts import channel_sizes
from slimtask.compress.groups import Group, Member
from slimtask.compress.inputs import Inputs, call
from slimtask.compress.modes import modes_kept
from slimtask.compress.slices import FILTERS
from slimtask.compress.trace import plain_attention


class FlopModel:
    """The FLOPs of a forward pass on ``example`` as a function of the kept channels; a multiply-add counts as two.

    The work done with one weight is proportional to its outputs and to the inputs that each output reads, and both are
    affine in the group counts, so many candidate removals are priced at once. Whatever is done without a weight (the
    products inside attention) counts as fixed, so there the figure is an upper bound; otherwise it equals
    ``count_flops`` of the really cut network.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], example: Inputs) -> None:
        work, fixed = _work_by_weight(model, example)
        rows = {name: row for row, name in enumerate(work)}
        factors = [_factors(model, name) for name in work]
        self._fixed = float(fixed)
        self._outputs = torch.tensor([outputs for outputs, _ in factors], dtype=torch.float64)
        self._inputs = torch.tensor([inputs for _, inputs in factors], dtype=torch.float64)
        self._per_pair = torch.tensor(list(work.values()), dtype=torch.float64) / (self._outputs * self._inputs)
        self._full = torch.tensor([group.channels for group in groups], dtype=torch.float64)
        self._per_output = torch.zeros(len(work), len(groups), dtype=torch.float64)
        self._per_input = torch.zeros(len(work), len(groups), dtype=torch.float64)
        for column, group in enumerate(groups):
            for member in group.members:
                name, produces = _weight(member)
                if name in rows:
                    table = self._per_output if produces else self._per_input
                    table[rows[name], column] += len(member.local) / group.channels

    @property
    def total(self) -> int:
        """Return the FLOPs of the uncut network."""
        return round(float(self(self._full)))

    def __call__(self, kept: Shaped[Tensor, "*batch groups"]) -> Float64[Tensor, "*batch"]:
        """Return the FLOPs left (float64) when group g keeps ``kept[..., g]`` channels."""
        gone = self._full - kept.double()
        outputs = self._outputs - gone @ self._per_output.T
        inputs = self._inputs - gone @ self._per_input.T
        return (outputs * inputs * self._per_pair).sum(dim=-1) + self._fixed


def _weight(member: Member) -> tuple[str, bool]:
    """Return the weight that a member cuts, by its full name, and whether it cuts its outputs."""
    if member.kind == "parameter":
        return member.parameter, member.axis == 0
    name = f"{member.module}.weight".removeprefix(".") if member.kind in FILTERS else ""
    return name, member.side == "out"


def _factors(model: nn.Module, name: str) -> tuple[int, int]:
    """Return (outputs, inputs that one output reads) of the weight called ``name``.

    Of a grouped convolution whole groups go, so that the inputs that one output reads stay as many.
    """
    module = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, nn.modules.conv._ConvNd):
        outputs, inputs = channel_sizes(module)
        return outputs, inputs // module.groups
    weight = model.get_parameter(name)
    return weight.shape[0], weight.shape[1]


def _work_by_weight(model: nn.Module, example: Inputs) -> tuple[dict[str, int], int]:
    """Return the FLOPs of one forward pass done with each weight, and those done without any."""
    names = {_memory(parameter): name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    counter = _Counter(names)
    with modes_kept(model), torch.no_grad(), plain_attention(), counter:
        call(model.eval(), example)
    return counter.work, counter.fixed


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOPs of each operator under the weight that it was called with."""

    def __init__(self, names: dict[int, str]) -> None:
        from torch.utils.flop_counter import flop_registry

        super().__init__()  # type: ignore[no-untyped-call]
        self._names, self._formulas = names, flop_registry
        self.work: dict[str, int] = {}
        self.fixed = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula: Callable[..., int] | None = self._formulas.get(func._overloadpacket)
        if formula is not None:
            flops = formula(*args, **(kwargs or {}), out_val=out)
            memories = [_memory(argument) for argument in args if isinstance(argument, Tensor)]
            name = next((self._names[memory] for memory in memories if memory in self._names), None)
            if name is None:
                self.fixed += flops
            else:
                self.work[name] = self.work.get(name, 0) + flops
        return out


def _memory(tensor: Tensor) -> int:
    """Return what identifies the memory of a tensor and of its views: a weight is often passed transposed."""
    return int(tensor.untyped_storage()._cdata)
