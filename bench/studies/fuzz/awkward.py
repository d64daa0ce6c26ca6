"""Pieces of fuzzed networks that are hard to analyse: attention, bare parameters, shared modules, awkward code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtask.bench.studies.fuzz.blocks import ConvBlock, Random, activation, conv, norm, width


class ConvNext(nn.Module):
    """Depthwise convolution, LayerNorm over the last axis, two linear layers, layer scale, residual sum."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 1)
        self.spatial = nn.Conv2d(out, out, 3, padding=1, groups=out)
        self.norm = nn.LayerNorm(out)
        hidden = width(r)
        self.up, self.act, self.down = nn.Linear(out, hidden), activation(r, 1), nn.Linear(hidden, out)
        if isinstance(self.act, nn.PReLU):
            self.act = nn.GELU()
        self.layer_scale = nn.Parameter(torch.rand(out, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's maps."""
        x = self.first(x)
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        y = self.down(self.act(self.up(y))).permute(0, 3, 1, 2)
        made: Tensor = x + self.layer_scale * y
        return made


class Attention(nn.Module):
    """nn.MultiheadAttention over positions with a positional parameter, before or after the norm."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 1)
        self.position = nn.Parameter(torch.randn(1, 1, out))
        self.norm = nn.LayerNorm(out)
        self.attend = nn.MultiheadAttention(out, r.choice((2, 4)), batch_first=True, bias=r.random() < 0.7)
        self.weights, self.residual = r.random() < 0.3, r.random() < 0.7

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended maps."""
        x = self.first(x)
        n, _, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2) + self.position
        y = self.norm(tokens)
        y = self.attend(y, y, y, need_weights=self.weights)[0]
        if self.residual:
            y = y + tokens
        made: Tensor = y.transpose(1, 2).reshape(n, y.shape[2], h, w)
        return made


class Encoder(nn.Module):
    """PyTorch's own transformer layer with a class token, as in a ViT; the token weighs the maps that come out."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 1)
        self.token = nn.Parameter(torch.randn(1, 1, out))
        self.layer = nn.TransformerEncoderLayer(
            out,
            r.choice((2, 4)),
            dim_feedforward=width(r),
            activation=r.choice(("relu", "gelu")),
            batch_first=r.random() < 0.7,
            norm_first=r.random() < 0.5,
        )
        self.batch_first = self.layer.self_attn.batch_first

    def forward(self, x: Tensor) -> Tensor:
        """Return the encoded maps."""
        x = self.first(x)
        n, _, h, w = x.shape
        tokens = torch.cat([self.token.expand(n, -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        y = self.layer(tokens) if self.batch_first else self.layer(tokens.transpose(0, 1)).transpose(0, 1)
        maps: Tensor = y[:, 1:].transpose(1, 2).reshape(n, -1, h, w) * y[:, 0].sigmoid()[:, :, None, None]
        return maps


class PackedAttention(nn.Module):
    """Attention written out, queries, keys and values from one linear layer; sizes in the code or in the weights."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 1)
        self.heads, self.width = r.choice((2, 4)), 4
        self.qkv = nn.Linear(out, 3 * self.heads * self.width, bias=r.random() < 0.5)
        self.project = nn.Linear(self.heads * self.width, out)
        self.how = r.choice(("hard-coded", "open", "chunk", "fused"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended maps added to the maps."""
        x = self.first(x)
        n, _, h, w = x.shape
        tokens = self.qkv(x.flatten(2).transpose(1, 2))
        if self.how == "chunk":
            q, k, v = (t.view(n, h * w, -1, self.width).transpose(1, 2) for t in tokens.chunk(3, dim=-1))
        else:
            heads = self.heads if self.how == "hard-coded" else -1
            q, k, v = tokens.reshape(n, h * w, 3, heads, self.width).permute(2, 0, 3, 1, 4)
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * self.width**-0.5).softmax(dim=-1) @ v
        y = self.project(y.transpose(1, 2).flatten(2))
        made: Tensor = x + y.transpose(1, 2).reshape(x.shape)
        return made


class Shared(nn.Module):
    """One module used several times: in a loop, or on two inputs."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = ConvBlock(r, into, out)
        self.again = nn.Sequential(conv(r, out, out), norm(r, out), activation(r, out))
        self.loop = r.random() < 0.5
        self.act = activation(r, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of the last use, or of both."""
        x = self.first(x)
        if self.loop:
            made: Tensor = self.again(self.act(self.again(x)))
            return made
        small = F.avg_pool2d(x, 2)
        made = self.again(x) + F.interpolate(self.again(small), size=x.shape[-2:])
        return made


class Slices(nn.Module):
    """Channels picked, permuted, flipped or rolled by the code itself."""

    order: Tensor

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = ConvBlock(r, into, out)
        self.how = r.choice(("slices", "split", "permutation", "flip", "roll", "stride"))
        self.at = r.randrange(1, out - 1)
        self.register_buffer("order", torch.tensor(r.sample(range(out), out)))
        self.one, self.two = conv(r, self.at, 8), conv(r, out - self.at, 8)
        self.last = conv(r, out // 2 if self.how == "stride" else out, out)
        self.other = conv(r, 16, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is made of the picked channels."""
        x = self.first(x)
        if self.how == "slices":
            made: Tensor = self.other(torch.cat([self.one(x[:, : self.at]), self.two(x[:, self.at :])], dim=1))
            return made
        if self.how == "split":
            a, b = torch.split(x, [self.at, x.shape[1] - self.at], dim=1)
            made = self.other(torch.cat([self.one(a), self.two(b)], dim=1))
            return made
        if self.how == "permutation":
            made = self.last(x[:, self.order])
            return made
        if self.how == "flip":
            made = self.last(x.flip(1))
            return made
        made = self.last(x.roll(3, dims=1) if self.how == "roll" else x[:, ::2])
        return made


class HardCoded(nn.Module):
    """Reshapes to sizes that stand in the source, reductions over channels, pixel shuffles."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first, self.out = ConvBlock(r, into, out), out
        self.how = r.choice(("view", "mean", "max", "softmax", "pixel shuffle", "norm", "unshuffle"))
        self.over_channels = self.how in ("mean", "softmax", "norm")
        last = {"view": out // 4, "mean": 2 * out, "max": out // 2, "pixel shuffle": out // 4, "unshuffle": 4 * out}
        self.last = nn.Conv2d(last.get(self.how, out), out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reshaped maps, convolved."""
        x = self.first(x)
        n, c, h, w = x.shape
        if self.how == "view":
            x = x.view(n, 4, self.out // 4, h, w).sum(1)
        elif self.how == "mean":
            x = torch.cat([x, x - x.mean(1, keepdim=True)], dim=1)
        elif self.how == "max":
            x = x.view(n, c // 2, 2, h, w).amax(2)
        elif self.how == "softmax":
            x = x.softmax(1)
        elif self.how == "norm":
            x = F.normalize(x, dim=1)
        else:
            x = (
                F.pixel_shuffle(x, 2)
                if self.how == "pixel shuffle"
                else F.pixel_unshuffle(F.pad(x, (0, w % 2, 0, h % 2)), 2)
            )
        made: Tensor = self.last(x)
        return made


class InPlace(nn.Module):
    """Parameters and buffers of the module's own, added and multiplied in place, and weights used by functions."""

    offset: Tensor

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.first = conv(r, into, out)
        self.scale, self.shift = nn.Parameter(torch.rand(out) + 0.5), nn.Parameter(torch.randn(1, out, 1, 1))
        self.register_buffer("offset", torch.randn(out))
        self.matrix = nn.Parameter(torch.randn(out, out) / out**0.5)
        self.how = r.choice(("linear", "matmul", "einsum", "conv", "standardised", "addcmul"))
        self.over_channels = self.how == "standardised"
        self.mix = nn.Parameter(torch.rand(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps after all that."""
        x = self.first(x)
        x *= self.scale.view(1, -1, 1, 1)
        x.add_(self.shift)
        y = F.relu_(x.clone() - self.offset[:, None, None])
        y = self.mix[0] * y + self.mix[1] * x
        last = y.permute(0, 2, 3, 1)
        if self.how == "linear":
            return F.linear(last, self.matrix).permute(0, 3, 1, 2)
        if self.how == "matmul":
            return (last @ self.matrix).permute(0, 3, 1, 2)
        if self.how == "einsum":
            return torch.einsum("nchw,oc->nohw", y, self.matrix)
        if self.how == "addcmul":
            return torch.addcmul(y, y, self.scale.view(1, -1, 1, 1)) @ y.new_ones(y.shape[-1], y.shape[-1])
        weight: Tensor = self.matrix
        if self.how == "standardised":
            weight = (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True) + 1e-3)
        return F.conv2d(y, weight[:, :, None, None])


class TwoPaths(nn.Module):
    """The stream used twice: a shortcut by its mean, a product with another branch, a maximum of both."""

    def __init__(self, r: Random, into: int, out: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Sequential(conv(r, into, out), norm(r, out)) for _ in range(2))
        self.how = r.choice(("product", "maximum", "where", "stack", "mean gate", "lerp"))
        self.last = ConvBlock(r, out, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return both paths as one."""
        a, b = self.one(x), self.two(x)
        if self.how == "product":
            y = a * b
        elif self.how == "maximum":
            y = torch.maximum(a, b)
        elif self.how == "where":
            y = torch.where(a > b, a, b * 0.5 + a * 0.5)
        elif self.how == "stack":
            y = torch.stack([a, b]).sum(0)
        elif self.how == "lerp":
            y = torch.lerp(a, b, 0.3)
        else:
            y = a + b.mean((2, 3), keepdim=True).expand_as(a)
        made: Tensor = self.last(y)
        return made
