"""The tape: every operation in order, without computing, without touching the network."""

from __future__ import annotations

import torch
from torch import nn

from slimtask.compress.network.trace import record, shared_copy, unused


class Branching(nn.Module):
    """Looks at a value, which no tensor without memory has; has a part that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.aux = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        y = self.first(x)
        if float(y.detach().max()) > 1e9:
            raise AssertionError("never")
        return (y, self.aux(y)) if self.training else y


def test_a_network_that_looks_at_values_is_traced_on_real_ones() -> None:
    model = Branching().eval()
    tape = record(model, torch.zeros(1, 3, 8, 8))
    assert tape.computed
    assert unused(tape, model) == ["aux.weight", "aux.bias"]
    assert unused(record(model, torch.zeros(1, 3, 8, 8), compute=True, training=True), model) == []


def test_a_shared_copy_costs_no_tensors_and_leaves_the_original_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    copied = shared_copy(model)
    assert all(a is b for a, b in zip(model.parameters(), copied.parameters(), strict=True))
    copied[0].weight = nn.Parameter(torch.zeros(1))
    assert model[0].weight.shape == (8, 3, 3, 3)


def test_attention_makes_the_same_calls_with_and_without_values() -> None:
    class Attends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x).softmax(-1)

    tapes = [record(Attends(), torch.zeros(1, 2, 4, 8), compute=compute) for compute in (False, True)]
    assert len({tuple((op.name, op.place) for op in tape.operations) for tape in tapes}) == 1
