"""The order in which an optimiser walks its parameters: blocks, made once, filled with this step's tensors."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.train.sparsity.blocked import Block, blocks_of
from slimtask.train.sparsity.group_state import GroupState, extended
from slimtask.train.sparsity.passes import Work

State = MutableMapping[Tensor, dict[str, Tensor]]


class Walk:
    """Keeps the blocks of the parameters that have gradients for as long as those stay the same."""

    def __init__(self) -> None:
        self._key: tuple[tuple[int, int], ...] = ()
        self._plan: list[tuple[int, int, Block]] = []

    def forget(self) -> None:
        """Make the blocks anew in the next step, because held groups or memory layouts changed."""
        self._key = ()

    def works(self, param_groups: Sequence[dict[str, Any]], state: State, groups: GroupState) -> list[Work]:
        """Return one work for each block of parameters with a gradient; their step counts in ``state`` advance."""
        present = [
            (index, parameter)
            for index, settings in enumerate(param_groups)
            for parameter in settings["params"]
            if parameter.grad is not None
        ]
        steps = [_advance(state, parameter) for _, parameter in present]
        key = tuple((id(parameter), step - steps[0]) for (_, parameter), step in zip(present, steps, strict=True))
        if key != self._key:
            self._key, self._plan = key, _plan(present, steps, groups)
        return [_work(block, param_groups[index], state, steps[position]) for index, position, block in self._plan]

    def store(self, works: Sequence[Work], state: State) -> None:
        """Write what packed blocks computed back into parameters and moments."""
        for work in works:
            parameters = work.block.parameters
            work.block.store(work.values, parameters)
            work.block.store(work.first, [state[parameter]["exp_avg"] for parameter in parameters])
            work.block.store(work.second, [state[parameter]["exp_avg_sq"] for parameter in parameters])


def _plan(
    present: Sequence[tuple[int, Tensor]], steps: Sequence[int], groups: GroupState
) -> list[tuple[int, int, Block]]:
    """Return (param group, position of one of the block's parameters in ``present``, block) for all blocks."""
    together: dict[tuple[int, int], list[int]] = {}
    for position, (index, _) in enumerate(present):
        together.setdefault((index, steps[position]), []).append(position)
    held = extended(groups.held)
    plan = []
    for (index, _), positions in together.items():
        parameters = [present[position][1] for position in positions]
        for block in blocks_of([(p, *groups.roles.get(p, (0, None))) for p in parameters], len(groups)):
            if block.slices is not None and bool(held[block.slices].any()):
                block.keep = block.spread((~held).to(block.parameters[0].dtype))
            plan.append((index, positions[0], block))
    return plan


def _advance(state: State, parameter: Tensor) -> int:
    entry = state[parameter]
    if not entry:
        entry["step"] = torch.tensor(0.0)
        entry["exp_avg"] = torch.zeros_like(parameter)
        entry["exp_avg_sq"] = torch.zeros_like(parameter)
    return int(entry["step"].add_(1))


def _work(block: Block, settings: dict[str, Any], state: State, step: int) -> Work:
    values, gradient, first, second = block.load(
        [
            block.parameters,
            [_aligned_gradient(parameter) for parameter in block.parameters],
            [state[parameter]["exp_avg"] for parameter in block.parameters],
            [state[parameter]["exp_avg_sq"] for parameter in block.parameters],
        ]
    )
    return Work(block=block, values=values, gradient=gradient, first=first, second=second, settings=settings, step=step)


def _aligned_gradient(parameter: Tensor) -> Tensor:
    """Return the gradient of ``parameter`` in the memory layout of the parameter."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse:
        raise InputError("a parameter has a sparse gradient, which the optimiser cannot use; set sparse=False.")
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
