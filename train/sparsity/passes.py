"""The passes of one optimiser step over a block, chunk by chunk: Adam update with group sums, sums alone, shrinkage.

Shape suffixes: RC rows and columns of a chunk; a ridge broadcasts against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.train.sparsity.blocked import Block

# What is summed over each group: (d p)^2, and with x = p d / r, r = d + ridge: x^2, x^2 / r, x^2 / r^2.
NORM_DP, MOMENTS = 0, (1, 2, 3)
QUANTITIES = 4


@dataclass(kw_only=True, eq=False)
class Work:
    """A block in the middle of a step: its matrices [rows, columns], its param group, its step count."""

    block: Block
    values: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    settings: Mapping[str, Any]
    step: int

    def part(self, wanted: Tensor) -> Work | None:
        """Return what a sum pass needs for the groups ``wanted`` [groups + 1]: nothing, a compact copy, or all."""
        slices = self.block.slices
        if slices is None:
            return None
        chosen = wanted[slices].nonzero()[:, 0]
        if 4 * len(chosen) > len(slices):
            return self
        if not len(chosen):
            return None
        block = self.block.part(chosen)
        values, second = (self.block.select(matrix, chosen) for matrix in (self.values, self.second))
        return replace(self, block=block, values=values, second=second)


class Scratch:
    """Buffers for one chunk, reused by all chunks of a device and dtype."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        self._views: dict[tuple[torch.device, torch.dtype, torch.Size], list[Tensor]] = {}

    def like(self, chunk: Tensor) -> list[Tensor]:
        """Return two uninitialised tensors of the chunk's shape."""
        key = chunk.device, chunk.dtype, chunk.shape
        if key not in self._views:
            count = chunk.numel()
            buffers = self._buffers.get(key[:2], [])
            if not buffers or len(buffers[0]) < count:
                buffers = [torch.empty(count, device=chunk.device, dtype=chunk.dtype) for _ in range(2)]
                self._buffers[key[:2]] = buffers
                self._views.clear()
            self._views[key] = [buffer[:count].view(chunk.shape) for buffer in buffers]
        return self._views[key]


