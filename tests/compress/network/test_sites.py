"""The calls that tell or take sizes: which they are, and whose code makes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from slimtask.compress.network.sites import KINDS, Passes, kind_of_call, plain
from slimtask.compress.network.tape import Site
from slimtask.compress.network.trace import record

X = torch.zeros(2, 8, 4, 4)


class Kinds(TorchFunctionMode):
    """Notes the kind of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.append(kind_of_call(func))
        return func(*args, **(kwargs or {}))


CALLS = {
    "shape": [lambda x: x.shape, lambda x: x.size(), lambda x: x.size(1)],
    "view": [lambda x: x.view(-1), lambda x: torch.reshape(x, (-1,)), lambda x: x.unflatten(1, (2, 4))],
    "split": [lambda x: x.split(2, 1), lambda x: torch.chunk(x, 2, 1), lambda x: x.tensor_split(2)],
    "index": [lambda x: x[:, :2], lambda x: x.narrow(1, 0, 2), lambda x: x.__setitem__((0, 0), 1.0)],
    "factory": [lambda x: torch.zeros(3), lambda x: x.new_ones(3), lambda x: torch.arange(3)],
    "norm": [lambda x: F.layer_norm(x, (4,)), lambda x: F.rms_norm(x, (4,))],
    "groups": [lambda x: F.group_norm(x, 2), lambda x: F.conv2d(x, x.mT, groups=1)],
    "pad": [lambda x: F.pad(x, (1, 1))],
    "": [lambda x: x + 1, lambda x: x.ndim, lambda x: x.mT, lambda x: x.flatten(1), lambda x: x.numel()],
}  # fmt: skip


@pytest.mark.parametrize("kind", CALLS)
def test_every_kind_of_call_is_known(kind: str) -> None:
    for call in CALLS[kind]:
        with Kinds() as kinds:
            call(X.clone())
        assert kind in {found for found, _ in kinds.found}


def test_a_name_is_of_one_kind() -> None:
    names = [name for names in KINDS.values() for name in names]
    assert len(names) == len(set(names))


class Inner(nn.Module):
    """Views what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, flat."""
        return x.reshape(len(x), -1)


class Outer(nn.Module):
    """Calls a module, a helper, and a hook that looks at shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.twice = Inner(), nn.ModuleList([Inner()])
        self.inner.register_forward_hook(lambda module, args, output: output.view(output.shape))

    def helper(self, x: Tensor) -> Tensor:
        """Return half of the channels, a generator and a comprehension between."""
        return sum(part for part in [x[:, i : i + 2] for i in (0, 2)]) + x.new_zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return something of each."""
        y = self.helper(x)
        return self.inner(y) + self.twice[0](y) + self.inner(y)


def sites(network: nn.Module, x: Tensor) -> list[Site]:
    return record(network, x, compute=False).sites


def test_calls_belong_to_the_module_whose_code_makes_them_and_hooks_to_none() -> None:
    found = sites(Outer(), X)
    assert [(site.module, site.function) for site in found] == [
        ("", "__getitem__"), ("", "__getitem__"), ("", "new_zeros"),
        ("inner", "reshape"), ("twice.0", "reshape"), ("inner", "reshape"),
    ]  # fmt: skip


def test_a_call_is_noted_with_what_it_reads_and_makes() -> None:
    site = sites(Inner(), X)[0]
    assert site.kind == "view"
    assert site.source is not None
    assert site.source.shape == (2, 8, 4, 4)
    assert site.arguments[-1] == -1
    assert [output.shape for output in site.outputs] == [(2, 128)]


def test_the_same_call_of_a_second_pass_is_told_from_another_call() -> None:
    inner = [site for site in sites(Outer(), X) if site.module == "inner"]
    assert inner[0].at == inner[1].at
    halves = [site for site in sites(Outer(), X) if site.function == "__getitem__"]
    assert halves[0].at != halves[1].at


def test_passes_follow_the_innermost_module_and_count_apart() -> None:
    network = nn.Sequential(nn.Sequential(nn.Identity()), nn.Identity())
    passes, seen = Passes(network), list[tuple[str, int]]()
    for module in network.modules():
        module.register_forward_pre_hook(lambda m, x: seen.append((passes.module, passes.count("a"))))
    with passes.followed():
        network(X)
        network[1](X)
    assert seen == [("", 0), ("0", 0), ("0.0", 0), ("1", 0), ("1", 0)]
    assert passes.module == ""
    network[1](X)
    assert seen[-1] == ("", 0)  # no longer followed


def test_what_a_process_cannot_hand_over_becomes_its_name() -> None:
    assert plain(slice(1, None)) == slice(1, None)
    assert plain(torch.float32) is torch.float32
    assert plain(Inner) == str(Inner)
    assert isinstance(plain(object()), str)
