"""What the operators' tests share: seeded cases, and the error that a dtype allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

EPSILON = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


@dataclass(frozen=True)
class Case:
    """Random numbers of ``dtype``, and the same in float64 for the definition."""

    dtype: torch.dtype
    generator: np.random.Generator

    def draw(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.generator.standard_normal(shape)).to(self.dtype)

    def close(
        self, actual: Tensor, expected: np.ndarray, magnitude: np.ndarray, terms: int, roundings: int = 1
    ) -> None:
        """Assert that sums of ``terms`` products differ by no more than accumulation and roundings explain.

        ``magnitude`` is the sum of the absolute products. Sums in float32 are off by at most terms * eps32 of it, and
        each rounding of weights or sums to the dtype by half its eps of it; GELU's slope is at most 1.13.
        """
        assert actual.dtype == self.dtype
        wide = EPSILON[torch.float64 if self.dtype == torch.float64 else torch.float32]
        bound = 1.13 * magnitude * (terms * wide + roundings * EPSILON[self.dtype] / 2)
        error = np.abs(actual.double().numpy() - expected)
        assert actual.shape == expected.shape
        assert (error <= bound + 2**-24).all(), f"worst error {error.max()} of {bound.flat[error.argmax()]} allowed"


@pytest.fixture
def case() -> Callable[..., Case]:
    def make(dtype: torch.dtype = torch.float32, seed: int = 0) -> Case:
        return Case(dtype, np.random.default_rng(seed))

    return make


@pytest.fixture
def traces() -> Callable[..., None]:
    """Return a check that opcheck finds nothing wrong with an operator and that it compiles as part of one graph."""

    def check(operator: Callable[..., Tensor], arguments: list[object]) -> None:
        torch.library.opcheck(operator, arguments)
        for backend in ("eager", "aot_eager"):
            torch.compiler.reset()
            compiled = torch.compile(lambda *given: operator(*given) + 1, fullgraph=True, backend=backend)
            torch.testing.assert_close(compiled(*arguments), operator(*arguments) + 1, rtol=0, atol=0)

    return check


@pytest.fixture(params=EPSILON, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param
