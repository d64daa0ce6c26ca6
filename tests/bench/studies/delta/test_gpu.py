"""The logic of the GPU measurement, with a clock that needs none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from slimtask.bench.studies.delta import gpu_layers, probes
from slimtask.bench.studies.delta.gpu_forms import layer_forms, truth
from slimtask.bench.studies.delta.gpu_layers import LayerCase, cases, measure_layers, not_tried
from slimtask.bench.timing.gpu_clock import GraphClock
from slimtask.bench.timing.isolated import Unusable
from slimtask.kernels.device import Device
from slimtask.kernels.problem import Problem


class Counting:
    """A clock on which a candidate takes as many ms as its name has letters, twice as many in the cold."""

    def __init__(self) -> None:
        self.captured = 0

    def capture(self, run):
        self.captured += 1
        run()
        return run

    def check(self, error=None):
        pass

    def time(self, replays, *, cold):
        return {name: [(1 + cold) * float(len(name))] * 5 for name in replays}


def case(pattern: str, *, density: float = 0.1, rows: float = 0.0, dtype: str = "float32") -> LayerCase:
    problem = Problem(
        tasks=3,
        tokens=20,
        inputs=64,
        outputs=192,
        pattern=pattern,
        density=density,
        rows=rows,
        dtype=dtype,
        device=Device(backend="cpu", name="cpu", threads=1),
    )
    return LayerCase(model="tiny", layer="fc1", problem=problem)


@pytest.mark.parametrize(
    ("made", "forms"),
    [
        (case("out-channels"), {"dense", "batched", "wide", "out-channels", "csr", "out-channels compact"}),
        (case("out-channels", rows=0.3), {"dense", "batched", "out-channels", "csr", "out-channels compact"}),
        (case("block", density=0.4), {"dense", "batched", "wide", "bsr", "blocks-torch", "vectors", "csr"}),
        (case("rows", rows=0.3), {"dense", "batched", "rows", "rows compact"}),
        (case("heads", density=1.0, dtype="bfloat16"), {"dense", "batched", "units"}),
    ],
)
def test_every_form_is_compared_and_timed(made: LayerCase, forms: set[str]) -> None:
    clock = Counting()
    outcome = measure_layers([made], clock, seconds=100.0, sets=2)
    assert outcome.failed == outcome.refused == []
    assert clock.captured == 2 * len(forms)
    assert {row["form"] for row in outcome.rows} == forms
    assert len(outcome.rows) == 2 * len(forms)
    assert max(row["max_rel_error"] for row in outcome.rows) < (1e-2 if made.problem.dtype == "bfloat16" else 1e-5)
    for row in outcome.rows:
        assert row["speedup"] == pytest.approx(len("dense") / len(row["form"]))
        assert row["ms"] == (1 + (row["l2"] == "cold")) * len(row["form"])
        assert row["floor_fraction"] == pytest.approx(row["floor_ms"] / row["ms"])


def test_no_case_is_begun_when_the_time_is_over() -> None:
    ticks = iter([0.0, 0.0, 5.0])
    grid = [case("out-channels"), case("block", density=0.4)]
    outcome = measure_layers(grid, Counting(), seconds=5.0, now=lambda: next(ticks), sets=1)
    assert {row["pattern"] for row in outcome.rows} == {"out-channels"}
    assert outcome.left_out == ["tiny fc1 N=20 T=3 block 0.4 rows 0"]


def test_a_kernel_that_fails_or_is_wrong_costs_no_other_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = layer_forms

    def broken(problem: Problem, *, seed: int):
        made = forms(problem, seed=seed)
        good = made["csr"]
        made["csr"] = type(good)(run=lambda: (None, good.run()[1] + 1.0), whole=good.whole, candidate="csr")
        refuse = type(good)(run=lambda: torch.zeros(2) @ torch.zeros(3), whole=good.whole, candidate="csr")
        return made | {"out-channels": refuse, "wide": refuse}

    monkeypatch.setattr(gpu_layers, "layer_forms", broken)
    outcome = measure_layers([case("out-channels")], Counting(), seconds=100.0, sets=1, colds=(False,))
    failed = {entry["name"].rpartition(": ")[2]: entry["error"] for entry in outcome.failed}
    assert set(failed) == {"csr", "out-channels"}
    assert "differ by" in failed["csr"]
    assert [entry["name"].rpartition(": ")[2] for entry in outcome.refused] == ["wide"]
    assert {row["form"] for row in outcome.rows} == {"dense", "batched", "out-channels compact"}


def test_a_form_that_loses_the_gpu_is_named_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    forms, tried = layer_forms, []

    def fragile(problem: Problem, *, seed: int):
        def loses(name: str):
            def run():
                tried.append(name)
                raise Unusable("an illegal memory access")

            return run

        made = forms(problem, seed=seed)
        return made | {name: replace(made[name], run=loses(name)) for name in ("csr", "wide") if name in made}

    monkeypatch.setattr(gpu_layers, "layer_forms", fragile)
    losses: Counter[str] = Counter()
    grid = [case("out-channels"), case("out-channels", rows=0.3), case("out-channels", rows=0.5)]
    outcome = measure_layers(grid, Counting(), seconds=100.0, losses=losses, sets=1, colds=(False,))
    assert tried == ["wide", "csr", "csr"]
    assert losses == {"wide": 1, "csr": 2}
    assert not_tried(losses) == {"csr"}
    name = "tiny fc1 N=20 T=3 out-channels 0.1 rows "
    lost = "Unusable: an illegal memory access"
    assert outcome.failed == [{"name": f"{name}{rows}: csr", "error": lost} for rows in ("0", "0.3")]
    assert outcome.refused == [{"name": name + "0: wide", "error": lost}]
    ours, rows = ("out-channels", "out-channels compact"), {(row["rows"], row["form"]) for row in outcome.rows}
    assert rows == {(share, form) for share in (0.0, 0.3, 0.5) for form in ("dense", "batched", *ours)}


def test_what_others_are_compared_with_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while timing comes behind the last form's name, one of the dense products costs its case alone."""
    forms, lost = layer_forms, []

    def fragile(problem: Problem, *, seed: int):
        made = forms(problem, seed=seed)

        def run():
            lost.append(problem.rows)
            if len(lost) < 3:
                raise Unusable("an illegal memory access")
            return made["dense"].run()

        return made | {"dense": replace(made["dense"], run=run)}

    monkeypatch.setattr(gpu_layers, "layer_forms", fragile)
    grid = [case("out-channels", rows=share) for share in (0.0, 0.1, 0.3)]
    outcome = measure_layers(grid, Counting(), seconds=100.0, sets=1, colds=(False,))
    assert [each["name"].rpartition(" ")[2] for each in outcome.failed] == ["dense", "dense"]
    assert {row["rows"] for row in outcome.rows} == {0.3}


