"""Constructs whose weights are not simply a layer's: own kernels, re-parametrised ones, tied and shared ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.bench.studies.fuzz.blocks import Random, activation, conv, width
from slimtask.bench.studies.fuzz.constructs import entry


class Deformed(nn.Module):
    """A deformable convolution whose offsets, and sometimes weights of points, are convolved from its input."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        from torchvision.ops import DeformConv2d

        super().__init__()
        self.first, self.offset = entry(r, into, out), nn.Conv2d(out, 18, 3, padding=1)
        self.mask = nn.Conv2d(out, 9, 3, padding=1) if r.random() < 0.5 else None
        self.deform, self.last = DeformConv2d(out, out, 3, padding=1), nn.Conv2d(out, width(r), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the deformed maps, convolved."""
        x = self.first(x)
        y = self.deform(x, self.offset(x), None if self.mask is None else self.mask(x).sigmoid())
        made: Tensor = self.last(F.relu(y))
        return made


class WeightNormed(nn.Module):
    """A convolution or a linear layer under weight_norm."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(conv(r, into, out))
        self.act, self.last = activation(r, out), nn.utils.parametrizations.weight_norm(conv(r, out, width(r)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of both convolutions."""
        made: Tensor = self.last(self.act(self.first(x)))
        return made


class _StandardConv(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1 (weight standardisation), written in two ways."""

    by_norm = True

    def forward(self, input: Tensor) -> Tensor:
        rows = self.weight.flatten(1)
        if self.by_norm:
            rows = F.batch_norm(rows[None], None, None, training=True, momentum=0.0, eps=1e-6)[0]
        else:
            rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
        weight = rows.reshape(self.weight.shape)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Standardised(nn.Module):
    """Weight standardisation: the statistics of a filter run over the channels that it reads."""

    over_channels = True

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.middle = entry(r, into, out), _StandardConv(out, width(r), 3, padding=1)
        self.middle.by_norm = r.random() < 0.5
        between = self.middle.out_channels
        self.last = nn.Sequential(nn.BatchNorm2d(between), activation(r, between), nn.Conv2d(between, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of all three convolutions."""
        made: Tensor = self.last(self.middle(self.first(x)))
        return made


class OwnConv(nn.Module):
    """Convolutions of a class of one's own, with a weight and no more."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.subject, self.how = "kernel", r.choice(("alone", "behind a convolution"))
        inner = into if self.how == "alone" else out
        self.first = nn.Identity() if self.how == "alone" else conv(r, into, out)
        self.kernel = nn.Parameter(torch.randn(out, inner, 3, 3) / (3 * inner**0.5))
        self.second = nn.Parameter(torch.randn(out, out, 3, 3) / (3 * out**0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of both kernels."""
        return F.conv2d(F.relu(F.conv2d(self.first(x), self.kernel, padding=1)), self.second, padding=1)


class LowRankKernel(nn.Module):
    """A convolution whose kernel is a product of two matrices, viewed as one."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        rank, self.shape = r.choice((2, 4)), (out, out, 3, 3)
        self.first, self.last = entry(r, into, out), conv(r, out, width(r))
        self.up, self.down = nn.Parameter(torch.randn(out, rank) / 4), nn.Parameter(torch.randn(rank, 9 * out) / 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of the product's kernel, convolved."""
        kernel = (self.up @ self.down).view(self.shape)
        made: Tensor = self.last(F.conv2d(self.first(x), kernel, padding=1).relu())
        return made


class OutArgument(nn.Module):
    """A sum or product written into a tensor that was given as out."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(r, into, out), conv(r, into, out), conv(r, out, width(r))
        self.how = r.choice(("add", "mul", "cat"))
        if self.how == "cat":
            self.last = conv(r, 2 * out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the combined maps, convolved."""
        a, b = self.first(x), self.second(x)
        if torch.is_grad_enabled():  # autograd takes no out
            y = {"add": a + b, "mul": a * b, "cat": torch.cat([a, b], 1)}[self.how]
        elif self.how == "cat":
            y = torch.cat([a, b], 1, out=a.new_empty(a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:]))
        else:
            y = (torch.add if self.how == "add" else torch.mul)(a, b, out=torch.empty_like(a))
        made: Tensor = self.last(y)
        return made


class Tied(nn.Module):
    """Two modules whose parameters are one, on two inputs."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        end = width(r)
        self.first, self.second = (
            nn.Sequential(nn.Conv2d(into, out, 1), nn.ReLU(), nn.Conv2d(out, end, 1)) for _ in range(2)
        )
        self.subject = "first.0"
        for one, two in zip(self.first, self.second, strict=True):
            if isinstance(one, nn.Conv2d) and isinstance(two, nn.Conv2d):
                two.weight, two.bias = one.weight, one.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both."""
        made: Tensor = self.first(x) + self.second(2 * x)
        return made


class TwoNames(nn.Module):
    """One convolution registered under two names, used under both."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        once = conv(r, out, out)
        self.first, self.steps, self.last = entry(r, into, out), nn.ModuleList([once, once]), conv(r, out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps after all."""
        x = self.steps[0](self.first(x)).relu()
        made: Tensor = self.last(self.steps[1](x))
        return made


class TwoInputs(nn.Module):
    """One convolution over two inputs of different origin."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.second = conv(r, into, out), conv(r, into, out)
        self.shared, self.how = (
            nn.Sequential(activation(r, out), conv(r, out, out)),
            r.choice(("sum", "cat", "siamese")),
        )
        self.last = conv(r, 2 * out if self.how == "cat" else out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return what it makes of both."""
        a, b = self.shared(self.first(x)), self.shared(self.second(x))
        made: Tensor = self.last(torch.cat([a, b], 1) if self.how == "cat" else a + b if self.how == "sum" else a - b)
        return made
