"""FLOPs of one forward pass as a function of how many channels each group keeps, without touching the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor, nn

from slimtask.compress.graph.groups import Group
from slimtask.compress.graph.modules import FILTERS, Member, channel_sizes
from slimtask.compress.graph.operations import operation_flops
from slimtask.compress.network.tape import Ref, Tape


class FlopModel:
    """The FLOPs of the recorded pass ``tape`` of ``model`` as a function of the kept channels; a multiply-add is two.

    The work done with one weight is proportional to its outputs and to the inputs that each output reads, and both are
    affine in the group counts, so many candidate removals are priced at once. Whatever is done without a weight (the
    products inside attention) counts as fixed, so there the figure is an upper bound; otherwise it equals
    ``count_flops`` of the really cut network.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], tape: Tape) -> None:
        work, fixed = _work_by_weight(model, tape)
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


def _work_by_weight(model: nn.Module, tape: Tape) -> tuple[dict[str, int], int]:
    """Return the FLOPs of the recorded pass done with each weight, and those done without any."""
    weights = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    # by memory, which a weight shares with its views: it is often passed transposed
    names = {tape.storages[number]: name for number, name in tape.leaves.items() if name in weights}
    work: dict[str, int] = {}
    fixed = 0
    for op in tape.operations:
        memories = (tape.storages[x.number] for x in op.args if isinstance(x, Ref))
        name = next((names[memory] for memory in memories if memory in names), None)
        if not (flops := operation_flops(op)):
            continue
        if name is None:
            fixed += flops
        else:
            work[name] = work.get(name, 0) + flops
    return work, fixed
