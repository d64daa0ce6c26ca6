"""Small questions about an operation on the tape and about the labels of its operands."""

from __future__ import annotations

from slimtask.compress.graph.axes import Array
from slimtask.compress.network.tape import Operation, Ref


def operands(op: Operation) -> list[Ref]:
    """Return the tensors among the arguments of ``op``."""
    found = []
    for argument in (*op.args, *op.kwargs.values()):
        items = argument if isinstance(argument, list | tuple) else [argument]
        found += [item for item in items if isinstance(item, Ref)]
    return found


def vector_at(labels: Array, axis: int, ndim: int) -> Array:
    """Return a vector of labels as an array that varies along ``axis`` of ``ndim``."""
    return labels.ravel().reshape([-1 if i == axis else 1 for i in range(ndim)])


def axis_size(shape: tuple[int, ...], axis: int, ndim: int) -> int:
    """Return the size of ``axis`` counted in ``ndim`` axes, 1 where ``shape`` has fewer."""
    own = axis - (ndim - len(shape))
    return shape[own] if own >= 0 else 1


def shortens(op: Operation, source: Ref) -> bool:
    """Return whether the operation's output has another shape than its source."""
    return op.outputs[0].shape != source.shape
