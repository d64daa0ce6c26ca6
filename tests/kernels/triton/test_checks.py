"""What is refused before a launch, where no launch is needed to see it; shapes and dtypes: beside each kernel."""

from __future__ import annotations

import pytest
import torch

from slimtask.kernels.triton import checks


def test_offsets_beyond_32_bits_are_refused() -> None:
    checks.sizes(2**31 - 1)
    with pytest.raises(
        ValueError, match=r"^one tensor of a sub-task has 2147483648 elements; a launch takes fewer than"
    ):
        checks.sizes(5, 2**31)


def test_a_cpu_tensor_is_refused_where_kernels_are_compiled() -> None:
    with pytest.raises(ValueError, match=r"^x is on cpu, where Triton kernels do not run; move it to a CUDA device$"):
        checks.sm(torch.zeros(1))


def test_float32_is_never_multiplied_as_tf32() -> None:
    assert checks.precision(torch.float32) == "ieee"


def test_the_rows_of_compact_inputs_are_counted_where_something_tells() -> None:
    """N comes from the output or the residual; else rows are at least as many as the budget."""
    index, count = torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, dtype=torch.int32)
    weight, x = torch.zeros(2, 4, 5), torch.zeros(2, 3, 5)

    def tokens(residual: torch.Tensor | None = None, out: torch.Tensor | None = None, given: int | None = None) -> int:
        return checks.rows(index, count, weight, x, None, residual, out, compact=True, tokens=given)

    assert tokens() == 3
    assert tokens(given=7) == 7
    assert tokens(residual=torch.zeros(9, 4)) == 9
    assert tokens(out=torch.zeros(2, 8, 4)) == 8
    with pytest.raises(
        ValueError, match=r"^out has shape \[2, 8, 4\], the other arguments ask for \[2, 9, 4\]; mend one\.$"
    ):
        tokens(out=torch.zeros(2, 8, 4), given=9)
