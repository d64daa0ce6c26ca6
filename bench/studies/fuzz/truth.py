"""The truth about a fuzzed network, made without the code under test.

The outputs of two networks are compared whatever they are made of, and the dense network in which the removed channels
count for nothing is made from the plan's layers and tensors alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

TOLERANCE = 1e-5


def leaves(output: Any, place: str = "") -> dict[str, Any]:
    """Return the tensors and plain values of an output of any kind by place.

    Mappings, sequences, sets (by shape), dataclasses and any object with attributes are gone into.
    """
    if isinstance(output, Mapping):
        items = [(f"[{key!r}]", value) for key, value in output.items()]
    elif isinstance(output, list | tuple):
        items = [(f"[{index}]", value) for index, value in enumerate(output)]
    elif isinstance(output, set | frozenset):
        in_order = sorted(output, key=lambda x: (tuple(x.shape), float(x.double().sum())))
        items = [(f"{{{index}}}", value) for index, value in enumerate(in_order)]
    elif isinstance(output, Tensor) or not hasattr(output, "__dict__"):
        return {place or "output": output}
    else:
        items = [(f".{key}", value) for key, value in vars(output).items()]
    return {key: leaf for inner, value in items for key, leaf in leaves(value, f"{place}{inner}").items()}


def kinds(output: Any) -> dict[str, Any]:
    """Return the type of every leaf of an output, of a tensor that of its elements."""
    return {key: leaf.dtype if isinstance(leaf, Tensor) else type(leaf) for key, leaf in leaves(output).items()}


@dataclasses.dataclass
class Difference:
    """The largest relative difference, and what differs in kind: missing, of another shape, type or value."""

    worst: float = 0.0
    words: list[str] = dataclasses.field(default_factory=list)

    def __bool__(self) -> bool:
        """Return whether there is a difference that matters."""
        return bool(self.words) or self.worst > TOLERANCE

    def __str__(self) -> str:
        """Return it in words."""
        return "; ".join(self.words[:3]) or f"relative difference {self.worst:.1e}"


def difference(expected: Any, got: Any) -> Difference:
    """Return how two outputs differ: floats relative to the largest, all else exactly, infinities by their places."""
    one, two = leaves(expected), leaves(got)
    found = Difference()
    if list(one) != list(two):
        found.words.append(f"outputs are {list(two)[:6]} instead of {list(one)[:6]}")
    for place in (key for key in one if key in two):
        _compare(place, one[place], two[place], found)
    return found


def _compare(place: str, a: Any, b: Any, found: Difference) -> None:
    if type(a) is not type(b):
        found.words.append(f"{place} is a {type(b).__name__}, not a {type(a).__name__}")
    elif not isinstance(a, Tensor):
        if a != b:
            found.words.append(f"{place} is {b!r:.40}, not {a!r:.40}")
    elif (a.dtype, a.shape) != (b.dtype, b.shape):
        found.words.append(f"{place} is {b.dtype} {list(b.shape)}, not {a.dtype} {list(a.shape)}")
    elif not a.is_floating_point():
        if not torch.equal(a, b):
            found.words.append(f"{place} has other values")
    elif not torch.equal(a.nan_to_num(1, 2, 3) * ~a.isfinite(), b.nan_to_num(1, 2, 3) * ~b.isfinite()):
        found.words.append(f"{place} is not finite in other places")
    elif bool((finite := a.isfinite()).any()):
        apart = float((a[finite].double() - b[finite].double()).abs().max())
        scale = float(a[finite].abs().max())
        found.worst = max(found.worst, apart / scale if scale else (math.inf if apart else 0.0))


class _Quiet(TorchFunctionMode):
    """No noise and no dropout: two networks of different widths never draw the same numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.dropout, F.dropout2d):
            return args[0] if args else kwargs["input"]
        return torch.zeros_like(args[0]) if func is torch.randn_like else func(*args, **kwargs)


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Return a context without gradients, chance, or the fused path that reads past a replaced norm."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _Quiet():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def ignore_removed_(net: nn.Module, plan: Any) -> nn.Module:
    """Return ``net``, a dense network, in which what the plan removes is zero where written and where read, in place.

    Of a plan only the ``layers`` (``module``, kept ``outputs`` and ``inputs``) and ``tensors`` (``tensor``, ``axis``,
    ``kept``) are read. A tensor that two modules share is zero for both.

    A LayerNorm, GroupNorm or RMSNorm over removed channels becomes a module that sees only the others.
    """
    modules, norms = dict(net.named_modules()), dict[str, Tensor]()
    for layer in plan.layers:
        module = modules[layer.module]
        for kept, names, axis in (
            (layer.outputs, ("weight", "bias"), int(_transposed(module))),
            (layer.inputs, ("weight",), int(not _transposed(module))),
        ):
            if kept is None:
                continue
            if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
                _keep(norms, layer.module, module.weight, kept)
                continue
            for name in names:
                if isinstance(tensor := getattr(module, name, None), Tensor):
                    _zero_(tensor, 0 if name == "bias" else axis, kept)
    for cut in plan.tensors:
        owner, _, leaf = cut.tensor.rpartition(".")
        module = modules[owner]
        tensor = getattr(module, leaf)
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
            _keep(norms, owner, tensor, cut.kept)
        elif not (leaf == "original1" and cut.axis == 0):  # a direction without length: weight_norm's gain is zeroed
            _zero_(tensor, cut.axis, cut.kept)
    for name, mask in norms.items():
        owner, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(owner), leaf, _PartNorm(modules[name], mask))
    return net


def _transposed(module: nn.Module) -> bool:
    return isinstance(module, nn.ConvTranspose2d) and module.groups == 1


def _keep(norms: dict[str, Tensor], name: str, weight: Tensor, kept: Sequence[int]) -> None:
    mask = torch.zeros(len(weight), dtype=torch.bool)
    mask[list(kept)] = True
    norms[name] = norms[name] & mask if name in norms else mask


def _zero_(tensor: Tensor, axis: int, kept: Sequence[int]) -> None:
    gone = torch.ones(tensor.shape[axis], dtype=torch.bool)
    gone[list(kept)] = False
    tensor.detach().index_fill_(axis, gone.nonzero().flatten(), 0)


class _PartNorm(nn.Module):
    """A norm over channels that sees only some of them and leaves zeros in the others."""

    def __init__(self, norm: nn.Module, kept: Tensor) -> None:
        super().__init__()
        assert isinstance(norm, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)
        self.kept, self.groups = kept, norm.num_groups if isinstance(norm, nn.GroupNorm) else 0
        self.centred = not isinstance(norm, nn.RMSNorm)
        self.weight = nn.Parameter(norm.weight.detach().clone())
        bias = getattr(norm, "bias", None)
        self.bias = nn.Parameter(torch.zeros_like(self.weight) if bias is None else bias.detach().clone())
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1) if self.groups else x
        out = torch.zeros_like(x)
        for part in torch.arange(len(self.kept)).chunk(self.groups or 1):
            kept = part[self.kept[part]]
            if len(kept):
                out[..., kept] = self._normed(x[..., kept]) * self.weight[kept] + self.bias[kept]
        return out.movedim(-1, 1) if self.groups else out

    def _normed(self, part: Tensor) -> Tensor:
        over = tuple(range(1, part.ndim)) if self.groups else (-1,)
        eps = torch.finfo(part.dtype).eps if self.eps is None else self.eps
        centred = part - part.mean(over, keepdim=True) if self.centred else part
        made: Tensor = centred / (centred.pow(2).mean(over, keepdim=True) + eps).sqrt()
        return made
