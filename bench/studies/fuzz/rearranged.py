"""Constructs that move channels and pixels about: shuffles, splits, slices, windows, picked pixels, spectra."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.bench.studies.fuzz.blocks import Random, activation, conv, norm, width
from slimtask.bench.studies.fuzz.constructs import entry


class PixelShuffled(nn.Module):
    """Sub-pixel upsampling: four channels become a map of twice the size, pooled back."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.shuffle = conv(r, into, 4 * out), nn.PixelShuffle(2)
        self.pool, self.last = r.choice((nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1))), conv(r, out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the shuffled maps, pooled and convolved."""
        made: Tensor = self.last(self.pool(self.shuffle(self.first(x))))
        return made


class ChannelShuffled(nn.Module):
    """Channels interleaved by PyTorch's own module, read by a plain or a grouped convolution."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        groups = r.choice((2, 4))
        self.first, self.shuffle = entry(r, into, out), nn.ChannelShuffle(groups)
        self.last = conv(r, out, out, groups=r.choice((1, 1, groups)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the interleaved maps, convolved."""
        made: Tensor = self.last(self.shuffle(self.first(x)))
        return made


class HalvesSliced(nn.Module):
    """Two halves of the channels by slicing: scale and shift (FiLM), a gate (GLU), an affine coupling."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.how = entry(r, into, 2 * out), r.choice(("gate", "film", "coupling"))
        self.other, self.last = conv(r, into, out), nn.Conv2d(out, width(r), 1)
        self.width = out if r.random() < 0.5 else None

    def forward(self, x: Tensor) -> Tensor:
        """Return what the halves make, convolved."""
        y = self.first(x)
        half = self.width or y.shape[1] // 2
        a, b = y[:, :half], y[:, half:]
        if self.how == "gate":
            y = a * b.sigmoid()
        elif self.how == "film":
            shift, scale = (F.adaptive_avg_pool2d(t, 1) for t in (a, b))
            y = self.other(x) * (1 + scale) + shift
        else:
            y = a * torch.exp(torch.tanh(b)) + a.flip(-1)
        made: Tensor = self.last(y)
        return made


class SplitByWidth(nn.Module):
    """torch.split with the width of a part kept in an attribute (Res2Net, ELAN, Mamba)."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.parts, self.width = r.choice((2, 4)), out // 2
        self.first = entry(r, into, self.parts * self.width)
        self.steps = nn.ModuleList(conv(r, self.width, self.width) for _ in range(self.parts - 1))
        self.add, self.last = r.random() < 0.5, conv(r, self.parts * self.width, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the parts, each but the first convolved, side by side again and convolved."""
        parts = torch.split(self.first(x), self.width, 1)
        made = [parts[0]]
        for step, part in zip(self.steps, parts[1:], strict=True):
            made.append(step(part + made[-1] if self.add else part))
        maps: Tensor = self.last(torch.cat(made, 1))
        return maps


class SplitBySizes(nn.Module):
    """Parts of unequal sizes written in the code, one of them through a depthwise convolution (InceptionNeXt)."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        small = out // r.choice((2, 4))
        self.sizes = [out - small, small] if r.random() < 0.5 else [small, out - small]
        self.first = entry(r, into, out)
        self.second = conv(r, self.sizes[1], self.sizes[1], groups=self.sizes[1])
        self.last = nn.Sequential(norm(r, out), activation(r, out), nn.Conv2d(out, width(r), 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return both parts side by side, convolved."""
        a, b = torch.split(self.first(x), self.sizes, 1)
        made: Tensor = self.last(torch.cat([a, self.second(b)], 1))
        return made


class ChunkList(nn.Module):
    """A list of chunks that grows (C2f): every new part is convolved from the last one, then all are read."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, count = entry(r, into, 2 * out), r.choice((1, 2))
        self.steps = nn.ModuleList(nn.Sequential(conv(r, out, out), activation(r, out)) for _ in range(count))
        self.last = conv(r, (2 + count) * out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return all parts, convolved."""
        parts = list(self.first(x).chunk(2, 1))
        parts.extend(step(parts[-1]) for step in self.steps)
        made: Tensor = self.last(torch.cat(parts, 1))
        return made


class SlicesWritten(nn.Module):
    """Maps written into slices of a tensor that was made empty or zero."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.second = conv(r, into, out), conv(r, into, out)
        self.out, self.how = out, r.choice(("two", "two", "partial convolution"))
        self.last = conv(r, out if self.how != "two" else 2 * out, width(r))
        self.part = nn.Conv2d(out // 4, out // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the written maps, convolved."""
        a = self.first(x)
        if self.how == "two":
            whole = a.new_zeros(a.shape[0], 2 * self.out, *a.shape[2:])
            whole[:, : self.out], whole[:, self.out :] = a, self.second(x)
        else:
            whole = a.clone()
            whole[:, : self.out // 4] = self.part(a[:, : self.out // 4])
        made: Tensor = self.last(whole)
        return made


class SpaceToDepth(nn.Module):
    """Every two by two pixels become channels, by view and permutation, in one of two orders."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.how = entry(r, into, out), r.choice(("pixels outer", "channels outer"))
        self.last = nn.Conv2d(4 * out, width(r), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reorganised maps, convolved and back at their size."""
        x = self.first(x)
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        n, c, h, w = x.shape
        order = (0, 3, 5, 1, 2, 4) if self.how == "pixels outer" else (0, 1, 3, 5, 2, 4)
        y = x.view(n, c, h // 2, 2, w // 2, 2).permute(*order).reshape(n, 4 * c, h // 2, w // 2)
        return F.interpolate(self.last(y), size=(h, w))


class Unfolded(nn.Module):
    """Neighbourhoods as columns (local attention, involution): their mean, maximum, or a weighted sum."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.how = entry(r, into, out), r.choice(("mean", "max", "weighted"))
        self.weights, self.last = nn.Conv2d(into, 9, 1), conv(r, out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the summarised neighbourhoods, convolved."""
        y = self.first(x)
        n, c, h, w = y.shape
        columns = F.unfold(y, 3, padding=1).view(n, c, 9, h, w)
        if self.how == "weighted":
            seen = F.interpolate(self.weights(x), size=(h, w)).softmax(1)
            made: Tensor = self.last((columns * seen[:, None]).sum(2))
            return made
        made = self.last(columns.mean(2) if self.how == "mean" else columns.amax(2))
        return made


class FixedView(nn.Module):
    """A number of channels that stands in a view in the code, in an attribute or as literal."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.out = entry(r, into, out), out
        self.how = r.choice(("flat", "image", "expand"))
        self.offset, self.last = nn.Parameter(torch.randn(1, out, 1)), conv(r, out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the viewed maps, convolved."""
        y = self.first(x)
        if self.how == "flat":
            y = y.reshape(y.shape[0], self.out, -1).view(y.shape[0], self.out, *y.shape[2:])
        elif self.how == "image":
            y = y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, self.out).transpose(1, 2).reshape_as(y)
        else:
            y = y + self.offset.expand(y.shape[0], self.out, y.shape[2] * y.shape[3]).view_as(y)
        made: Tensor = self.last(y)
        return made


class AssertedWidth(nn.Module):
    """A check of the width in the code."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.dim, self.how = entry(r, into, out), out, r.choice(("assert", "raise", "own"))
        self.last = conv(r, out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps, convolved, if they are as many as they were made."""
        x = self.first(x)
        if self.how == "assert":
            assert x.shape[1] == self.dim, f"{self.dim} channels expected"
        elif self.how == "raise" and x.size(1) != self.dim:
            raise ValueError(f"{self.dim} channels expected, got {x.size(1)}")
        made: Tensor = self.last(x if self.how != "own" else x.narrow(1, 0, self.dim))
        return made


class TopPixels(nn.Module):
    """The pixels of highest score, gathered: which ones depends on values."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.score, self.out = conv(r, into, out), nn.Conv2d(into, 1, 1), out
        self.how, self.count = r.choice(("fixed", "shape", "take_along")), r.choice((3, 5))
        self.last = conv(r, out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps weighted by the mean of the best pixels, convolved."""
        y = self.first(x)
        score = F.interpolate(self.score(x), size=y.shape[2:])
        best = score.flatten(2).topk(self.count).indices
        flat = y.flatten(2)
        if self.how == "take_along":
            picked = torch.take_along_dim(flat, best, 2)
        else:
            picked = flat.gather(2, best.expand(-1, self.out if self.how == "fixed" else y.shape[1], -1))
        made: Tensor = self.last(y * picked.mean(2)[:, :, None, None].tanh())
        return made


class FourierFilter(nn.Module):
    """A filter in the frequency domain (GFNet, AFNO); a learned table fixes the size of the map."""

    sized = True

    def __init__(self, r: Random, into: int, out: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(into, out, 1), conv(r, out, width(r))
        self.filter = nn.Parameter(0.5 * torch.randn(out, size[0], size[1] // 2 + 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the filtered maps, convolved."""
        x = self.first(x)
        y = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.filter)
        made: Tensor = self.last(torch.fft.irfft2(y, s=x.shape[-2:], norm="ortho"))
        return made
