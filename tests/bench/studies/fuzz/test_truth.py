"""Outputs of every kind are compared, and the dense network that ignores what a plan removes is right."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.bench.studies.fuzz.truth import difference, ignore_removed_, kinds, leaves, plainly


@dataclasses.dataclass
class Pair:
    a: Tensor
    b: list[Tensor]


class Holder:
    def __init__(self, tensors: Any) -> None:
        self.tensors = tensors


def outputs(spoil: float = 0.0) -> dict[str, Any]:
    y = torch.tensor([[1.0, -2.0, 4.0]]) + spoil
    return {
        "tensor": y,
        "pair": Pair(y, [2 * y]),
        "object": Holder({"t": y}),
        "space": SimpleNamespace(y=y),
        "set": {y, torch.cat([y, y])},
        "none": None,
        "words": ("a", 3),
    }


def test_containers_of_every_kind_are_gone_into() -> None:
    found = leaves(outputs())
    assert sum(isinstance(leaf, Tensor) for leaf in found.values()) == 7
    assert not difference(outputs(), outputs())
    assert not difference(outputs(), outputs(1e-6))


@pytest.mark.parametrize("part", ["tensor", "pair", "object", "space", "set"])
def test_a_difference_in_any_container_is_seen(part: str) -> None:
    assert difference(outputs(), {**outputs(), part: outputs(0.01)[part]})


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (torch.tensor([True, False]), torch.tensor([True, True])),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (torch.tensor([1.0, -torch.inf]), torch.tensor([-torch.inf, 1.0])),
        (torch.tensor([1.0, -torch.inf]), torch.tensor([1.0, torch.inf])),
        (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 0.0])),
        (torch.zeros(0, 4), torch.zeros(0, 5)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.full((2,), 1e-30)),
        ({"a": 1}, {"a": 2}),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}),
        (torch.ones(1), None),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.001])),
    ],
)
def test_values_of_every_kind_are_compared(one: Any, two: Any) -> None:
    assert difference(one, two)
    assert str(difference(one, two))
    assert not difference(one, copy.deepcopy(one))
    assert not difference(two, copy.deepcopy(two))


def test_kinds_are_those_of_the_elements() -> None:
    assert kinds({"a": torch.ones(1), "b": (torch.tensor([True]), None)}) == {
        "['a']": torch.float32,
        "['b'][0]": torch.bool,
        "['b'][1]": type(None),
    }


def test_chance_is_taken_away_and_given_back() -> None:
    x = torch.ones(100)
    with plainly():
        assert torch.equal(F.dropout(x, 0.5), x)
        assert not bool(torch.randn_like(x).any())
    assert bool(torch.randn_like(x).any())


def plan(layers: dict[str, tuple[Any, Any]], tensors: dict[tuple[str, int], Any] | None = None) -> Any:
    return SimpleNamespace(
        layers=[SimpleNamespace(module=name, outputs=out, inputs=into) for name, (out, into) in layers.items()],
        tensors=[SimpleNamespace(tensor=name, axis=axis, kept=kept) for (name, axis), kept in (tensors or {}).items()],
    )


class Block(nn.Module):
    """A convolution, a norm over its channels, an activation that is not zero at zero, a convolution."""

    def __init__(self, norm: nn.Module, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.of_maps = isinstance(norm, nn.GroupNorm)
        self.a, self.norm, self.b = nn.Conv2d(3, len(channels), 1), norm, nn.Conv2d(len(channels), 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.norm(x) if self.of_maps else self.norm(x.movedim(1, -1)).movedim(-1, 1)
        made: Tensor = self.b(x.sigmoid())
        return made


NORMS: dict[str, tuple[nn.Module, nn.Module, tuple[int, ...]]] = {
    "layer": (nn.LayerNorm(8), nn.LayerNorm(4), (0, 2, 3, 7)),
    "rms": (nn.RMSNorm(8), nn.RMSNorm(4), (0, 2, 3, 7)),
    "one group": (nn.GroupNorm(1, 8), nn.GroupNorm(1, 4), (0, 2, 3, 7)),
    "two groups": (nn.GroupNorm(2, 8), nn.GroupNorm(2, 4), (0, 2, 5, 7)),
    "a group each": (nn.GroupNorm(8, 8), nn.GroupNorm(4, 4), (0, 2, 3, 7)),
}


@pytest.mark.parametrize("kind", NORMS)
def test_the_truth_is_the_network_made_smaller_by_hand(kind: str) -> None:
    torch.manual_seed(0)
    norm, small_norm, kept = NORMS[kind]
    dense, small = Block(norm, tuple(range(8))), Block(small_norm, kept)
    with torch.no_grad():
        norm.weight.normal_()  # type: ignore[operator, union-attr]
        index = list(kept)
        small.a.weight.copy_(dense.a.weight[index])
        small.a.bias.copy_(dense.a.bias[index])  # type: ignore[union-attr, index]
        small.b.weight.copy_(dense.b.weight[:, index])
        small.b.bias.copy_(dense.b.bias)  # type: ignore[union-attr, arg-type]
        small_norm.weight.copy_(norm.weight[index])  # type: ignore[operator, union-attr, index]
    truth = ignore_removed_(copy.deepcopy(dense), plan({"a": (kept, None), "b": (None, kept), "norm": (kept, None)}))
    x = torch.randn(2, 3, 5, 5)
    with plainly():
        assert not difference(small(x), truth(x))
        assert difference(dense(x), truth(x))


def test_tensors_of_own_classes_are_cut_along_their_axis() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.Conv2d(4, 2, 1))
    start = "0.parametrizations.weight.original"
    cuts = plan({"1": (None, (1, 2))}, {(f"{start}0", 0): (1, 2), (f"{start}1", 0): (1, 2), ("0.bias", 0): (1, 2)})
    x, dense = torch.randn(2, 3, 4, 4), copy.deepcopy(net)
    with plainly():
        got = ignore_removed_(net, cuts)(x)
        kept = dense[0](x)[:, 1:3]
        expected = F.conv2d(kept, dense[1].weight[:, 1:3], dense[1].bias)  # type: ignore[index, arg-type]
        assert not difference(expected, got)


def test_a_transposed_convolution_is_read_along_its_first_axis() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.ConvTranspose2d(4, 2, 2))
    dense, x = copy.deepcopy(net), torch.randn(1, 3, 4, 4)
    ignore_removed_(net, plan({"0": ((0, 3), None), "2": (None, (0, 3))}))
    with plainly():
        maps = dense[:2](x)[:, [0, 3]]
        expected = F.conv_transpose2d(maps, dense[2].weight[[0, 3]], dense[2].bias)  # type: ignore[index, arg-type]
        assert not difference(expected, net(x))
