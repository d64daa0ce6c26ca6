from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from slimtask.kernels.candidates import CANDIDATES, candidate
from slimtask.kernels.costs import Costs
from slimtask.kernels.device import Device
from slimtask.kernels.dispatch import Choice, Expectation, Problem, choose, explain
from slimtask.kernels.floors import H200, break_even_density

LIBRARIES = (("torch", "2.11"), ("triton", "3.6"), ("cuda-bindings", "13.0"))
GPU = Device(backend="cuda", name="NVIDIA H200", sm=90, versions=LIBRARIES)
CPU = Device(backend="cpu", name="a CPU", threads=2)
FC1 = Problem(
    tasks=4, tokens=1024, inputs=768, outputs=3072, pattern="unstructured", density=0.05, dtype="bfloat16", device=GPU
)
NONE = Costs(device=GPU)


def of(choice: Choice, name: str) -> Expectation:
    return next(each for each in choice.alternatives if each.candidate == name)


@pytest.mark.parametrize("tokens", [1024, 2048])
@pytest.mark.parametrize(("density", "taken"), [(0.10, "batched"), (0.05, "batched"), (0.02, "batched"), (0.01, "csr")])
def test_unstructured_goes_to_dense_below_its_break_even(tokens: int, density: float, taken: str) -> None:
    for shape in ((768, 2304), (768, 3072), (3072, 768), (1024, 4096)):
        problem = replace(FC1, tokens=tokens, inputs=shape[0], outputs=shape[1], density=density)
        assert choose(problem, NONE).candidate == taken


def test_at_one_percent_unstructured_loses_once_rows_change() -> None:
    # floors of a good CSR kernel, T = 4, base besides: 1.32 at no changed rows, 1.00 to 1.14 at half, dense at all
    assert choose(replace(FC1, density=0.01, rows=0.3), NONE).candidate == "csr"
    assert choose(replace(FC1, density=0.01, rows=0.75), NONE).dense
    assert choose(replace(FC1, density=0.01, tasks=2, rows=0.5), NONE).dense


@pytest.mark.parametrize("rows", [0.0, 0.1, 0.3, 0.5])
@pytest.mark.parametrize(("pattern", "taken"), [("block", "blocks-cuda"), ("out-channels", "out-channels")])
def test_structured_deltas_of_five_percent_are_ahead_on_a_gpu(pattern: str, taken: str, rows: float) -> None:
    choice = choose(replace(FC1, pattern=pattern, rows=rows), NONE)
    assert (choice.candidate, choice.source) == (taken, "floor")
    assert choice.expected_ms < of(choice, "batched").ms


@pytest.mark.parametrize("side", [0.9, 1.1])
def test_blocks_turn_dense_at_the_break_even_of_the_law(side: float) -> None:
    # Two tasks in one wide layer: products set the pace, so the floors turn where the law says.
    wide = replace(FC1, tasks=2, tokens=8192, inputs=4096, outputs=4096, pattern="block", rows=0.2)
    density = break_even_density(H200, tasks=2, deltas=2, rows=0.2, delta_rate=H200.stationary)
    assert choose(replace(wide, density=side * density), NONE).dense == (side > 1)


@pytest.mark.parametrize(("rows", "dense"), [(0.0, False), (0.5, False), (0.74, False), (0.8, True), (1.0, True)])
def test_changed_rows_alone_turn_dense_at_three_quarters(rows: float, dense: bool) -> None:
    # T = 4, base besides: 4 / (1 + 4 r) is 1 at r = 0.75
    problem = replace(FC1, tokens=8192, inputs=4096, outputs=4096, pattern="rows", rows=rows)
    assert choose(problem, NONE).dense == dense


def test_units_are_taken_for_mlps_and_heads() -> None:
    assert choose(replace(FC1, pattern="hidden-units"), NONE).candidate == "units"
    assert choose(replace(FC1, pattern="heads", outputs=2304, density=1 / 12), NONE).candidate == "units"


def test_a_whole_new_tensor_is_dense() -> None:
    choice = choose(replace(FC1, pattern="tensor", density=1.0), NONE)
    assert choice.candidate == "batched"
    assert {each.candidate for each in choice.alternatives if each.ms is not None} == {"dense", "batched"}


def test_dense_is_logged_in_one_line_and_a_delta_is_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="slimtask.kernels.dispatch"):
        choose(replace(FC1, pattern="block"), NONE)
        assert caplog.messages == []
        choose(replace(FC1, pattern="block", density=1.0), NONE)
    assert len(caplog.messages) == 1
    assert "batched" in caplog.messages[0]
    assert "the best delta form, blocks-cuda" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


