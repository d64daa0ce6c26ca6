"""The certificate looks at the user's own network: what a copy would hide is seen, what is not defined is told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.compress.network.probes import Probes, certificate_inputs
from slimtask.compress.proof.certify import certify
from slimtask.compress.pruning import prune
from slimtask.compress.removal.remove import remove_zeros
from slimtask.compress.score.budget import Budget
from tests.compress.proof.networks import IMAGE, Net, dead

AT: dict[str, dict[str, Callable[[Tensor], Any]]] = {
    "a mask beside logits": {"end": lambda y: {"y": y, "mask": y > 0}},
    "infinity in logits": {"end": lambda y: y.masked_fill(torch.ones(y.shape[-2:]).triu(1).bool(), -float("inf"))},
    "nothing found": {"end": lambda y: {"y": y, "boxes": y.new_zeros(0, 4)}},
    "noise": {"end": lambda y: y + torch.randn_like(y)},
    "dropout that is always on": {"middle": lambda y: F.dropout(y, 0.2)},
    "a root of the image": {"start": lambda x: x**0.45},
    "complex": {"end": lambda y: torch.complex(y, y)},
    "numbers beside": {"end": lambda y: {"y": y, "count": 3, "name": "a"}},
}


@pytest.mark.parametrize("name", AT)
def test_outputs_of_every_kind(name: str) -> None:
    for done in (prune(Net(**AT[name]), IMAGE, budget=Budget(keep=0.5)), remove_zeros(dead(Net(**AT[name])), IMAGE)):
        assert done.certificate.holds
        assert len(done.model.a.weight) == 8
        assert done.certificate.probes == ("unit" if "root" in name else "normal")
        assert bool(done.certificate.random) == (name in ("noise", "dropout that is always on"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y.double(), "it is torch.float64, not torch.float32"),
        (lambda y: y[:, :3], "its shape is"),
        (lambda y: {"other": y}, "only the network before has it"),
        (lambda y: y * 1.1, "1.0e-01"),
        (lambda y: y.masked_fill(y > 0, float("nan")), "infinities or NaN"),
    ],
)
def test_what_differs_is_named(change: Callable[[Tensor], Any], words: str) -> None:
    proof = certify(Net(), Net(end=change), certificate_inputs(Net(), IMAGE))
    assert not proof
    assert words in proof.complaint


def test_a_network_that_is_never_finite_proves_nothing() -> None:
    net = Net(end=lambda y: y * float("nan"))
    proof = certify(net, copy.deepcopy(net), certificate_inputs(net, IMAGE))
    assert not proof
    assert "never gives a finite number" in proof.complaint


EXAMPLE = torch.zeros(1, 3, 64, 64)


def test_a_certificate_is_false_for_nan_and_other_shapes() -> None:
    one, two = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
    two.load_state_dict(one.state_dict())
    ordinary, extreme = Probes(ordinary=(EXAMPLE + 1,)), Probes(ordinary=(EXAMPLE,), extreme=(EXAMPLE + 1,))
    assert certify(one, two, ordinary)
    assert certify(one, two, extreme)
    two.bias.data[0] = float("nan")
    for probes in (ordinary, extreme):
        assert not certify(one, two, probes)
        assert not certify(one, nn.Conv2d(3, 3, 1), probes)
        assert not certify(two, one, probes)  # a reference that is not finite proves nothing
