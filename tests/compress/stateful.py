"""Networks that change when they are run, switched, moved or copied carelessly; each maps [N, 3, 16, 16] to tasks."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """A trunk, a residual block, and the heads of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), Residual(8)
        self.a, self.b = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return both tasks' outputs."""
        y = self.features(x)
        return {"a": self.a(y), "b": self.b(y)}

    def features(self, x: Tensor) -> Tensor:
        """Return what the heads read."""
        return self.block(self.stem(x).relu())


class Residual(nn.Module):
    """``x + F(x)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(width, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return x + self.two(self.norm(self.one(x)).relu())


class CachedGrid(Plain):
    """Keeps a grid, and anchors by size, as long as the map has the size that they were made for."""

    def __init__(self) -> None:
        super().__init__()
        self.grid: Tensor | None = None
        self.anchors: dict[int, Tensor] = {}

    def features(self, x: Tensor) -> Tensor:
        y = super().features(x)
        if self.grid is None or self.grid.shape[-1] != y.shape[-1]:
            self.grid = torch.arange(y.shape[-1], dtype=y.dtype, device=y.device)
        self.anchors.setdefault(y.shape[-1], torch.ones(y.shape[-1], device=y.device))
        return y + self.grid + self.anchors[y.shape[-1]]


class Warm(CachedGrid):
    """The same, after the user has run it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self(torch.zeros(1, 3, 16, 16))


class LoRA(nn.Conv2d):
    """Merges its update into its weight on ``eval()``, as loralib's layers do."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))
        self.merged = False

    def train(self, mode: bool = True) -> LoRA:
        """Merge for evaluation, and take it back for training."""
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.up @ self.down)[:, :, None, None]
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution with the update."""
        weight = self.weight if self.merged else self.weight + (self.up @ self.down)[:, :, None, None]
        return nn.functional.conv2d(x, weight, self.bias)


class Merging(Plain):
    """In training, with a layer that merges."""

    def __init__(self) -> None:
        super().__init__()
        self.lora = LoRA(8, 8)
        self.train()

    def features(self, x: Tensor) -> Tensor:
        return self.lora(super().features(x))


class ActNorm(nn.Module):
    """Scales by what the first batch looked like (Glow)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.ones(1, channels, 1, 1)) for _ in range(2))
        self.register_buffer("ready", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled map."""
        if not self.ready:
            with torch.no_grad():
                self.shift.copy_(-x.mean((0, 2, 3), keepdim=True))
                self.scale.copy_(1 / (x.std((0, 2, 3), keepdim=True) + 1e-6))
                self.ready.fill_(1)
        return self.scale * (x + self.shift)


class FirstBatch(Plain):
    """Initialises itself on the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.act = ActNorm(8)

    def features(self, x: Tensor) -> Tensor:
        return self.act(super().features(x))


class Maximum(Plain):
    """Keeps the running maximum of its input, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("highest", torch.tensor(3.0))

    def features(self, x: Tensor) -> Tensor:
        self.highest.copy_(torch.maximum(self.highest, x.abs().max() + 4))
        return super().features(x / self.highest)


class Frozen(Plain):
    """In training, but for a BatchNorm that is frozen in eval mode and parts without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.train()
        self.block.norm.eval()
        self.stem.requires_grad_(False)
        self(torch.randn(2, 3, 16, 16))["a"].sum().backward()


class Alias(nn.Module):
    """A module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Plain()
        self.backbone, self.stem = self.model.block, self.model.stem

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the network inside."""
        return self.model(x)


class Stored:
    """An object that is no module and holds tensors."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = [torch.zeros(2)]


class Hooked(Plain):
    """Catches features by a hook that closes over the network, into a dictionary and into an object."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}
        self.stored = Stored()

        def keep(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            self.seen["stem"] = output.detach()
            self.stored.kept.append(output.detach())

        self.stem.register_forward_hook(keep)

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + self.seen["stem"].mean()


class Locked(Plain):
    """Holds a lock."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def features(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().features(x)


@functools.lru_cache
def index(size: int) -> Tensor:
    """Return 0 .. size - 1, made once for each size."""
    return torch.arange(size)


class Indexed(Plain):
    """Reads its map by an index that is kept beside it."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x)[..., index(x.shape[-1]).to(x.device)]


class Memoised(Plain):
    """Reads a table that a function of its own makes once for each size."""

    def __init__(self) -> None:
        super().__init__()
        self.table = functools.lru_cache(lambda size: torch.arange(size, dtype=torch.float32))

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + self.table(x.shape[-1]).to(x.device)


class Everything(Frozen, Warm, Hooked, Merging, Maximum, Locked, Indexed, Memoised):
    """One on top of the other, in training, with modules twice; it can be followed without values."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.block
        self.layers = [self.stem, self.block]


class OnValues(Frozen, Warm, Hooked, FirstBatch, Maximum, Locked, Memoised):
    """One on top of the other, in training, before its first batch, which it asks for: only values say what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.act.ready.zero_()


class Broken(CachedGrid):
    """Changes itself, then fails."""

    def features(self, x: Tensor) -> Tensor:
        super().features(x)
        self.anchors[-1] = x
        raise KeyError("features")


class Closed(CachedGrid):
    """Nothing of it may be removed: its outputs are its only convolution's."""

    def __init__(self) -> None:
        super().__init__()
        del self.block, self.b
        self.stem, self.a = nn.Conv2d(3, 4, 1), nn.Identity()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.stem(x)
        self.anchors[y.shape[-1]] = y.detach()
        return {"a": self.a(y)}


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    made.__name__: made
    for made in (CachedGrid, Warm, Merging, FirstBatch, Maximum, Frozen, Alias, Hooked, Locked, Indexed, Memoised)
}
