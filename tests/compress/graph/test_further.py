"""What an example does not reach is found, cut along, and proven there too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.graph.analysis import analyse
from slimtask.compress.pruning import prune
from slimtask.compress.score.budget import Budget

X = torch.zeros(1, 3, 8, 8)


class Switched(nn.Module):
    """Has a second head behind a switch, which may insist on the number of values that it reads."""

    def __init__(self, numbers: int | None = None) -> None:
        super().__init__()
        self.a, self.h, self.aux, self.numbers = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 3, 1), numbers

    def forward(self, x: Tensor, aux: bool = False) -> dict[str, Tensor]:
        """Return the head's output, or that of the second one."""
        y = self.a(x)
        if aux and self.numbers is not None and y[0].numel() // x[0, 0].numel() != self.numbers:
            raise ValueError("another number of channels")
        return {"aux": self.aux(y.relu())} if aux else {"h": self.h(y)}


class Unsure(nn.Module):
    """Runs a second stage on bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.more, self.h = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of one stage or of two."""
        y = self.a(x)
        if x.mean() > 3:
            y = self.more(y.relu())
        made: Tensor = self.h(y)
        return made


class Taught(nn.Module):
    """Has a head for training only, which insists on the number of values that it reads."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.a, self.h, self.aux, self.numbers = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 3, 1), numbers

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the head's output, in training the second one's too."""
        y = self.a(x)
        if self.training and y[0].numel() // x[0, 0].numel() != self.numbers:
            raise ValueError("another number of channels")
        return (self.h(y), self.aux(y)) if self.training else (self.h(y),)


def test_a_switch_is_thrown_and_its_outputs_are_proven() -> None:
    torch.manual_seed(0)
    net = Switched()
    done = prune(net, X, budget=Budget(keep=0.5))
    assert set(done.certificate.tasks) == {"h", "aux"}
    kept = torch.tensor(next(layer.outputs for layer in done.plan.layers if layer.module == "a"))
    x = torch.randn(2, 3, 8, 8)
    by_hand = nn.functional.conv2d(net.a(x).relu()[:, kept], net.aux.weight[:, kept], net.aux.bias)
    assert torch.allclose(done.model(x, aux=True)["aux"], by_hand, atol=1e-6)


def test_a_branch_on_values_is_reached_and_proven_by_an_image_that_takes_it() -> None:
    torch.manual_seed(0)
    net = Unsure()
    done = prune(net, X, budget=Budget(keep=0.5))
    assert (done.model.more.in_channels, done.certificate.unreached) == (4, ())
    kept = {layer.module: torch.tensor(layer.outputs) for layer in done.plan.layers if layer.outputs}
    x = torch.rand(1, 3, 8, 8) + 4
    y = nn.functional.conv2d(net.a(x).relu()[:, kept["a"]], net.more.weight[:, kept["a"]], net.more.bias)
    assert torch.allclose(done.model(x), net.h(_at(y, kept["more"])), atol=1e-5)


def _at(y: Tensor, kept: Tensor) -> Tensor:
    """Return ``y`` with zeros in all channels but ``kept``."""
    return torch.zeros_like(y).index_copy(1, kept, y[:, kept])


@pytest.mark.parametrize("network", [Switched(8), Taught(8)], ids=["a switch", "training"])
def test_code_that_only_another_pass_runs_keeps_what_it_cannot_do_without(network: nn.Module) -> None:
    """The output for the example alone would have been right: only there the smaller network would not run."""
    with pytest.raises(ValueError, match="another number of channels"):
        prune(network, X, budget=Budget(keep=0.5))


def test_what_no_pass_reaches_is_named_in_the_plan_too() -> None:
    net = Switched()
    net.spare = nn.Linear(2, 2)
    done = prune(net, X, budget=Budget(keep=0.5))
    assert done.plan.unreached == done.certificate.unreached == ("spare",)
    assert "not reached, left as it is: spare" in str(done.plan)


def test_inputs_stand_beside_their_tapes() -> None:
    found = analyse(Switched(), X)
    assert [set(tape.outputs) for tape in found.tapes] == [{"h"}, {"aux"}]
    assert found.inputs[1]["aux"] is True
