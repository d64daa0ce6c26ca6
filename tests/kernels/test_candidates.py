from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slimtask.kernels import candidates as candidates_module
from slimtask.kernels.candidates import CANDIDATES, Candidate, candidate, hash_of
from slimtask.kernels.device import Device
from slimtask.kernels.floors import H200
from slimtask.kernels.problem import PATTERNS, Problem

LIBRARIES = (("torch", "2.11"), ("triton", "3.6"), ("cuda-bindings", "13.0"))
GPU = Device(backend="cuda", name="NVIDIA H200", sm=90, versions=LIBRARIES)
CPU = Device(backend="cpu", name="a CPU", threads=2)
FC1 = Problem(
    tasks=4, tokens=1024, inputs=768, outputs=3072, pattern="block", density=0.05, dtype="bfloat16", device=GPU
)


def able(problem: Problem) -> set[str]:
    return {each.name for each in CANDIDATES if each.excluded(problem) is None}


def test_names_are_unique_and_unknown_ones_are_refused() -> None:
    names = [each.name for each in CANDIDATES]
    assert len(set(names)) == len(names)
    assert candidate("csr").name == "csr"
    with pytest.raises(ValueError, match="no candidate 'magic'; take one of dense, batched, out-channels"):
        candidate("magic")


@pytest.mark.parametrize(
    ("pattern", "delta_forms"),
    [
        ("unstructured", {"csr"}),
        ("two-four", {"csr"}),
        ("block", {"blocks-cuda", "blocks-triton", "vectors", "csr"}),
        ("vector", {"vectors", "csr"}),
        ("in-channels", {"vectors", "csr"}),
        ("out-channels", {"out-channels", "csr"}),
        ("tensor", set()),
        ("rows", {"rows"}),
        ("hidden-units", {"units"}),
        ("heads", {"units"}),
    ],
)
def test_each_pattern_has_the_forms_that_are_exact(pattern: str, delta_forms: set[str]) -> None:
    assert able(replace(FC1, pattern=pattern)) == {"dense", "batched", *delta_forms}


def test_every_pattern_can_be_executed_dense() -> None:
    for pattern in PATTERNS:
        for device in (GPU, CPU):
            assert {"dense", "batched"} <= able(replace(FC1, pattern=pattern, device=device, dtype="float32"))


def test_with_every_row_changed_only_merged_weights_are_left() -> None:
    for pattern in PATTERNS:
        rows = set() if pattern == "heads" else {"rows"}
        assert able(replace(FC1, pattern=pattern, rows=1.0)) == {"dense", "batched", *rows}


def test_an_attention_shares_nothing_once_rows_change() -> None:
    heads = replace(FC1, pattern="heads", outputs=2304, density=1 / 12, rows=0.1)
    assert able(heads) == {"dense", "batched"}
    assert candidate("units").excluded(heads) == "an attention mixes its tokens: once some rows change, all do"
    assert "units" in able(replace(heads, rows=0.0))


def test_devices_libraries_and_dtypes_exclude_with_a_reason() -> None:
    assert able(replace(FC1, device=CPU)) == {"dense", "batched", "blocks-torch", "vectors", "csr"}
    assert able(replace(FC1, dtype="float32")) == {"dense", "batched", "blocks-triton", "csr"}
    bare = replace(FC1, device=replace(GPU, versions=(("torch", "2.11"),)))
    assert able(bare) == {"dense", "batched"}
    assert candidate("blocks-triton").excluded(bare) == "needs triton, which is not installed"
    old = replace(FC1, device=replace(GPU, sm=75))
    assert candidate("csr").excluded(old) == "needs compute capability 8.0 or newer"
    assert "float16, bfloat16, not float32" in str(candidate("vectors").excluded(replace(FC1, dtype="float32")))
    assert "exactly, not block" in str(candidate("units").excluded(FC1))
    assert candidate("blocks-cuda").excluded(replace(FC1, device=CPU)) == "runs on cuda only"


