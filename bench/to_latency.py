"""Cut a network until its deployed graphs meet their latency budgets, each measured on the artifact of its tasks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimtask.bench.backends import BACKENDS
from slimtask.bench.environment import usable_cores
from slimtask.bench.latency_table import measure_table
from slimtask.bench.measure import Measurement
from slimtask.bench.protocol import measure_interleaved
from slimtask.bench.realised_networks import export
from slimtask.compress.groups import Group, find_groups
from slimtask.compress.importance import mean_normalised, score_channels
from slimtask.compress.latency.apply import remove_chosen
from slimtask.compress.latency.blocks import residual_blocks, weighed
from slimtask.compress.latency.choose import Align, Chosen, LatencyChooser
from slimtask.compress.latency.close import close_loop
from slimtask.compress.latency.specs import axis_ranges, layer_specs, task_paths
from slimtask.compress.prune import nothing_prunable
from slimtask.compress.remove import Compressed
from slimtask.compress.saliency import Loss
from slimtask.compress.skip import SkipBlocks
from slimtask.compress.task_outputs import Selected, task_names
from slimtask.errors import CheckFailed, InputError, nearest
from slimtask.tasks import Frozen

ALL = "all"
BACKEND = "onnxruntime-cpu"


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
class ToLatency:
    """The cut network with its proof, and every budget with what it came to.

    ``skip`` is the edit that came first, if whole blocks went. They went by score: the certificate in ``compressed``
    proves the removal of the channels that followed.
    """

    compressed: Compressed
    paths: tuple[PathLatency, ...]
    tries: int
    skip: SkipBlocks | None = None


def prune_to_latency(
    model: nn.Module,
    example: Tensor,
    budgets_ms: Mapping[str, float],
    *,
    on: str = BACKEND,
    criterion: str = "l2",
    align: Align = "auto",
    calibration: Any = None,
    loss: Loss | None = None,
    threads: int | None = None,
    table_seconds: float | int = 60.0,
    tries: int = 6,
    blocks: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> ToLatency:
    """Return ``model`` with the channels and blocks of most importance that meet every latency budget on ``on``.

    ``budgets_ms`` maps a path to milliseconds: "all" for the whole network, or tasks joined by "+", e.g. "depth". The
    integer program over the measured layer table (HALP, NeurIPS 2022; MDP, CVPR 2025) proposes; the network is cut,
    each path exported and timed interleaved with the dense one; after a miss that path's target shrinks by the ratio.
    With ``blocks`` a residual block may go whole: it is worth the scores of the channels that are only its own, which
    among blocks of one shape keep the proportion of the raw scores.
    Raises InputError for an unknown path, a backend without a layer table, or a budget out of reach, and CheckFailed,
    with the figures, if the measured latency still misses a budget after ``tries``.
    """
    if on != BACKEND:
        raise InputError(f"latency budgets are measured on {BACKEND}, the one backend with a layer table, not '{on}'.")
    threads = threads or usable_cores()
    tasks = {path: _tasks_of(path, model, example) for path in budgets_ms}
    groups = find_groups(model, example)
    if all(group.refused is not None for group in groups):
        raise InputError(nothing_prunable(model, groups))
    specs = layer_specs(model, groups, example)
    table = measure_table(axis_ranges(specs, groups), threads=threads, budget_seconds=table_seconds, progress=progress)
    modules = {spec.module for spec in specs}
    some = task_paths(model, example, {path: names for path, names in tasks.items() if names})
    raw = score_channels(model, groups, criterion, calibration=calibration, loss=loss, normalise=None)
    removable = residual_blocks(model, groups, specs, example) if blocks else ()
    with _graphs(model, example, tasks) as dense:
        timed = _timed(dense, threads)
        dense_ms = {path: timed[path].median_ms for path in dense}
        chooser = LatencyChooser(
            groups,
            specs,
            weighed(mean_normalised(raw), raw, removable),
            table,
            dense_ms,
            paths={path: some.get(path, modules) for path in tasks},
            align=align,
            blocks=removable,
        )

        def make(chosen: Chosen) -> tuple[dict[str, float], ToLatency]:
            done = _made(model, example, groups, chosen, budgets_ms, tasks, dense, threads)
            return {row.path: row.measured_ms for row in done.paths}, done

        closed = close_loop(chooser.for_latency, make, budgets_ms, tries=tries)
    if not closed.met:
        raise CheckFailed(_missed(closed.made.paths))
    return replace(closed.made, tries=closed.tries)


def prune_to_flops(
    model: nn.Module,
    example: Tensor,
    flops: float,
    *,
    criterion: str = "l2",
    calibration: Any = None,
    loss: Loss | None = None,
    threads: int | None = None,
    table_seconds: float | int = 60.0,
    progress: Callable[[int, int], None] | None = None,
) -> ToLatency:
    """Return ``model`` with at most ``flops`` FLOPs, its channel counts taken off the measured staircase.

    Of all counts worth having (no larger one is faster) the integer program takes those predicted fastest, and of
    these the most important channels. Raises InputError if nothing may be removed, and CheckFailed if the result is
    measured slower than the dense network, which is then the better answer.
    """
    threads = threads or usable_cores()
    groups = find_groups(model, example)
    if all(group.refused is not None for group in groups):
        raise InputError(nothing_prunable(model, groups))
    specs = layer_specs(model, groups, example)
    table = measure_table(axis_ranges(specs, groups), threads=threads, budget_seconds=table_seconds, progress=progress)
    tasks: dict[str, tuple[str, ...]] = {ALL: ()}
    with _graphs(model, example, tasks) as dense:
        before = _timed(dense, threads)[ALL].median_ms
        scores = score_channels(model, groups, criterion, calibration=calibration, loss=loss)
        paths = {ALL: {spec.module for spec in specs}}
        least = [max(1, group.channels // 16) for group in groups]  # the fastest network is not one nobody can train
        chooser = LatencyChooser(groups, specs, scores, table, {ALL: before}, paths=paths, smallest=least)
        chosen = chooser.for_flops(flops, path=ALL)
        done = _made(model, example, groups, chosen, {}, tasks, dense, threads)
    (row,) = done.paths
    if not row.met:
        raise CheckFailed(
            f"the cut network takes {row.measured_ms:.3g} ms, the dense one {row.dense_ms:.3g}; keep the dense one."
        )
    return done


def _missed(rows: tuple[PathLatency, ...]) -> str:
    missed = ", ".join(
        f"{row.path} took {row.measured_ms:.3g} ms of {row.budget_ms:.3g}" for row in rows if not row.met
    )
    return f"the latency budget is not met by measurement ({missed}); nothing was written."


def _made(
    model: nn.Module,
    example: Tensor,
    groups: tuple[Group, ...],
    chosen: Chosen,
    budgets_ms: Mapping[str, float],
    tasks: Mapping[str, tuple[str, ...]],
    dense: Mapping[str, Path],
    threads: int,
) -> ToLatency:
    """Return the network cut as chosen, its paths timed beside the dense ones, which are the budget where none is."""
    skip, compressed = remove_chosen(model, example, groups, chosen)
    with _graphs(compressed.model, example, tasks) as graphs:
        timed = _timed({**{f"dense {path}": graph for path, graph in dense.items()}, **graphs}, threads)
    rows = []
    for path, names in tasks.items():
        dense_ms = timed[f"dense {path}"].median_ms
        rows.append(
            PathLatency(
                path=path,
                tasks=names,
                budget_ms=budgets_ms.get(path, dense_ms),
                dense_ms=dense_ms,
                predicted_ms=chosen.predicted_ms[path],
                measured_ms=timed[path].median_ms,
            )
        )
    return ToLatency(compressed=compressed, paths=tuple(rows), tries=1, skip=skip)


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


@contextmanager
def _graphs(model: nn.Module, example: Tensor, tasks: Mapping[str, tuple[str, ...]]) -> Iterator[dict[str, Path]]:
    """Yield one ONNX file per path of ``model``, in a directory that goes away."""
    with tempfile.TemporaryDirectory(prefix="slimtask-") as folder:
        yield {
            path: export(Selected(model, names) if names else model, example, Path(folder) / f"{number}.onnx")
            for number, (path, names) in enumerate(tasks.items())
        }


def _timed(graphs: Mapping[str, Path], threads: int) -> dict[str, Measurement]:
    opened = {key: BACKENDS[BACKEND].open(path, threads=threads) for key, path in graphs.items()}
    calls = {key: one.call for key, one in opened.items()}
    return measure_interleaved(calls, {key: one.conditions for key, one in opened.items()}, rounds=30)
