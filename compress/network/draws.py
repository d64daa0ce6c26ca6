"""Randomness held still: every draw becomes one number, the same at every entry, so that two networks draw alike.

Two networks of different widths that draw noise of their own shapes cannot be compared draw by draw. Replaced by one
number per draw, the same in both, noise still passes through all that is computed from it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_GOLDEN = 0.6180339887498949  # its multiples fill [0, 1) evenly and never repeat


class FixedDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Replaces every draw of a pass; ``names`` are the operations that drew, in order of first use."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = 0
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = str(func.overloadpacket.__name__)
        plain = name.removesuffix("_")
        if torch.Tag.nondeterministic_seeded not in func.tags or plain.startswith("_scaled_dot_product"):
            return func(*args, **kwargs)  # attention that drops is decomposed before it comes here
        if plain in ("native_dropout", "rrelu_with_noise") and not _trains(func, args, kwargs):
            return func(*args, **kwargs)
        rule = _RULES.get(plain)
        self._count += 1
        if plain not in self.names:
            self.names.append(plain)
        torch.manual_seed(self._count)  # for a draw without a rule
        named = _named(func, args, kwargs)
        if name.endswith("_"):
            named["self"] = named["self"].clone()  # as it was before the call writes to it
        result = func(*args, **kwargs)
        return result if rule is None else rule(result, (self._count * _GOLDEN) % 1.0, named)


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Return a context in which the generators of PyTorch, NumPy and Python start at the same place every time."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


def _named(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an ATen call by name, defaults among them."""
    schema = func._schema.arguments
    given = {argument.name: value for argument, value in zip(schema, args, strict=False)}
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return {**defaults, **given, **kwargs}


def _trains(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    named = _named(func, args, kwargs)
    return bool(named.get("train", named.get("training", False)))


def _number(result: Tensor, u: float, named: Mapping[str, Any]) -> Tensor:
    return result.fill_(u)


def _normal(result: Tensor, u: float, named: Mapping[str, Any]) -> Tensor:
    """Return ``mean + std * z``; each of both is a number or a tensor."""
    return result.copy_(torch.as_tensor(named.get("mean", 0.0)) + torch.as_tensor(named.get("std", 1.0)) * (4 * u - 2))


def _uniform(result: Tensor, u: float, named: Mapping[str, Any]) -> Tensor:
    low, high = named.get("from", 0.0), named.get("to", 1.0)
    return result.fill_(low + (high - low) * u)


def _signed(result: Tensor, u: float, named: Mapping[str, Any]) -> Tensor:
    return result.fill_(4 * u - 2)


def _lowest(result: Tensor, u: float, named: Mapping[str, Any]) -> Tensor:
    return result.fill_(named.get("low") or named.get("from") or 0)


def _in_order(result: Tensor, u: float, named: Mapping[str, Any]) -> Tensor:
    return result.copy_(torch.arange(len(result)))


def _likeliest(result: Tensor, u: float, named: Mapping[str, Any]) -> Tensor:
    """Return the most probable entries; with replacement, the most probable one every time."""
    weights, count = named["self"], named["num_samples"]
    if named.get("replacement"):
        return result.copy_(weights.argmax(-1, keepdim=True).expand_as(result))
    return result.copy_(weights.topk(count, dim=-1).indices)


def _dropped(result: tuple[Tensor, Tensor], u: float, named: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    return named["input"] * u, torch.ones_like(result[1])


def _leaky(result: Tensor, u: float, named: Mapping[str, Any]) -> Tensor:
    slope = named["lower"] + (named["upper"] - named["lower"]) * u
    x = named["self"]
    return result.copy_(torch.where(x < 0, x * slope, x))


_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("bernoulli", "rand", "rand_like", "exponential", "geometric", "log_normal", "cauchy"), _number),
    **dict.fromkeys(("randn", "randn_like"), _signed),
    **dict.fromkeys(("randint", "randint_like", "random"), _lowest),
    "normal": _normal,
    "normal_functional": _normal,
    "uniform": _uniform,
    "randperm": _in_order,
    "multinomial": _likeliest,
    "native_dropout": _dropped,
    "rrelu_with_noise": _leaky,
}
