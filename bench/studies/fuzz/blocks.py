"""The pieces that fuzzed networks are made of: what is common in vision networks, and how people really write it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Random = random.Random
ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Sigmoid,
    nn.LeakyReLU,
    nn.Identity,
)


def width(r: Random) -> int:
    """Return a number of channels, a multiple of 8 so that groups, heads and shuffles always divide it."""
    return r.choice((8, 16, 16, 24, 32, 48))


def activation(r: Random, channels: int) -> nn.Module:
    """Return a random activation; PReLU has one slope or one per channel."""
    if r.random() < 0.15:
        return nn.PReLU(r.choice((1, channels)))
    return r.choice(ACTIVATIONS)()


def norm(r: Random, channels: int) -> nn.Module:
    """Return a random normalisation over maps, most often BatchNorm, sometimes none."""
    kind = r.choice(("batch", "batch", "batch", "batch", "plain batch", "group", "instance", "none"))
    if kind == "group":
        return nn.GroupNorm(r.choice((1, 2, 4, channels)), channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=r.random() < 0.5)
    if kind == "none":
        return nn.Identity()
    return nn.BatchNorm2d(channels, affine=kind == "batch")


def conv(r: Random, into: int, out: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size of maps (up to its stride): any kernel, dilation, padding mode, bias."""
    kernel, dilation = r.choice(((1, 1), (3, 1), (3, 1), (3, 2), (5, 1)))
    mode: Any = r.choice(("zeros", "zeros", "zeros", "reflect", "replicate"))
    padding: Any = dilation * (kernel // 2)
    if stride == 1 and mode == "zeros" and r.random() < 0.2:
        padding = "same"
    return nn.Conv2d(into, out, kernel, stride, padding, dilation, groups, bias=r.random() < 0.5, padding_mode=mode)


class ConvBlock(nn.Sequential):
    """Convolution, norm, activation; sometimes with a stride, sometimes without padding."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        first = conv(r, into, out, stride=r.choice((1, 1, 2)))
        if r.random() < 0.2:
            first = nn.Conv2d(into, out, 2, bias=r.random() < 0.5)
        super().__init__(first, norm(r, out), activation(r, out))


class Depthwise(nn.Sequential):
    """Depthwise convolution with a multiplier of 1 or 2 and a pointwise one, each with norm and activation."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        middle = into * r.choice((1, 1, 2))
        super().__init__(
            conv(r, into, middle, stride=r.choice((1, 1, 2)), groups=into),
            norm(r, middle),
            activation(r, middle),
            nn.Conv2d(middle, out, 1, bias=r.random() < 0.5),
            norm(r, out),
            activation(r, out),
        )


class Grouped(nn.Sequential):
    """Grouped convolution of 2 or 4 groups between two plain ones."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        first = width(r)
        second = first * r.choice((1, 2))
        super().__init__(
            ConvBlock(r, into, first),
            conv(r, first, second, groups=r.choice((2, 4))),
            norm(r, second),
            activation(r, second),
            nn.Conv2d(second, out, 1),
        )


class Transposed(nn.Sequential):
    """Transposed convolution that doubles the map, pooled back."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        groups = r.choice((1, 1, 1, 2))
        super().__init__(
            nn.ConvTranspose2d(into, out, r.choice((2, 4)), 2, groups=groups, bias=r.random() < 0.5),
            norm(r, out),
            activation(r, out),
            nn.MaxPool2d(2),
        )


class Residual(nn.Module):
    """A sum of a body and its input, projected where widths differ; the activation may work in place."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        middle = width(r)
        self.body = nn.Sequential(
            conv(r, into, middle), norm(r, middle), activation(r, middle), conv(r, middle, out), norm(r, out)
        )
        self.project = nn.Identity() if into == out else nn.Conv2d(into, out, 1, bias=False)
        self.act, self.in_place = activation(r, out), r.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        """Return act(body(x) + x)."""
        y = self.body(x)
        if self.in_place:
            y += self.project(x)
            made: Tensor = self.act(y)
            return made
        made = self.act(self.project(x) + y)
        return made


class Concat(nn.Module):
    """Branches side by side, sometimes with the input itself, read by one convolution."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        widths = [width(r) for _ in range(r.choice((2, 3)))]
        self.branches = nn.ModuleList(nn.Sequential(conv(r, into, w), norm(r, w), activation(r, w)) for w in widths)
        self.keep_input = r.random() < 0.5
        total = sum(widths) + into * self.keep_input
        self.last = nn.Sequential(norm(r, total), activation(r, total), conv(r, total, out))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of all branches."""
        parts = [branch(x) for branch in self.branches]
        made: Tensor = self.last(torch.cat([*parts, x] if self.keep_input else parts, dim=1))
        return made


class SqueezeExcite(nn.Module):
    """Channels weighted by a function of their means."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = ConvBlock(r, into, out)
        linear = r.random() < 0.4
        make: Any = nn.Linear if linear else lambda a, b: nn.Conv2d(a, b, 1)
        self.linear, self.gates = linear, nn.Sequential(make(out, 8), nn.ReLU(), make(8, out), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted channels."""
        x = self.first(x)
        mean = x.mean((2, 3)) if self.linear else F.adaptive_avg_pool2d(x, 1)
        gates = self.gates(mean)
        made: Tensor = x * (gates[:, :, None, None] if self.linear else gates)
        return made


class Gated(nn.Module):
    """GLU: one half of the channels gates the other."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv(r, into, 2 * out), norm(r, 2 * out))
        self.how = r.choice(("chunk", "glu", "slices"))
        self.last = nn.Conv2d(out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated channels, mixed."""
        x = self.first(x)
        if self.how == "glu":
            made: Tensor = self.last(F.glu(x, dim=1))
            return made
        half = x.shape[1] // 2
        a, b = x.chunk(2, dim=1) if self.how == "chunk" else (x[:, :half], x[:, half:])
        made = self.last(a * b.sigmoid())
        return made


class Shuffle(nn.Module):
    """ShuffleNet: one half passes, the other is convolved, and the channels are interleaved."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = ConvBlock(r, into, out)
        half = out // 2
        self.branch = nn.Sequential(conv(r, half, half), norm(r, half), activation(r, half))
        self.last = ConvBlock(r, out, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the shuffled channels, convolved."""
        a, b = self.first(x).chunk(2, dim=1)
        x = torch.cat([a, self.branch(b)], dim=1)
        n, c, h, w = x.shape
        made: Tensor = self.last(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))
        return made


class Pooled(nn.Module):
    """A pooling of any kind between two convolutions, or a coarse branch that is resized and added."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.last = ConvBlock(r, into, out), conv(r, out, out)
        self.pool = r.choice(
            (
                nn.MaxPool2d(3, 2, 1),
                nn.AvgPool2d(3, 2, 1),
                nn.AvgPool2d(3, 1, 1, count_include_pad=False),
                nn.AvgPool2d(2, 2, ceil_mode=True),
                nn.LPPool2d(2, 2),
                nn.Upsample(scale_factor=0.5, mode="bilinear"),
                nn.ZeroPad2d((0, 1, 0, 1)),
                nn.ReflectionPad2d(1),
            )
        )
        self.add, self.mode = r.random() < 0.5, r.choice(("nearest", "bilinear"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled maps."""
        x = self.first(x)
        y = self.pool(x)
        if self.add:
            y = x + F.interpolate(y, size=x.shape[-2:], mode=self.mode)
        made: Tensor = self.last(y)
        return made
