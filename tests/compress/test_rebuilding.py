"""From a file back to a network: by its factory alone if it is foreign, ties and versions kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.compress.api.checkpoints import compress_checkpoint
from slimtask.compress.api.how import Prune
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.score.budget import Budget
from slimtask.errors import InputError
from slimtask.train.loading import load


class Tied(nn.Module):
    """Two inputs, and one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out, self.side = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self.inside(x + y).relu()
        return self.two(self.one(self.out(x))), self.side(x)


def test_a_foreign_network_comes_back_by_its_factory_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tied()
    dense = Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="mynet:Tied", arguments={}),
        tasks=(),
        preprocessing=None,
        inputs=((1, 6), (1, 6)),
    )
    smaller, done = compress_checkpoint(dense, Prune(Budget(params=0.9), align=1), factory=Tied)
    smaller.save(tmp_path / "f.safetensors")
    again = Checkpoint.load(tmp_path / "f.safetensors")
    assert (again.inputs, again.preprocessing, again.foreign) == (((1, 6), (1, 6)), None, True)
    with pytest.raises(InputError, match=r"made by 'mynet:Tied'.*--model mynet:Tied.*rebuild\(checkpoint, factory\)"):
        rebuild(again)
    fresh, loaded = rebuild(again, Tied), load(tmp_path / "f.safetensors", Tied)
    assert fresh.one.weight is fresh.two.weight
    x, y = torch.randn(5, 6), torch.randn(5, 6)
    for other in (fresh, loaded):
        assert all(torch.equal(a, b) for a, b in zip(other(x, y), done.model(x, y), strict=True))


class Versioned(nn.Sequential):
    """Asks for the version that its own state dict was saved with, as torchvision's MNASNet does."""

    _version = 2

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version") != 2:
            raise ValueError("version should be 2")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_network_that_asks_for_its_version_is_rebuilt() -> None:
    weights = {name: torch.ones_like(tensor) for name, tensor in Versioned().state_dict().items()}
    checkpoint = Checkpoint(
        weights=weights,
        architecture=Architecture(name="mine:Versioned", arguments={}),
        tasks=(),
        preprocessing=None,
        inputs=((1, 3, 8, 8),),
    )
    assert float(rebuild(checkpoint, Versioned)[0].weight.detach().sum()) == 24
