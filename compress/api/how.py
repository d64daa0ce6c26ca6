"""How to compress: the ways, each a value with what it needs; ``compress(model, example, how)`` takes any of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor

from slimtask.compress.latency.choose import Align as LatencyAlign
from slimtask.compress.latency.meter import Meter
from slimtask.compress.latency.prepared import Progress
from slimtask.compress.per_task.networks import Structure
from slimtask.compress.score.budget import Budget, Scope
from slimtask.compress.score.counts import FLOOR, Align
from slimtask.compress.score.gradients import Loss
from slimtask.compress.score.importance import Criterion
from slimtask.compress.score.votes import Rule


@dataclass(frozen=True)
class Zeros:
    """Remove what the weights have made dead: the network computes the same, which is certified.

    Each group keeps a multiple of ``align`` channels, or one of the counts that ``align`` gives it by name, e.g. those
    worth having on a machine (``measured_counts``; a group it does not name: a multiple of 8).

    Examples:
        >>> import torch
        >>> from slimtask.compress import Zeros, compress
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, bias=False), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 1))
        >>> net[0].weight.data[10:] = 0
        >>> print(compress(net, torch.zeros(1, 3, 8, 8), Zeros(align=1)).plan)
        0: 16 -> 10 (6 zero)
    """

    _: KW_ONLY
    align: Align = 8


@dataclass(frozen=True)
class Prune:
    """Remove the channels that matter least until ``budget`` is met, as ``prune`` does; certified against masking.

    ``by`` ranks channels (``score_channels``): "taylor" and "snip" need ``calibration`` batches and
    ``loss(model, batch)``; with ``vote`` every task scores on its own and they decide together (Sun et al., DiSparse,
    CVPR 2022). ``scope`` "layer" keeps the same share of each group; ``align`` as of ``Zeros``.

    Examples:
        >>> from slimtask.compress import Budget, Prune
        >>> Prune(Budget(flops=0.5), by="l1").budget.of
        'FLOPs'
    """

    budget: Budget
    _: KW_ONLY
    by: Criterion = "l2"
    scope: Scope = "global"
    align: Align = 8
    calibration: Iterable[Any] | None = None
    loss: Loss | None = None
    vote: Rule | None = None
    seed: int = 0


@dataclass(frozen=True)
class ToLatency:
    """Remove the channels and blocks that matter least until latency budgets are met, as ``prune_to_latency`` does.

    ``ms`` is milliseconds of the whole network, or of paths: {"all": 12.0, "depth": 5.0}. ``on`` measures, e.g.
    ``slimtask.bench.OnnxRuntimeMeter()``. ``images`` are batches by which groups are weighed against each other.

    Examples:
        >>> from slimtask.bench import OnnxRuntimeMeter
        >>> from slimtask.compress import ToLatency
        >>> ToLatency({"all": 12.0, "depth": 5.0}, on=OnnxRuntimeMeter(threads=1)).align
        'auto'
    """

    ms: float | int | Mapping[str, float]
    on: Meter
    _: KW_ONLY
    by: Criterion = "l2"
    align: LatencyAlign = "auto"
    floor: float = FLOOR
    calibration: Iterable[Any] | None = None
    loss: Loss | None = None
    images: Sequence[Tensor] | None = None
    tries: int = 6
    blocks: bool = True
    progress: Progress | None = None


@dataclass(frozen=True)
class ToFlops:
    """Remove the channels that matter least down to ``flops`` (up to 1 a ratio), with counts that are worth having.

    As ``prune_to_flops`` does: counts come off the staircase that ``on`` measures, and the result is no slower.

    Examples:
        >>> from slimtask.bench import OnnxRuntimeMeter
        >>> from slimtask.compress import ToFlops
        >>> ToFlops(0.5, on=OnnxRuntimeMeter(threads=1)).floor
        0.125
    """

    flops: float | int
    on: Meter
    _: KW_ONLY
    by: Criterion = "l2"
    floor: float = FLOOR
    calibration: Iterable[Any] | None = None
    loss: Loss | None = None
    images: Sequence[Tensor] | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class PerTask:
    """Make one network for each task and one for all, by masks per task or a policy: what a task does not need goes.

    ``sets`` are further sets of tasks, each of which gets a network of its own.

    Examples:
        >>> import torch
        >>> from slimtask.compress import Masks, PerTask
        >>> half = {"trunk.0.weight": torch.arange(8).reshape(8, 1, 1, 1).expand(8, 3, 3, 3) < 4}
        >>> PerTask(Masks(per_task={"depth": half, "edges": half}), sets=[("depth", "edges")]).structure.tasks
        ('depth', 'edges')
    """

    structure: Structure
    _: KW_ONLY
    sets: Sequence[Sequence[str]] = ()
    align: int = 1


How = Zeros | Prune | ToLatency | ToFlops | PerTask
