"""The inputs that two networks are compared on: noise of every size and kind that the example stands for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimtask.compress.network.inputs import Inputs, call, map_tensors, named_outputs, tensors_of
from slimtask.compress.network.look import look
from slimtask.compress.network.trace import try_record
from slimtask.errors import InputError

Noise = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Inputs to compare on: ``ordinary`` ones in float32, ``extreme`` ones in float64 (lists of batches).

    Extreme inputs reach regimes that noise never visits (saturation, flat images); there the float32 rounding of an
    ill-conditioned output, e.g. the unit vector of a near-zero normal, would drown what is looked for. ``unit`` ones
    lie within [0, 1], for networks that are not defined elsewhere (a root, a logarithm of the image).
    """

    ordinary: tuple[Inputs, ...]
    extreme: tuple[Inputs, ...] = ()
    unit: tuple[Inputs, ...] = ()

    @property
    def all(self) -> tuple[Inputs, ...]:
        """Return every batch of ordinary and extreme inputs."""
        return (*self.ordinary, *self.extreme)

    @property
    def within_unit(self) -> Probes:
        """Return the probes within [0, 1], none of them extreme."""
        return Probes(ordinary=self.unit)


def certificate_inputs(
    model: nn.Module, example: Inputs, *, also: Sequence[Inputs] = (), seed: int = 0, thorough: bool = True
) -> Probes:
    """Return seeded inputs like ``example``, at its size and at another one, and like each of ``also``.

    Ordinary are white noise and smooth noise, of the deviation that normalised images have; extreme are noise ten times
    as strong and two flat images. The second size is three quarters of the first, in multiples of 8; a network that
    takes only one size gets only it. One that takes no other batch, or no maps at all, gets white noise of its own
    shape, and so does every network if the proof need not be ``thorough``. Of a further example both its own values,
    which may be what leads where it leads, and noise of its shape are taken. Tensors that are
    not floating-point stay as they are. Example: ``certificate_inputs(net, torch.zeros(1, 3, 64, 64)).ordinary``.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds, maps = [example], [x for x in tensors_of(example) if _is_map(x)]
    asked: list[Inputs] = []
    if maps and (other := _smaller(maps[0].shape[-2:])) != tuple(maps[0].shape[-2:]):
        asked.append(map_tensors(lambda x: _resized(x, other) if _is_map(x) else x, example))
    if maps and thorough:
        asked.append(map_tensors(lambda x: _ordinary(x, generator), example))
    taken = _accepted(model, asked)
    images = bool(maps and thorough and taken.pop())
    kinds += [inputs for inputs, good in zip(asked, taken, strict=False) if good]
    one, unit = (_ordinary, _unit) if images else (_like, _unit_like)
    return Probes(
        ordinary=(*_made(one, kinds, generator), *also, *_made(_like, also, generator)),
        extreme=_made(_extreme, kinds, generator) if images else (),
        unit=(*_made(unit, kinds, generator), *also, *_made(_unit_like, also, generator)),
    )


def _made(noise: Noise, kinds: Sequence[Inputs], generator: torch.Generator) -> tuple[Inputs, ...]:
    return tuple(map_tensors(lambda x: noise(x, generator), kind) for kind in kinds)


def _smaller(size: Sequence[int]) -> tuple[int, int]:
    """Return three quarters of the height and of the width, in multiples of 8."""
    height, width = (max(8, length * 3 // 4 // 8 * 8) for length in size)
    return height, width


def _accepted(model: nn.Module, asked: Sequence[Inputs]) -> list[bool]:
    """Return for each of the inputs whether the network takes them."""
    if not asked:
        return []
    try:
        taken = look(model, tuple(asked), lambda net, each: [_runs(net, x) for x in each], compute=False)
    except InputError:
        taken = [False for _ in asked]
    return [good or try_record(model, x, compute=True).failure is None for good, x in zip(taken, asked, strict=True)]


def _runs(network: nn.Module, inputs: Inputs) -> bool:
    try:
        named_outputs(call(network, inputs))
    except Exception:  # on values it may, or without what the inputs before these left behind
        return False
    return True


def _is_map(x: Tensor) -> bool:
    return x.is_floating_point() and x.ndim >= 4


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x.new_zeros(*x.shape[:-2], *size)


def _like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise of the shape of a floating-point input; any other stays as it is."""
    return torch.randn(x.shape, generator=generator).to(x.device, x.dtype) if x.is_floating_point() else x


def _unit_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise within [0, 1] of the shape of a floating-point input; any other stays as it is."""
    return torch.rand(x.shape, generator=generator).to(x.device, x.dtype) if x.is_floating_point() else x


def _ordinary(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return two batches of white and one of smooth noise, [3, ...], on the scale of normalised images."""
    if not _is_map(x):
        return x
    noise = torch.randn(2, *x.shape[1:], generator=generator)
    return torch.cat([noise, 2 * _smooth(x, generator)]).to(x.device, x.dtype)


def _extreme(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a batch of strong noise and two flat ones, [3, ...]."""
    if not _is_map(x):
        return x
    return torch.cat([10 * torch.randn(1, *x.shape[1:], generator=generator), _flat(x, -2.0, 2.4)]).to(
        x.device, x.dtype
    )


def _unit(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a batch each of white and smooth noise within [0, 1], and two flat ones, [4, ...]."""
    if not _is_map(x):
        return x
    smooth = _smooth(x, generator)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    white = torch.rand(1, *x.shape[1:], generator=generator)
    return torch.cat([white, smooth, _flat(x, 0.25, 0.75)]).to(x.device, x.dtype)


def _smooth(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise of four waves to a side, [1, ...], of unit deviation."""
    inner = x.shape[1:]
    coarse = torch.randn(math.prod(inner[:-2]), 1, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=inner[-2:], mode="bicubic", align_corners=False)
    return smooth.view(1, *inner)


def _flat(x: Tensor, *levels: float) -> Tensor:
    inner = x.shape[1:]
    return torch.tensor(levels).view(-1, *[1] * len(inner)).expand(-1, *inner)
