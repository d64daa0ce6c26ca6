"""Cut a network until its deployed graphs meet their latency budgets, each measured on the artifact of its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimtask.compress.edits.skip import SkipBlocks
from slimtask.compress.edits.tasks import Selected, task_names
from slimtask.compress.latency.apply import remove_chosen
from slimtask.compress.latency.blocks import residual_blocks
from slimtask.compress.latency.choose import Align, Chosen
from slimtask.compress.latency.close import close_loop
from slimtask.compress.latency.meter import Meter
from slimtask.compress.latency.prepared import Prepared, Progress
from slimtask.compress.latency.specs import task_paths
from slimtask.compress.removal.remove import Compressed
from slimtask.compress.score.counts import FLOOR
from slimtask.compress.score.gradients import Loss
from slimtask.compress.score.importance import score_channels
from slimtask.errors import CheckFailed, InputError, nearest
from slimtask.tasks import Frozen

ALL = "all"


class PathLatency(Frozen):
    """One path: the tasks it serves (none: the whole network), its budget, what was predicted and measured, in ms."""

    path: str
    tasks: tuple[str, ...]
    budget_ms: float
    dense_ms: float
    predicted_ms: float
    measured_ms: float

    @property
    def met(self) -> bool:
        """Return whether the measured latency is within the budget."""
        return self.measured_ms <= self.budget_ms


@dataclass(frozen=True, kw_only=True)
class LatencyCut:
    """The cut network with its proof, and every budget with what it came to.

    ``skip`` is the edit that came first, if whole blocks went. They went by importance: the certificate in
    ``compressed`` proves the removal of the channels that followed. ``distance`` is how far the outputs move on the
    images by which groups were weighed, relative to their mean square, before any tuning; ``noise`` says that there
    were none, and ``by`` which idea of worth it was (``propose.py``).

    Examples:
        >>> from slimtask.compress import Budget, LatencyCut, prune
        >>> from torch import nn, zeros
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> smaller = prune(net, zeros(1, 3, 8, 8), budget=Budget(keep=0.5))
        >>> LatencyCut(compressed=smaller, paths=(), tries=1, distance=0.02, by="l2").weighed["weighed_on"]
        'images'
    """

    compressed: Compressed
    paths: tuple[PathLatency, ...]
    tries: int
    distance: float
    by: str
    noise: bool = False
    skip: SkipBlocks | None = None

    @property
    def weighed(self) -> dict[str, Any]:
        """Return by what the groups were weighed against each other, and how far the outputs moved."""
        return {"weighed_on": "noise" if self.noise else "images", "by": self.by, "distance": self.distance}


def prune_to_latency(
    model: nn.Module,
    example: Tensor,
    budgets_ms: Mapping[str, float],
    meter: Meter,
    *,
    criterion: str = "l2",
    align: Align = "auto",
    floor: float = FLOOR,
    calibration: Any = None,
    loss: Loss | None = None,
    images: Sequence[Tensor] | None = None,
    tries: int = 6,
    blocks: bool = True,
    progress: Progress | None = None,
) -> LatencyCut:
    """Return ``model`` with the channels and blocks of most importance that meet every latency budget by ``meter``.

    ``budgets_ms`` maps a path to milliseconds: "all" for the whole network, or tasks joined by "+", e.g. "depth".
    ``criterion`` ranks the channels of a group; how much a group or block matters beside others is measured, see
    ``sensitivity.py``, on ``images``, batches of the example's shape ([batch, ...]; None: noise, which says less). No
    group keeps less than the share ``floor`` of its channels, but a block may go whole with ``blocks``.

    The integer program over the measured layer table (HALP, NeurIPS 2022; MDP, CVPR 2025) proposes, several times; of
    its answers the one that moves the outputs least is cut, each path exported and timed interleaved with the dense
    one, and the targets follow the measurement until the budgets are met and used (``close.py``).

    Raises InputError for an unknown path, a backend without a layer table, or a budget out of reach, and CheckFailed,
    with the figures, if the measured latency still misses a budget after ``tries``.
    """
    tasks = {path: _tasks_of(path, model, example) for path in budgets_ms}
    ready = Prepared(model, example, meter, progress=progress)
    scores = score_channels(model, ready.groups, criterion, calibration=calibration, loss=loss)
    modules = {spec.module for spec in ready.specs}
    some = task_paths(model, example, {path: names for path, names in tasks.items() if names})
    removable = residual_blocks(model, ready.groups, ready.specs, example) if blocks else ()
    with meter.artifacts(_by_path(model, tasks), example) as dense:
        dense_ms = meter.milliseconds(dense)
        proposals = ready.proposals(
            scores,
            dense_ms,
            paths={path: some.get(path, modules) for path in tasks},
            align=align,
            floor=floor,
            blocks=removable,
            judge=ready.judge(images),
        )

        by: str | None = None

        def choose(targets: Mapping[str, float]) -> Chosen:
            nonlocal by
            chosen = proposals(lambda chooser: chooser.for_latency(targets), by)
            by = chosen.by  # the idea that wins at first is kept: only the targets move
            return chosen

        def make(chosen: Chosen) -> tuple[dict[str, float], LatencyCut]:
            done = _made(ready, chosen, budgets_ms, tasks, dense)
            return {row.path: row.measured_ms for row in done.paths}, done

        closed = close_loop(choose, make, budgets_ms, tries=tries)
    if not closed.met:
        raise CheckFailed(_missed(closed.made.paths))
    return replace(closed.made, tries=closed.tries, noise=images is None)


def prune_to_flops(
    model: nn.Module,
    example: Tensor,
    flops: float,
    meter: Meter,
    *,
    criterion: str = "l2",
    floor: float = FLOOR,
    calibration: Any = None,
    loss: Loss | None = None,
    images: Sequence[Tensor] | None = None,
    progress: Progress | None = None,
) -> LatencyCut:
    """Return ``model`` with at most ``flops`` FLOPs, its channel counts taken off the measured staircase.

    Of all counts worth having (no larger one is faster) the integer program takes those of most importance, measured
    as in ``prune_to_latency``, that are predicted no slower than the same share of every group within these FLOPs.
    Raises InputError if nothing may be removed, and CheckFailed if the result is measured slower than the dense
    network, which is then the better answer.
    """
    ready = Prepared(model, example, meter, progress=progress)
    scores = score_channels(model, ready.groups, criterion, calibration=calibration, loss=loss)
    tasks: dict[str, tuple[str, ...]] = {ALL: ()}
    paths = {ALL: {spec.module for spec in ready.specs}}
    with meter.artifacts(_by_path(model, tasks), example) as dense:
        dense_ms = meter.milliseconds(dense)
        judge = ready.judge(images)
        proposals = ready.proposals(scores, dense_ms, paths=paths, align="auto", floor=floor, judge=judge)
        chosen = proposals(lambda chooser: chooser.for_flops(flops))
        done = _made(ready, chosen, {}, tasks, dense)
    (row,) = done.paths
    if not row.met:
        raise CheckFailed(
            f"the cut network takes {row.measured_ms:.3g} ms, the dense one {row.dense_ms:.3g}; keep the dense one."
        )
    return replace(done, noise=images is None)


def _missed(rows: tuple[PathLatency, ...]) -> str:
    missed = ", ".join(
        f"{row.path} took {row.measured_ms:.3g} ms of {row.budget_ms:.3g}" for row in rows if not row.met
    )
    return f"the latency budget is not met by measurement ({missed}); nothing was written."


def _made(
    ready: Prepared,
    chosen: Chosen,
    budgets_ms: Mapping[str, float],
    tasks: Mapping[str, tuple[str, ...]],
    dense: Mapping[str, Path],
) -> LatencyCut:
    """Return the network cut as chosen, its paths timed beside the dense ones, which are the budget where none is."""
    skip, compressed = remove_chosen(ready.model, ready.example, ready.groups, chosen)
    with ready.meter.artifacts(_by_path(compressed.model, tasks), ready.example) as graphs:
        timed = ready.meter.milliseconds({**{f"dense {path}": graph for path, graph in dense.items()}, **graphs})
    rows = []
    for path, names in tasks.items():
        dense_ms = timed[f"dense {path}"]
        rows.append(
            PathLatency(
                path=path,
                tasks=names,
                budget_ms=budgets_ms.get(path, dense_ms),
                dense_ms=dense_ms,
                predicted_ms=chosen.predicted_ms[path],
                measured_ms=timed[path],
            )
        )
    return LatencyCut(
        compressed=compressed, paths=tuple(rows), tries=1, skip=skip, distance=chosen.distance, by=chosen.by
    )


def _tasks_of(path: str, model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Return the tasks a path serves, none for the whole network. Raises InputError for an unknown one."""
    if path == ALL:
        return ()
    known = task_names(model, example)
    names = tuple(path.split("+"))
    for name in names:
        if name not in known:
            raise InputError(f"there is no path '{name}' to give a latency to{nearest(name, (ALL, *known))}")
    return names


def _by_path(model: nn.Module, tasks: Mapping[str, tuple[str, ...]]) -> dict[str, nn.Module]:
    """Return what is deployed for each path: the whole network, or the part of it that serves the path's tasks."""
    return {path: Selected(model, names) if names else model for path, names in tasks.items()}
