"""The floors, against the printed digits of an independent calculation: ViT-B, 1024 tokens, bfloat16, an H200."""

from __future__ import annotations

import pytest

from slimtask.kernels.floors import (
    H100,
    H200,
    Ceilings,
    Layer,
    break_even_cost,
    break_even_density,
    ceilings_of,
    delta_cost,
    delta_work,
    dense_work,
    speedup,
)

SHARES = (0.0, 0.1, 0.3, 0.5)
# T = 4: (rate, density) -> speed-up at SHARES of changed rows, base besides the tasks and, second, one of them.
TABLE = {
    ("scalar", 0.10): ("0.36 0.38 0.43 0.49", "0.46 0.49 0.55 0.63"),
    ("scalar", 0.05): ("0.66 0.67 0.69 0.72", "0.83 0.84 0.87 0.91"),
    ("scalar", 0.02): ("1.32 1.24 1.10 1.00", "1.58 1.49 1.35 1.23"),
    ("scalar", 0.01): ("1.98 1.73 1.37 1.14", "2.27 2.01 1.64 1.39"),
    ("streamed", 0.10): ("1.71 1.53 1.27 1.09", "1.99 1.81 1.53 1.33"),
    ("streamed", 0.05): ("2.39 1.99 1.50 1.20", "2.66 2.28 1.78 1.45"),
    ("streamed", 0.02): ("2.84 2.43 1.67 1.28", "3.27 2.70 1.96 1.54"),
    ("stationary", 0.10): ("2.40 2.00 1.50 1.20", "2.67 2.29 1.78 1.45"),
    ("stationary", 0.05): ("2.77 2.35 1.64 1.26", "3.17 2.62 1.93 1.52"),
    ("stationary", 0.01): ("2.99 2.68 1.78 1.32", "3.42 2.95 2.07 1.58"),
    ("channels", 0.10): ("2.62 2.16 1.57 1.23", "2.90 2.44 1.85 1.49"),
    ("channels", 0.05): ("2.82 2.45 1.68 1.28", "3.25 2.72 1.97 1.54"),
    ("channels", 0.01): ("3.00 2.69 1.79 1.32", "3.43 2.98 2.08 1.59"),
}
HALF_OF_SCALAR = {
    0.02: ("0.79 0.79 0.79 0.79", "0.99 0.99 0.99 0.99"),
    0.01: ("1.32 1.24 1.10 1.00", "1.58 1.49 1.35 1.23"),
}


def block(width: int, tokens: int) -> list[Layer]:
    """Return qkv, proj, fc1 and fc2."""
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    return [Layer(tokens=tokens, inputs=inputs, outputs=outputs) for inputs, outputs in shapes]


def ratio(rate: float, density: float, rows: float, *, tasks: int = 4, included: bool = False) -> str:
    layers, deltas = block(768, 1024), tasks - included
    dense = sum(dense_work(layer, models=tasks, item_bytes=2).seconds(H200) for layer in layers)
    delta = [delta_work(layer, deltas=deltas, density=density, rows=rows, item_bytes=2) for layer in layers]
    return f"{dense / sum(work.seconds(H200, rate) for work in delta):.2f}"


@pytest.mark.parametrize(("kind", "density"), TABLE)
def test_ratios_to_dense_have_the_printed_digits(kind: str, density: float) -> None:
    besides, included = TABLE[kind, density]
    rate = getattr(H200, kind)
    assert " ".join(ratio(rate, density, rows) for rows in SHARES) == besides
    assert " ".join(ratio(rate, density, rows, included=True) for rows in SHARES) == included


@pytest.mark.parametrize("density", HALF_OF_SCALAR)
def test_ratios_at_half_the_scalar_rate_have_the_printed_digits(density: float) -> None:
    besides, included = HALF_OF_SCALAR[density]
    assert " ".join(ratio(H200.scalar / 2, density, rows) for rows in SHARES) == besides
    assert " ".join(ratio(H200.scalar / 2, density, rows, included=True) for rows in SHARES) == included


@pytest.mark.parametrize(
    ("tasks", "kind", "printed"),
    [
        (3, "stationary", "1.97 1.45 1.14"),
        (5, "stationary", "2.65 1.79 1.35"),
        (3, "scalar", "0.63 0.66 0.68"),
        (5, "scalar", "0.69 0.72 0.75"),
        (3, "channels", "2.04 1.48 1.16"),
        (5, "channels", "2.77 1.84 1.37"),
    ],
)
def test_ratios_for_other_numbers_of_tasks_have_the_printed_digits(tasks: int, kind: str, printed: str) -> None:
    rate = getattr(H200, kind)
    assert " ".join(ratio(rate, 0.05, rows, tasks=tasks) for rows in SHARES[1:]) == printed


