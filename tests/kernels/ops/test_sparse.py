from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slimtask.kernels import ref
from slimtask.kernels.layouts import BlockLayout, CsrLayout, ValueLayout, VectorLayout
from slimtask.kernels.ops import delta_blocks, delta_csr, delta_vectors, tensors_of

FORMS: dict[str, tuple[Callable[..., Tensor], Callable[[np.ndarray], ValueLayout]]] = {
    "blocks": (delta_blocks, lambda delta: BlockLayout.pack(delta, height=4, width=8)),
    "blocks of 64": (delta_blocks, BlockLayout.pack),
    "vectors": (delta_vectors, lambda delta: VectorLayout.pack(delta, height=4)),
    "csr": (delta_csr, CsrLayout.pack),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> tuple[Callable[..., Tensor], Callable[[np.ndarray], ValueLayout]]:
    return FORMS[request.param]


def sparse(delta: Tensor, empty: bool = True) -> np.ndarray:
    """Keep a few rectangles of a delta; the last task keeps nothing."""
    kept = torch.zeros_like(delta)
    kept[0, :4, :9], kept[0, -1, -1] = 1, 1
    kept[-1, 2::5, ::3] = 1
    if empty:
        kept[-1] = 0
    return (delta * kept).double().numpy()


def packed(pack: Callable[[np.ndarray], ValueLayout], delta: np.ndarray, dtype: torch.dtype) -> list[Tensor]:
    arrays = tensors_of(pack(delta))
    return [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in arrays.values()]


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(3, 7, 10, 21), (1, 1, 5, 8), (2, 5, 67, 70)])
def test_operators_are_the_definition(
    form: Any, dtype: torch.dtype, gelu: bool, shape: tuple[int, int, int, int], case: Any
) -> None:
    operator, pack = form
    tasks, tokens, outputs, inputs = shape
    drawn = case(dtype)
    x, weight = drawn.draw(tokens, inputs), drawn.draw(outputs, inputs)
    delta = sparse(drawn.draw(tasks, outputs, inputs), empty=tasks > 1)
    bias, delta_bias = drawn.draw(outputs), drawn.draw(tasks, outputs)
    residual = drawn.draw(tokens, outputs) if gelu else None
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    base = torch.nn.functional.linear(x.to(wide), weight.to(wide), bias.to(wide))
    y = operator(*packed(pack, delta, dtype), x, base, delta_bias, residual, gelu)
    exact = [tensor.double().numpy() for tensor in (x, weight, bias, delta_bias)]
    _, expected = ref.delta_linear(
        exact[0],
        exact[1],
        delta,
        bias_M=exact[2],
        delta_bias_TM=exact[3],
        gelu=gelu,
        residual_NM=None if residual is None else residual.double().numpy(),
    )
    magnitude = np.abs(exact[0]) @ (np.abs(exact[1]) + np.abs(delta)).swapaxes(1, 2)
    magnitude = magnitude + np.abs(exact[2]) + np.abs(exact[3])[:, None]
    magnitude += 0 if residual is None else residual.double().abs().numpy()
    drawn.close(y, expected, magnitude, terms=2 * inputs + 4)


def test_without_the_rest_it_is_base_and_delta(form: Any, case: Any) -> None:
    operator, pack = form
    drawn = case(torch.float64)
    x, base, delta = drawn.draw(4, 9), drawn.draw(4, 6), sparse(drawn.draw(2, 6, 9))
    y = operator(*packed(pack, delta, torch.float64), x, base)
    torch.testing.assert_close(y, base + x @ torch.from_numpy(delta).transpose(1, 2), rtol=1e-13, atol=1e-13)


def test_a_delta_of_nothing_is_the_base(form: Any, case: Any) -> None:
    operator, pack = form
    drawn = case()
    x, base = drawn.draw(4, 9), drawn.draw(4, 6)
    y = operator(*packed(pack, np.zeros((3, 6, 9)), torch.float32), x, base)
    torch.testing.assert_close(y, base.expand(3, 4, 6), rtol=0, atol=0)


