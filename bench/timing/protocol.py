"""The protocol of every latency here: one process, all candidates interleaved, every sample kept.

A round times each candidate once, in a fresh seeded order, so clock drift, thermal state and background work fall on
all of them alike. Right before a sample the candidate runs ``prime`` times untimed: its weights are back in the caches
and the idle worker threads of the candidate before it have gone to sleep.
"""

from __future__ import annotations

import gc
import math
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.errors import InputError

_FEWEST_ROUNDS = 5

Clock = Callable[[], int]
"""Returns a monotonic time in nanoseconds."""


def measure_interleaved(
    candidates: Mapping[str, Callable[[], object]],
    conditions: Conditions | Mapping[str, Conditions],
    *,
    rounds: int = 40,
    warmup: int = 3,
    prime: int = 1,
    min_sample_ms: float | int = 1.0,
    min_seconds: float | int = 0.0,
    max_seconds: float | int = 120.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, Measurement]:
    """Return one measurement per candidate, all stamped with the same fresh run id, in the order given.

    Args:
        candidates: name to a callable that does one inference and returns only when it is complete (it synchronises).
        conditions: what every candidate runs under, or one entry per candidate; ``run_id`` is overwritten.
        rounds: samples per candidate; more are taken until ``min_seconds`` have passed.
        warmup: untimed calls per candidate before anything is timed.
        prime: untimed calls right before each sample.
        min_sample_ms: a candidate faster than this is called several times per sample, and the sample is their mean.
        max_seconds: the budget; when it is spent the run ends after the round it is in, with five rounds at the least.
        progress: called with (rounds done, rounds planned) after each round, outside the timed section.
        clock: the nanosecond clock, replaceable for tests.

    Raises:
        InputError: without candidates, without rounds, or if a candidate has no conditions.

    Examples:
        >>> from slimtask.bench import Conditions, measure_interleaved
        >>> where = {"backend": "python", "backend_version": "3", "device": "cpu", "precision": "fp32", "threads": 1}
        >>> work = {"long": lambda: sum(range(9000)), "short": lambda: sum(range(90))}
        >>> timed = measure_interleaved(work, Conditions(**where, batch=1, shape=(1,)), rounds=10, min_sample_ms=0.1)
        >>> timed["short"].n, timed["long"].ratio(timed["short"]).above_one
        (10, True)
    """
    if not candidates or rounds < 1:
        raise InputError("nothing to measure: give at least one candidate and one round.")
    stamped = _stamp(candidates, conditions)
    with _garbage_collection_off():
        calls = {name: _calibrate(call, warmup, min_sample_ms, clock) for name, call in candidates.items()}
        samples: dict[str, list[float]] = {name: [] for name in candidates}
        order, shuffle, start, done = list(candidates), random.Random(seed).shuffle, clock(), 0
        while not _finished(done, (clock() - start) / 1e9, rounds, min_seconds, max_seconds):
            shuffle(order)
            for name in order:
                samples[name].append(_sample_ms(candidates[name], calls[name], prime, clock))
            done += 1
            if progress is not None:
                progress(done, max(rounds, done))
    return {
        name: Measurement(samples_ms=tuple(samples[name]), conditions=stamped[name], calls_per_sample=calls[name])
        for name in candidates
    }


def _stamp(
    candidates: Mapping[str, Callable[[], object]], conditions: Conditions | Mapping[str, Conditions]
) -> dict[str, Conditions]:
    """Return the conditions of every candidate, with the id of this run in them."""
    table = dict.fromkeys(candidates, conditions) if isinstance(conditions, Conditions) else dict(conditions)
    missing = [name for name in candidates if name not in table]
    if missing:
        raise InputError(f"no conditions for candidate '{missing[0]}'; give one entry per candidate.")
    run_id = uuid.uuid4().hex
    return {name: table[name].model_copy(update={"run_id": run_id}) for name in candidates}


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _calibrate(call: Callable[[], object], warmup: int, min_sample_ms: float | int, clock: Clock) -> int:
    """Return how many calls make one sample at least ``min_sample_ms`` long, after warming the candidate up."""
    for _ in range(warmup):
        call()
    fastest_ms = min(_sample_ms(call, 1, 0, clock) for _ in range(3))
    return max(1, math.ceil(min_sample_ms / max(fastest_ms, 1e-6)))


def _sample_ms(call: Callable[[], object], calls: int, prime: int, clock: Clock) -> float:
    """Return the mean milliseconds of ``calls`` back-to-back calls."""
    for _ in range(prime):
        call()
    start = clock()
    for _ in range(calls):
        call()
    # A clock too coarse to see the call would give zero, which no latency is.
    return max(clock() - start, 1) / calls / 1e6


def _finished(done: int, seconds: float, rounds: int, min_seconds: float | int, max_seconds: float | int) -> bool:
    if done >= rounds and seconds >= min_seconds:
        return True
    return done >= min(_FEWEST_ROUNDS, rounds) and seconds >= max_seconds