def test_a_measurement_beats_a_floor_for_better_and_for_worse() -> None:
    block = replace(FC1, pattern="block")
    costs = Costs(device=GPU)
    costs.add("blocks-cuda", block, 50.0)
    assert choose(block, costs).candidate != "blocks-cuda"
    for each in CANDIDATES:
        if each.excluded(block) is None:
            costs.add(each.name, block, 1.0)
    costs.add("vectors", block, 0.5)
    choice = choose(block, costs)
    assert (choice.candidate, choice.expected_ms, choice.source) == ("vectors", pytest.approx(0.5), "measured")


def test_csr_above_one_percent_is_taken_only_where_it_was_measured_ahead() -> None:
    costs = Costs(device=GPU)
    costs.add("batched", FC1, 0.04)
    costs.add("csr", FC1, 0.03)
    assert choose(FC1, costs).candidate == "csr"
    beside = choose(replace(FC1, density=0.06), costs)
    assert beside.dense
    assert of(beside, "csr").excluded == "not measured, and above 1 % it is behind"


def test_outside_the_measured_range_the_floor_is_scaled_by_the_nearest_efficiency() -> None:
    block, costs = replace(FC1, pattern="block"), Costs(device=GPU)
    blocks = candidate("blocks-cuda")
    for tokens, efficiency in ((512, 0.25), (1024, 0.5)):
        at = replace(block, tokens=tokens)
        costs.add("blocks-cuda", at, blocks.floor_ms(at) / efficiency)
    beyond = replace(block, tokens=2048)
    found = of(choose(beyond, costs), "blocks-cuda")
    assert found.source == "floor"
    assert found.ms == pytest.approx(blocks.floor_ms(beyond) / 0.5)
    assert found.floor_ms == pytest.approx(blocks.floor_ms(beyond))
    assert "outside what was measured" in found.note
    assert "0.5, reached at 768 to 3072, N=1024" in found.note


def test_a_bare_floor_does_not_beat_measured_times_by_being_a_floor() -> None:
    block, costs = replace(FC1, pattern="block", density=0.3), Costs(device=GPU)
    batched = candidate("batched").floor_ms(block)
    costs.add("batched", block, 2 * batched)
    costs.add("dense", block, 2.5 * batched)
    choice = choose(block, costs)
    share = candidate("dense").floor_ms(block) / (2.5 * batched)
    assert of(choice, "blocks-cuda").ms == pytest.approx(candidate("blocks-cuda").floor_ms(block) / share)
    assert "the least dense products reach (dense:" in of(choice, "blocks-cuda").note


def test_on_a_cpu_unstructured_deltas_break_even_near_a_tenth() -> None:
    cpu, none = replace(FC1, device=CPU, dtype="float32"), Costs(device=CPU)
    assert choose(replace(cpu, density=0.02), none).candidate == "csr"
    assert choose(replace(cpu, density=0.2), none).dense


def test_every_candidate_is_explained() -> None:
    text = explain(replace(FC1, pattern="block"), NONE)
    lines = text.splitlines()
    assert len(lines) == 3 + len(CANDIDATES)
    assert lines[0].startswith("4 tasks, base besides, linear 768 to 3072, 1024 tokens, block 0.05")
    assert lines[1] == "floors: NVIDIA H200"
    for each in CANDIDATES:
        assert sum(each.name in line[:20].split() for line in lines) == 1
    assert lines[3].startswith("->  blocks-cuda")
    assert "excluded: executes hidden-units, heads exactly, not block" in text
    assert "excluded: not measured, and above 1 % it is behind" in text
    assert "1.00x" in next(line for line in lines[3:] if " batched " in line)


def test_explain_says_that_ceilings_are_borrowed() -> None:
    unknown = replace(GPU, name="NVIDIA RTX 6000")
    text = explain(replace(FC1, device=unknown), Costs(device=unknown))
    assert "floors: NVIDIA H200, not this device: only their order" in text


def test_costs_of_another_device_are_refused() -> None:
    with pytest.raises(ValueError, match=r"those of a CPU \(2 threads\), the problem runs on NVIDIA H200 \(sm90\)"):
        choose(FC1, Costs(device=CPU))


def test_without_costs_the_devices_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMTASK_COSTS", str(tmp_path))
    assert choose(FC1).source == "floor"
    costs = Costs(device=GPU)
    costs.add("csr", FC1, 1e-4)
    path = costs.save(tmp_path)
    assert (choose(FC1).candidate, choose(FC1).source) == ("csr", "measured")
    path.write_text("{")
    with pytest.raises(ValueError, match="are damaged"):
        choose(FC1)
