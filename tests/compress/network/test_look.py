"""Looking at a network: it runs apart, without values where it can, and what ends it is one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimtask.compress.network.trace import record
from slimtask.errors import InputError


def test_nothing_is_computed_and_modes_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).train()
    model[1].eval()
    before = model[1].running_mean.clone()
    record(model, torch.full((1, 3, 8, 8), float("nan")))
    assert torch.equal(model[1].running_mean, before)
    assert (model.training, model[1].training) == (True, False)


def test_an_input_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(InputError, match="Conv2d does not run on the example input"):
        record(nn.Conv2d(3, 8, 3), torch.zeros(1, 4, 8, 8))