def test_no_tokens_make_no_outputs(form: Any, case: Any) -> None:
    operator, pack = form
    drawn = case()
    arrays = packed(pack, sparse(drawn.draw(2, 6, 9)), torch.float32)
    assert operator(*arrays, drawn.draw(0, 9), drawn.draw(0, 6)).shape == (2, 0, 6)


def test_a_base_in_half_precision_is_taken(form: Any, case: Any) -> None:
    operator, pack = form
    drawn = case(torch.bfloat16)
    x, base, delta = drawn.draw(4, 9), drawn.draw(4, 6), sparse(drawn.draw(2, 6, 9))
    y = operator(*packed(pack, delta, torch.bfloat16), x, base)
    expected = (base.double() + x.double() @ torch.from_numpy(delta).transpose(1, 2)).to(torch.bfloat16)
    torch.testing.assert_close(y, expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("name", ["blocks", "vectors", "csr"])
def test_opcheck_and_compile_are_clean(name: str, case: Any, traces: Any) -> None:
    operator, pack = FORMS[name]
    drawn = case()
    arguments = [*packed(pack, sparse(drawn.draw(2, 6, 9)), torch.float32), drawn.draw(4, 9), drawn.draw(4, 6)]
    traces(operator, [*arguments, drawn.draw(2, 6), drawn.draw(4, 6), True])


def test_operators_have_names_for_graphs(case: Any) -> None:
    drawn = case()
    arrays = tensors_of(CsrLayout.pack(np.ones((1, 6, 9), np.float32)))
    x, base = drawn.draw(4, 9), drawn.draw(4, 6)
    y = torch.ops.slimtask.delta_csr(**arrays, x=x, base=base, gelu=True)
    expected = torch.nn.functional.gelu(base + x.sum(1, keepdim=True))
    torch.testing.assert_close(y, expected[None])


def wrong(name: str, **change: Any) -> None:
    drawn = torch.Generator().manual_seed(0)
    operator, pack = FORMS[name]
    arrays = tensors_of(pack(np.ones((2, 6, 9), np.float32)))
    given = {"x": torch.randn(4, 9, generator=drawn), "base": torch.randn(4, 6, generator=drawn), **arrays}
    operator(**{**given, **change})


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("csr", {"x": torch.ones(4, 9).long()}, "x is int64; give float64"),
        ("csr", {"value": torch.ones(108).half()}, "value is float16 on cpu but x is float32"),
        ("csr", {"base": torch.ones(4, 6).half()}, "base is float16 on cpu but x is float32"),
        ("csr", {"base": torch.ones(4, 7)}, "start has 13 entries, not one more than a multiple of 7"),
        ("csr", {"base": torch.ones(3, 6)}, r"base has shape \[3, 6\], the other arguments ask for \[4, any\]"),
        ("csr", {"x": torch.ones(4, 8)}, "column holds an index beyond 0 to 7"),
        ("csr", {"column": torch.zeros(108)}, "column is float32 on cpu; give int32"),
        ("csr", {"start": torch.zeros(13).int()}, "start does not rise from 0 to 108"),
        (
            "csr",
            {"delta_bias": torch.ones(3, 6)},
            r"delta_bias has shape \[3, 6\], the other arguments ask for \[2, 6\]",
        ),
        ("csr", {"residual": torch.ones(4, 5)}, r"residual has shape \[4, 5\]"),
        ("blocks", {"x": torch.ones(4, 8)}, "column holds an index beyond 0 to 0"),
        ("blocks", {"start": torch.tensor([0, 3, 2, 6, 8]).int()}, "start does not rise"),
        ("blocks", {"value": torch.ones(7, 4, 8)}, r"value has shape \[7, 4, 8\]"),
        ("vectors", {"base": torch.ones(4, 9)}, "column has 2 lists of 4 outputs, base 9 outputs"),
        ("vectors", {"x": torch.ones(4, 8)}, "column holds an index beyond 0 to 7"),
        ("vectors", {"column": torch.zeros(2, 6).int()}, r"column has shape \[2, 6\]"),
    ],
)
def test_what_does_not_fit_is_one_sentence(name: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong(name, **change)
