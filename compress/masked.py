"""The dense network in which removed channels are masked: what a network cut by score must compute, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from slimtask.compress.cuts import channel_sizes, slice_axis
from slimtask.compress.groups import Member
from slimtask.compress.surgery import Cut
from slimtask.compress.trace import shared_copy


def masked(dense: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """Return ``dense`` with the channels that ``cuts`` remove written as zero, read as zero, and left out of means.

    Parameters that are not touched are shared with ``dense``.
    """
    net = shared_copy(dense)
    modules = dict(net.named_modules())
    norms: dict[str, Tensor] = {}
    own: set[int] = set()
    for cut in cuts:
        gone = ~cut.keep
        for member in cut.group.members if bool(gone.any()) else ():
            dropped = member.local[gone[member.channel]]
            module = modules[member.module]
            if isinstance(module, nn.LayerNorm) or (isinstance(module, nn.GroupNorm) and module.num_groups == 1):
                size = channel_sizes(module)[0]
                norms.setdefault(member.module, torch.ones(size, dtype=torch.bool))[dropped] = False
            _zero_(modules[member.module], member, dropped, own)
    return _Masked(net, norms)


class _Masked(nn.Module):
    def __init__(self, net: nn.Module, norms: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        self._norms = dict(norms)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        modules = dict(self.net.named_modules())
        kept = {id(modules[name].weight): mask for name, mask in self._norms.items()}
        with _KeptNorms(kept):
            return self.net(*args, **kwargs)


class _KeptNorms(TorchFunctionMode):
    """Takes the mean and variance of a LayerNorm over the channels that stay."""

    def __init__(self, kept: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (F.layer_norm, F.group_norm):
            return func(*args, **kwargs)
        names = ("input", "normalized_shape" if func is F.layer_norm else "num_groups", "weight", "bias", "eps")
        named = dict(zip(names, args, strict=False)) | kwargs
        mask = self._kept.get(id(named.get("weight")))
        if mask is None:
            return func(*args, **kwargs)
        x, weight, bias = named["input"], named["weight"], named.get("bias")
        index = mask.nonzero().flatten()
        axis, size = (x.ndim - 1, (len(index),)) if func is F.layer_norm else (1, 1)
        bias = None if bias is None else bias[index]
        part = func(x.index_select(axis, index), size, weight[index], bias, named.get("eps", 1e-5))
        return torch.zeros_like(x).index_copy(axis, index, part)


def _zero_(module: nn.Module, member: Member, dropped: Tensor, own: set[int]) -> None:
    """Zero what the module writes to, or reads from, the ``dropped`` entries of its axis."""
    if member.kind == "parameter":
        names: tuple[str, ...] = (member.parameter.rpartition(".")[2],)
        axis = member.axis
    elif member.side == "in":
        names, axis = ("weight",), slice_axis(module, "in")
    else:
        names, axis = ("weight", "bias"), slice_axis(module, "out")
    for name in names:
        tensor = getattr(module, name, None)
        if tensor is None:
            continue
        if id(tensor) not in own:
            copied = tensor.detach().clone()
            setattr(module, name, nn.Parameter(copied, False) if isinstance(tensor, nn.Parameter) else copied)
            own.add(id(getattr(module, name)))
        getattr(module, name).detach().index_fill_(0 if name == "bias" else axis, dropped, 0.0)
