"""Looking at a network: it runs apart, without values where it can, and what ends it is one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.network.look import look
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


def test_what_is_done_to_the_network_that_is_seen_is_done_to_nobodys() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def breaks(network: nn.Module, x: Tensor) -> tuple[bool, list[int]]:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        return network.training, list(network(x).shape)

    assert look(model, torch.ones(3, 2), breaks, compute=True) == (False, [3, 2])
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("compute", "seen"), [(False, True), (True, False), (None, True)])
def test_values_are_there_only_if_they_are_asked_for(compute: bool | None, seen: bool) -> None:
    assert look(nn.Linear(2, 2), torch.ones(1, 2), lambda network, x: x.is_meta, compute=compute) == seen


def test_code_that_needs_values_gets_them_unless_they_are_refused() -> None:
    def reads(network: nn.Module, x: Tensor) -> float:
        return float(x.sum())

    assert look(nn.Linear(2, 2), torch.ones(1, 2), reads) == 2.0
    with pytest.raises(InputError, match=r"^Linear does not run on the example input \("):
        look(nn.Linear(2, 2), torch.ones(1, 2), reads, compute=False)
