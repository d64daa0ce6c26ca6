"""The Delta noun: exact merging, sizes counted by hand, files that are whole or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.compress.structures.delta import Change, Execution
from slimtask.compress.structures.patterns import OutChannels, Unstructured
from slimtask.errors import InputError
from tests.compress.structures.deltas import base_model, make_delta


def test_merging_adds_the_delta_and_nothing_else() -> None:
    model = base_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    delta, dense = make_delta(model)
    merged = dict(delta.merged(model).named_parameters())
    for name, p in model.named_parameters():
        assert torch.equal(merged[name], before[name] + dense[name])
        assert torch.equal(p, before[name])


def test_density_and_size_are_counted_by_hand() -> None:
    delta, _ = make_delta(base_model())
    values, total = 12 + 2 + 12 + 3, 48 + 8 + 48 + 6
    assert delta.density == values / total
    assert delta.densities()["2.bias"] == 0.5
    size = delta.size()
    assert (size.values_bytes, size.index_bytes, size.dense_bytes) == (4 * values, 4 * (2 + 3), 4 * total)
    assert size.ratio == (values + 5) / total


def test_what_does_not_fit_is_refused() -> None:
    model = base_model()
    delta, _ = make_delta(model)
    other = base_model()
    other[0].weight.data[0, 0] += 1
    with pytest.raises(InputError, match="other base weights"):
        delta.merged(other)
    with pytest.raises(InputError, match=r"'0.weight' is \[3, 6\], the delta \[8, 6\]"):
        delta.check(nn.Sequential(nn.Linear(6, 3)))
    with pytest.raises(InputError, match=r"no parameter '0\.weight'"):
        delta.check(nn.Sequential(nn.GELU()))
    with pytest.raises(InputError, match="reuses the base task's activations"):
        make_delta(model, Execution(feed="base"))[0].merged(model)
    with pytest.raises(InputError, match="does not have the pattern 'out-channels'"):
        Change.of(OutChannels(), torch.ones(2, 2), torch.tensor([[True, False], [False, False]]))
    with pytest.raises(InputError, match="holds NaN"):
        Change.of(Unstructured(), torch.tensor([float("nan")]), torch.tensor([True]))
