"""Vision transformer trunks (Dosovitskiy et al., ICLR 2021) for images of any size.

Parameters are named as in torchvision's VisionTransformer, so that its weights load. Every place where two tasks that
share a trunk can share activations is a *site*, which a caller can look at and replace.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.errors import InputError, nearest
from slimtask.train.models.trunks import check_width

Tokens = Float[Tensor, "batch tokens width"]
At = Callable[[str, Tensor], Tensor]
"""Called at every site with its name and its value; returns what goes on."""

_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ViTShape:
    """Side of a patch, number of blocks, of heads and their width, and the grid of the position embedding."""

    patch: int
    depth: int
    heads: int
    head_width: int
    grid: tuple[int, int]


VITS: dict[str, ViTShape] = {
    "vit_b_16": ViTShape(patch=16, depth=12, heads=12, head_width=64, grid=(14, 14)),
    "vit_tiny": ViTShape(patch=8, depth=6, heads=4, head_width=32, grid=(12, 16)),
}


class SelfAttention(nn.Module):
    """Self-attention with the parameters of nn.MultiheadAttention; it has as many heads as its weights hold."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tokens, at: At) -> Tokens:
        """Return the attended tokens; sites "qkv" and "proj"."""
        packed = at("qkv", F.linear(x, self.in_proj_weight, self.in_proj_bias))
        heads = self.in_proj_weight.shape[0] // (3 * self.head_dim)
        q, k, v = packed.view(len(x), -1, 3, heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return at("proj", self.out_proj(mixed))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: two residual branches, attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=_EPS)
        self.self_attention = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=_EPS)
        hidden = 4 * width
        # the third child is torchvision's dropout, which has no parameters but a number
        layers = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.mlp = nn.Sequential(layers[0], nn.GELU(), nn.Identity(), layers[1])
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tokens, at: At | None = None) -> Tokens:
        """Return the block's output tokens.

        Sites, in order: "attention" (what the first branch reads), "norm1", "qkv", "proj", "mlp" (what the second
        branch reads), "norm2", "fc1", "act", "fc2".
        """
        at = at or _unchanged
        x = x + self.self_attention(at("norm1", self.ln_1(at("attention", x))), at)
        hidden = at("fc1", self.mlp[0](at("norm2", self.ln_2(at("mlp", x)))))
        return x + at("fc2", self.mlp[3](at("act", self.mlp[1](hidden))))


class Encoder(nn.Module):
    """Position embedding, blocks, final norm."""

    def __init__(self, shape: ViTShape, heads: int) -> None:
        super().__init__()
        width, self.grid = heads * shape.head_width, shape.grid
        self.pos_embedding = nn.Parameter(sincos_embedding(*shape.grid, width))
        self.layers = nn.Sequential()
        for index in range(shape.depth):
            self.layers.add_module(f"encoder_layer_{index}", EncoderBlock(width, heads))
        self.ln = nn.LayerNorm(width, eps=_EPS)

    def positions(self, height: int, width: int) -> Float[Tensor, "1 tokens width"]:
        """Return the position embedding of the class token and a grid of patches, bilinearly resized if need be."""
        if (height, width) == self.grid:
            return self.pos_embedding
        first, patches = self.pos_embedding[:, :1], self.pos_embedding[:, 1:]
        grid = patches.transpose(1, 2).reshape(1, -1, *self.grid)
        resized = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
        return torch.cat([first, resized.flatten(2).transpose(1, 2)], dim=1)


class ViTTrunk(nn.Module):
    """A vision transformer whose patch tokens come back as a map; ``blocks`` names its blocks in order of execution.

    The position embedding starts as the fixed two-dimensional sines and cosines of MAE and is trained from there. The
    image's sides must be multiples of the patch's, 16 pixels (vit_b_16) or 8 (vit_tiny).
    """

    def __init__(self, name: str, *, width: float = 1.0) -> None:
        super().__init__()
        if name not in VITS:
            raise InputError(f"unknown trunk '{name}'{nearest(name, VITS)}")
        check_width(width)
        shape = VITS[name]
        heads = max(1, round(shape.heads * width))
        self.patch, self.out_channels = shape.patch, heads * shape.head_width
        self.class_token = nn.Parameter(torch.zeros(1, 1, self.out_channels))
        self.conv_proj = nn.Conv2d(3, self.out_channels, shape.patch, stride=shape.patch)
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (3 * shape.patch**2)))
        self.encoder = Encoder(shape, heads)

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """Return the transformer blocks by name, in order of execution."""
        return {f"encoder.layers.{name}": block for name, block in self.encoder.layers.named_children()}

    def forward(self, x: Float[Tensor, "batch 3 height width"], at: At | None = None) -> Float[Tensor, "batch c h w"]:
        """Return the normalised patch tokens at 1/patch of the input's resolution; InputError for sides that don't fit.

        ``at`` is called at the sites of every block, whose names are prefixed "encoder_layer_3.", say.
        """
        check_sides(self.patch, *x.shape[-2:])
        patches = self.conv_proj(x)
        height, width = patches.shape[-2:]
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self.encoder.positions(height, width)
        for name, block in self.encoder.layers.named_children():
            tokens = block(tokens, None if at is None else _prefixed(at, name))
        normed: Tensor = self.encoder.ln(tokens)[:, 1:]
        return normed.transpose(1, 2).reshape(len(x), -1, height, width)


def check_sides(patch: int, height: int, width: int) -> None:
    """Raise InputError if an image of ``height`` x ``width`` pixels is not made of whole patches of side ``patch``."""
    if height % patch or width % patch:
        raise InputError(
            f"the transformer takes images whose sides are multiples of {patch} pixels, not {height} x {width}; set "
            "data.height and data.width so."
        )


def sincos_embedding(height: int, width: int, channels: int) -> Float[Tensor, "1 tokens channels"]:
    """Return fixed position embeddings of a grid, row by row, behind a zero for the class token (MAE, appendix A).

    One half of the channels tells the column, the other the row; of each, one half are sines, the other cosines.
    """
    quarter = channels // 4
    frequencies = 10_000.0 ** -(torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (columns, rows)]
    waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return F.pad(waves, (0, channels - 4 * quarter, 1, 0)).unsqueeze(0)


def _unchanged(site: str, value: Tensor) -> Tensor:
    return value


def _prefixed(at: At, block: str) -> At:
    return lambda site, value: at(f"{block}.{site}", value)
