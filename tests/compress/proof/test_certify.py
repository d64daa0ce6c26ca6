"""The certificate looks at the user's own network: what a copy would hide is seen, what is not defined is told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.compress.network.contents import independent_copy
from slimtask.compress.network.probes import Probes, certificate_inputs
from slimtask.compress.proof.certify import certify
from slimtask.compress.pruning import prune
from slimtask.compress.removal.remove import remove_zeros
from slimtask.compress.score.budget import Budget
from slimtask.errors import CheckFailed, InputError

IMAGE = torch.zeros(1, 3, 16, 16)


class Net(nn.Module):
    """Two convolutions with code at three places between."""

    def __init__(self, **at: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.h, self.at = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), at

    def forward(self, x: Tensor) -> Any:
        y = self.a(self.at.get("start", nn.Identity())(x)).relu()
        return self.at.get("end", nn.Identity())(self.h(self.at.get("middle", nn.Identity())(y)))


def dead(net: Net) -> Net:
    with torch.no_grad():
        net.a.weight[:8] = 0
        net.a.bias[:8] = 0
    return net


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


def test_networks_that_do_not_run_are_a_sentence() -> None:
    class Picky(Net):
        def forward(self, x: Tensor) -> Any:
            assert float(x.abs().max()) == 0, "only zeros"
            return super().forward(x)

    probes = Probes(ordinary=(torch.ones(1, 3, 8, 8),), unit=(torch.ones(1, 3, 8, 8),))
    with pytest.raises(InputError, match=r"Picky does not run on noise .*AssertionError: only zeros"):
        certify(Picky(), Net(), probes)
    with pytest.raises(CheckFailed, match=r"the smaller network does not run .*AssertionError"):
        certify(Net(), Picky(), probes)


def test_networks_that_write_to_their_input_do_not_shrink_the_probes() -> None:
    net = Net(start=lambda x: x.mul_(0))
    probes = certificate_inputs(net, IMAGE)
    assert certify(net, copy.deepcopy(net), probes)
    assert float(probes.ordinary[0].abs().max()) > 1


GLOBAL: dict[str, Any] = {}


def scaled(y: Tensor) -> Tensor:
    scale: Tensor = GLOBAL["net"].scale
    return y * scale


class Reaching(Net):
    def __init__(self) -> None:
        super().__init__(end=scaled)
        self.scale = nn.Parameter(torch.tensor(2.0))


def test_a_copy_that_reaches_a_global_is_refused_by_name() -> None:
    GLOBAL["net"] = net = Reaching()
    with pytest.raises(CheckFailed, match=r"copy of Reaching is not self-contained.*'scale'"):
        certify(net, independent_copy(net), certificate_inputs(net, IMAGE))
    with pytest.raises(CheckFailed, match="not self-contained"):
        remove_zeros(dead(net), IMAGE)
    assert net.scale.item() == 2.0


def test_a_hook_that_closes_over_the_network_is_copied_with_it() -> None:
    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.h = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 2, 1)
            self.kept: dict[str, Tensor] = {}
            self.a.register_forward_hook(lambda module, args, out: self.kept.__setitem__("a", out.detach()))

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x).relu())
            return self.h(torch.cat([self.kept["a"], y], 1))

    net = Hooked().eval()
    with torch.no_grad():
        net.b.weight[:4] = 0
        net.b.bias[:4] = 0
        net(torch.ones(1, 3, 8, 8))
        done = remove_zeros(net, torch.ones(1, 3, 8, 8))
        assert len(done.model.b.weight) == 4
        for _ in range(2):
            x = torch.randn(1, 3, 8, 8)
            torch.testing.assert_close(done.model(x), net(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decided_in_float64(dtype: torch.dtype) -> None:
    done = prune(Net().to(dtype), IMAGE.to(dtype), budget=Budget(keep=0.5))
    assert done.certificate.decided_in == "float64"
    assert done.model.a.weight.dtype == dtype


class Ranked(nn.Module):
    """So many scores that some are equal to all but the last digits of float32; their order is an output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 128, 3)
        self.score, self.value = nn.Conv2d(128, 90, 3), nn.Conv2d(128, 90, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.b(self.a(x).relu()).relu()
        order = self.score(features).flatten(1).argsort(dim=1)
        return order, self.value(features).flatten(1).gather(1, order)


def test_an_order_that_rounding_decides_is_compared_in_float64() -> None:
    net = Ranked()
    image = torch.zeros(1, 3, 24, 24)
    done = prune(net, image, budget=Budget(keep=0.5))
    assert done.model.b.in_channels < 32
    assert done.certificate.decided_in == "float64"
    broken = copy.deepcopy(net)
    broken.value.weight.data[:, 0] *= 1.1
    assert not certify(net, broken, certificate_inputs(net, image))
    turned = copy.deepcopy(net)
    turned.score.bias.data[0] += 1.0
    proof = certify(net, turned, certificate_inputs(net, image))
    assert not proof
    assert proof.differs


def test_further_examples_are_probes_too() -> None:
    probes = certificate_inputs(Net(), IMAGE, also=(torch.zeros(5, 3, 24, 40),))
    assert [tuple(x.shape) for x in probes.ordinary][-1] == (5, 3, 24, 40)
    net = Net()
    assert certify(net, copy.deepcopy(net), probes).sizes == ((16, 16), (8, 8), (24, 40))
