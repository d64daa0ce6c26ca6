"""Inputs of any form reach a network as Python would pass them, and every tensor in them is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from slimtask.compress.network.inputs import batch_size, call, map_tensors, meta_like, tensors_of

A, B = torch.ones(2, 3), torch.zeros(5)


def told(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"), [(A, (A,), {}), ((A, 3), (A, 3), {}), ([A, B], (A, B), {}), ({"x": A}, (), {"x": A})]
)
def test_a_tuple_is_positional_and_a_dictionary_by_name(inputs: Any, args: tuple[Any, ...], kwargs: Any) -> None:
    got = call(told, inputs)
    assert all(one is other for one, other in zip(got[0], args, strict=True))
    assert got[1].keys() == kwargs.keys()


def test_every_tensor_is_mapped_and_what_is_none_stays() -> None:
    inputs = ({"a": A, "n": 3}, [B, ("word", A)])
    found = tensors_of(inputs)
    assert [id(x) for x in found] == [id(A), id(B), id(A)]
    made = map_tensors(lambda x: x + 1, inputs)
    assert made[0]["n"] == 3
    assert made[1][1][0] == "word"
    assert torch.equal(made[1][1][1], A + 1)
    assert torch.equal(A, torch.ones(2, 3))


@pytest.mark.parametrize(("inputs", "size"), [(A, 2), ({"s": torch.tensor(1.0), "x": B}, 5), (3, 1), ((), 1)])
def test_the_batch_is_that_of_the_first_tensor_that_has_one(inputs: Any, size: int) -> None:
    assert batch_size(inputs) == size


def test_a_tensor_without_memory_has_shape_and_type() -> None:
    x: Tensor = meta_like(torch.ones(2, 3, dtype=torch.float16, requires_grad=True))
    assert (x.shape, x.dtype, x.is_meta, x.requires_grad) == ((2, 3), torch.float16, True, False)
