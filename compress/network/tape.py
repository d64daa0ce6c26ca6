"""One forward pass as data: the operations in order, the values that they read and write, and who made the calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from slimtask.errors import InputError


@dataclass(frozen=True)
class Ref:
    """A value on the tape: its number and its shape when it was read or written."""

    number: int
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One ATen call; tensors among its arguments and outputs are Refs.

    ``name`` is without namespace and overload, e.g. ``convolution``; ``pointwise`` as PyTorch has it. ``module`` is the
    innermost module that was running, ``place`` how many operations of this pass through it went before, ``turn`` how
    many of the same name.
    """

    name: str
    pointwise: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref, ...]
    module: str = ""
    place: int = 0
    turn: int = 0

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return the argument at ``position`` or called ``name``."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


@dataclass(frozen=True, kw_only=True)
class Site:
    """One call that tells or takes sizes (``x.shape``, ``x.view(...)``, ``x[:, :n]``), made by code of ``module``.

    ``at`` is where in the code, see ``sites.place_of``; ``kind`` is of ``sites.KINDS``. ``arguments`` are those
    behind ``source``, tensors among them as Refs.
    """

    module: str
    at: str
    kind: str
    function: str
    source: Ref | None
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: tuple[Ref, ...]


@dataclass(frozen=True)
class Failure:
    """An exception that ended a pass: its type, the first line of what it says, and the module that was running."""

    kind: str
    words: str
    module: str
    place: int = 0

    def __str__(self) -> str:
        """Return the failure as a phrase."""
        where = f", in module '{self.module}'" if self.module else ""
        return f"{self.kind}: {self.words}{where}"


@dataclass(kw_only=True)
class Tape:
    """The operations of one forward pass; ``leaves`` names the parameters and buffers among the values.

    ``computed`` says that the pass ran on real values, ``training`` that it ran in that mode; ``failure`` is what ended
    it early.
    """

    operations: list[Operation] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    leaves: dict[int, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    storages: dict[int, int] = field(default_factory=dict)
    outputs: dict[str, Ref] = field(default_factory=dict)
    computed: bool = False
    training: bool = False
    failure: Failure | None = None

    def whole(self, network: str) -> Tape:
        """Return the tape; raise InputError if the pass through ``network`` ended early."""
        if self.failure is not None:
            raise InputError(
                f"{network} does not run on the example input ({self.failure}); check the input's shape and what the "
                "network expects."
            )
        return self
