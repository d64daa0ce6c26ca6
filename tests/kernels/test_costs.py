from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slimtask.kernels.candidates import candidate
from slimtask.kernels.costs import Costs, Entry, Runs, between, costs_path, measure
from slimtask.kernels.device import Device
from slimtask.kernels.problem import Problem

CPU = Device(backend="cpu", name="a CPU", threads=2, versions=(("torch", "2.14"),))
OTHER = replace(CPU, threads=1)
FC1 = Problem(tasks=4, tokens=1024, inputs=768, outputs=3072, pattern="unstructured", density=0.05, device=CPU)
CSR, DENSE = candidate("csr"), candidate("dense")


def law(problem: Problem) -> float:
    """A time that is a power of tokens and density: interpolation in log space must give it exactly."""
    return 1e-3 * problem.tokens**0.9 * problem.density**0.7


def grid(tokens: tuple[int, ...] = (256, 1024, 4096), densities: tuple[float, ...] = (0.01, 0.1)) -> Costs:
    costs = Costs(device=CPU)
    for n in tokens:
        for density in densities:
            problem = replace(FC1, tokens=n, density=density)
            costs.add("csr", problem, law(problem))
    return costs


def test_between_is_straight_and_refuses_to_extrapolate() -> None:
    line = [(1.0, 10.0), (3.0, 30.0), (2.0, 0.0)]
    assert between(line, 1.0) == 10.0
    assert between(line, 2.5) == pytest.approx(15.0)
    assert between(line, 0.9) is None
    assert between(line, 3.1) is None
    assert between([], 1.0) is None


@pytest.mark.parametrize(("tokens", "density"), [(1024, 0.01), (2000, 0.1), (300, 0.03), (4096, 0.0999), (256, 0.05)])
def test_between_measurements_time_follows_a_power_law(tokens: int, density: float) -> None:
    wanted = replace(FC1, tokens=tokens, density=density)
    assert grid().measured_ms(CSR, wanted) == pytest.approx(law(wanted))


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 255},
        {"tokens": 4097},
        {"density": 0.009},
        {"density": 0.11},
        {"tasks": 3},
        {"inputs": 1024},
        {"outputs": 768},
        {"rows": 0.1},
        {"dtype": "float16"},
        {"pattern": "two-four"},
        {"base_included": True},
    ],
)
def test_nothing_is_extrapolated_nor_taken_from_another_problem(change: dict[str, Any]) -> None:
    assert grid().measured_ms(CSR, FC1) is not None
    assert grid().measured_ms(CSR, replace(FC1, **change)) is None
    assert grid().measured_ms(DENSE, FC1) is None


def test_a_base_that_is_a_task_is_one_delta_less() -> None:
    assert grid().measured_ms(CSR, replace(FC1, tasks=5, base_included=True)) == grid().measured_ms(CSR, FC1)


def test_dense_is_measured_once_for_all_patterns_and_densities() -> None:
    costs = Costs(device=CPU)
    costs.add("dense", FC1, 3.0)
    for change in ({"pattern": "block"}, {"density": 0.5}, {"rows": 0.3}, {"base_included": True}):
        assert costs.measured_ms(DENSE, replace(FC1, **change)) == pytest.approx(3.0)
    assert costs.measured_ms(DENSE, replace(FC1, pattern="hidden-units")) is None  # two layers, not one


def test_the_nearest_measurement_tells_the_efficiency() -> None:
    costs = grid()
    near = costs.nearest(CSR, replace(FC1, tokens=5000, density=0.2))
    assert near is not None
    assert (near.problem.tokens, near.problem.density) == (4096, 0.1)
    assert near.efficiency == pytest.approx(CSR.floor_ms(near.problem) / law(near.problem))
    assert costs.nearest(DENSE, FC1) is None
    assert costs.nearest(CSR, replace(FC1, dtype="float16")) is None


def test_what_an_unmeasured_candidate_borrows_is_that_of_dense_products() -> None:
    costs = grid()
    assert costs.borrowed(FC1) is None
    costs.add("batched", FC1, 10 * DENSE.floor_ms(FC1))
    costs.add("dense", FC1, 20 * DENSE.floor_ms(FC1))
    borrowed = costs.borrowed(FC1)
    assert borrowed is not None
    assert borrowed.candidate == "dense"


def test_an_entry_in_the_same_buckets_is_replaced() -> None:
    costs = Costs(device=CPU)
    costs.add("csr", FC1, 1.0)
    costs.add("csr", replace(FC1, tokens=1030, density=0.051), 2.0)
    assert [entry.ms for entry in costs.entries.values()] == [2.0]
    costs.add("csr", replace(FC1, tokens=1500), 3.0)
    costs.add("csr", replace(FC1, density=0.02), 3.0)
    assert len(costs.entries) == 3