def test_flops_and_bytes_of_a_layer_by_hand() -> None:
    one = 2 * 1024 * 768 * 3072
    assert candidate("dense").flops(FC1) == candidate("batched").flops(FC1) == 4 * one
    assert candidate("blocks-cuda").flops(FC1) == pytest.approx(one * (1 + 4 * 0.05))
    half = replace(FC1, rows=0.5, base_included=True)
    assert candidate("csr").flops(half) == pytest.approx(one * (1 + 3 * (0.5 + 0.5 * 0.05)))
    weights, x, y = 768 * 3072, 1024 * 768, 1024 * 3072
    assert candidate("batched").bytes(FC1) == 4 * 2 * (weights + x + y)
    assert candidate("out-channels").bytes(replace(FC1, pattern="out-channels")) == pytest.approx(
        2 * (weights * 1.2 + x + 5 * y)
    )
    assert candidate("csr").bytes(FC1) == pytest.approx(2 * (weights * 1.2 + x + 5 * y) + 4 * 0.2 * weights)
    rows = replace(FC1, pattern="rows", rows=0.1)
    assert candidate("rows").flops(rows) == pytest.approx(one * 1.4)
    assert candidate("rows").bytes(rows) == pytest.approx(2 * (5 * weights + 1.4 * x + 5 * y))
    assert candidate("rows").bytes(replace(rows, rows=0.0)) == pytest.approx(2 * (weights + x + 5 * y))


def test_units_cost_one_product_of_their_share_and_a_correction_of_twice_it() -> None:
    mlp = replace(FC1, pattern="hidden-units")
    one = 2 * 1024 * 768 * 3072
    # [W1 | changed units], the base's second layer, then inner sizes 2 p
    assert candidate("units").flops(mlp) == pytest.approx(one * (1 + 4 * 0.05) + one + 4 * one * 2 * 0.05)
    heads = replace(FC1, pattern="heads", outputs=2304, density=1 / 12)
    qkv, proj = 2 * 1024 * 768 * 2304, 2 * 1024 * 768 * 768
    assert candidate("units").flops(heads) == pytest.approx(qkv * (1 + 4 / 12) + proj * (1 + 8 / 12))


def test_floor_is_the_work_at_its_rate_and_the_launches() -> None:
    work = candidate("blocks-cuda").work(FC1)[0]
    seconds = work.dense_flops / 790e12 + work.delta_flops / 475e12
    memory = work.bytes / 4.3e12
    assert candidate("blocks-cuda").floor_ms(FC1) == pytest.approx(1e3 * (max(seconds, memory) + 2e-6))
    few = replace(H200, launch_s=0.0)
    assert candidate("dense").floor_ms(FC1, few) == candidate("batched").floor_ms(FC1, few)
    assert candidate("dense").floor_ms(FC1) == pytest.approx(candidate("batched").floor_ms(FC1) + 3e-3)


def test_half_of_the_scalar_ceiling_is_expected_of_csr() -> None:
    csr, work = candidate("csr"), candidate("csr").work(FC1)[0]
    seconds = work.dense_flops / 790e12 + work.delta_flops / 15.5e12
    assert csr.expected_ms(FC1) == pytest.approx(1e3 * (seconds + 2e-6))
    assert candidate("batched").expected_ms(FC1) == candidate("batched").floor_ms(FC1)


def test_canonical_problems_share_what_costs_the_same() -> None:
    for name in ("dense", "batched"):
        one = candidate(name).canonical(FC1)
        assert one == candidate(name).canonical(replace(FC1, pattern="out-channels", rows=0.3, density=0.1))
        assert one == candidate(name).canonical(replace(FC1, base_included=True))
        assert one != candidate(name).canonical(replace(FC1, tasks=3))
    csr = candidate("csr")
    assert csr.canonical(replace(FC1, tasks=5, base_included=True)) == csr.canonical(FC1)
    rows = candidate("rows")
    assert rows.canonical(replace(FC1, rows=1.0)) == rows.canonical(replace(FC1, rows=1.0, pattern="rows", density=0.2))


@pytest.mark.parametrize("each", CANDIDATES, ids=lambda each: each.name)
def test_canonical_problem_has_the_same_floor_and_form(each: Candidate) -> None:
    for pattern in each.patterns:
        problem = replace(FC1, pattern=pattern, rows=0.3, base_included=True)
        same = each.canonical(problem)
        assert each.canonical(same) == same
        assert each.floor_ms(same) == pytest.approx(each.floor_ms(problem))


def test_source_hash_follows_the_files(tmp_path: Path) -> None:
    hashes = []
    for number, texts in enumerate((("one", "one"), ("two", "one"), ("one", "two"), ("one", "one"))):
        root = tmp_path / str(number)
        (root / "ops").mkdir(parents=True)
        for path, text in zip((root / "ops" / "rows.py", root / "units.py"), texts, strict=True):
            path.write_text(text)
        hashes.append(hash_of(("ops", "units.py"), root))
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3
    assert candidate("out-channels").source_hash() == hash_of(("ops",))
    assert candidate("dense").source_hash() == "library"


@pytest.mark.parametrize("each", CANDIDATES, ids=lambda each: each.name)
def test_every_source_that_is_named_exists(each: Candidate) -> None:
    assert all((Path(candidates_module.__file__).parent / source).exists() for source in each.sources)
