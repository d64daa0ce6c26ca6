"""Layers on a GPU: candidates against T products in one CUDA graph, warm and cold, within a time budget."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from slimtask.bench.studies.delta.compare import Form, Place, row
from slimtask.bench.studies.delta.gpu_forms import BASELINES, GpuForm, layer_forms, truth
from slimtask.bench.studies.delta.grid import DENSITIES, DENSITY, ROWS, TASKS, VIT_B, VIT_L, Vit, points
from slimtask.bench.timing.gpu_clock import Clock, replayed
from slimtask.bench.timing.isolated import Failed, Here, Lost, NoTime, Runner, Say, Unusable, reason
from slimtask.differences import over_scale
from slimtask.kernels.candidates import candidate
from slimtask.kernels.device import Device
from slimtask.kernels.problem import Problem

PARITY = {"bfloat16": 3e-2, "float16": 5e-3, "float32": 1e-4}  # largest difference from float32 over largest value
LIBRARY = BASELINES[2:]  # where these do not run it is a note, no failure
SETS = 4  # of weights and inputs, rotated
CASE_SECONDS = 90.0  # compiling included; what takes longer hangs


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """A problem on ``layer`` of ``model``."""

    model: str
    layer: str
    problem: Problem

    @property
    def name(self) -> str:
        """Return what it is called where it is left out."""
        its = self.problem
        sizes = f"{self.model} {self.layer} N={its.tokens} T={its.tasks}"
        return f"{sizes} {its.pattern} {its.density:.3g} rows {its.rows:g}"


@dataclass(kw_only=True)
class Outcome:
    """What was measured, what there was no time for, what of ours failed, and what a library refused."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take what ``other`` has, too."""
        self.rows += other.rows
        self.left_out += other.left_out
        self.failed += other.failed
        self.refused += other.refused


def cases(device: Device, dtype: str = "bfloat16") -> list[LayerCase]:
    """Return the whole grid, the most important first: the figures to reach, then every axis, then the rest."""
    made = [_case(device, dtype, *point) for point in _points()]
    return list({case.name: case for case in made}.values())


def _points() -> Iterator[tuple[Vit, str, int, int, str, float, float]]:
    """Yield (vit, layer, tokens, tasks, pattern, density, rows); what comes twice is measured once."""
    few, structured = (0.0, 0.1, 0.3), ("out-channels", "block")
    for layer in ("fc1", "qkv", "fc2", "proj"):
        for rows, pattern in product(few, structured):
            yield VIT_B, layer, 1024, TASKS, pattern, DENSITY, rows
        yield VIT_B, layer, 1024, TASKS, "unstructured", 0.01, 0.0
    yield VIT_B, "mlp", 1024, TASKS, "hidden-units", DENSITY, 0.0
    yield VIT_B, "attention", 1024, TASKS, "heads", 1 / VIT_B.heads, 0.0
    for (vit, tokens), rows, pattern in product(((VIT_L, 2048), (VIT_B, 2048), (VIT_L, 1024)), few, structured):
        yield vit, "fc1", tokens, TASKS, pattern, DENSITY, rows
    for share in ROWS[1:]:
        yield VIT_B, "fc1", 1024, TASKS, "rows", DENSITY, share
    for tasks, pattern in product((3, 5), structured):
        yield VIT_B, "fc1", 1024, tasks, pattern, DENSITY, 0.1
    for pattern, density in product((*structured, "vector", "unstructured", "in-channels"), DENSITIES):
        yield VIT_B, "fc1", 1024, TASKS, pattern, density, 0.0
    patterns = (*structured, "vector", "unstructured")
    everything = product((4, 3, 5), (VIT_B, VIT_L), (1024, 2048), VIT_B.linears, patterns, points())
    for tasks, vit, tokens, layer, pattern, (density, rows) in everything:
        yield vit, layer, tokens, tasks, pattern, density, rows


def _case(
    device: Device, dtype: str, vit: Vit, layer: str, tokens: int, tasks: int, pattern: str, density: float, rows: float
) -> LayerCase:
    inputs, outputs = {**vit.linears, "mlp": vit.linears["fc1"], "attention": vit.linears["qkv"]}[layer]
    problem = Problem(
        tasks=tasks,
        tokens=tokens,
        inputs=inputs,
        outputs=outputs,
        pattern=pattern,
        density=density,
        rows=rows,
        dtype=dtype,
        device=device,
    )
    return LayerCase(model=vit.name, layer=layer, problem=problem)