def test_a_few_changed_rows_are_not_none_and_nearly_all_are_not_every_one() -> None:
    costs = Costs(device=CPU)
    shares = (0.0, 0.004, 0.012, 0.3, 0.304, 0.996, 1.0)
    for ms, share in enumerate(shares, start=1):
        costs.add("rows", replace(FC1, pattern="rows", rows=share), float(ms))
    found = [costs.measured_ms(candidate("rows"), replace(FC1, pattern="rows", rows=share)) for share in shares]
    assert found == pytest.approx([1.0, 3.0, 3.0, 5.0, 5.0, 6.0, 7.0])  # those of a hundredth share the last


def test_a_file_whose_buckets_were_cut_otherwise_is_read(tmp_path: Path) -> None:
    costs = Costs(device=CPU)
    costs.add("rows", replace(FC1, pattern="rows", rows=0.004), 2.0)
    path = costs.save(tmp_path)
    path.write_text(path.read_text().replace("r0.01", "r0.00"))
    assert Costs.load(CPU, tmp_path).entries == costs.entries
    path.write_text(path.read_text().replace('"rows library', '"csr library').replace('"rows ', '"csr '))
    with pytest.raises(ValueError, match="does not describe itself"):
        Costs.load(CPU, tmp_path)


def test_the_key_names_all_that_a_cost_depends_on() -> None:
    entry = Entry(candidate="csr", source="abc", problem=FC1, ms=1.0)
    assert entry.key == "csr abc float32 unstructured T4 K768 M3072 N1024 rho0.05 r0.00"


