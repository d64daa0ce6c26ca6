"""The block kernel against the definition in float64, interpreted; on a GPU also compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from slimtask.kernels.layouts import BlockLayout, RowLayout
from slimtask.kernels.ref import delta_linear

TASKS, TOKENS, INPUTS, OUTPUTS = 3, 37, 41, 35


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Inputs of the kernel and what the definition makes of them, with the magnitude of every sum."""

    arrays: dict[str, np.ndarray]
    weight: np.ndarray
    delta: np.ndarray
    expected: np.ndarray
    magnitude: np.ndarray


def problem(
    rounded: Callable[[np.ndarray, str], np.ndarray],
    dtype: str = "float32",
    *,
    sizes: tuple[int, int, int, int] = (TASKS, TOKENS, INPUTS, OUTPUTS),
    block: int = 16,
    chance: float = 0.4,
    bias: bool = False,
    gelu: bool = False,
    residual: bool = False,
    seed: int = 0,
) -> Problem:
    tasks, tokens, inputs, outputs = sizes
    random = np.random.default_rng(seed)
    draw = lambda *shape: rounded(random.standard_normal(shape), dtype).astype(np.float64)  # noqa: E731
    kept = random.random((tasks, -(-outputs // block), -(-inputs // block))) < chance
    kept[1] = False  # a sub-task without a block
    mask = kept.repeat(block, axis=1).repeat(block, axis=2)[:, :outputs, :inputs]
    x, weight, delta = draw(tokens, inputs), draw(outputs, inputs), draw(tasks, outputs, inputs) * mask
    biases, rest = draw(tasks, outputs) if bias else None, draw(tokens, outputs) if residual else None
    common = {"bias_M": np.zeros(outputs), "delta_bias_TM": biases, "residual_NM": rest}
    _, expected = delta_linear(x, weight, delta, **common, gelu=gelu)
    layout = BlockLayout.pack(delta, height=block, width=block)
    arrays = {"start": layout.start, "column": layout.column, "value": layout.value}
    arrays |= {"x_NK": x, "base_NM": (x @ weight.T).astype(np.float32)}
    arrays |= {"delta_bias_TM": biases} if bias else {}
    arrays |= {"residual_NM": rest} if residual else {}
    magnitude = np.abs(x) @ np.abs(weight).T + np.abs(x) @ np.abs(delta).swapaxes(1, 2)
    magnitude += (np.abs(biases)[:, None] if bias else 0) + (np.abs(rest) if residual else 0)
    return Problem(arrays=arrays, weight=weight, delta=delta, expected=expected, magnitude=magnitude)


CASES: dict[str, dict] = {
    "plain": {},
    "whole_epilogue": {"bias": True, "gelu": True, "residual": True},
    "no_blocks": {"chance": 0.0, "bias": True, "gelu": True},
    "all_blocks": {"chance": 1.0},
    "wide": {"block": 64, "sizes": (2, 130, 100, 70), "residual": True},
    "half": {"dtype": "float16", "gelu": True, "bias": True},
    "bf16": {"dtype": "bfloat16", "residual": True},
}


@pytest.fixture(scope="module")
def problems(rounded) -> dict[str, Problem]:
    return {name: problem(rounded, **settings) for name, settings in CASES.items()}


@pytest.fixture(scope="module")
def overwriting(problems, rounded, launch):
    """A block launch whose changed rows a row launch overwrites: both launches and what the definition says."""
    given, random = problems["plain"], np.random.default_rng(1)
    layout = RowLayout.of([random.choice(TOKENS, count, replace=False) for count in (4, 7, 0)], TOKENS)
    rows = [np.asarray(each) for each in layout.lists()]
    own = rounded(random.standard_normal((TASKS, TOKENS, INPUTS)), "float32").astype(np.float64)
    x_rows = [own[task, each] for task, each in enumerate(rows)]
    merged = rounded(given.weight + given.delta, "float32").astype(np.float64)
    _, expected = delta_linear(given.arrays["x_NK"], given.weight, merged - given.weight, rows=rows, x_rows=x_rows)
    arrays = {"index_TR": layout.index, "count_T": layout.count, "weight_TMK": merged, "x": own}
    blocks = launch(kernel="blocks", arrays=given.arrays, dtypes={"base_NM": "float32"}, options={"tasks": TASKS})
    return [blocks, launch(kernel="rows", arrays=arrays, overwrites=True)], expected


@pytest.fixture(scope="module")
def results(interpret, launch, problems, overwriting):
    cases = {}
    for name, given in problems.items():
        dtype = CASES[name].get("dtype", "float32")
        options = {"tasks": len(given.delta), "gelu": CASES[name].get("gelu", False)}
        cases[name] = [
            launch(kernel="blocks", dtype=dtype, dtypes={"base_NM": "float32"}, arrays=given.arrays, options=options)
        ]
    cases["overwritten"] = overwriting[0]
    return interpret(cases | refused(problems["plain"].arrays, launch))


@pytest.mark.parametrize("name", CASES)
def test_every_sub_task_equals_the_definition(name: str, problems, results, bound) -> None:
    given, dtype = problems[name], CASES[name].get("dtype", "float32")
    terms = given.delta.shape[-1]
    allowed = bound(given.expected, given.magnitude, terms, dtype, interpreted=True)
    assert results[name].shape == given.expected.shape
    assert (np.abs(results[name] - given.expected) <= allowed).all()


def test_the_row_kernel_after_it_overwrites_what_changed(results, overwriting) -> None:
    np.testing.assert_allclose(results["overwritten"], overwriting[1], atol=1e-4)


def refused(arrays, launch):
    def change(tasks: int = TASKS, **changes: np.ndarray):
        return [launch(kernel="blocks", arrays={**arrays, **changes}, options={"tasks": tasks})]

    return {
        "refused_tasks": change(tasks=2),
        "refused_base": change(base_NM=arrays["base_NM"][1:]),
        "refused_column": change(column=arrays["column"][1:]),
        "refused_start": change(start=arrays["start"].astype(np.int64)),
        "refused_side": change(value=arrays["value"][:, :, :12]),
        "refused_residual": change(residual_NM=np.zeros((TOKENS, 1))),
        "refused_double": [
            launch(kernel="blocks", arrays=arrays, dtypes={"base_NM": "float64"}, options={"tasks": TASKS})
        ],
    }


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tasks", r"^start has shape \[10\], the other arguments ask for \[7\]; mend one\.$"),
        ("base", r"^base has shape \[36, 35\], the other arguments ask for \[37, any\]; mend one\.$"),
        ("column", r"^column has shape \[\d+\], the other arguments ask for \[\d+\]; mend one\.$"),
        ("start", r"^start is int64 on cpu; give int32 on cpu\.$"),
        ("side", r"^blocks are 16 x 12, but both sides must be powers of two from 16; pack in such blocks$"),
        ("residual", r"^residual has shape \[37, 1\], the other arguments ask for \[37, 35\]; mend one\.$"),
        ("double", r"^base is float64 on cpu; give a contiguous float tensor on cpu$"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(name: str, sentence: str, results) -> None:
    answer = results[f"refused_{name}"]
    assert isinstance(answer, str)
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(answer)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("sizes", [(3, 203, 768, 192), (2, 131, 101, 77)])
def test_the_compiled_kernel_equals_the_definition(dtype: str, sizes, rounded, bound) -> None:
    from slimtask.kernels.triton.blocks import launch_blocks

    given = problem(rounded, dtype, sizes=sizes, block=64, bias=True, gelu=True, residual=True)
    tensors = {name: torch.from_numpy(array).cuda() for name, array in given.arrays.items()}
    rounds = {n for n, t in tensors.items() if t.is_floating_point() and n != "base_NM"}
    tensors = {n: t.to(getattr(torch, dtype)) if n in rounds else t for n, t in tensors.items()}
    found = launch_blocks(**tensors, tasks=sizes[0], gelu=True).double().cpu().numpy()
    allowed = bound(given.expected, given.magnitude, sizes[2], dtype)
    assert (np.abs(found - given.expected) <= allowed).all()
