"""Measuring a latency table: planning, the cache, the staircase against a known one, and real layers."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from slimtask.bench.layers.table import (
    cache_path,
    grid_counts,
    load_table,
    measure_table,
    plan_work,
    time_layer,
)
from slimtask.compress.latency.table import LayerShape

CONV = LayerShape(kind="conv", size=(8, 8), kernel=(3, 3), padding=(1, 1))
DEPTHWISE = LayerShape(kind="depthwise", size=(8, 8), kernel=(3, 3), padding=(1, 1))
RANGES = {CONV: ((4, 64), (4, 96)), DEPTHWISE: ((4, 64), (4, 64))}


def padded(step_in: int, step_out: int):
    """A timer whose layers are padded to these steps, and a list of what it was asked."""
    asked: list[tuple[LayerShape, int, int]] = []

    def timer(shape: LayerShape, inputs: int, outputs: int) -> float:
        asked.append((shape, inputs, outputs))
        n, m = (-(-count // step) * step for count, step in ((inputs, step_in), (outputs, step_out)))
        return 0.01 + n * m / 1000

    return timer, asked


def test_the_staircase_of_a_known_machine_is_found(tmp_path: Path) -> None:
    timer, _ = padded(1, 16)
    table = measure_table({CONV: RANGES[CONV]}, threads=1, cache=tmp_path / "t.json", timer=timer)
    entry = table.by_shape[CONV]
    assert entry.input_penalty == (0.0, 0.0, 0.0, 0.0)
    assert entry.output_penalty == pytest.approx((1.0, 1.0, 1.0, 1.0))
    for n, m in ((64, 96), (37, 33), (20, 17), (5, 48)):
        assert table.ms(CONV, n, m) == pytest.approx(timer(CONV, n, m), rel=1e-9)
    timer, _ = padded(8, 4)
    entry = measure_table({CONV: RANGES[CONV]}, threads=1, cache=tmp_path / "u.json", timer=timer).by_shape[CONV]
    assert entry.input_penalty[3] == entry.output_penalty[3] == entry.output_penalty[2] == 0.0


def test_a_second_run_measures_nothing_and_a_wider_one_only_what_is_missing(tmp_path: Path) -> None:
    timer, asked = padded(1, 1)
    first = measure_table(RANGES, threads=1, cache=tmp_path / "t.json", timer=timer)
    count = len(asked)
    assert measure_table(RANGES, threads=1, cache=tmp_path / "t.json", timer=timer) == first
    assert len(asked) == count
    measure_table(RANGES | {DEPTHWISE: ((4, 80), (4, 80))}, threads=1, cache=tmp_path / "t.json", timer=timer)
    assert {shape for shape, *_ in asked[count:]} == {DEPTHWISE}
    count = len(asked)
    measure_table({DEPTHWISE: ((2, 16), (2, 16))}, threads=1, cache=tmp_path / "t.json", timer=timer)
    measure_table(RANGES, threads=1, cache=tmp_path / "t.json", timer=timer)  # still covered after the narrower one
    assert {shape for shape, *_ in asked[count:]} == {DEPTHWISE}
    assert max(outputs for *_, outputs in asked[count:]) == 80


def test_a_damaged_cache_is_named_and_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    timer, asked = padded(1, 1)
    whole = measure_table(RANGES, threads=1, cache=path, timer=timer)
    text = path.read_text()
    for damage in (text[: len(text) // 2], text.replace('"outputs"', '"puts"'), "[]"):
        path.write_text(damage)
        asked.clear()
        with pytest.warns(UserWarning, match=r"latency table '.*t\.json' is damaged"):
            again = measure_table(RANGES, threads=1, cache=path, timer=timer)
        assert again.entries == whole.entries
        assert asked


def test_two_that_measure_at_once_lose_nothing(tmp_path: Path) -> None:
    path, (timer, _) = tmp_path / "t.json", padded(1, 1)

    def beside(shape: LayerShape, inputs: int, outputs: int) -> float:
        if not path.exists():
            measure_table({CONV: RANGES[CONV]}, threads=1, cache=path, timer=timer)
        return timer(shape, inputs, outputs)

    table = measure_table({DEPTHWISE: RANGES[DEPTHWISE]}, threads=1, cache=path, timer=beside)
    assert set(table.by_shape) == set(load_table(path, 1).by_shape) == {CONV, DEPTHWISE}


def test_a_table_of_another_machine_or_thread_count_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    measure_table(RANGES, threads=1, cache=path, timer=padded(1, 1)[0])
    assert load_table(path, 1).entries
    assert not load_table(path, 2).entries
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "another"}))
    assert not load_table(path, 1).entries


def test_the_cache_lies_where_xdg_says_and_tells_threads_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path(1).parent == tmp_path / "slimtask"
    assert cache_path(1) != cache_path(2)


@pytest.mark.parametrize("ends", [(4, 64), (1, 5), (4, 2048), (24, 40), (3, 3), (100, 4)])
def test_grids_are_few_rising_counts_on_blocks(ends: tuple[int, int]) -> None:
    counts = grid_counts(*ends)
    assert list(counts) == sorted(set(counts))
    assert len(counts) <= 8
    assert counts[0] <= ends[0]
    assert counts[-1] == ends[1]
    assert all(count % 16 == 0 or count in (4, 8) for count in counts[1:-1])


def test_a_small_budget_measures_fewer_points_but_all_shapes() -> None:
    many, few = plan_work(RANGES, 60.0), plan_work(RANGES, 0.1)
    assert sum(work.points for work in few) < sum(work.points for work in many)
    assert [work.shape for work in few] == list(RANGES)
    assert all(len(work.outputs) == 3 for work in few)


def test_progress_counts_every_point_once(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    measure_table(
        RANGES,
        threads=1,
        cache=tmp_path / "t.json",
        timer=padded(16, 16)[0],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1))


def test_a_layer_with_thirty_times_the_work_takes_longer() -> None:
    large = LayerShape(kind="conv", size=(28, 28), kernel=(3, 3), padding=(1, 1))
    small_ms = min(time_layer(large, 16, 16, threads=1) for _ in range(2))
    large_ms = min(time_layer(large, 96, 96, threads=1) for _ in range(2))
    assert 0 < 3 * small_ms < large_ms


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, None])
def test_times_that_cannot_be_kept_in_a_file_are_kept_in_memory(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, "refused")

    path = tmp_path / "home" / "t.json"
    if number is None:
        path.parent.write_text("a file where the folder would be")
    else:
        monkeypatch.setattr("slimtask.measured.write_json", refused)
    timer, _ = padded(1, 1)
    with pytest.warns(UserWarning, match=r"cannot be kept .* XDG_CACHE_HOME") as told:
        first = measure_table(RANGES, threads=1, cache=path, timer=timer)
    assert len(told) == 1
    assert measure_table(RANGES, threads=1, cache=path, timer=lambda *_: 1 / 0) == first  # no warning, no measurement