def test_saved_costs_come_back_and_two_writers_lose_nothing(tmp_path: Path) -> None:
    one, two = grid(tokens=(256,)), grid(tokens=(1024,))
    assert one.save(tmp_path) == two.save(tmp_path) == costs_path(CPU, tmp_path)
    both = Costs.load(CPU, tmp_path)
    assert both.entries == {**one.entries, **two.entries}
    assert [path.name for path in tmp_path.iterdir()] == [CPU.file_name]
    assert Costs.load(OTHER, tmp_path).entries == {}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = grid(tokens=(256,)).save(tmp_path)
    before = path.read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        grid().save(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_costs_of_an_older_implementation_do_not_count() -> None:
    costs = grid()
    costs.entries = {key: replace(entry, source="older") for key, entry in costs.entries.items()}
    assert costs.measured_ms(CSR, FC1) is None
    assert costs.nearest(CSR, FC1) is None


def damaged(path: Path, change: str) -> None:
    content = json.loads(path.read_text())
    key, entry = next(iter(content["entries"].items()))
    if change == "half":
        path.write_text(path.read_text()[:-40])
    elif change == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    else:
        if change == "schema":
            content["schema"] = 99
        elif change == "device":
            content["device"]["name"] = "another"
        elif change == "field":
            del entry["tokens"]
        elif change == "type":
            entry["tokens"] = "many"
        elif change in ("huge tokens", "huge ms"):
            entry[change.removeprefix("huge ")] = 10**400
        elif change == "candidate":
            entry["candidate"] = "magic"
        elif change == "ms":
            entry["ms"] = math.nan
        elif change == "key":
            content["entries"] = {"x": entry}
        path.write_text(json.dumps(content))
    del key


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("half", "Unterminated|delimiter|Expecting"),
        ("binary", "decode"),
        ("schema", "schema is 99 instead of 1"),
        ("device", "belongs to another device"),
        ("field", "tokens"),
        ("type", "tokens is 'many'"),
        ("huge tokens", "out of range|too large"),
        ("huge ms", "too large"),
        ("candidate", "no candidate 'magic'"),
        ("ms", "nan ms for csr is no measurement"),
        ("key", "entry 'x' does not describe itself"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(change: str, why: str, tmp_path: Path) -> None:
    path = grid().save(tmp_path)
    damaged(path, change)
    with pytest.raises(ValueError, match=why) as refused:
        Costs.load(CPU, tmp_path)
    message = str(refused.value)
    assert message.startswith(f"the costs '{path}' are damaged (")
    assert message.endswith("); delete the file and measure again.")
    assert "\n" not in message
    with pytest.raises(ValueError, match="are damaged"):  # and is not overwritten
        grid().save(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"schema": 1, "levels": []}'])
def test_another_file_is_not_called_damaged(content: str, tmp_path: Path) -> None:
    path = tmp_path / CPU.file_name
    path.write_text(content)
    for reading in (lambda: Costs.read(path), lambda: Costs.load(CPU, tmp_path)):
        with pytest.raises(ValueError, match="is no file of costs") as refused:
            reading()
        assert str(refused.value) == (
            f"'{path}' is no file of costs; give one that `slimtask costs` wrote, or move this one away."
        )
    assert path.read_text() == content


def test_a_place_that_cannot_be_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="there can be no costs") as refused:
        Costs.load(CPU, tmp_path / "file" / "deeper")
    assert f"as '{tmp_path / 'file'}' is a file, not a folder; give another path." in str(refused.value)
    with pytest.raises(ValueError, match="there is no file of costs"):
        Costs.read(tmp_path / "none.json")


def test_a_folder_in_place_of_its_file_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder, and costs are a file, as `slimtask costs` writes them\.$"):
        Costs.read(tmp_path)
    path = grid().save(tmp_path)
    with pytest.raises(ValueError, match="is a folder") as refused:
        Costs.read(tmp_path)
    assert str(refused.value) == f"'{tmp_path}' is a folder, and costs are a file; give the file in it, '{path}'."
    (tmp_path / "another.json").write_text("{}")
    with pytest.raises(ValueError, match=r"; give one of the files in it\.$"):
        Costs.read(tmp_path)


def test_a_full_disk_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        grid().save(tmp_path / "new" / "costs")
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_that_can_be_written_costs_last_for_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("SLIMTASK_COSTS", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="there can be no costs"):
        grid().save()
    monkeypatch.setenv("SLIMTASK_COSTS", str(tmp_path / "new"))
    monkeypatch.setattr("slimtask.measured.write_json", refused)
    with pytest.warns(UserWarning, match=r"cannot be kept .* let SLIMTASK_COSTS name a folder"):
        grid(tokens=(256,)).save()
    grid(tokens=(1024,)).save()
    assert Costs.load(CPU).entries == grid(tokens=(256, 1024)).entries


def refused(*_: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_wrong_costs_are_refused() -> None:
    costs = Costs(device=CPU)
    with pytest.raises(ValueError, match=r"a time of 0\.0 ms for csr is no measurement"):
        costs.add("csr", FC1, 0.0)
    with pytest.raises(ValueError, match="no candidate 'magic'"):
        costs.add("magic", FC1, 1.0)
    with pytest.raises(
        ValueError, match=r"a cost of a CPU \(1 threads\) does not belong to those of a CPU \(2 threads\)"
    ):
        costs.add("csr", replace(FC1, device=OTHER), 1.0)


def test_the_folder_is_an_argument_a_variable_or_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMTASK_COSTS", str(tmp_path / "variable"))
    assert costs_path(CPU, tmp_path) == tmp_path / CPU.file_name
    assert costs_path(CPU) == tmp_path / "variable" / CPU.file_name
    monkeypatch.delenv("SLIMTASK_COSTS")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert costs_path(CPU) == tmp_path / ".cache" / "slimtask" / "costs" / CPU.file_name


def test_measuring_fills_the_file_after_every_problem(tmp_path: Path) -> None:
    problems = [replace(FC1, tokens=n) for n in (256, 1024, 4096)]
    seen: list[tuple[int, int]] = []

    def prepare(problem: Problem) -> Runs:
        if problem.tokens == 4096:
            raise KeyboardInterrupt
        return {"csr": lambda: problem, "dense": lambda: problem}

    def timer(runs: Runs) -> dict[str, float]:
        return {name: law(run()) * (2 if name == "dense" else 1) for name, run in runs.items()}

    with pytest.raises(KeyboardInterrupt):
        measure(problems, timer=timer, prepare=prepare, folder=tmp_path, progress=lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3)]
    costs = Costs.load(CPU, tmp_path)
    assert len(costs.entries) == 4
    assert costs.measured_ms(CSR, problems[1]) == pytest.approx(law(problems[1]))
    assert costs.measured_ms(DENSE, problems[1]) == pytest.approx(2 * law(problems[1]))


def test_a_grid_of_two_devices_or_none_is_refused(tmp_path: Path) -> None:
    for problems in ([], [FC1, replace(FC1, device=OTHER)]):
        with pytest.raises(ValueError, match="measure each device by itself"):
            measure(problems, timer=lambda runs: {}, prepare=lambda problem: {}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_read_without_knowing_its_device(tmp_path: Path) -> None:
    costs = grid()
    read = Costs.read(costs.save(tmp_path))
    assert (read.device, read.entries) == (costs.device, costs.entries)


@pytest.mark.parametrize(
    "change", [{"sm": 90}, {"threads": "2"}, {"more": 1}, {"versions": ["torch"]}, {"backend": "tpu"}, {"name": 3}]
)
def test_a_file_of_no_device_is_damaged(change: dict[str, Any], tmp_path: Path) -> None:
    content = {"schema": 1, "device": CPU.to_json() | change, "entries": {}}
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"the costs '.*' are damaged \("):
        Costs.read(path)


@pytest.mark.parametrize("kind", ["pipe", "huge", "deep", "digits"])
def test_a_file_of_costs_that_cannot_be_one_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "costs.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**42)
    else:
        path.write_text("[" * 100_000 if kind == "deep" else "9" * 5000)
    with pytest.raises(ValueError, match=r"costs\.json"):
        Costs.read(path)