def measure_layers(
    grid: Sequence[LayerCase],
    clock: Clock,
    *,
    seconds: float,
    runner: Runner | None = None,
    losses: Counter[str] | None = None,
    now: Callable[[], float] = time.monotonic,
    sets: int = SETS,
    colds: Sequence[bool] = (False, True),
) -> Outcome:
    """Return what was measured of ``grid`` until ``seconds`` were over; no case is begun after that.

    A form that takes its process with it is counted in ``losses``, and its case measured again without it; one that
    did so twice is not tried again, unless it is what the others are compared with.
    """
    outcome, end = Outcome(), now() + seconds
    runner, losses = runner or Here(), Counter() if losses is None else losses
    waiting: list[tuple[LayerCase, frozenset[str]]] = [(case, frozenset()) for case in reversed(grid)]
    while waiting:
        case, without = waiting.pop()
        if now() >= end:
            outcome.left_out.append(case.name)
            continue
        without |= not_tried(losses)
        try:
            outcome.add(runner.run(measure_layer, case, clock, without, sets, colds, seconds=CASE_SECONDS))
        except NoTime:
            outcome.left_out.append(case.name)
        except Failed as error:  # one case must not cost the others; it is reported, and fails the run
            outcome.failed.append({"name": case.name, "error": str(error)})
        except Lost as lost:
            entry = {"name": f"{case.name}: {lost.at}" if lost.at else case.name, "error": str(lost)}
            (outcome.refused if lost.at in LIBRARY else outcome.failed).append(entry)
            if lost.at not in ("", "dense", *without):
                losses[lost.at] += 1
                waiting.append((case, without | {lost.at}))
    return outcome


def not_tried(losses: Counter[str]) -> frozenset[str]:
    """Return the forms that took their process with them twice."""
    return frozenset(name for name, count in losses.items() if count > 1)


def measure_layer(
    say: Say, case: LayerCase, clock: Clock, without: frozenset[str], sets: int, colds: Sequence[bool]
) -> Outcome:
    """Return one row per form and state of L2; what raises or differs from the truth is named, and has none.

    Raises Unusable where an error leaves the GPU lost to this process; the form is what was said last.
    """
    problem, outcome = case.problem, Outcome()
    torch.backends.cuda.matmul.allow_tf32 = False  # the truth is float32
    with torch.no_grad():
        made = [layer_forms(problem, seed=seed) for seed in range(sets)]
        exact = truth(problem, seed=0)
        errors: dict[str, float] = {}
        replays: dict[str, list[Callable[[], object]]] = {}
        for name in (name for name in made[0] if name not in without):
            form = made[0][name]
            say(name)
            try:
                errors[name] = relative_error(form.whole(form.run()), exact)
                captured = [clock.capture(each[name].run) for each in made]
                for replay in captured:
                    replay()
                clock.check()  # what hangs or breaks does so here, under its name
                if errors[name] > PARITY[problem.dtype]:
                    raise ValueError(f"its outputs differ by {errors[name]:.1e} of the largest value.")
                replays[name] = captured
            except Unusable:
                raise
            except Exception as error:  # a library's refusal or a kernel's fault: both are to be seen
                clock.check(error)
                entry = {"name": f"{case.name}: {name}", "error": reason(error)}
                (outcome.refused if name in LIBRARY else outcome.failed).append(entry)
        say("")
        for cold in colds:
            samples = clock.time(replays, cold=cold)
            outcome.rows += _rows(case, made[0], errors, samples, cold=cold)
    return outcome


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Return the largest difference over the largest value; ValueError if something is not finite."""
    if found.shape != exact.shape:
        raise ValueError(f"the outputs have shape {list(found.shape)}, their truth {list(exact.shape)}.")
    error = over_scale(found.float().cpu(), exact.cpu())
    if not math.isfinite(error):
        raise ValueError("an output is not finite.")
    return error


def _rows(
    case: LayerCase,
    forms: Mapping[str, GpuForm],
    errors: Mapping[str, float],
    samples: Mapping[str, Sequence[float]],
    *,
    cold: bool,
) -> list[dict[str, Any]]:
    problem = case.problem
    on = problem.device
    measured = replayed(
        samples, cuda=on.backend == "cuda", device=on.name, precision=problem.dtype, shape=(problem.tokens,)
    )
    place = Place(model=case.model, layer=case.layer, tokens=problem.tokens)
    others = {f"{name.replace('-', '_')}_ms": measured[name].median_ms for name in BASELINES[2:] if name in measured}
    made = []
    for name, one in measured.items():
        form = forms[name]
        floor = candidate(form.candidate).floor_ms(problem)
        extra = {"form": name, "l2": "cold" if cold else "warm", "dtype": problem.dtype, **others}
        extra |= {"floor_ms": floor, "floor_fraction": floor / one.median_ms, "floor_known": problem.ceilings.known}
        described = Form(
            call=form.run,
            pattern=problem.pattern,
            density=0.0 if problem.pattern == "rows" else problem.density,
            rows=problem.rows,
            tasks=problem.tasks,
            flop_ratio=candidate("dense").flops(problem) / candidate(form.candidate).flops(problem),
            max_rel_error=errors[name],
            reference="float32",
            output=form.output,
            batched="batched" if "batched" in measured else None,
            also=extra,
        )
        made.append(row(place, described, one, measured))
    return made
