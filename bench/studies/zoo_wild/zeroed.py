"""A second opinion on a removal, from the two networks alone: the dense one with zeros where weights are gone.

Which entries of a weight are left is read off their values, not asked of who removed them: random weights are nearly
all different, so a row of the smaller weight is found again in the dense one. Norms take their means over what is left:
the channels whose weight is or, where a norm has none or standardises a kernel, what is not zero throughout.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from slimtask.bench.studies.zoo_wild.outputs import tensors
from slimtask.compress.network.inputs import Inputs, call
from slimtask.differences import over_scale

_NORMS = {
    F.layer_norm: ("input", "shape", "weight", "bias", "eps"),
    F.rms_norm: ("input", "shape", "weight", "eps"),
    F.group_norm: ("input", "groups", "weight", "bias", "eps"),
}
_BATCH_NORM = ("input", "mean", "var", "weight", "bias", "training", "momentum", "eps")


def rel_error(dense: nn.Module, smaller: nn.Module, inputs: Inputs) -> float | str:
    """Return the largest difference of any output, relative to it, or why the networks cannot be compared."""
    own, left = dict(dense.named_parameters()), dict(smaller.named_parameters())
    if own.keys() != left.keys():
        return f"other parameters: {sorted(own.keys() ^ left.keys())[:3]}"
    kept: dict[str, list[Tensor]] = {}
    for name, parameter in own.items():
        if parameter.shape != left[name].shape or not torch.equal(parameter, left[name]):
            found = kept_indices(parameter.detach(), left[name].detach())
            if found is None:
                return f"'{name}' is no part of the dense one, or not for certain"
            kept[name] = found
    zeroed = copy.deepcopy(dense).eval()
    norms = {id(_zero_(zeroed, name, found)): found[0] for name, found in kept.items()}
    with torch.no_grad(), _MeansOverKept(norms):
        expected = tensors(call(zeroed, inputs))
    with torch.no_grad():
        got = tensors(call(smaller.eval(), inputs))
    if [x.shape for x in expected] != [x.shape for x in got]:
        return "the outputs have other sizes"
    return max((_difference(a, b) for a, b in zip(expected, got, strict=True)), default=0.0)


def kept_indices(dense: Tensor, smaller: Tensor) -> list[Tensor] | None:
    """Return for every axis the indices of ``dense`` that make up ``smaller``, None if they do not, or might not."""
    if dense.ndim != smaller.ndim or smaller.numel() == 0:
        return None
    ordered, places = dense.flatten().sort()
    values = smaller.flatten()
    first = torch.searchsorted(ordered, values).clamp_(max=len(ordered) - 1)
    after = ordered[(first + 1).clamp(max=len(ordered) - 1)]
    sure = (ordered[first] == values) & ((after != values) | (first == len(ordered) - 1))
    mine = torch.unravel_index(torch.arange(len(values))[sure], smaller.shape)
    theirs = torch.unravel_index(places[first[sure]], dense.shape)
    kept = []
    for axis, size in enumerate(smaller.shape):
        if size == dense.shape[axis]:
            kept.append(torch.arange(size))
            continue
        low = torch.full((size,), dense.numel()).scatter_reduce(0, mine[axis], theirs[axis], "amin")
        high = torch.full((size,), -1).scatter_reduce(0, mine[axis], theirs[axis], "amax")
        if not torch.equal(low, high):
            return None
        kept.append(low)
    return kept if torch.equal(dense[_grid(kept)], smaller) else None


def _grid(kept: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(index.view([-1 if axis == own else 1 for axis in range(len(kept))]) for own, index in enumerate(kept))


def _zero_(model: nn.Module, name: str, kept: list[Tensor]) -> Tensor:
    """Return the parameter ``name`` of ``model`` after zeroing, in place, all but the kept entries."""
    parameter = model.get_parameter(name)
    with torch.no_grad():
        values = parameter[_grid(kept)].clone()
        parameter.zero_()[_grid(kept)] = values
    return parameter


def _difference(expected: Tensor, got: Tensor) -> float:
    return over_scale(got.double(), expected.double())


def _living(x: Tensor) -> Tensor:
    """Return the places of the last axis of ``x`` that are not zero throughout."""
    return (x != 0).flatten(0, -2).any(0).nonzero().flatten()


def _without_weight(given: dict[str, Any]) -> Tensor:
    """Return a layer norm that has no weight, taken over what is not zero throughout."""
    x, left = given["input"], _living(given["input"])
    return torch.zeros_like(x).index_copy(
        -1, left, F.layer_norm(x[..., left], (len(left),), eps=given.get("eps", 1e-5))
    )


def _standardised(given: dict[str, Any]) -> Tensor:
    """Return a kernel [1, outputs, the rest], each output's by the mean and variance of what is not zero throughout."""
    x, left = given["input"], _living(given["input"])
    spread = torch.var_mean(x[..., left], dim=-1, keepdim=True, correction=0)
    made = (x[..., left] - spread[1]) / (spread[0] + given.get("eps", 1e-5)).sqrt()
    gain = given.get("weight")
    return torch.zeros_like(x).index_copy(-1, left, made if gain is None else made * gain[:, None])


class _MeansOverKept(TorchFunctionMode):
    """Takes the mean and variance of a norm over the channels whose weight is kept, zero elsewhere."""

    def __init__(self, kept: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = _BATCH_NORM if func is F.batch_norm else _NORMS.get(func, ())
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        if func is F.batch_norm and given.get("training") and len(given["input"]) == 1 and given["input"].ndim == 3:
            return _standardised(given)
        if func is F.layer_norm and given.get("weight") is None and len(given["shape"]) == 1:
            return _without_weight(given)
        kept = self._kept.get(id(given.get("weight"))) if func in _NORMS else None
        if kept is None:
            return func(*args, **(kwargs or {}))
        x, weight, bias, eps = given["input"], given["weight"], given.get("bias"), given.get("eps")
        axis, groups = (1, int(given["groups"])) if func is F.group_norm else (x.ndim - 1, 1)
        made = torch.zeros_like(x)
        group = kept * groups // x.shape[axis]
        for part in (kept[group == number] for number in group.unique()):
            inside, own = x.index_select(axis, part), weight[part]
            shift = {} if func is F.rms_norm else {"bias": None if bias is None else bias[part]}
            settings = {**shift} if eps is None else {**shift, "eps": eps}
            over = 1 if func is F.group_norm else (len(part),)
            made = made.index_copy(axis, part, func(inside, over, own, **settings))
        return made
