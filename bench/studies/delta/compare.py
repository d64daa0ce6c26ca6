"""One interleaved comparison: T dense models and every other form of the same work, as rows of the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from slimtask.bench.studies.delta.graphs import BACKEND
from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.bench.timing.protocol import measure_interleaved
from slimtask.differences import over_scale
from slimtask.errors import CheckFailed
from slimtask.measured import cpu_name, version_of

Array = Shaped[np.ndarray, "..."]
Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where something is measured: ``layer`` of ``model`` on ``tokens`` rows."""

    model: str
    layer: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to execute ``tasks`` tasks, all of them, ready to be timed and already compared with the truth.

    ``density`` is the share of the weights (units) that a sub-task changed, ``rows`` the share of rows in which its
    activations differ. ``output``: "full" outputs per task, or "compact", the base's output and what differs from it.
    The base is one of the tasks or, if not ``base_included``, computed besides them. ``dense`` and ``batched`` name the
    baselines of the same tasks.
    """

    call: Call
    pattern: str
    density: float
    rows: float
    tasks: int
    flop_ratio: float
    max_rel_error: float
    reference: str
    output: str = "full"
    base_included: bool = False
    dense: str = "dense"
    batched: str | None = None
    also: Mapping[str, Any] | None = None


def in_turn(calls: Sequence[Call]) -> Call:
    """Return a call that makes all ``calls``, one after another."""

    def call() -> None:
        for each in calls:
            each()

    return call


def max_rel_error(found: Sequence[Array], truth: Sequence[Array]) -> float:
    """Return the largest |found - truth| / max|truth| over all tasks; infinity if anything is not finite."""
    for one, exact in zip(found, truth, strict=True):
        if one.shape != exact.shape:
            raise AssertionError(f"an output has shape {one.shape}, its truth {exact.shape}")
    return max(over_scale(one, exact) for one, exact in zip(found, truth, strict=True))


def compare(
    place: Place,
    baselines: Mapping[str, Call],
    forms: Sequence[Form],
    *,
    threads: int,
    rounds: int,
    max_seconds: float,
    prime: int = 1,
) -> list[dict[str, Any]]:
    """Return one row per form, baselines and forms timed in turns in one run; ``prime`` as in the protocol."""
    conditions = Conditions(
        backend=BACKEND,
        backend_version=version_of("onnxruntime-gpu") or version_of("onnxruntime") or "unknown",
        device=cpu_name(),
        precision="fp32",
        threads=threads,
        batch=1,
        shape=(place.tokens,),
    )
    calls = {f"baseline {name}": call for name, call in baselines.items()}
    calls |= {f"form {index}": form.call for index, form in enumerate(forms)}
    measured = measure_interleaved(
        calls, conditions, rounds=rounds, warmup=prime, prime=prime, min_sample_ms=1.0, max_seconds=max_seconds
    )
    named = {name: measured[f"baseline {name}"] for name in baselines}
    return [row(place, form, measured[f"form {index}"], named) for index, form in enumerate(forms)]


def row(place: Place, form: Form, measured: Measurement, baselines: Mapping[str, Measurement]) -> dict[str, Any]:
    """Return the JSON-ready row of one form; times in ms, ``speedup`` over T dense models with its 95 % interval.

    Raises CheckFailed if the form's outputs were not finite.
    """
    if not math.isfinite(form.max_rel_error):
        raise CheckFailed(f"an output of {form.pattern} on {place.model} {place.layer} is not finite.")
    dense = baselines[form.dense]
    batched = baselines[form.batched] if form.batched else None
    ratio = dense.ratio(measured)
    return {
        "tasks": form.tasks,
        "model": place.model,
        "layer": place.layer,
        "tokens": place.tokens,
        "pattern": form.pattern,
        "density": form.density,
        "rows": form.rows,
        "output": form.output,
        "base_included": form.base_included,
        "backend": measured.conditions.backend,
        "ms": measured.median_ms,
        "p10_ms": measured.p10_ms,
        "p90_ms": measured.p90_ms,
        "dense_ms": dense.median_ms,
        "dense_p10_ms": dense.p10_ms,
        "dense_p90_ms": dense.p90_ms,
        "batched_ms": None if batched is None else batched.median_ms,
        "speedup": ratio.value,
        "speedup_low": ratio.low,
        "speedup_high": ratio.high,
        "speedup_over_batched": None if batched is None else batched.ratio(measured).value,
        "max_rel_error": form.max_rel_error,
        "reference": form.reference,
        "flop_ratio": form.flop_ratio,
        "rounds": measured.n,
        "steady": measured.steady and dense.steady,
        **(form.also or {}),
    }
