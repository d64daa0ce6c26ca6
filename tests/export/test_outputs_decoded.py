"""A network that ends in a softmax or sigmoid is not decoded twice: its TaskSpec must say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.errors import InputError
from slimtask.export.exporter import export_bundle
from slimtask.export.runtime.runner import Runner
from slimtask.tasks import Preprocessing, TaskSpec

ENDS: dict[str, tuple[Callable[[Tensor], Tensor], str, int]] = {
    "a softmax": (lambda y: y.mean((2, 3)).softmax(1), "classification", 3),
    "exponentials by hand": (lambda y: F.softmax(y.mean((2, 3)), dim=-1).reshape(1, 3), "classification", 3),
    "a sigmoid": (lambda y: y[:, :1].sigmoid(), "edges", 1),
    "a sigmoid that is resized": (lambda y: F.interpolate(y[:, :1, ::2, ::2].sigmoid(), size=(16, 16)), "saliency", 1),
    "a sigmoid of an image": (lambda y: y.mean((2, 3)).sigmoid(), "multilabel", 3),
}


class Net(nn.Module):
    """A convolution and one of the ends above."""

    def __init__(self, end: Callable[[Tensor], Tensor], kind: Any, channels: int, unit: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tasks = (TaskSpec(name="t", kind=kind, channels=channels, unit=unit),)
        self.c, self.end = nn.Conv2d(3, 3, 1), end

    def forward(self, x: Tensor, tasks: list[str] | None = None) -> dict[str, Tensor]:
        return {"t": self.end(self.c(x))}


@pytest.mark.parametrize("what", ENDS)
def test_it_must_say_so_and_is_decoded_once(what: str, tmp_path: Path) -> None:
    size = Preprocessing(height=16, width=16)
    with pytest.raises(InputError, match=r"ends in a (softmax|sigmoid), so .* set unit: probability"):
        export_bundle(Net(*ENDS[what], "logit"), tmp_path / "b", preprocessing=size)
    assert list(tmp_path.iterdir()) == []
    net = Net(*ENDS[what], "probability")
    with Runner.open(export_bundle(net, tmp_path / "b", preprocessing=size)) as runner:
        image = runner.preprocess(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
        decoded = runner.decode(runner.infer(image))["t"]
    expected = net(torch.tensor(image))["t"][0].squeeze(0).detach().numpy()
    np.testing.assert_allclose(decoded, expected, atol=1e-6)


def test_logits_are_logits_whatever_is_inside(tmp_path: Path) -> None:
    net = Net(lambda y: (y.softmax(1) * y).mean((2, 3)), "classification", 3, "logit")
    assert export_bundle(net, tmp_path / "b", preprocessing=Preprocessing(height=16, width=16)).manifest.parity


def test_a_unit_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="logit or probability, not 'percent'"):
        TaskSpec(name="t", kind="edges", channels=1, unit="percent")
