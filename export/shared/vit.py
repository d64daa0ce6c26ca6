"""SharedViT: a transformer with deltas that computes once what its tasks share, and equals the network it is made of.

Blocks up to a task's first change are the base's, so they are computed once for all such tasks; after it a task runs
its own stream, rows of it, or, fed the base's, corrections alone (EfficientMTL, Shoouri et al., ICCV 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.errors import InputError
from slimtask.export.shared.branch import Branch
from slimtask.export.shared.choose import Prefer, Target, choose_layers
from slimtask.export.shared.core import Tensors
from slimtask.export.shared.plan import Budgets, Step, base_needed, plan_steps, with_thresholds
from slimtask.export.shared.source import EMBEDDING, LAST, Source, read_source
from slimtask.export.shared.streams import Streams
from slimtask.kernels.costs import Costs
from slimtask.kernels.device import Device
from slimtask.tasks import TaskSpec, select_tasks

Image = Float[Tensor, "batch 3 height width"]


class SharedViT(nn.Module):
    """A frozen network of several tasks on one image, in eval mode; ``tasks`` are their specs.

    It computes the trunk for all of its tasks: make one ``of`` fewer tasks to compute fewer.
    """

    def __init__(self, network: nn.Module, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.network, self.tasks = network, tuple(tasks)
        self.eval().requires_grad_(False)

    @classmethod
    def of(
        cls,
        network: nn.Module,
        tasks: Sequence[str] | None = None,
        *,
        rows: Budgets | None = None,
        thresholds: Mapping[str, Mapping[str, float]] | None = None,
        batched: bool | None = None,
        device: Device | None = None,
        costs: Costs | Path | str | None = None,
        prefer: Prefer = "expected",
        dtype: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> SharedViT:
        """Return the shared form of ``network``, as ``rebuild`` gives it, for ``tasks`` (all for None), copied.

        ``rows`` limits, by task and branch ("encoder_layer_3.mlp"), the number of tokens that an own-fed task reads
        from its own stream (see ``calibrate_rows``); its delta's own budget holds elsewhere. ``thresholds``, by task
        and site ("encoder_layer_3.fc1"), take the place of its delta's (see ``calibrate_thresholds``). ``batched``
        computes several tasks by one batched product where it can (default: on a GPU, where launches decide).

        First layers that could run as base and delta do so where dispatch expects it to be faster on ``device``, by
        ``costs`` (default: those measured there, in its cache) or floors; for None, an ONNX Runtime on this CPU, only
        ``costs`` given here count. ``prefer`` "kernels" runs all of them so. Dispatch is asked about one image of
        ``size`` (height and width in pixels; default: the grid the network was made for) in ``dtype`` (default: the
        network's own).

        Raises InputError for a network without deltas, a trunk of another structure, an unknown task, branch or site,
        a size of no whole patches, costs that are damaged or of another device.
        """
        source = with_thresholds(read_source(network), thresholds or {})
        original: Any = network
        specs = select_tasks(original.tasks, tasks)
        names = [spec.name for spec in specs]
        target = Target.of(device, costs, prefer, dtype)
        where = original.trunk.encoder.ln.weight.device
        if batched is None:
            batched = "cuda" in (where.type, target.costs.device.backend)
        trunk = SharedTrunk(source, names, rows or {}, batched=batched, target=target, size=size)
        trunk.to(where)
        copied: Any = copy.deepcopy(original, {id(original.trunk): trunk})
        for task in [task for task in copied.heads if task not in names]:
            del copied.heads[task]
        return cls(copied, specs)

    @property
    def trunk(self) -> SharedTrunk:
        """Return the part that is shared."""
        trunk = self.network.trunk
        if not isinstance(trunk, SharedTrunk):
            raise TypeError("the trunk was replaced")
        return trunk

    def train(self, mode: bool = True) -> SharedViT:
        """Return the network in eval mode, the only one it has."""
        super().train(False)
        return self

    def forward(self, x: Image, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the predictions of ``tasks`` (all of its own for None) by name, as the network gives them."""
        names = [spec.name for spec in select_tasks(self.tasks, tasks)]
        out: dict[str, Tensor] = self.network(x, tasks=names)
        return out


class SharedTrunk(nn.Module):
    """The trunk of a SharedViT: images to the features of every task, {task: [batch, c, h, w]}."""

    def __init__(
        self,
        source: Source,
        tasks: Sequence[str],
        rows: Budgets,
        *,
        batched: bool,
        target: Target,
        size: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.tasks, self.patch, self.grid = tuple(tasks), source.patch, source.grid
        self.base_fed = tuple(task for task in tasks if task in source.executions and _fed(source, task))
        every = bool(set(tasks) - set(source.executions))
        height, width = self.grid if size is None else self.patches(*size)
        plan = plan_steps(source, tasks, rows)
        plan = choose_layers(source, plan, target, base_task=every, tokens=height * width + 1)
        self.branches = nn.ModuleList(
            Branch(part, steps, base_runs=every or base_needed(plan[index:]), batched=batched)
            for index, (part, steps) in enumerate(zip(source.branches, plan, strict=True))
        )
        self.parts = nn.ModuleDict()
        for part in (source.embedding, source.last):
            own = {task: Tensors(part.merged(task)) for task in tasks if task in part.own}
            self.parts[part.name] = nn.ModuleDict({"base": Tensors(part.base), "own": nn.ModuleDict(own)})
        self.eps = source.last.eps

    def forward(self, x: Image) -> dict[str, Float[Tensor, "batch c h w"]]:
        """Return the normalised patch tokens of every task as a map; InputError for sides that are no whole patches."""
        height, width = self.patches(*x.shape[-2:])
        base = first = self._embed(x, self.part(EMBEDDING, ""))
        streams: Streams = {}
        for task in self.own(EMBEDDING):
            embedded = self._embed(x, self.part(EMBEDDING, task))
            streams[task] = embedded - first if task in self.base_fed else embedded
        for branch in self.branches:
            base, streams = branch(base, streams)
        equal = [task for task in self.tasks if task not in streams and task not in self.own(LAST)]
        features = dict.fromkeys(equal, self._map(base, "", height, width)) if equal else {}
        for task in self.tasks:
            if task not in equal:
                stream = base + streams[task] if task in self.base_fed and task in streams else streams.get(task, base)
                features[task] = self._map(stream, task, height, width)
        return {task: features[task] for task in self.tasks}

    def steps(self, task: str) -> dict[str, Step]:
        """Return what the task does in every branch, by branch; nothing for a base task."""
        return {branch.name: step for branch in self.each() for step in branch.steps if step.task == task}

    def each(self) -> list[Branch]:
        """Return the branches in order of execution."""
        return [branch for branch in self.branches if isinstance(branch, Branch)]

    def row_branches(self, task: str) -> tuple[str, ...]:
        """Return the branches in which the task reads a limited number of rows from its own stream."""
        return tuple(name for name, step in self.steps(task).items() if step.reads == "rows")

    def limit_rows_(self, task: str, rows: Mapping[str, int]) -> None:
        """Change the task's numbers of rows in some of its ``row_branches``, in place."""
        for branch in self.each():
            if branch.name in rows:
                branch.limit_rows_(task, rows[branch.name])

    def patches(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches of an image of these sides; InputError if they are no whole patches."""
        if min(height, width) < 1 or height % self.patch or width % self.patch:
            raise InputError(
                f"the transformer takes images whose sides are multiples of {self.patch} pixels, not {height} x "
                f"{width}; resize them."
            )
        return height // self.patch, width // self.patch

    def own(self, part: str) -> Any:
        """Return the tasks' own tensors of the embedding or the last norm by task."""
        return self.parts[part]["own"]  # type: ignore[index]

    def part(self, part: str, task: str) -> Tensors:
        """Return the tensors of the embedding or the last norm of ``task``, the base's if it has none."""
        own = self.own(part)
        tensors: Tensors = own[task] if task in own else self.parts[part]["base"]  # type: ignore[index]
        return tensors

    def _embed(self, x: Tensor, tensors: Tensors) -> Tensor:
        patches = F.conv2d(x, tensors["conv_proj.weight"], tensors["conv_proj.bias"], stride=self.patch)
        first = tensors["class_token"].expand(len(x), -1, -1)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        height, width = patches.shape[-2:]
        return tokens + resized(tensors["positions"], self.grid, height, width)

    def _map(self, tokens: Tensor, task: str, height: int, width: int) -> Tensor:
        last = self.part(LAST, task)
        normed = F.layer_norm(tokens, tokens.shape[-1:], last["weight"], last["bias"], self.eps)[:, 1:]
        return normed.transpose(1, 2).reshape(len(tokens), -1, height, width)


def resized(
    positions: Float[Tensor, "1 n width"], grid: tuple[int, int], height: int, width: int
) -> Float[Tensor, "1 tokens width"]:
    """Return the position embedding of the class token and ``grid``, its patches bilinearly resized if need be."""
    if (height, width) == grid:
        return positions
    first, patches = positions[:, :1], positions[:, 1:]
    map_1CHW = patches.transpose(1, 2).reshape(1, -1, *grid)
    map_1CHW = F.interpolate(map_1CHW, size=(height, width), mode="bilinear", align_corners=False)
    return torch.cat([first, map_1CHW.flatten(2).transpose(1, 2)], dim=1)


def _fed(source: Source, task: str) -> bool:
    return source.executions[task].feed == "base"
