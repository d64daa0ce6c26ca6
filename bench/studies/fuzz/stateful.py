"""Constructs that keep something: caches, hooks, counters, merged weights; and those that go by chance or value.

A network that is taken apart must be left as it was, and the smaller one must keep a state of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.bench.studies.fuzz.blocks import ConvBlock, Random, activation, conv, width
from slimtask.bench.studies.fuzz.constructs import entry

IMAGE = 3  # channels of the image, which only a network's first block reads


@lru_cache
def _reversed(count: int) -> Tensor:
    return torch.arange(count).flip(0)


class CachedGrid(nn.Module):
    """Places computed at the first call and kept: as attribute (YOLO's anchors), in a dictionary, or in a list."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.last = entry(r, into, out), conv(r, out, width(r))
        self.how = r.choice(("attribute", "dictionary", "list"))
        self.grid: Tensor | None = None
        self.grids: dict[int, Tensor] = {}
        self.steps: list[Tensor] = [torch.zeros(1)] if self.how == "list" else []

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved maps plus the place of each column."""
        y: Tensor = self.last(self.first(x))
        count = y.shape[-1]
        if self.how == "attribute":
            if self.grid is None or self.grid.shape[-1] != count:
                self.grid = torch.arange(count, dtype=y.dtype, device=y.device) / count
            return y + self.grid
        if self.how == "dictionary":
            if count not in self.grids:
                self.grids[count] = torch.linspace(-1, 1, count, device=y.device)
            return y + self.grids[count]
        if self.steps[-1].shape[-1] != count:
            self.steps.append(torch.arange(count, device=y.device) % 2)
        return y * (1 + self.steps[-1])


class SizeKept(nn.Module):
    """An attribute set from the input's size at every call (the window of Swin)."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.last, self.window = entry(r, into, out), conv(r, out, width(r)), r.choice((4, 64))
        self.table = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved maps with a table repeated over them."""
        y: Tensor = self.last(self.first(x))
        self.window = min(self.window, *y.shape[2:])
        part = self.table[: self.window, : self.window]
        times = [-(-size // part.shape[0]) for size in y.shape[2:]]
        return y + part.repeat(*times)[: y.shape[2], : y.shape[3]]


class LruIndex(nn.Module):
    """An index behind functools.lru_cache: what is cached during a trace, everybody gets."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        _reversed.cache_clear()
        self.first, self.last = entry(r, into, out), conv(r, out, width(r))
        self.table = nn.Parameter(torch.randn(64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved maps plus a table read backwards."""
        y: Tensor = self.last(self.first(x))
        return y + self.table[_reversed(y.shape[-1])]


class _Merging(nn.Linear):
    """A linear layer with a low-rank update that eval() merges into the weight and train() takes out again."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(into, out)
        self.down, self.up = nn.Parameter(0.3 * torch.randn(2, into)), nn.Parameter(0.3 * torch.randn(out, 2))
        self.merged = False

    def train(self, mode: bool = True) -> _Merging:
        """Merge or part, then return the layer."""
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.up @ self.down).detach()
            self.merged = not mode
        return self

    def forward(self, input: Tensor) -> Tensor:
        """Return the updated layer's output."""
        weight = self.weight if self.merged else self.weight + self.up @ self.down
        return F.linear(input, weight, self.bias)


class LowRankUpdate(nn.Module):
    """Two linear layers with updates as LoRA's, over the last axis."""

    subject = "up"

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, hidden = nn.Conv2d(into, out, 1), width(r)
        self.up, self.act, self.down = _Merging(out, hidden), nn.GELU(), _Merging(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps after both."""
        made: Tensor = self.down(self.act(self.up(self.first(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return made


class DataInitialised(nn.Module):
    """Scale and shift taken from the first batch it sees (ActNorm of Glow)."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.last = conv(r, into, out), nn.Sequential(activation(r, out), conv(r, out, width(r)))
        self.scale, self.shift = nn.Parameter(torch.ones(1, out, 1, 1)), nn.Parameter(torch.zeros(1, out, 1, 1))
        self.register_buffer("ready", torch.tensor(r.choice((0, 0, 1))))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled maps, convolved."""
        x = self.first(x)
        if not self.ready:
            with torch.no_grad():
                self.shift.copy_(-x.mean((0, 2, 3), True))
                self.scale.copy_(1 / (x.std((0, 2, 3), keepdim=True) + 1e-2))
                self.get_buffer("ready").fill_(1)
        made: Tensor = self.last(self.scale * (x + self.shift))
        return made


class RunningMaximum(nn.Module):
    """Maps over the largest value seen so far, which every call updates, in eval mode too."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.last, self.how = conv(r, into, out), conv(r, out, width(r)), r.choice(("copy", "new", "count"))
        self.register_buffer("highest", torch.tensor(r.choice((0.0, 3.0))))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the divided maps, convolved."""
        x = self.first(x)
        highest = torch.maximum(self.get_buffer("highest"), x.abs().max())
        if self.how == "new":
            self.highest = highest.detach()
        else:
            self.get_buffer("highest").copy_(highest.detach())
        if self.how == "count":
            self.get_buffer("calls").add_(1)
        made: Tensor = self.last(x / (highest + 1e-6))
        return made


class HookOverSelf(nn.Module):
    """Features caught by a forward hook that closes over the module."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.second = conv(r, into, out), conv(r, out, out)
        self.found: dict[str, Tensor] = {}
        self.how = r.choice(("only", "beside", "detached"))
        detach = self.how == "detached"
        self.first.register_forward_hook(
            lambda module, args, output: self.found.__setitem__("a", output.detach() if detach else output)
        )
        self.last = conv(r, out if self.how == "only" else 2 * out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return what was caught, convolved, alone or beside what followed."""
        y = self.second(self.first(x).relu())
        made: Tensor = self.last(self.found["a"].relu() if self.how == "only" else torch.cat([self.found["a"], y], 1))
        return made


class HookOverStore(nn.Module):
    """Features caught by a hook that closes over a dictionary or a list of the module (MiDaS, DPT)."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.second = entry(r, into, out), conv(r, out, out)
        self.caught: dict[str, Tensor] = {}
        caught = self.caught

        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            caught["1"] = output

        self.first.register_forward_hook(hook)
        self.last = conv(r, 2 * out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return what was caught and what followed, convolved."""
        y = self.second(self.first(x).relu())
        made: Tensor = self.last(torch.cat([self.caught["1"], y], 1))
        return made


class Locked(nn.Module):
    """A lock, a function and a generator as attributes: what cannot be copied."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.last = entry(r, into, out), conv(r, out, width(r))
        self.how = r.choice(("lock", "generator"))
        self.lock = threading.Lock() if self.how == "lock" else None
        self.places = (number for number in range(10)) if self.how == "generator" else None
        self.scale: Callable[[Tensor], Tensor] = lambda x: 0.5 * x

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps, computed by one thread at a time."""
        if self.lock is None:
            made: Tensor = self.last(self.scale(self.first(x)))
            return made
        with self.lock:
            made = self.last(self.scale(self.first(x)))
        return made


class Chance(nn.Module):
    """Noise added to the maps, or a dropout that eval() does not switch off."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.last = entry(r, into, out), conv(r, out, width(r))
        self.how = r.choice(("noise before", "noise behind", "dropout", "dropped maps"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the disturbed maps."""
        x = self.first(x)
        if self.how == "noise before":
            x = x + 0.1 * torch.randn_like(x)
        elif self.how != "noise behind":
            x = F.dropout(x, 0.2) if self.how == "dropout" else F.dropout2d(x, 0.2)
        y: Tensor = self.last(x)
        return y + 0.1 * torch.randn_like(y) if self.how == "noise behind" else y


class Unsure(nn.Module):
    """A second stage that runs only if the image is bright: the example may not reach it."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        if into != IMAGE:
            raise ValueError("only the first block sees the image")
        self.first, self.second_stage, self.last = conv(r, into, out), conv(r, out, out), ConvBlock(r, out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of one stage or two."""
        y = self.first(x)
        if x.mean() > 1:
            y = self.second_stage(y.relu())
        made: Tensor = self.last(y)
        return made
