"""What every layout has: a shape, arrays that were checked once, bytes, and the way to a file and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Shaped

from slimtask.kernels import dtypes

Array = Shaped[np.ndarray, "..."]
_L = TypeVar("_L", bound="Layout")


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The changed entries of T matrices [M outputs, K inputs] as arrays that a kernel reads.

    Every layout has ``pack(delta_TMK, ...)`` and ``dense() -> delta_TMK``, and one gives back exactly what the other
    took. Indices are int32, arrays C-contiguous. The constructor refuses, with ValueError, what no kernel must see.
    """

    kind: ClassVar[str]

    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if len(self.shape) != 3 or min(self.shape) < 1:
            self._refuse(f"has the shape {list(self.shape)}, which must be [tasks, outputs, inputs], each at least 1")
        for name, array in self.arrays().items():
            object.__setattr__(self, name, np.ascontiguousarray(array))
        self._check()

    def _check(self) -> None:
        """Raise ValueError unless the arrays belong together."""
        raise NotImplementedError

    def dense(self) -> Array:
        """Return delta_TMK, zero where nothing is stored."""
        raise NotImplementedError

    def arrays(self) -> dict[str, Array]:
        """Return the arrays by name, in the order in which kernels take them."""
        return {field.name: value for field, value in self._fields() if isinstance(value, np.ndarray)}

    def sizes(self) -> dict[str, Any]:
        """Return what is not an array, by name: ``shape`` and the sizes of the layout; JSON takes it."""
        return {field.name: value for field, value in self._fields() if not isinstance(value, np.ndarray | None)}

    @classmethod
    def from_arrays(cls: type[_L], arrays: Mapping[str, Array], **sizes: Any) -> _L:
        """Return the layout of ``arrays()`` and ``sizes()``; ValueError if a name is missing, unknown or unfit."""
        given, known = {*arrays, *sizes}, {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is not None}
        if given - known or needed - given:
            names = ", ".join(sorted((given - known) | (needed - given)))
            raise ValueError(f"{cls.__name__} lacks or does not know: {names}; give what arrays() and sizes() gave.")
        return cls(**{**sizes, **arrays})

    @property
    def bytes(self) -> int:
        """Return the bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def _fields(self) -> Iterator[tuple[Any, Any]]:
        return ((field, getattr(self, field.name)) for field in fields(self))

    def _refuse(self, problem: str) -> None:
        raise ValueError(f"{type(self).__name__} {problem}.")

    def _check_shape(self, name: str, *expected: int | None) -> None:
        shape = getattr(self, name).shape
        if len(shape) != len(expected) or any(
            want not in (None, got) for want, got in zip(expected, shape, strict=True)
        ):
            wanted = ["any" if size is None else size for size in expected]
            self._refuse(f"has {name} of shape {list(shape)} instead of {wanted}".replace("'", ""))

    def _check_indices(self, name: str, limit: int, of: str) -> None:
        indices = getattr(self, name)
        if indices.dtype != np.int32:
            self._refuse(f"has {name} of dtype {indices.dtype}, which must be int32")
        if indices.size and not 0 <= indices.min() <= indices.max() < limit:
            wrong = indices[(indices < 0) | (indices >= limit)][0]
            self._refuse(f"has the index {wrong} in {name}, which must be 0 to {limit - 1}, the {of}")

    def _check_values(self, *names: str) -> None:
        for name in names:
            values = getattr(self, name)
            try:
                dtypes.name_of(values)
            except ValueError as error:
                self._refuse(f"has {name} it cannot hold: {error}"[:-1])
            if not dtypes.finite(values):
                self._refuse(f"has NaN or infinity in {name}; leave the layer out or train it again")


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueLayout(Layout):
    """A layout whose array ``value`` holds the changed entries."""

    value: Array

    @property
    def dtype(self) -> str:
        """Return the dtype of the values: float64, float32, float16 or bfloat16."""
        return dtypes.name_of(self.value)

    @property
    def dense_bytes(self) -> int:
        """Return the bytes of delta_TMK held whole in the same dtype."""
        tasks, outputs, inputs = self.shape
        return tasks * outputs * inputs * self.value.itemsize


def checked_delta(delta_TMK: Array, layout: str) -> Array:
    """Return the delta if it has three axes, a dtype that can be packed and finite entries; else ValueError."""
    if delta_TMK.ndim != 3 or min(delta_TMK.shape) < 1:
        raise ValueError(
            f"{layout} packs deltas [tasks, outputs, inputs], not of shape {list(delta_TMK.shape)}; stack them."
        )
    dtypes.name_of(delta_TMK)
    if not dtypes.finite(delta_TMK):
        raise ValueError(f"a delta for {layout} holds NaN or infinity; leave the layer out or train it again.")
    return delta_TMK


def padded_lists(mask: Shaped[np.ndarray, "lists n"], length: int) -> tuple[Array, Array]:
    """Return where each row of ``mask`` is True, rising, as [lists, length], and how often; the rest is -1, for now."""
    count = mask.sum(axis=1).astype(np.int32)
    order = np.argsort(~mask, axis=1, kind="stable")[:, :length].astype(np.int32)
    return np.where(np.arange(order.shape[1]) < count[:, None], order, np.int32(-1)), count


def ceil_to(count: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is not below ``count``."""
    return -(-count // multiple) * multiple


def blocks_of(count: int, size: int) -> int:
    """Return how many blocks of ``size`` cover ``count``."""
    return -(-count // size)
