"""The user's network is the same object with the same contents after every verb, whether it succeeds or refuses."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.budget import Budget
from slimtask.compress.compress import compress
from slimtask.compress.contents import reachable
from slimtask.compress.groups import find_groups
from slimtask.compress.prune import prune
from slimtask.compress.remove import remove_zeros
from slimtask.errors import SlimtaskError

IMAGE = torch.zeros(1, 3, 16, 16)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.h(torch.relu(self.a(x)))
        return out


class CachedGrid(Base):
    def __init__(self) -> None:
        super().__init__()
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.grid is None or self.grid.shape[-1] != y.shape[-1]:
            self.grid = torch.arange(y.shape[-1], dtype=y.dtype, device=y.device)
        return y + self.grid


class Lora(nn.Conv2d):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.more, self.merged = nn.Parameter(torch.ones_like(self.weight)), False

    def train(self, mode: bool = True) -> Lora:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.more.data
            self.merged = not mode
        return self


class WithLora(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a = Lora(3, 16, 3)


class ActNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 16, 1, 1))
        self.register_buffer("ready", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if not self.ready:
            self.scale.data.copy_(1 / (y.std((0, 2, 3), keepdim=True) + 1e-6))
            self.ready.fill_(1)
        out: Tensor = self.h(y * self.scale)
        return out


class RunningMaximum(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("most", torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        self.most.copy_(torch.maximum(self.most, x.abs().max()))
        return super().forward(x / self.most)


class Locked(Base):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Aliased(Base):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.a
        self.layers = [self.a, self.h]


class Hooked(Base):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}
        self.a.register_forward_hook(lambda module, args, out: self.seen.__setitem__("a", out.detach()))


class Memoised(Base):
    def __init__(self) -> None:
        super().__init__()
        self.table = functools.lru_cache(lambda size: torch.arange(size, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.table(x.shape[-1]).to(x.device)


class Refusing(Base):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("always")


NETWORKS: tuple[type[Base], ...] = (
    *(CachedGrid, WithLora, ActNorm, RunningMaximum, Locked, Aliased, Hooked, Memoised, Refusing),
)
VERBS: dict[str, Callable[[nn.Module], Any]] = {
    "prune": lambda net: prune(net, IMAGE, budget=Budget(keep=0.5)),
    "remove_zeros": lambda net: remove_zeros(net, IMAGE),
    "compress": lambda net: compress(net, IMAGE, align=1),
    "find_groups": lambda net: find_groups(net, IMAGE),
}


def snapshot(net: nn.Module) -> list[tuple[int, Any]]:
    """Return every object that the network reaches by identity, with what is in it: values, modes, attributes, keys."""
    found: list[tuple[int, Any]] = []
    for item in reachable(net):
        if isinstance(item, Tensor):
            found.append((id(item), (item.device, item.requires_grad, item._version, item.detach().clone())))
        elif isinstance(item, dict):
            found.append((id(item), [(copy.copy(key), id(value), repr(value)[:80]) for key, value in item.items()]))
        elif isinstance(item, list):
            found.append((id(item), [id(part) for part in item]))
        elif isinstance(item, nn.Module):
            found.append((id(item), item.training))
        elif hasattr(item, "cache_info"):
            found.append((id(item), item.cache_info()))
    return found


def same(one: list[tuple[int, Any]], other: list[tuple[int, Any]]) -> bool:
    if [name for name, _ in one] != [name for name, _ in other]:
        return False
    for (_, a), (_, b) in zip(one, other, strict=True):
        if isinstance(a, tuple) and len(a) == 4 and isinstance(a[3], Tensor):
            if a[:3] != b[:3] or not torch.equal(a[3], b[3]):
                return False
        elif a != b:
            return False
    return True


@pytest.mark.parametrize("kind", NETWORKS)
def test_nothing_changes(kind: type[Base]) -> None:
    torch.manual_seed(0)
    net = kind().train()
    with torch.no_grad():
        net.a.weight[:4] = 0
        net.a.bias[:4] = 0
    net.h.eval()
    for name, verb in VERBS.items():
        before = snapshot(net)
        try:
            done = verb(net)
        except SlimtaskError:
            done = None
        assert same(before, snapshot(net)), name
        if name in ("prune", "remove_zeros") and done is not None:
            mine = {tensor.untyped_storage().data_ptr() for tensor in reachable(net) if isinstance(tensor, Tensor)}
            others = [tensor for tensor in reachable(done.model) if isinstance(tensor, Tensor)]
            assert not any(tensor.untyped_storage().data_ptr() in mine for tensor in others), name
