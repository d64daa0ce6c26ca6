"""Outputs of any structure are compared by structure, shapes, types and finite values."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

from slimtask.bench.studies.zoo_wild.outputs import complaint, tensors

DENSE = {"a": [torch.ones(2, 3), None], "b": (torch.ones(1),)}


def test_equal_structures_have_no_complaint() -> None:
    assert complaint(DENSE, {"a": [torch.zeros(2, 3), None], "b": (torch.zeros(1),)}) == ""
    assert len(tensors(DENSE)) == 2


@pytest.mark.parametrize(
    "smaller",
    [
        {"a": [torch.ones(2, 4), None], "b": (torch.ones(1),)},
        {"a": [torch.ones(2, 3)], "b": (torch.ones(1),)},
        {"a": (torch.ones(2, 3), None), "b": (torch.ones(1),)},
        {"a": [torch.ones(2, 3).double(), None], "b": (torch.ones(1),)},
        {"b": (torch.ones(1),), "a": None},
        OrderedDict(DENSE),
        torch.ones(2, 3),
    ],
)
def test_any_other_structure_is_told(smaller: object) -> None:
    assert complaint(DENSE, smaller).startswith("its outputs are ")


def test_only_outputs_that_were_finite_have_to_be() -> None:
    good, bad = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert complaint([good, good], [good, bad]) == "output 1 is not finite"
    assert complaint([good, bad], [good, bad]) == ""


def test_detectors_may_find_another_number_of_boxes() -> None:
    assert complaint([torch.ones(5, 4)], [torch.ones(3, 4)], counted=False) == ""
    assert complaint([torch.ones(5, 4)], [torch.ones(5, 3)], counted=False) != ""
