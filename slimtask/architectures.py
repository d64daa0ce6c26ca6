"""The registered architectures: a checkpoint names one of these, never an import path: no file can run code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from slimtask.errors import InputError, nearest
from slimtask.tasks import TaskSpec

Factory = Callable[..., Any]
FACTORIES: dict[str, Factory] = {}


def register(name: str) -> Callable[[Factory], Factory]:
    """Return a decorator that registers ``factory(*, tasks, **arguments) -> nn.Module`` under ``name``."""

    def decorate(factory: Factory) -> Factory:
        FACTORIES[name] = factory
        return factory

    return decorate


def build(name: str, arguments: dict[str, Any], tasks: Sequence[TaskSpec]) -> Any:
    """Return a fresh network of the registered architecture; InputError if the name or the arguments do not fit."""
    if name not in FACTORIES:
        raise InputError(
            f"architecture '{name}' is not registered{nearest(name, FACTORIES)}; import the module that registers it, "
            "or pass its factory."
        )
    try:
        return FACTORIES[name](tasks=tuple(tasks), **arguments)
    except TypeError as error:
        raise InputError(f"architecture '{name}' does not take these arguments ({error}).") from None