@pytest.mark.parametrize(
    ("width", "tokens", "flops", "megabytes", "microseconds"),
    [
        (768, 1024, 14.5, 39, 18.3),
        (768, 2048, 29.0, 64, 36.7),
        (1024, 1024, 25.8, 59, 32.6),
        (1024, 2048, 51.5, 92, 65.2),
    ],
)
def test_dense_floor_of_a_vit_block(width: int, tokens: int, flops: float, megabytes: int, microseconds: float) -> None:
    works = [dense_work(layer, models=1, item_bytes=2) for layer in block(width, tokens)]
    assert sum(work.flops for work in works) / 1e9 == pytest.approx(flops, abs=0.05)
    assert sum(work.bytes for work in works) / 1e6 == pytest.approx(megabytes, abs=0.6)
    assert 1e6 * sum(work.seconds(H200) for work in works) == pytest.approx(microseconds, abs=0.06)


@pytest.mark.parametrize(
    ("width", "tokens", "rows", "flops", "megabytes"),
    [(768, 1024, 0, 17.4, 99), (768, 1024, 0.1, 22.9, 103), (768, 1024, 0.5, 44.9, 121), (1024, 2048, 0.3, 120.6, 284)],
)
def test_work_of_four_deltas_of_five_percent(
    width: int, tokens: int, rows: float, flops: float, megabytes: int
) -> None:
    layers = block(width, tokens)
    works = [delta_work(layer, deltas=4, density=0.05, rows=rows, item_bytes=2) for layer in layers]
    assert sum(work.flops for work in works) / 1e9 == pytest.approx(flops, abs=0.06)
    assert sum(work.bytes for work in works) / 1e6 == pytest.approx(megabytes, abs=0.6)


def test_the_law_gives_the_printed_digits_of_rows_only() -> None:
    law = [speedup(tasks=4, deltas=4, rows=rows, cost=0) for rows in SHARES[1:]]
    included = [speedup(tasks=4, deltas=3, rows=rows, cost=0) for rows in SHARES[1:]]
    assert " ".join(f"{value:.2f}" for value in law) == "2.86 1.82 1.33"
    assert " ".join(f"{value:.2f}" for value in included) == "3.08 2.11 1.60"
    assert f"{speedup(tasks=3, deltas=3, rows=0.1, cost=0):.2f}" == "2.31"
    assert f"{speedup(tasks=5, deltas=5, rows=0.1, cost=0):.2f}" == "3.33"


@pytest.mark.parametrize(("kind", "density"), [key for key in TABLE if key[1] >= 0.05])
@pytest.mark.parametrize("rows", SHARES[2:])
def test_the_law_and_the_floors_agree_where_products_set_the_pace(kind: str, density: float, rows: float) -> None:
    cost = delta_cost(H200, density=density, rows=rows, delta_rate=getattr(H200, kind))
    assert f"{speedup(tasks=4, deltas=4, rows=rows, cost=cost):.2f}" == ratio(getattr(H200, kind), density, rows)


@pytest.mark.parametrize("deltas", [3, 4])
@pytest.mark.parametrize("rows", [0.0, 0.1, 0.5])
def test_break_even_is_where_the_law_gives_one(deltas: int, rows: float) -> None:
    cost = break_even_cost(tasks=4, deltas=deltas, rows=rows)
    assert speedup(tasks=4, deltas=deltas, rows=rows, cost=cost) == pytest.approx(1)
    density = break_even_density(H200, tasks=4, deltas=deltas, rows=rows, delta_rate=H200.scalar)
    assert delta_cost(H200, density=density, rows=rows, delta_rate=H200.scalar) == pytest.approx(cost)


def test_changed_rows_can_leave_nothing_for_the_delta() -> None:
    assert break_even_density(H200, tasks=4, deltas=4, rows=0.75, delta_rate=H200.stationary) == 0
    assert break_even_density(H200, tasks=4, deltas=3, rows=1.0, delta_rate=H200.stationary) == 0
    assert break_even_density(H200, tasks=40, deltas=39, rows=0.0, delta_rate=H200.dense) == 1


@pytest.mark.parametrize(
    ("name", "of", "known"),
    [
        ("NVIDIA H200", "NVIDIA H200", True),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100", True),
        ("RTX 9", "NVIDIA H200", False),
    ],
)
def test_a_gpu_without_ceilings_borrows_them_and_says_so(name: str, of: str, known: bool) -> None:
    found = ceilings_of(name, backend="cuda", dtype="bfloat16")
    assert (found.of, found.known) == (of, known)
    assert found.memory == (H100 if "H100" in of else H200).memory


def test_float32_has_no_tensor_cores_and_threads_add_up() -> None:
    exact = ceilings_of("NVIDIA H200", backend="cuda", dtype="float32")
    assert exact.dense < H200.dense / 10
    assert exact.scalar == H200.scalar / 2
    one, two = (ceilings_of("a CPU", backend="cpu", dtype="float32", threads=n) for n in (1, 2))
    assert isinstance(one, Ceilings)
    assert (two.dense, two.scalar, two.memory) == (2 * one.dense, 2 * one.scalar, 2 * one.memory)
    assert two.launch_s == one.launch_s
    assert not two.known
