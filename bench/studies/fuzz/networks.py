"""Seeded random networks for property tests: ``network(seed)`` is always the same one, small, and in eval mode."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.architectures import register
from slimtask.bench.studies.fuzz import (
    attention,
    awkward,
    blocks,
    constructs,
    rearranged,
    stateful,
    weights,
)
from slimtask.bench.studies.fuzz.blocks import Random, conv, width
from slimtask.bench.studies.fuzz.outputs import FORMS, HEADS, ODD_FORMS, ODD_HEADS, PLAIN_FORMS
from slimtask.errors import InputError, nearest
from slimtask.tasks import TaskSpec

ARCHITECTURE = "fuzz"
Make = Callable[..., nn.Module]


def _blocks_of(*modules: Any) -> dict[str, Make]:
    """Return the public blocks of modules: classes made from a Random and the channels that come in and go out."""
    return {
        name: kind
        for module in modules
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__ == module.__name__
        if not name.startswith("_")
    }


CLASSIC = _blocks_of(blocks, awkward)
CONSTRUCTS = _blocks_of(constructs, rearranged, attention, weights, stateful)
BLOCKS: dict[str, Make] = {**CLASSIC, **CONSTRUCTS}
ALL_HEADS: dict[str, Make] = {kind.__name__: kind for kind in (*HEADS, *ODD_HEADS)}
PLAIN: tuple[str, ...] = ("ConvBlock", "Depthwise", "Residual")
NAMES: tuple[str, ...] = (*CONSTRUCTS, *(kind.__name__ for kind in ODD_HEADS), *ODD_FORMS)  # of the constructs
_SMALLEST_MAP = 6
_CHAINS = 8  # one network in so many is a plain chain, where it is known what must go
_TRIES = 50


@dataclass(frozen=True, kw_only=True)
class Menu:
    """What a network is drawn from: one list of block names per place, the heads, the forms of the outputs."""

    places: tuple[Sequence[str], ...]
    heads: Sequence[str]
    forms: Sequence[str]


class FuzzNet(nn.Module):
    """Blocks in a row and one to three heads on the last maps or on earlier ones."""

    def __init__(self, r: Random, side: int, menu: Menu) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        x = torch.zeros(1, 3, side, side)
        shapes = []
        for names in menu.places:
            block, x = _fitting_block(r, x, names)
            self.blocks.append(block)
            shapes.append(x.shape)
        self.form = r.choice(menu.forms)
        count = 1 if self.form == "tensor" else r.randint(2, 3)
        self.taps = [len(shapes) - 1, *(r.randrange(len(shapes)) for _ in range(count - 1))]
        self.heads = nn.ModuleList(ALL_HEADS[r.choice(menu.heads)](r, shapes[tap]) for tap in self.taps)
        self.aux_head = nn.Conv2d(shapes[-1][1], 3, 1) if self.form == "aux" else None

    def forward(self, x: Tensor, aux: bool = False) -> Any:
        """Return the heads' outputs in the network's form; with ``aux`` those of a head for training too."""
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        found = [head(maps[tap]) for head, tap in zip(self.heads, self.taps, strict=True)]
        made = FORMS[self.form](found, maps)
        return (made, self.aux_head(maps[-1])) if aux and self.aux_head is not None else made


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


def menu_of(r: Random, seed: int, only: Sequence[str] = ()) -> Menu:
    """Return what network ``seed`` is drawn from: ``only`` these names, or one construct in turn, or all of them.

    Of the networks that are drawn from everything a half has one construct between plain blocks, so that what fails is
    known by its name, and every construct has its turn.
    """
    if not only and seed % 2:
        only = (NAMES[seed // 2 % len(NAMES)],)
    elif not only:
        forms = ODD_FORMS if r.random() < 0.3 else PLAIN_FORMS
        count = r.randint(2, 4)
        many = [[*CLASSIC, "ConvBlock", "Residual"] if r.random() < 0.4 else [*BLOCKS] for _ in range(count)]
        return Menu(places=tuple(many), heads=[*(kind.__name__ for kind in HEADS * 3), *ALL_HEADS], forms=[*forms])
    blocks = [name for name in only if name in BLOCKS]
    places: list[Sequence[str]] = [blocks] * r.randint(1, 2) if blocks else []
    if blocks != ["Unsure"] and r.random() < 0.7:
        places = [PLAIN, *places]
    return Menu(
        places=(*places, PLAIN),
        heads=[name for name in only if name in ALL_HEADS] or [kind.__name__ for kind in HEADS],
        forms=[name for name in only if name in FORMS] or [*PLAIN_FORMS],
    )


def check_names(names: Sequence[str]) -> None:
    """Raise InputError unless each of ``names`` is a block, a head or a form of outputs."""
    known = (*BLOCKS, *ALL_HEADS, *FORMS)
    for name in names:
        if name not in known:
            raise InputError(f"there is no construct '{name}'{nearest(name, known)}.")


def make_block(r: Random, name: str, into: int, out: int, size: tuple[int, int]) -> nn.Module:
    """Return a block that reads ``into`` channels of maps of ``size``; only some are made for one size."""
    kind = BLOCKS[name]
    return kind(r, into, out, size) if getattr(kind, "sized", False) else kind(r, into, out)


def _fitting_block(r: Random, x: Tensor, names: Sequence[str]) -> tuple[nn.Module, Tensor]:
    """Return a random block that runs on ``x`` and leaves maps of a size to go on with, and what it makes of ``x``.

    The block that is returned has not run: it is made a second time.
    """
    for _ in range(_TRIES):
        name, out = r.choice(names), width(r)
        chance, noise = r.getstate(), torch.get_rng_state()
        try:
            with torch.no_grad():
                y = make_block(r, name, x.shape[1], out, (x.shape[2], x.shape[3])).eval()(x.clone())
        except RuntimeError:
            continue  # e.g. reflection wider than the map, channels that the groups do not divide
        except ValueError:
            continue
        if min(y.shape[-2:]) >= _SMALLEST_MAP:
            r.setstate(chance)
            torch.set_rng_state(noise)
            return make_block(r, name, x.shape[1], out, (x.shape[2], x.shape[3])), y
    return _fitting_block(r, x, PLAIN)


def network(seed: int, only: Sequence[str] = ()) -> nn.Module:
    """Return network ``seed`` in eval mode, never run, no weight trivial; ``only`` names what it is drawn from."""
    r = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        side = side_of(seed)
        net = Chain(r, side) if not only and seed % _CHAINS == 0 else FuzzNet(r, side, menu_of(r, seed, only))
        return _randomise_(net.eval())


def labels_of(net: nn.Module) -> list[tuple[str, str]]:
    """Return what the network is made of, ``(label, name of the module or "" for the whole network)``."""
    if not isinstance(net, FuzzNet):
        return [(type(net).__name__, "")]
    parts = [(label_of(block), f"blocks.{index}") for index, block in enumerate(net.blocks)]
    heads = [(type(head).__name__, f"heads.{index}") for index, head in enumerate(net.heads)]
    return [*parts, *heads, (net.form, "")]


def label_of(block: nn.Module) -> str:
    """Return a block's class, and how it is written if it may be in several ways."""
    how = getattr(block, "how", "")
    return f"{type(block).__name__}({how})" if isinstance(how, str) and how else type(block).__name__


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
