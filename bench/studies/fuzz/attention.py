"""Constructs over tokens: attention as people write it out, positions, recurrence.

``subject`` names the layer whose output channels the construct works on, where that is not ``first``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.bench.studies.fuzz.blocks import Random, width


def tokens_of(maps: Tensor) -> Tensor:
    """Return maps [n, c, h, w] as tokens [n, h * w, c]."""
    return maps.flatten(2).transpose(1, 2)


def maps_of(tokens: Tensor, like: Tensor) -> Tensor:
    """Return tokens as maps of the height and width of ``like``."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *like.shape[2:])


class _Attention(nn.Module):
    """Projection, norm, attention by a subclass, residual sum."""

    subject = "qkv"

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.heads = r.choice((2, 4))
        self.head_dim = out // self.heads
        self.first = nn.Conv2d(into, out, 1)
        self.norm = nn.LayerNorm(out) if r.random() < 0.7 else nn.Identity()
        self.residual = r.random() < 0.8

    def attend(self, x: Tensor) -> Tensor:
        """Return tokens [n, length, c] attended over, [n, length, c']."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended maps."""
        x = self.first(x)
        tokens = tokens_of(x)
        y = self.attend(self.norm(tokens))
        return maps_of(y + tokens if self.residual else y, x)


class HandAttention(_Attention):
    """Queries, keys and values of one linear layer; the sizes come from shapes, attributes, or are inferred."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__(r, into, out)
        self.qkv, self.project = nn.Linear(out, 3 * out, bias=r.random() < 0.7), nn.Linear(out, out)
        self.how, self.fused = r.choice(("shapes", "attributes", "inferred")), r.random() < 0.5

    def attend(self, x: Tensor) -> Tensor:
        """Return the tokens attended over."""
        n, length, c = x.shape
        heads = -1 if self.how == "inferred" else self.heads
        wide = c // self.heads if self.how == "shapes" else self.head_dim
        q, k, v = self.qkv(x).reshape(n, length, 3, heads, wide).permute(2, 0, 3, 1, 4)
        fused = F.scaled_dot_product_attention
        y = fused(q, k, v) if self.fused else torch.softmax(q @ k.mT * wide**-0.5, -1) @ v
        back = {"shapes": c, "attributes": self.heads * self.head_dim, "inferred": -1}[self.how]
        made: Tensor = self.project(y.transpose(1, 2).reshape(n, length, back))
        return made


class Rotary(_Attention):
    """Rotary positions: queries and keys are turned by halves inside each head."""

    subject = "q"
    sized = True

    def __init__(self, r: Random, into: int, out: int, size: tuple[int, int]) -> None:
        super().__init__(r, into, out)
        self.q, self.k, self.v, self.project = (nn.Linear(out, out) for _ in range(4))
        angles = torch.rand(size[0] * size[1], self.head_dim // 2).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=r.random() < 0.5)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def attend(self, x: Tensor) -> Tensor:
        """Return the tokens attended over."""
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self._turned(q), self._turned(k), v)
        made: Tensor = self.project(y.transpose(1, 2).flatten(2))
        return made

    def _turned(self, x: Tensor) -> Tensor:
        half = self.head_dim // 2
        cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class SplitInHeads(_Attention):
    """Queries, keys and wider values split by sizes inside each head (LeViT, EfficientFormer)."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__(r, into, out)
        self.ratio = r.choice((1, 2))
        self.sizes = [self.head_dim, self.head_dim, self.ratio * self.head_dim]
        self.qkv, self.project = nn.Linear(out, self.heads * sum(self.sizes)), nn.Linear(self.ratio * out, out)

    def attend(self, x: Tensor) -> Tensor:
        """Return the tokens attended over."""
        parts = self.qkv(x).unflatten(-1, (-1, sum(self.sizes))).split(self.sizes, -1)
        q, k, v = (part.transpose(1, 2) for part in parts)
        y = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1) @ v
        made: Tensor = self.project(y.transpose(1, 2).flatten(2))
        return made


class GroupedQueries(_Attention):
    """Keys and values shared by several query heads, repeated for them."""

    subject = "q"

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__(r, into, out)
        self.shared = r.choice((1, self.heads // 2))
        self.q, self.project = nn.Linear(out, out), nn.Linear(out, out)
        self.k, self.v = (nn.Linear(out, self.shared * self.head_dim) for _ in range(2))

    def attend(self, x: Tensor) -> Tensor:
        """Return the tokens attended over."""
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(self.heads // self.shared, 1) for t in (k, v))
        made: Tensor = self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return made


class SingleHead(nn.Module):
    """Attention of one head (first stages of PVT and SegFormer, non-local blocks): any channel may go alone."""

    subject = "q"

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        narrow = r.choice((8, out))
        self.first, self.q, self.k = nn.Conv2d(into, out, 1), nn.Conv2d(out, narrow, 1), nn.Conv2d(out, narrow, 1)
        self.v, self.gamma = nn.Conv2d(out, out, 1), nn.Parameter(torch.tensor([0.7]))
        self.how = r.choice(("bmm", "matmul"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps and what they attend to."""
        x = self.first(x)
        n, c, h, w = x.shape
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        if self.how == "bmm":
            weights = torch.bmm(q.permute(0, 2, 1), k).softmax(-1)
            y: Tensor = self.gamma * torch.bmm(v, weights.permute(0, 2, 1)).view(n, c, h, w)
        else:
            y = ((q.mT @ k).softmax(-1) @ v.mT).mT.reshape(n, -1, h, w)
        return y + x


class SineTable(nn.Module):
    """Positions as sines, made for a fixed width at every call, added to normalised or raw tokens."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.dim, self.how = nn.Conv2d(into, out, 1), out, r.choice(("interleaved", "halves"))
        self.norm = nn.LayerNorm(out) if r.random() < 0.6 else nn.Identity()
        self.last = nn.Linear(out, width(r))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps with positions after a linear layer."""
        x = self.first(x)
        tokens = tokens_of(x)
        places = torch.arange(tokens.shape[1], device=x.device)[:, None]
        rates = 100.0 ** (-torch.arange(self.dim // 2, device=x.device) / self.dim)
        if self.how == "halves":
            table = torch.cat([(places * rates).sin(), (places * rates).cos()], 1)
        else:
            table = torch.stack([(places * rates).sin(), (places * rates).cos()], 2).flatten(1)
        return maps_of(self.last(self.norm(tokens + table)), x)


class Recurrent(nn.Module):
    """An LSTM or GRU along the rows of maps whose columns are averaged; what it says is added to the maps."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, hidden, self.how = nn.Conv2d(into, out, 1), width(r), r.choice(("LSTM", "GRU"))
        self.both = r.random() < 0.5
        make = nn.LSTM if self.how == "LSTM" else nn.GRU
        self.memory = make(out, hidden, batch_first=True, bidirectional=self.both)
        self.last = nn.Linear(hidden * (1 + self.both), out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps plus what was read along them."""
        x = self.first(x)
        y: Tensor = self.last(self.memory(x.mean(2).transpose(1, 2))[0])
        return x + y.transpose(1, 2)[:, :, None]


class PermutedByEinsum(nn.Module):
    """einsum used to permute, and to project."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.matrix = nn.Conv2d(into, out, 1), nn.Parameter(torch.randn(out, 16) / out**0.5)
        self.last, self.how = nn.Linear(out, 16), r.choice(("permute", "project"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the projected maps."""
        x = self.first(x)
        if self.how == "project":
            return torch.einsum("bchw,cd->bdhw", x, self.matrix)
        return torch.einsum("bhwc->bchw", self.last(torch.einsum("bchw->bhwc", x)))
