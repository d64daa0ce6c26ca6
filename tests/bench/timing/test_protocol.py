from __future__ import annotations

import gc

import pytest

from slimtask.bench.timing.measure import Conditions
from slimtask.bench.timing.protocol import measure_interleaved
from slimtask.errors import InputError

CONDITIONS = Conditions(
    backend="fake", backend_version="0", device="fake", precision="float32", threads=1, batch=1, shape=(3, 8, 8)
)


class Machine:
    """A clock that only candidates move, and the log of who ran when."""

    def __init__(self):
        self.now_ns, self.log = 0, []

    def clock(self) -> int:
        return self.now_ns

    def candidate(self, name: str, ms: float):
        def call():
            self.log.append(name)
            self.now_ns += round(ms * 1e6)

        return call


def test_every_round_times_every_candidate_once_in_a_shuffled_order():
    machine = Machine()
    names = ["a", "b", "c"]
    result = measure_interleaved(
        {name: machine.candidate(name, 2.0 + i) for i, name in enumerate(names)},
        CONDITIONS,
        rounds=20,
        warmup=0,
        prime=0,
        clock=machine.clock,
    )
    timed = machine.log[9:]  # after three calibrating calls for each of the three
    orders = [tuple(timed[3 * i : 3 * i + 3]) for i in range(20)]
    assert len(timed) == 60
    assert all(sorted(order) == names for order in orders)
    assert len(set(orders)) > 3
    assert [result[name].samples_ms for name in names] == [(2.0,) * 20, (3.0,) * 20, (4.0,) * 20]


def test_order_is_seeded():
    def order(seed: int) -> list[str]:
        machine = Machine()
        calls = {name: machine.candidate(name, 2.0) for name in "abcd"}
        measure_interleaved(calls, CONDITIONS, rounds=5, seed=seed, clock=machine.clock)
        return machine.log

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_measurements_of_one_run_can_be_divided_and_others_cannot():
    machine = Machine()
    calls = {"dense": machine.candidate("dense", 6.0), "slim": machine.candidate("slim", 2.0)}
    first = measure_interleaved(calls, CONDITIONS, rounds=8, clock=machine.clock)
    second = measure_interleaved(calls, CONDITIONS, rounds=8, clock=machine.clock)
    assert first["dense"].ratio(first["slim"]).value == pytest.approx(3.0)
    with pytest.raises(InputError, match="different runs"):
        first["dense"].ratio(second["slim"])


def test_fast_candidates_are_called_often_enough_to_be_seen():
    machine = Machine()
    result = measure_interleaved(
        {"fast": machine.candidate("fast", 0.01)}, CONDITIONS, rounds=4, min_sample_ms=1.0, clock=machine.clock
    )
    assert result["fast"].calls_per_sample == 100
    assert result["fast"].median_ms == pytest.approx(0.01)


def test_budget_ends_the_run_but_never_before_five_rounds():
    machine = Machine()
    slow = {"slow": machine.candidate("slow", 1000.0)}
    assert measure_interleaved(slow, CONDITIONS, rounds=50, max_seconds=1.0, clock=machine.clock)["slow"].n == 5
    assert measure_interleaved(slow, CONDITIONS, rounds=50, max_seconds=20.0, clock=machine.clock)["slow"].n == 10
    assert measure_interleaved(slow, CONDITIONS, rounds=3, max_seconds=1.0, clock=machine.clock)["slow"].n == 3


def test_min_seconds_takes_more_rounds():
    machine = Machine()
    calls = {"one": machine.candidate("one", 10.0)}
    result = measure_interleaved(calls, CONDITIONS, rounds=5, min_seconds=1.0, prime=0, clock=machine.clock)
    assert result["one"].n == 100


def test_progress_counts_rounds_and_garbage_collection_is_off_only_while_timing():
    machine, seen, collecting = Machine(), [], []
    measure_interleaved(
        {"one": lambda: collecting.append(gc.isenabled()) or machine.candidate("one", 2.0)()},
        CONDITIONS,
        rounds=3,
        progress=lambda done, total: seen.append((done, total)),
        clock=machine.clock,
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert not any(collecting)
    assert gc.isenabled()


def test_bad_requests_are_refused():
    with pytest.raises(InputError, match="nothing to measure"):
        measure_interleaved({}, CONDITIONS)
    with pytest.raises(InputError, match="no conditions for candidate 'a'"):
        measure_interleaved({"a": lambda: None}, {"b": CONDITIONS})
