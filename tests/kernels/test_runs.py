from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slimtask.kernels.candidates import CANDIDATES
from slimtask.kernels.costs import Costs, measure
from slimtask.kernels.device import Device
from slimtask.kernels.dispatch import choose
from slimtask.kernels.problem import PATTERNS, Problem
from slimtask.kernels.runs import interleaved_ms, prepare
from slimtask.kernels.samples import Sample

CPU = Device(backend="cpu", name="a CPU", threads=1)
SMALL = Problem(tasks=3, tokens=20, inputs=128, outputs=192, pattern="block", density=0.2, device=CPU)


def truth(problem: Problem) -> Tensor:
    """Return every task's output by merged weights, in float64, without any of the code that is measured."""
    sample = Sample(problem=problem, seed=0)
    outputs = []
    for x, layers in zip(sample.inputs.double(), sample.merged, strict=True):
        (w1, b1), *rest = [(layer.weight.double(), layer.bias.double()) for layer in layers]
        out = x @ w1.T + b1
        if problem.operator == "mlp":
            out = 0.5 * out * (1 + torch.erf(out / 2**0.5))
        elif problem.operator == "attention":
            q, k, v = out.reshape(len(x), 3, -1, 64).permute(1, 2, 0, 3)
            out = ((q @ k.mT / 8).softmax(-1) @ v).transpose(0, 1).flatten(1)
        outputs.append(out @ rest[0][0].T + rest[0][1] if rest else out)
    return torch.stack(outputs)


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("rows", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_run_computes_the_merged_dense_layers(pattern: str, rows: float) -> None:
    outputs = 384 if pattern == "heads" else 192
    problem = replace(SMALL, pattern=pattern, outputs=outputs, rows=rows, density=0.5 if pattern == "heads" else 0.2)
    runs = prepare(problem)
    assert set(runs) == {each.name for each in CANDIDATES if each.excluded(problem) is None}
    wanted = truth(problem)
    for name, run in runs.items():
        _, tasks = run()
        got = tasks if isinstance(tasks, Tensor) else torch.stack(tasks)
        assert got.shape == wanted.shape
        assert error(got, wanted) < 1e-5, name


@pytest.mark.parametrize("pattern", ["block", "out-channels", "hidden-units"])
def test_with_the_base_a_task_the_base_is_the_first_of_the_dense_ones(pattern: str) -> None:
    problem = replace(SMALL, pattern=pattern, base_included=True, rows=0.25)
    wanted = truth(problem)
    for run in prepare(problem).values():
        base, tasks = run()
        whole = torch.stack([*([] if base is None else [base]), *tasks])
        assert error(whole, wanted) < 1e-5


@pytest.mark.parametrize("pattern", ["hidden-units", "heads"])
def test_corrections_of_all_tasks_at_once_are_the_same(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimtask.kernels.runs.TOGETHER", ("cpu",))
    problem = replace(SMALL, pattern=pattern, outputs=384 if pattern == "heads" else 192, density=0.5)
    _, tasks = prepare(problem)["units"]()
    assert error(tasks, truth(problem)) < 1e-5


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("pattern", ["rows", "block", "out-channels", "csr", "hidden-units"])
def test_rows_written_in_place_are_the_same(pattern: str, tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, by a kernel's definition: it may write into what is the run's own, and not into the base."""

    def overwrite(index, count, weight, x, *, bias_TM, out_TNM, compact):
        assert compact
        assert out_TNM.is_contiguous()
        for task, rows in enumerate(index):
            kept = rows[: count[task]].long()
            out_TNM[task, kept] = x[task, : len(kept)] @ weight[task].T + bias_TM[task]
        return out_TNM

    monkeypatch.setattr("slimtask.kernels.runs.ops.overwriting", lambda x: overwrite)
    pattern = {"csr": "unstructured"}.get(pattern, pattern)
    problem = replace(SMALL, tasks=tasks, pattern=pattern, base_included=True, rows=0.25)
    wanted = truth(problem)
    for name, run in prepare(problem).items():
        for _ in range(2):
            base, own = run()
            whole = torch.stack([*([] if base is None else [base]), *own])
            assert error(whole, wanted) < 1e-5, name


def test_half_precision_runs_stay_near_their_dense_layers() -> None:
    problem = replace(SMALL, dtype="bfloat16", rows=0.25)
    wanted = truth(problem)
    for run in prepare(problem).values():
        assert error(torch.stack(list(run()[1])), wanted) < 2**-6


def test_runs_are_timed_in_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    clock = {"a": 0, "b": 0}

    def run(name: str) -> None:
        order.append(name)
        clock[name] += 1

    times = interleaved_ms({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=3, finish=lambda: order.append("|"))
    assert order == ["a", "|", "b", "|"] * 4
    assert set(times) == {"a", "b"}
    assert all(0 <= ms < 1000 for ms in times.values())


def test_measured_on_this_cpu_the_choice_is_the_fastest_of_the_runs(tmp_path: Path) -> None:
    problem = replace(SMALL, pattern="out-channels")
    costs = measure([problem], timer=lambda runs: interleaved_ms(runs, rounds=3), prepare=prepare, folder=tmp_path)
    assert Costs.load(CPU, tmp_path).entries == costs.entries
    choice = choose(problem, costs)
    measured = {entry.candidate: entry.ms for entry in costs.entries.values()}
    assert set(measured) == {"dense", "batched", "out-channels", "csr"}
    assert choice.source == "measured"
    assert choice.expected_ms == pytest.approx(min(measured.values()))
    assert measured[choice.candidate] == pytest.approx(choice.expected_ms)
