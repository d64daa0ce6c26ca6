"""The row kernel against the definition in float64, interpreted; on a GPU also compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from slimtask.kernels.layouts import RowLayout
from slimtask.kernels.ref import delta_linear

TASKS, TOKENS, INPUTS, OUTPUTS = 3, 19, 37, 21
SMALL = {"rows": 16, "outputs": 16, "inputs": 16, "warps": 4, "stages": 2}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Inputs of the kernel and what the definition makes of them, with the magnitude of every sum."""

    arrays: dict[str, np.ndarray]
    rows: list[np.ndarray]
    expected: np.ndarray
    magnitude: np.ndarray


def problem(
    rounded: Callable[[np.ndarray, str], np.ndarray],
    dtype: str = "float32",
    *,
    sizes: tuple[int, int, int, int] = (TASKS, TOKENS, INPUTS, OUTPUTS),
    counts: tuple[int, ...] = (5, 0, 9),
    bias: bool = True,
    gelu: bool = False,
    residual: bool = False,
    seed: int = 0,
) -> Problem:
    tasks, tokens, inputs, outputs = sizes
    random = np.random.default_rng(seed)
    draw = lambda *shape: rounded(random.standard_normal(shape), dtype).astype(np.float64)  # noqa: E731
    layout = RowLayout.of([random.choice(tokens, count, replace=False) for count in counts], tokens)
    weights, x_TNK, biases, rest = draw(tasks, outputs, inputs), draw(tasks, tokens, inputs), draw(tasks, outputs), None
    rest = draw(tokens, outputs) if residual else None
    rows = [np.asarray(each) for each in layout.lists()]
    settings = {"bias_M": np.zeros(outputs), "delta_bias_TM": biases if bias else None, "rows": rows}
    x_rows = [x_TNK[task, each] for task, each in enumerate(rows)]
    common = dict(settings, x_rows=x_rows, residual_NM=rest)
    _, expected = delta_linear(draw(tokens, inputs), np.zeros((outputs, inputs)), weights, **common, gelu=gelu)
    sizes_of = np.abs(x_TNK) @ np.abs(weights).swapaxes(1, 2) + (np.abs(biases)[:, None] if bias else 0)
    arrays = {"index_TR": layout.index, "count_T": layout.count, "weight_TMK": weights, "x": x_TNK}
    arrays |= {"bias_TM": biases} if bias else {}
    arrays |= {"residual": rest} if residual else {}
    return Problem(
        arrays=arrays,
        rows=rows,
        expected=expected,
        magnitude=sizes_of + (np.abs(rest) if residual else 0),
    )


def compact(given: Problem) -> dict[str, np.ndarray]:
    """The same inputs with only the changed rows of x, in the order of the index."""
    x = np.take_along_axis(given.arrays["x"], given.arrays["index_TR"][:, :, None].astype(int), axis=1)
    return {**given.arrays, "x": x}


def own_residual() -> np.ndarray:
    return (np.arange(TASKS * TOKENS * OUTPUTS) % 64 - 32.0).reshape(TASKS, TOKENS, OUTPUTS)


MANY = (2, 70, 70, 50)  # several tiles in every direction
CASES: dict[str, dict] = {
    "plain": {"bias": False},
    "whole_epilogue": {"gelu": True, "residual": True},
    "several_tiles": {"sizes": MANY, "counts": (40, 17), "gelu": True, "residual": True},
    "half": {"dtype": "float16", "gelu": True},
    "bf16": {"dtype": "bfloat16", "residual": True},
    "all_rows": {"counts": (TOKENS,) * 3},
}
OVERWRITTEN = 7.0  # what a full output holds before


@pytest.fixture(scope="module")
def problems(rounded) -> dict[str, Problem]:
    return {name: problem(rounded, **settings) for name, settings in CASES.items()}


@pytest.fixture(scope="module")
def results(interpret, launch, problems):
    cases = {}
    for name, given in problems.items():
        settings = CASES[name]
        common = {"kernel": "rows", "dtype": settings.get("dtype", "float32")}
        options = {"gelu": settings.get("gelu", False)}
        tile = SMALL if name == "several_tiles" else None
        shape = given.expected.shape
        full = {**given.arrays, "out_TNM": np.full(shape, OVERWRITTEN)}
        tokens = {"tokens": shape[1]}
        cases[name] = [launch(arrays=given.arrays, options=options, tile=tile, **common)]
        cases[f"{name}_scattered"] = [launch(arrays=full, options=options, tile=tile, **common)]
        packed = options | {"compact": True} | tokens
        cases[f"{name}_compact"] = [launch(arrays=compact(given), options=packed, tile=tile, **common)]
    bf16 = problems["bf16"].arrays
    cases["trap"] = [launch(kernel="rows", dtype="bfloat16", arrays=bf16, tile=SMALL, bare=True)]
    own = {**problems["plain"].arrays, "residual": own_residual()}
    cases["own_residual"] = [launch(kernel="rows", arrays=own)]
    return interpret(cases | refused(problems["plain"].arrays, launch))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["", "_compact"])
