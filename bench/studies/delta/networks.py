"""Transformers with random deltas of hidden units and heads: of all blocks, or of those behind a shared prefix."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.bench.studies.delta.grid import chosen
from slimtask.compress.edits.deltas import install_deltas_
from slimtask.compress.structures.delta import Change, Delta, Execution, digest
from slimtask.compress.structures.patterns import Heads, HiddenUnits, Pattern
from slimtask.export.shared import SharedViT
from slimtask.export.shared.streams import Streams
from slimtask.tasks import TaskSpec

BASE = "base"
SIZE = 0.1  # of a changed weight's change, as a share of the parameter's root mean square


class Vits:
    """A base transformer, and sub-tasks of which each changes some hidden units and heads of blocks from ``first`` on.

    The base is one of the ``tasks``: with four there are three deltas.
    """

    def __init__(
        self, name: str, *, tasks: int, first: int, density: float, heads: int = 1, depth: int | None = None
    ) -> None:
        from slimtask.train.models import multitask_net

        self.names = (BASE, *(f"task_{number}" for number in range(1, tasks)))
        specs = tuple(TaskSpec(name=each, kind="depth", channels=1) for each in self.names)
        self.base: Any = multitask_net(tasks=specs, trunk=name).eval().requires_grad_(False)
        self.base.trunk.encoder.layers = self.base.trunk.encoder.layers[:depth]
        self._first, self._density, self._heads = first, density, heads
        self._changes = {task: self._random_changes() for task in self.names[1:]}
        self._digest = digest(self.base, self._changes[self.names[-1]])  # all change the same parameters

    @property
    def depth(self) -> int:
        """Return the number of blocks."""
        return len(self.base.trunk.encoder.layers)

    @property
    def density(self) -> float:
        """Return the share of the hidden units that a sub-task changes in a block."""
        return self._density

    @property
    def prefix(self) -> int:
        """Return the number of blocks in front of the first one that a sub-task changes."""
        return self._first

    def delta(self, task: str, execution: Execution) -> Delta:
        """Return the delta of a sub-task."""
        return Delta(task=task, base=self._digest, changes=self._changes[task], execution=execution)

    def network(self, execution: Execution) -> nn.Module:
        """Return the network of all tasks, executed so."""
        made: nn.Module = copy.deepcopy(self.base)
        install_deltas_(made, [self.delta(task, execution) for task in self.names[1:]])
        return made.eval().requires_grad_(False)

    def shared(self, execution: Execution, *, batched: bool) -> SharedViT:
        """Return the shared form of ``network(execution)``."""
        return SharedViT.of(self.network(execution), batched=batched)

    def merged_trunk(self, task: str) -> Any:
        """Return the dense trunk of a task, a ViTTrunk."""
        network: Any = self.base if task == BASE else self.delta(task, Execution()).merged(self.base)
        return network.trunk

    def _random_changes(self) -> dict[str, Change]:
        changes = {}
        for name, block in list(self.base.trunk.encoder.layers.named_children())[self._first :]:
            prefix, width = f"trunk.encoder.layers.{name}.", block.self_attention.head_dim
            heads = block.self_attention.out_proj.weight.shape[1] // width
            hidden = len(block.mlp[0].weight)
            for count, some, patterns in (
                (hidden, chosen(hidden, self._density), _hidden_units(prefix)),
                (heads, min(heads, self._heads), _head_patterns(prefix, width)),
            ):
                kept = torch.zeros(count, dtype=torch.bool)
                kept[torch.randperm(count)[:some]] = True
                for parameter, pattern in patterns.items():
                    changes[parameter] = _random_change(self.base.get_parameter(parameter), pattern, kept)
        return changes


def _hidden_units(prefix: str) -> dict[str, Pattern]:
    sides = {"mlp.0.weight": "out", "mlp.0.bias": "out", "mlp.3.weight": "in"}
    return {prefix + leaf: HiddenUnits.model_validate({"of": f"{prefix}mlp", "side": s}) for leaf, s in sides.items()}


def _head_patterns(prefix: str, width: int) -> dict[str, Pattern]:
    sides = {"in_proj_weight": "out", "in_proj_bias": "out", "out_proj.weight": "in"}
    of = f"{prefix}self_attention"
    return {
        f"{of}.{leaf}": Heads.model_validate({"of": of, "side": side, "width": width}) for leaf, side in sides.items()
    }


def _random_change(parameter: Tensor, pattern: Pattern, kept: Tensor) -> Change:
    shape = tuple(parameter.shape)
    mask = pattern.expand(kept, shape)
    scale = SIZE * float(parameter.square().mean().sqrt())
    return Change.of(pattern, scale * torch.randn(shape) * mask, mask)


class Maps(nn.Module):
    """A trunk of all tasks as a function of an image to a tuple of feature maps in the order of ``tasks``."""

    def __init__(self, trunk: nn.Module, tasks: Sequence[str]) -> None:
        super().__init__()
        self.trunk, self.tasks = trunk, tuple(tasks)

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch c h w"], ...]:
        """Return the maps; the clone gives tasks that share one tensor an output each."""
        features = self.trunk(x)
        return tuple(features[task].clone() for task in self.tasks)


class SharedBlock(nn.Module):
    """The last block of a SharedViT: the tokens of base and tasks in front of it to those behind it."""

    def __init__(self, shared: SharedViT, *, own: bool) -> None:
        super().__init__()
        trunk = shared.trunk
        self.branches, self.own, self.base_fed = trunk.branches[-2:], own, bool(trunk.base_fed)
        self.tasks = tuple(task for task in trunk.tasks if task != BASE)

    def forward(self, x: Float[Tensor, "1 n c"], *own: Float[Tensor, "1 n c"]) -> tuple[Float[Tensor, "1 n c"], ...]:
        """Return the tokens of the base and of every sub-task."""
        streams: Streams = {}
        streams.update(zip(self.tasks, own, strict=True) if self.own else ())
        for branch in self.branches:
            x, streams = branch(x, streams)
        return x, *(x + streams[task] if self.base_fed else streams[task] for task in self.tasks)
