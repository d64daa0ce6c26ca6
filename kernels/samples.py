"""Random weights and inputs of a problem, to measure and to test its candidates with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from slimtask.kernels import ops
from slimtask.kernels.problem import Problem
from slimtask.kernels.units import Layer

_HEAD = 64


class Merged(NamedTuple):
    """The layers of all sub-tasks."""

    weight: Float[Tensor, "d m k"]
    bias: Float[Tensor, "d m"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Weights and inputs of a problem: layers of the base and of the tasks, and the rows in which inputs differ."""

    problem: Problem
    seed: int

    @cached_property
    def masks(self) -> list[Bool[np.ndarray, "d m k"]]:
        """Return, per layer, which weights each of the sub-tasks changes."""
        its, random = self.problem, np.random.default_rng(self.seed)
        shapes = [(each.outputs, each.inputs) for each in its.layers]
        made = [_masks(its.pattern, its.density, shapes, width_of(its), random) for _ in range(its.deltas)]
        return [np.stack(layer) for layer in zip(*made, strict=True)]

    @cached_property
    def base(self) -> list[Layer]:
        """Return the layers of the base."""
        random = torch.Generator().manual_seed(self.seed)
        sizes = [(each.outputs, each.inputs) for each in self.problem.layers]
        made = [
            (torch.randn(m, k, generator=random) / math.sqrt(k), torch.randn(m, generator=random)) for m, k in sizes
        ]
        return [Layer(*map(self._placed, pair)) for pair in made]

    @cached_property
    def deltas(self) -> list[Float[np.ndarray, "d m k"]]:
        """Return the changes of the weights per layer, in float32 numbers that the problem's dtype holds."""
        random = np.random.default_rng(self.seed + 1)
        made = [mask * (0.1 + random.random(mask.shape, dtype=np.float32)) / mask.shape[2] for mask in self.masks]
        return [torch.from_numpy(each).to(self._dtype).float().numpy() for each in made]

    @cached_property
    def stacked(self) -> list[Merged]:
        """Return the merged layers of the sub-tasks, weight [D, M, K] and bias [D, M]; biases are the base's."""
        pairs = zip(self.base, self.deltas, strict=True)
        return [
            Merged(base.weight + self._placed(torch.from_numpy(delta)), base.bias.expand(len(delta), -1).contiguous())
            for base, delta in pairs
        ]

    @cached_property
    def merged(self) -> list[list[Layer]]:
        """Return the layers of every task, the base among them if it is one."""
        own = [[Layer(each.weight[t], each.bias[t]) for each in self.stacked] for t in range(self.problem.deltas)]
        return [self.base, *own] if self.problem.base_included else own

    @cached_property
    def index(self) -> Int32[Tensor, "d r"]:
        """Return the rows that differ in each sub-task's input."""
        tokens, random = self.problem.tokens, np.random.default_rng(self.seed + 2)
        count = round(self.problem.rows * tokens)
        chosen = [np.sort(random.permutation(tokens)[:count]) for _ in range(self.problem.deltas)]
        return ops.tensor_of(np.stack(chosen).astype(np.int32), self.problem.device.backend)

    @cached_property
    def x(self) -> Float[Tensor, "n k"]:
        """Return the base's input."""
        random = torch.Generator().manual_seed(self.seed + 3)
        return self._placed(torch.randn(self.problem.tokens, self.problem.inputs, generator=random))

    @cached_property
    def x_rows(self) -> Float[Tensor, "d r k"]:
        """Return the sub-tasks' inputs in the rows that differ."""
        random = torch.Generator().manual_seed(self.seed + 4)
        return self._placed(torch.randn(*self.index.shape, self.problem.inputs, generator=random))

    @cached_property
    def inputs(self) -> Float[Tensor, "t n k"]:
        """Return the whole inputs of every task, the base's first if it is one."""
        own = self.overwritten(self.x, self.x_rows)
        return torch.cat([self.x[None], own]) if self.problem.base_included else own

    def overwritten(self, base: Tensor, rows: Tensor) -> Float[Tensor, "d n m"]:
        """Return every sub-task's output: ``base`` [N, M] or [D, N, M], its changed rows overwritten by ``rows``."""
        if self.index.shape[1] == 0:
            return base.expand(self.problem.deltas, *base.shape[-2:])
        return ops.scatter_rows(self.index, self.count, rows, base)

    @cached_property
    def count(self) -> Int32[Tensor, " d"]:
        """Return how many rows differ in each sub-task's input."""
        return torch.full(self.index.shape[:1], self.index.shape[1], dtype=torch.int32, device=self.index.device)

    @property
    def _dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.problem.dtype)
        return found

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.problem.device.backend, self._dtype)


def _masks(
    pattern: str, density: float | int, shapes: list[tuple[int, int]], width: int, random: np.random.Generator
) -> list[Bool[np.ndarray, "m k"]]:
    """Where one task changes the weights of each layer."""
    (outputs, inputs), ones = shapes[0], [np.ones(shape, dtype=bool) for shape in shapes]
    if pattern == "rows":
        return [~ones[0]]
    if pattern == "tensor":
        return ones
    if pattern in ("hidden-units", "heads"):
        kept = np.repeat(_picked(shapes[1][1] // width, density, random), width)
        return [np.tile(kept, outputs // len(kept))[:, None] & ones[0], kept & ones[1]]
    height, length = {
        "block": (64, 64),
        "vector": (32, 1),
        "in-channels": (outputs, 1),
        "out-channels": (1, inputs),
    }.get(pattern, (1, 1))
    grid = -(-outputs // height), -(-inputs // length)
    if pattern == "vector":  # lists of one length, so that none is filled up
        units = np.stack([_picked(grid[1], density, random) for _ in range(grid[0])])
    else:
        units = _picked(grid[0] * grid[1], density, random).reshape(grid)
    return [units.repeat(height, axis=0).repeat(length, axis=1)[:outputs, :inputs]]


def _picked(count: int, density: float | int, random: np.random.Generator) -> Bool[np.ndarray, " count"]:
    return random.permutation(count) < max(1, round(density * count))


def width_of(problem: Problem) -> int:
    """Return how many neighbours change together: the channels of a head, or one hidden unit."""
    return math.gcd(_HEAD, problem.outputs // 3) if problem.operator == "attention" else 1