def test_the_truth_is_dense_in_float32() -> None:
    problem = case("block", density=0.4, rows=0.3).problem
    dense = layer_forms(problem, seed=3)["dense"]
    torch.testing.assert_close(dense.whole(dense.run()), truth(problem, seed=3))


def test_the_grid_is_whole_without_doubles_and_begins_with_the_figures_to_reach() -> None:
    grid = cases(Device(backend="cuda", name="NVIDIA H200", sm=90))
    names = [each.name for each in grid]
    assert max(Counter(names).values()) == 1
    assert names[0] == "ViT-B fc1 N=1024 T=4 out-channels 0.05 rows 0"
    wanted = {
        (tasks, tokens, rows) for tasks in (3, 4, 5) for tokens in (1024, 2048) for rows in (0.0, 0.1, 0.3, 0.5, 1.0)
    }
    found = {(each.problem.tasks, each.problem.tokens, each.problem.rows) for each in grid}
    assert wanted <= found
    assert {each.layer for each in grid} == {"qkv", "proj", "fc1", "fc2", "mlp", "attention"}
    assert {0.01, 0.02, 0.05, 0.1} <= {each.problem.density for each in grid}


def test_probes_say_what_they_could_not_run() -> None:
    assert len(probes.PROBES) == 9

    def refuses(clock: object, device: str) -> object:
        raise RuntimeError("no such thing\nsecond line")

    listed = (("first", lambda clock, device: {"ms": 1.0}), ("second", refuses), ("third", "needs TensorRT"))
    first, second, third = probes.run_probes(Counting(), seconds=100.0, device="cpu", probes=listed)
    assert first == {"probe": 1, "what": "first", "result": {"ms": 1.0}}
    assert second["error"] == "RuntimeError: no such thing"
    assert third["not_run"] == "needs TensorRT"
    found = probes.failed_probes([first, second, third])
    assert found == [{"name": "probe 2: second", "error": "RuntimeError: no such thing"}]
    assert probes.run_probes(Counting(), seconds=0.0, device="cpu")[0]["not_run"] == "no time was left"


def test_probes_of_products_run_anywhere() -> None:
    ratios = probes.appended_columns(Counting(), "cpu")
    assert ratios["flop_ratio"] == pytest.approx(1.2, abs=0.01)
    assert ratios["time_ratio"] == 2.0  # "appended" has twice the letters of "base"


@pytest.mark.gpu
def test_graphs_see_work_and_cold_caches() -> None:
    clock = GraphClock(replays=40, per_sample=10)
    x = torch.randn(2048, 2048, device="cuda")
    runs = {"small": [clock.capture(lambda: x[:64] @ x)], "large": [clock.capture(lambda: x @ x)] * 3}
    warm, cold = clock.time(runs, cold=False), clock.time(runs, cold=True)
    assert sorted(warm["small"])[2] < sorted(warm["large"])[2]
    assert sorted(warm["small"])[2] < sorted(cold["small"])[2]


@pytest.mark.gpu
def test_a_layer_and_a_block_run_on_the_gpu() -> None:
    device = Device.current("cuda")
    grid = [each for each in cases(device) if each.problem.pattern in ("out-channels", "block")][:4]
    outcome = measure_layers(grid, GraphClock(replays=20, per_sample=10), seconds=60.0, sets=2)
    assert outcome.failed == []
    assert {row["l2"] for row in outcome.rows} == {"warm", "cold"}