class GroupSums:
    """Sums over groups of several quantities: over a block in its own dtype, over blocks in float64."""

    def __init__(self, groups: int, device: torch.device) -> None:
        # One entry more than groups: it swallows the slices that are in none.
        self.totals = torch.zeros(QUANTITIES, groups + 1, dtype=torch.float64, device=device)
        self._sums = torch.empty(0)
        self._lines: tuple[Tensor, ...] = ()
        self._rows = self._parts = 1

    def begin(self, block: Block, matrix: Tensor) -> None:
        """Prepare for the chunks of ``block``: a sum for each row, or for each column and part of a chunk."""
        if block.by_row:
            self._sums = matrix.new_zeros(QUANTITIES, len(matrix))
        else:
            # As many parts as threads: a sum then splits the chunk between them as the elementwise operations around it
            # do, and no cache line wanders from core to core.
            self._rows = block.chunk_rows(matrix)
            threads = torch.get_num_threads()
            self._parts = threads if matrix.device.type == "cpu" and self._rows >= 8 * threads else 1
            chunks = -(-len(matrix) // self._rows)
            self._sums = matrix.new_zeros(QUANTITIES, chunks, self._parts, matrix.shape[1])
        self._lines = self._sums.unbind()

    def add(self, quantity: int, block: Block, row: int, values_RC: Tensor) -> None:
        """Add the ``values_RC`` of the chunk that starts at ``row``."""
        line, rows = self._lines[quantity], len(values_RC)
        if block.by_row:
            torch.sum(values_RC, 1, out=line[row : row + rows])
        else:
            parts = self._parts if rows % self._parts == 0 else 1
            torch.sum(values_RC.view(parts, rows // parts, -1), 1, out=line[row // self._rows, :parts])

    def end(self, block: Block) -> None:
        """Add the slices of ``block`` to its groups."""
        assert block.slices is not None
        sums = (self._sums if block.by_row else self._sums.sum((1, 2))).double()
        if block.inner > 1:
            sums = sums.view(QUANTITIES, -1, block.inner).sum(2)
        self.gather(block.slices, sums)

    def gather(self, slices: Tensor, sums: Tensor) -> None:
        """Add the ``sums`` [QUANTITIES, slices] to the groups of the ``slices``."""
        for total, values in zip(self.totals, sums, strict=True):
            total.index_add_(0, slices, values)


def update_pass(work: Work, scratch: Scratch, sums: GroupSums | None = None, ridge: Tensor | None = None) -> None:
    """Take the AdamW step of ``work`` in place and, given a ``ridge`` [groups + 1], add its group sums to ``sums``."""
    block = work.block
    spread = None
    if block.slices is not None and sums is not None and ridge is not None:
        spread = block.spread(ridge)
        sums.begin(block, work.values)
    adamw = _adamw_arguments(work)
    for row, (p_RC, gradient_RC, m_RC, v_RC) in block.chunks(work.values, work.gradient, work.first, work.second):
        d_RC, y_RC = scratch.like(p_RC)
        g_RC = gradient_RC
        if block.keep is not None:
            g_RC = torch.mul(gradient_RC, block.rows(block.keep, row, p_RC), out=y_RC)
        torch._fused_adamw_([p_RC], [g_RC], [m_RC], [v_RC], [], **adamw)
        if sums is not None and spread is not None:
            torch.sqrt(v_RC, out=d_RC).add_(work.settings["eps"])
            sums.add(NORM_DP, block, row, torch.mul(p_RC, d_RC, out=y_RC).square_())
            r_RC = d_RC.add_(block.rows(spread, row, p_RC))
            y_RC.div_(r_RC)
            for moment in MOMENTS:
                sums.add(moment, block, row, y_RC.div_(r_RC))
    if sums is not None and spread is not None:
        sums.end(block)


def norm_pass(work: Work, scratch: Scratch, sums: GroupSums) -> None:
    """Add the squares of the values of ``work`` to the first of ``sums``; changes nothing else."""
    block = work.block
    sums.begin(block, work.values)
    for row, (p_RC,) in block.chunks(work.values):
        sums.add(NORM_DP, block, row, torch.mul(p_RC, p_RC, out=scratch.like(p_RC)[0]))
    sums.end(block)


def sum_pass(work: Work, scratch: Scratch, sums: GroupSums, ridge: Tensor) -> None:
    """Add the sums MOMENTS of ``work`` at ``ridge`` to ``sums``; changes nothing else."""
    block = work.block
    spread = block.spread(ridge)
    sums.begin(block, work.values)
    for row, (p_RC, v_RC) in block.chunks(work.values, work.second):
        d_RC, y_RC = scratch.like(p_RC)
        torch.sqrt(v_RC, out=d_RC).add_(work.settings["eps"])
        torch.mul(p_RC, d_RC, out=y_RC).square_()
        r_RC = d_RC.add_(block.rows(spread, row, p_RC))
        y_RC.div_(r_RC)
        for moment in MOMENTS:
            sums.add(moment, block, row, y_RC.div_(r_RC))
    sums.end(block)


def shrink_pass(work: Work, scratch: Scratch, ridge: Tensor) -> None:
    """Multiply the values of ``work`` by d / (d + ridge): ridge 0 leaves them as they are, infinity makes them 0."""
    block = work.block
    spread = block.spread(ridge)
    for row, (p_RC, v_RC) in block.chunks(work.values, work.second):
        d_RC, r_RC = scratch.like(p_RC)
        torch.sqrt(v_RC, out=d_RC).add_(work.settings["eps"])
        torch.add(d_RC, block.rows(spread, row, p_RC), out=r_RC)
        p_RC.mul_(d_RC.div_(r_RC))


def _adamw_arguments(work: Work) -> dict[str, Any]:
    """Return arguments with which torch's fused AdamW takes the step of this project.

    It divides by sqrt(v) / c + eps with c^2 = 1 - beta2^t, so eps / c puts eps beside the uncorrected root; it decays
    before the step, so a learning rate of lr (1 - lr decay) makes that decay after the step.
    """
    lr, decay, (beta1, beta2), eps = adamw_settings(work)
    left = 1 - lr * decay
    return {
        "state_steps": [torch.tensor(float(work.step), device=work.values.device)],
        "lr": lr * left,
        "beta1": beta1,
        "beta2": beta2,
        "weight_decay": decay / left,
        "eps": eps / (1 - beta2**work.step) ** 0.5,
        "amsgrad": False,
        "maximize": False,
    }


def adamw_settings(work: Work) -> tuple[float, float, tuple[float, float], float]:
    """Return lr, weight decay, betas and eps of ``work``; InputError if the decay would erase the weights."""
    settings = work.settings
    lr, decay = float(settings["lr"]), float(settings["weight_decay"])
    if lr * decay >= 1:
        raise InputError(
            f"lr {lr} times weight_decay {decay} is 1 or more, which erases the weights; lower one of them."
        )
    return lr, decay, settings["betas"], settings["eps"]