def test_changed_rows_equal_the_definition(name: str, form: str, problems, results, bound) -> None:
    given, found = problems[name], results[name + form]
    inputs, dtype = given.arrays["x"].shape[-1], CASES[name].get("dtype", "float32")
    assert any(len(rows) for rows in given.rows)
    for task, rows in enumerate(given.rows):
        expected = given.expected[task, rows]
        allowed = bound(expected, given.magnitude[task, rows], inputs, dtype, interpreted=True)
        assert (np.abs(found[task, : len(rows)] - expected) <= allowed).all()
        if len(rows):  # the padding repeats the last row
            repeated = np.broadcast_to(found[task, len(rows) - 1], found[task, len(rows) :].shape)
            np.testing.assert_allclose(found[task, len(rows) :], repeated, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_scattering_overwrites_the_changed_rows_and_no_other(name: str, problems, results) -> None:
    given, found = problems[name], results[f"{name}_scattered"]
    untouched = np.full(found.shape, OVERWRITTEN, dtype=found.dtype)
    for task, rows in enumerate(given.rows):
        untouched[task, rows] = results[name][task, : len(rows)]
    np.testing.assert_array_equal(found, untouched)


def test_a_residual_of_each_sub_task_is_read_at_the_changed_rows(problems, results) -> None:
    for task, rows in enumerate(problems["plain"].rows):
        plain, added = (results[name][task, : len(rows)] for name in ("plain", "own_residual"))
        np.testing.assert_allclose(added, plain + own_residual()[task, rows], rtol=1e-6, atol=1e-5)


def test_the_interpreter_still_needs_the_cast_of_bf16(problems, results) -> None:
    given = problems["bf16"]
    rows = given.rows[0]
    error = np.abs(results["trap"][0, : len(rows)] - given.expected[0, rows]).max()
    assert not error < 1e3  # once this fails, Triton is mended and the INTERPRETED flag may go


def refused(arrays, launch):
    change = lambda **changes: [launch(kernel="rows", arrays={**arrays, **changes})]  # noqa: E731
    return {
        "refused_weight": change(weight_TMK=arrays["weight_TMK"][:2]),
        "refused_x": change(x=arrays["x"][:, :, 1:]),
        "refused_count": change(count_T=arrays["count_T"][:1]),
        "refused_index": change(index_TR=arrays["index_TR"].astype(np.int64)),
        "refused_budget": change(x=arrays["x"][:, :3]),
        "refused_bias": change(bias_TM=np.zeros((TASKS, OUTPUTS + 1))),
        "refused_dtype": [launch(kernel="rows", arrays=arrays, dtypes={"weight_TMK": "float16"})],
        "refused_double": [launch(kernel="rows", arrays=arrays, dtype="float64")],
        "refused_order": [launch(kernel="rows", arrays={**arrays, "bias_TM": np.zeros((OUTPUTS, TASKS))},
                                 transposed=("bias_TM",))],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("weight", r"^weight has shape \[2, 21, 37\], the other arguments ask for \[3, any, any\]; mend one\.$"),
        ("x", r"^x has shape \[3, 19, 36\], the other arguments ask for \[3, any, 37\]; mend one\.$"),
        ("count", r"^count has shape \[1\], the other arguments ask for \[3\]; mend one\.$"),
        ("index", r"^index is int64 on cpu; give int32 on cpu\.$"),
        ("budget", r"^the row budget is 9 but a sub-task has 3 tokens; pack at most 3 rows$"),
        ("bias", r"^bias has shape \[3, 22\], the other arguments ask for \[3, 21\]; mend one\.$"),
        ("dtype", r"^weight is float16 on cpu but x is float32 on cpu; give both alike\.$"),
        ("double", r"^x is float64; give float32, float16, bfloat16\.$"),
        ("order", r"^bias is not contiguous; call \.contiguous\(\) on it\.$"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(name: str, sentence: str, results) -> None:
    answer = results[f"refused_{name}"]
    assert isinstance(answer, str)
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(answer)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("sizes", [(3, 203, 768, 96), (2, 131, 101, 77)])
def test_the_compiled_kernel_equals_the_definition(dtype: str, sizes, rounded, bound) -> None:
    from slimtask.kernels.triton.rows import launch_rows

    given = problem(rounded, dtype, sizes=sizes, counts=(70, 0, 33)[: sizes[0]], gelu=True, residual=True)
    tensors = {name: torch.from_numpy(array).cuda() for name, array in given.arrays.items()}
    tensors = {n: t.to(getattr(torch, dtype)) if t.is_floating_point() else t for n, t in tensors.items()}
    found = launch_rows(**tensors, gelu=True).double().cpu().numpy()
    for task, rows in enumerate(given.rows):
        expected = given.expected[task, rows]
        allowed = bound(expected, given.magnitude[task, rows], sizes[2], dtype)
        assert (np.abs(found[task, : len(rows)] - expected) <= allowed).all()
