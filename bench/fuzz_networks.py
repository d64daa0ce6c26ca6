"""Seeded random networks for property tests: ``network(seed)`` is always the same one, small, and in eval mode."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.architectures import register
from slimtask.bench.fuzz_awkward import (
    Attention,
    ConvNext,
    Encoder,
    HardCoded,
    InPlace,
    PackedAttention,
    Shared,
    Slices,
    TwoPaths,
)
from slimtask.bench.fuzz_blocks import (
    Concat,
    ConvBlock,
    Depthwise,
    Gated,
    Grouped,
    Pooled,
    Random,
    Residual,
    Shuffle,
    SqueezeExcite,
    Transposed,
    conv,
    width,
)
from slimtask.tasks import TaskSpec

ARCHITECTURE = "fuzz"
BLOCKS: tuple[type[nn.Module], ...] = (
    ConvBlock, ConvBlock, Depthwise, Grouped, Transposed, Residual, Residual, Concat, SqueezeExcite, Gated, Shuffle,
    Pooled, ConvNext, Attention, PackedAttention, Encoder, Shared, Slices, HardCoded, InPlace, TwoPaths,
)  # fmt: skip
_SMALLEST_MAP = 6
_CHAINS = 8  # one network in so many is a plain chain, where it is known what must go


class FuzzNet(nn.Module):
    """Blocks in a row and one to three heads on the last maps or on earlier ones."""

    def __init__(self, r: Random, side: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        x = torch.zeros(1, 3, side, side)
        shapes = []
        for _ in range(r.randint(2, 5)):
            block, x = _fitting_block(r, x)
            self.blocks.append(block)
            shapes.append(x.shape)
        self.form = r.choice(("tensor", "dict", "tuple", "nested"))
        count = 1 if self.form == "tensor" else r.randint(2, 3)
        self.taps = [len(shapes) - 1, *(r.randrange(len(shapes)) for _ in range(count - 1))]
        self.heads = nn.ModuleList(_head(r, shapes[tap]) for tap in self.taps)

    def forward(self, x: Tensor) -> Any:
        """Return the heads' outputs: a tensor, a dict, a tuple, or a dict with a tuple in it."""
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        found = [head(maps[tap]) for head, tap in zip(self.heads, self.taps, strict=True)]
        if self.form == "tensor":
            return found[0]
        if self.form == "tuple":
            return tuple(found)
        named = {f"task{index}": output for index, output in enumerate(found)}
        return named if self.form == "dict" else {"all": tuple(found[1:]), "first": found[0]}


class Chain(nn.Sequential):
    """Convolution, BatchNorm and activation in a row, then one linear layer: what must go from it is known."""

    def __init__(self, r: Random, side: int) -> None:
        parts: list[nn.Module] = []
        into = 3
        for _ in range(r.randint(2, 4)):
            out = width(r)
            parts += [conv(r, into, out), nn.BatchNorm2d(out), r.choice((nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish))()]
            into = out
        super().__init__(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, 4))


def _fitting_block(r: Random, x: Tensor) -> tuple[nn.Module, Tensor]:
    """Return a random block that runs on ``x`` and leaves maps of a size to go on with, and what it makes of ``x``."""
    while True:
        try:
            block = r.choice(BLOCKS)(r, x.shape[1], width(r))
            with torch.no_grad():
                y = block.eval()(x.clone())
        except RuntimeError:
            continue  # e.g. reflection wider than the map, channels that the groups do not divide
        except ValueError:
            continue
        if min(y.shape[-2:]) >= _SMALLEST_MAP:
            return block, y


def _head(r: Random, shape: torch.Size) -> nn.Module:
    channels = shape[1]
    kind = r.choice(("flatten", "pool", "maps", "maps"))
    if kind == "flatten":
        half = (shape[2] // 2, shape[3] // 2)  # fixed, for the exporter knows no adaptive maximum
        return nn.Sequential(nn.MaxPool2d(half), nn.Flatten(), nn.Linear(channels * 4, 5))
    if kind == "pool":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(channels, 5))
    return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))


def network(seed: int) -> nn.Module:
    """Return network ``seed`` in eval mode, with no trivial weights."""
    r = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        side = side_of(seed)
        net = (Chain if seed % _CHAINS == 0 else FuzzNet)(r, side)
        return _randomise_(net.eval())


def side_of(seed: int) -> int:
    """Return the height and width of the images that network ``seed`` is made for."""
    return (16, 20, 24, 32)[seed % 4]


@register(ARCHITECTURE)
def _architecture(*, tasks: tuple[TaskSpec, ...], seed: int) -> nn.Module:
    return network(seed)


@torch.no_grad()
def _randomise_(net: nn.Module) -> nn.Module:
    """Return the network with random statistics, gammas, betas and biases, in place."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 1.5)
    for parameter in net.parameters():
        if parameter.ndim < 2:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net
