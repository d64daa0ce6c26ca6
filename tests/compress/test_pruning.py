"""Pruning by score: the lowest go, the budget holds on the network that was really cut, and what may not go stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from slimtask.compress.pruning import prune
from slimtask.compress.score.budget import Budget
from slimtask.compress.score.cost import count_flops, count_parameters
from slimtask.errors import InputError
from slimtask.train.models import MultiTaskNet

EXAMPLE = torch.zeros(1, 3, 32, 32)


class Stack(nn.Sequential):
    """Two convolutions and a linear layer; channel c of the first has norm c + 1, of the second the reverse."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip
        torch.manual_seed(0)
        for layer, order in ((self[0], range(8)), (self[2], reversed(range(8)))):
            for channel, size in zip(range(8), order, strict=True):
                filter_ = layer.weight.data[channel]
                filter_.copy_(nn.functional.normalize(torch.randn_like(filter_).flatten(), dim=0).view_as(filter_))
                filter_ *= 10.0 * (size + 1)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_weakest_filters_go(scope: str) -> None:
    model = Stack()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = prune(model, EXAMPLE, budget=Budget(keep=0.5), scope=scope)
    kept = {layer.module: layer.outputs for layer in done.plan.layers if layer.outputs}
    assert kept == {"0": (4, 5, 6, 7), "2": (0, 1, 2, 3)}
    assert done.certificate
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_smaller_network_is_the_masked_one() -> None:
    model = Stack()
    done = prune(model, EXAMPLE, budget=Budget(keep=0.5))
    with torch.no_grad():
        for layer, gone in ((model[0], slice(0, 4)), (model[2], slice(4, 8))):
            layer.weight[gone], layer.bias[gone] = 0, 0
        x = torch.randn(2, 3, 20, 24)
        assert torch.allclose(model(x), done.model(x), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "what"),
    [("resnet18", "flops")],
)
def test_the_budget_holds_on_the_network_that_was_cut(what: str, name: str) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=7).eval()
    count: Callable[[nn.Module], int] = count_parameters if what == "params" else lambda m: count_flops(m, EXAMPLE)
    done = prune(model, EXAMPLE, budget=Budget(**{what: 0.5}))
    assert 0.47 * count(model) < count(done.model) <= 0.5 * count(model)
    exact = prune(model, EXAMPLE, budget=Budget(**{what: 0.8 * count(model)}), align=8)
    assert 0.7 * count(model) < count(exact.model) <= 0.8 * count(model)
    assert exact.certificate.max_rel_error <= 1e-5


@pytest.mark.slow
def test_tasks_vote(small_net: Callable[..., MultiTaskNet]) -> None:
    model = small_net()

    def loss(net: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        return {name: output.square().mean() for name, output in net(batch).items()}

    batches = [torch.randn(2, 3, 32, 32)]
    kept = {}
    for vote in ("all", "mean", None):
        done = prune(
            model, EXAMPLE, budget=Budget(keep=0.6), criterion="taylor", calibration=batches, loss=loss, vote=vote
        )
        cuts = done.plan.groups
        assert sum(cut.after for cut in cuts) <= 0.6 * sum(cut.before for cut in cuts)
        kept[vote] = str(done.plan)
    assert len(set(kept.values())) == 3
    with pytest.raises(InputError, match="tasks can vote only by"):
        prune(model, EXAMPLE, budget=Budget(keep=0.5), criterion="l2", vote="all")


class Reshapes(nn.Module):
    """Its second convolution's channels cannot go: a number in the code says how many they are."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(x).relu()).mean(dim=(2, 3))
        return self.head(x.sort(dim=1).values.view(len(x), 2, 6).sum(dim=1))


def test_what_the_code_needs_stays_and_the_others_give_the_more() -> None:
    torch.manual_seed(0)
    model = Reshapes()
    done = prune(model, EXAMPLE, budget=Budget(params=0.6))
    assert done.model.two.out_channels == 12
    assert count_parameters(done.model) <= 0.6 * count_parameters(model)
    assert any(refusal.group == "two" for refusal in done.certificate.refused)


def test_nothing_prunable_is_a_loud_error_with_the_reasons() -> None:
    with pytest.raises(InputError, match=r"0 of 4 channels may be removed .*fixed because: .*output 'output' \(0\)"):
        prune(nn.Sequential(nn.Conv2d(3, 4, 3)), EXAMPLE, budget=Budget(keep=0.5))


def test_budgets_that_cannot_be() -> None:
    with pytest.raises(InputError, match="met by the network as it is"):
        prune(Stack(), EXAMPLE, budget=Budget(keep=1.0))
    with pytest.raises(InputError, match="smallest network possible has"):
        prune(Stack(), EXAMPLE, budget=Budget(params=1e-6))
    with pytest.raises(InputError, match="did you mean 'taylor'"):
        prune(Stack(), EXAMPLE, budget=Budget(keep=0.5), criterion="tailor")
    with pytest.raises(InputError, match="needs calibration batches and a loss"):
        prune(Stack(), EXAMPLE, budget=Budget(keep=0.5), criterion="taylor")
    with pytest.raises(InputError, match=r"does not run on the example input"):
        prune(Stack(), torch.zeros(1, 5, 8, 8), budget=Budget(keep=0.5))
    with pytest.raises(InputError, match="on 'meta'"):
        prune(Stack().to("meta"), EXAMPLE, budget=Budget(keep=0.5))
