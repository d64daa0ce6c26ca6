"""Constructs of vision networks that work on maps: gates, norms, products, statistics over channels, own kernels.

Here and in the other files of constructs ``first`` is the layer whose output channels the construct works on: whether
they go is what ``fuzz_fates.py`` asks. ``over_channels`` says that a statistic runs over those channels, so that it is
one of the channels that stay once some have gone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.bench.studies.fuzz.blocks import ConvBlock, Random, activation, conv, width


def entry(r: Random, into: int, out: int) -> nn.Module:
    """Return a layer that writes ``out`` channels: a convolution alone, with an activation, or a whole block."""
    kind = r.choice(("plain", "active", "block"))
    if kind == "block":
        return ConvBlock(r, into, out)
    return conv(r, into, out) if kind == "plain" else nn.Sequential(conv(r, into, out), activation(r, out))


class GateFirst(nn.Module):
    """Features times an attention map of one channel, which mostly stands first."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.gate = conv(r, into, out), nn.Sequential(nn.Conv2d(into, 1, 3, padding=1), nn.Softplus())
        self.how = r.choice(("map first", "map first", "map last"))
        self.last = nn.Sequential(activation(r, out), conv(r, out, width(r)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated maps, convolved."""
        maps, gate = self.first(x), self.gate(x)
        made: Tensor = self.last(gate * maps if self.how == "map first" else maps * gate)
        return made


class ScalarFirst(nn.Module):
    """Learned weights of whole maps (BiFPN, cross-stitch units, task uncertainties), the weight first."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.second = conv(r, into, out), conv(r, into, out)
        self.mix = nn.Parameter(torch.rand(2) + 0.2)
        self.how = r.choice(("one", "softmax", "share", "log"))
        self.last = nn.Sequential(activation(r, out), nn.Conv2d(out, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted maps, convolved."""
        a = self.first(x)
        if self.how == "one":
            y = self.mix[0] * a
        elif self.how == "log":
            y = torch.exp(-self.mix[1]) * a
        else:
            mix = self.mix.softmax(0) if self.how == "softmax" else self.mix.relu() / (self.mix.relu().sum() + 1e-4)
            y = mix[0] * a + mix[1] * self.second(x)
        made: Tensor = self.last(y)
        return made


class GroupNormed(nn.Module):
    """GroupNorm of several groups between two convolutions."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.norm = conv(r, into, out), nn.GroupNorm(r.choice((2, 4, 8)), out)
        self.last = nn.Sequential(activation(r, out), conv(r, out, out))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised maps, convolved."""
        made: Tensor = self.last(self.norm(self.first(x)))
        return made


class RmsNormed(nn.Module):
    """RMSNorm over the last axis, as a module or written out with a weight of its own."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.how = nn.Conv2d(into, out, 1), r.choice(("module", "module", "by hand"))
        self.over_channels = self.how == "by hand"
        self.norm = nn.Identity() if self.over_channels else nn.RMSNorm(out, eps=1e-5)
        self.gain = nn.Parameter(torch.rand(out) + 0.5) if self.over_channels else None
        self.act, self.last = activation(r, 1), nn.Linear(out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised maps after a linear layer."""
        x = self.norm(self.first(x).permute(0, 2, 3, 1))
        if self.gain is not None:
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        made: Tensor = self.last(self.act(x.movedim(-1, 1)).movedim(1, -1)).permute(0, 3, 1, 2)
        return made


class DotOfTwo(nn.Module):
    """Embeddings of queries times embeddings of pixels (mask heads): both are computed, nothing else reads them."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        queries, wide = r.choice((4, 6)), width(r)
        self.first, self.query = nn.Conv2d(into, out, 1), nn.Parameter(torch.randn(queries, wide))
        self.embed = nn.Linear(wide, out)
        self.how, self.last = r.choice(("einsum", "matmul")), nn.Conv2d(queries, width(r), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of all queries, convolved."""
        pixels, queries = self.first(x), self.embed(self.query)
        if self.how == "einsum":
            masks = torch.einsum("qc,bchw->bqhw", queries, pixels)
        else:
            masks = (queries @ pixels.flatten(2)).unflatten(2, pixels.shape[2:])
        made: Tensor = self.last(masks / 4)
        return made


class ProductSum(nn.Module):
    """The similarity of two branches, a dot product over channels written as product and sum, weighs a third."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(r, into, out), conv(r, into, out), nn.Conv2d(out, 8, 1)
        self.how, self.last = r.choice(("sum", "einsum")), nn.Conv2d(8, width(r), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the third branch, weighted and convolved."""
        a, b = self.first(x), self.second(x)
        alike = (a * b).sum(1, keepdim=True) if self.how == "sum" else torch.einsum("nchw,nchw->nhw", a, b)[:, None]
        made: Tensor = self.last(torch.tanh(alike) * self.third(a))
        return made


class WeightedTasks(nn.Module):
    """Channels seen as [channels, branches] and weighted across the branches (MTI-Net, SKNet, split attention)."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.branches = r.choice((2, 4))
        self.first, self.how = entry(r, into, out), r.choice(("inner", "outer"))
        self.last = conv(r, out // self.branches, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted sum of the branches, convolved."""
        x = self.first(x)
        n, c, h, w = x.shape
        inner = self.how == "inner"
        sizes = (c // self.branches, self.branches) if inner else (self.branches, c // self.branches)
        x = x.view(n, *sizes, h, w)
        made: Tensor = self.last((x.softmax(1 + inner) * x).sum(1 + inner))
        return made


class InstanceNormed(nn.Module):
    """Every map normalised by its own statistics, without parameters, by function or module."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.how = conv(r, into, out), r.choice(("function", "InstanceNorm2d", "no statistics"))
        kinds = {"InstanceNorm2d": nn.InstanceNorm2d(out), "no statistics": nn.BatchNorm2d(out, affine=False)}
        self.norm = kinds.get(self.how, nn.Identity())
        if isinstance(self.norm, nn.BatchNorm2d):
            self.norm = nn.BatchNorm2d(out, track_running_stats=False)
        self.last = nn.Sequential(activation(r, out), conv(r, out, width(r)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised maps, convolved."""
        x = self.first(x)
        made: Tensor = self.last(F.instance_norm(x) if self.how == "function" else self.norm(x))
        return made


class UnitLength(nn.Module):
    """Every pixel's features of length one (SSD, cosine heads); what is zero adds nothing to the length."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.how = conv(r, into, out), r.choice(("normalize", "norm", "root"))
        self.scale = nn.Parameter(torch.full((out, 1, 1), 3.0))
        self.last = nn.Conv2d(out, width(r), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled unit vectors, convolved."""
        x = self.first(x)
        if self.how == "normalize":
            y = F.normalize(x, dim=1)
        elif self.how == "norm":
            y = x / (x.norm(dim=1, keepdim=True) + 1e-6)
        else:
            y = x * torch.rsqrt((x * x).sum(1, keepdim=True) + 1e-6)
        made: Tensor = self.last(self.scale * y)
        return made


class SpatialGate(nn.Module):
    """Pixels weighted by the mean and the maximum over channels (CBAM)."""

    over_channels = True

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, kernel = entry(r, into, out), r.choice((3, 7))
        self.gate, self.last = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False), conv(r, out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted maps, convolved."""
        x = self.first(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        made: Tensor = self.last(x * self.gate(seen).sigmoid())
        return made


class ResponseNormed(nn.Module):
    """Global response normalisation (ConvNeXt V2), channels first or last."""

    over_channels = True

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.how = entry(r, into, out), r.choice(("first", "last"))
        shape = (1, out, 1, 1) if self.how == "first" else (1, 1, 1, out)
        self.gamma, self.beta = nn.Parameter(torch.rand(shape)), nn.Parameter(0.1 * torch.randn(shape))
        self.last = nn.Conv2d(out, width(r), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps and their normalised selves, convolved."""
        x = self.first(x)
        x = x if self.how == "first" else x.permute(0, 2, 3, 1)
        places, channels = ((2, 3), 1) if self.how == "first" else ((1, 2), 3)
        length = torch.linalg.vector_norm(x, dim=places, keepdim=True)
        x = x + self.gamma * x * (length / (length.mean(channels, keepdim=True) + 1e-6)) + self.beta
        made: Tensor = self.last(x if self.how == "first" else x.permute(0, 3, 1, 2))
        return made
