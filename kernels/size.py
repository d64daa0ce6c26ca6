"""What packed deltas take on disk and in memory, against the dense weights they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slimtask.kernels.layouts import ValueLayout


@dataclass(frozen=True, kw_only=True)
class LayoutSize:
    """Bytes of the values (and biases) of layouts, of their indices, and of the same deltas held whole."""

    value_bytes: int
    index_bytes: int
    dense_bytes: int

    @property
    def bytes(self) -> int:
        """Return values and indices together."""
        return self.value_bytes + self.index_bytes

    @property
    def ratio(self) -> float:
        """Return packed over dense; above 1 packing does not pay."""
        return self.bytes / self.dense_bytes

    def __add__(self, other: LayoutSize) -> LayoutSize:
        return LayoutSize(
            value_bytes=self.value_bytes + other.value_bytes,
            index_bytes=self.index_bytes + other.index_bytes,
            dense_bytes=self.dense_bytes + other.dense_bytes,
        )


def size_of(layout: ValueLayout) -> LayoutSize:
    """Return the bytes of one layout; ``dense_bytes`` are those of T whole weight matrices (and of its biases)."""
    values = [array.nbytes for name, array in layout.arrays().items() if name in ("value", "bias")]
    biases = layout.arrays().get("bias")
    tasks, outputs, _ = layout.shape
    dense_biases = 0 if biases is None else tasks * outputs * biases.itemsize
    return LayoutSize(
        value_bytes=sum(values),
        index_bytes=layout.bytes - sum(values),
        dense_bytes=layout.dense_bytes + dense_biases,
    )


def size_report(layouts: Mapping[str, ValueLayout]) -> dict[str, LayoutSize]:
    """Return the bytes of every layout by its name, and of all under "total"; ValueError for a layout of that name."""
    if "total" in layouts:
        raise ValueError("a layout is named 'total', which the report needs for the sum; give it another name.")
    sizes = {name: size_of(layout) for name, layout in layouts.items()}
    total = LayoutSize(value_bytes=0, index_bytes=0, dense_bytes=0)
    for size in sizes.values():
        total += size
    return {**sizes, "total": total}
