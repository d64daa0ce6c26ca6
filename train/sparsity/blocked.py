"""Parameters seen as matrices of slices and walked in cache-sized chunks, so that no pass streams through memory twice.

Every grouped parameter is viewed in its memory order as [outer, slices, inner]. If ``outer`` is 1 the slices are the
rows of a matrix, otherwise runs of ``inner`` columns. Small parameters are packed: concatenated into one row where
each element is a slice of its own, because hundreds of tiny tensors would cost more calls than work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slimtask.errors import InputError

# Elements a chunk: parameter, gradient, two moments and two scratch buffers of 4 bytes stay within 6 MiB, so that they
# pass from one operation to the next through the caches. Accelerators have no use for chunks: one call takes it all.
CHUNK_ELEMENTS = 2**18
ACCELERATOR_CHUNK_ELEMENTS = 2**24
PACKED_ELEMENTS = 2**13


@dataclass(kw_only=True, eq=False)
class Block:
    """One parameter, or several small ones packed, as matrices: parameter, gradient and the two Adam moments.

    ``slices`` holds the group of every slice (the number of groups stands for "none"), or None if nothing here is
    grouped. ``order`` is the permutation into memory order; None marks a pack. ``keep``, if not None, is 0 at slices
    whose gradient is to be ignored and 1 elsewhere, laid out to broadcast.
    """

    parameters: tuple[Tensor, ...]
    slices: Tensor | None
    order: tuple[int, ...] | None
    by_row: bool = False
    inner: int = 1
    columns: int = 0
    keep: Tensor | None = None

    def load(self, tensors: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """Return a matrix [rows, columns] for each list of tensors (one a parameter): a view, or a packed copy."""
        if self.order is None:
            return tuple(torch.cat([tensor.reshape(-1) for tensor in row]).unsqueeze(0) for row in tensors)
        return tuple(row[0].permute(self.order).view(-1, self.columns) for row in tensors)

    def store(self, matrix: Tensor, tensors: Sequence[Tensor]) -> None:
        """Write a packed matrix back into its tensors; a view needs none of that."""
        if self.order is None:
            pieces = torch.split(matrix.view(-1), [tensor.numel() for tensor in tensors])
            torch._foreach_copy_(list(tensors), [p.view(t.shape) for p, t in zip(pieces, tensors, strict=True)])

    def spread(self, values: Tensor) -> Tensor:
        """Return the per-group ``values`` laid out to broadcast against the matrix: [rows, 1] or [1, columns]."""
        assert self.slices is not None
        spread = values.index_select(0, self.slices)
        if self.by_row:
            return spread.unsqueeze(1)
        if self.inner > 1:
            spread = spread.unsqueeze(1).expand(-1, self.inner).reshape(-1)
        return spread.unsqueeze(0)

    def rows(self, spread: Tensor, row: int, chunk: Tensor) -> Tensor:
        """Return the part of ``spread`` that belongs to the ``chunk`` starting at ``row``."""
        return spread[row : row + len(chunk)] if self.by_row else spread

    def part(self, chosen: Tensor) -> Block:
        """Return the block of the slices ``chosen`` alone, for matrices that ``select`` returns."""
        assert self.slices is not None
        return replace(self, slices=self.slices[chosen], keep=None)

    def select(self, matrix: Tensor, chosen: Tensor) -> Tensor:
        """Return a copy of the slices ``chosen`` of ``matrix``, as a matrix."""
        if self.by_row:
            return matrix.index_select(0, chosen)
        rows = len(matrix)
        return matrix.view(rows, -1, self.inner).index_select(1, chosen).view(rows, -1)

    def slice_peaks(self, matrix: Tensor) -> Tensor:
        """Return the largest element of every slice of ``matrix``."""
        if self.by_row:
            return matrix.amax(1)
        return matrix.amax(0).view(-1, self.inner).amax(1)

    def chunk_rows(self, matrix: Tensor) -> int:
        """Return how many rows of ``matrix`` make a chunk."""
        limit = CHUNK_ELEMENTS if matrix.device.type == "cpu" else ACCELERATOR_CHUNK_ELEMENTS
        threads = torch.get_num_threads()
        return max(1, limit // matrix.shape[1] // threads * threads)

    def chunks(self, *matrices: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Yield the first row and the row range of every matrix, chunk by chunk."""
        rows = self.chunk_rows(matrices[0])
        pieces = zip(*(torch.split(matrix, rows) for matrix in matrices), strict=True)
        yield from ((index * rows, piece) for index, piece in enumerate(pieces))


def blocks_of(parameters: Iterable[tuple[Tensor, int, Tensor | None]], groups: int) -> list[Block]:
    """Return the blocks that cover ``parameters``: tuples (parameter, axis, group of each slice or None)."""
    blocks: list[Block] = []
    small: list[tuple[Tensor, Tensor]] = []
    for parameter, axis, members in parameters:
        if parameter.numel() <= PACKED_ELEMENTS:
            small.append((parameter, _elementwise(parameter, axis, members, groups)))
        elif members is None:
            order = _memory_order(parameter)
            blocks.append(Block(parameters=(parameter,), slices=None, order=order, columns=_divisor(parameter.numel())))
        else:
            blocks.append(_matrix_block(parameter, axis, _or_none(members, groups, parameter.device)))
    return blocks + _packs(small, groups)


def _matrix_block(parameter: Tensor, axis: int, slices: Tensor) -> Block:
    order = _memory_order(parameter)
    place = order.index(axis)
    shape = [parameter.shape[index] for index in order]
    outer, inner = torch.Size(shape[:place]).numel(), torch.Size(shape[place + 1 :]).numel()
    by_row = outer == 1
    return Block(
        parameters=(parameter,),
        slices=slices,
        order=order,
        by_row=by_row,
        inner=1 if by_row else inner,
        columns=inner if by_row else len(slices) * inner,
    )


def _packs(small: Sequence[tuple[Tensor, Tensor]], groups: int) -> list[Block]:
    packs: list[list[tuple[Tensor, Tensor]]] = []
    room = 0
    for parameter, slices in small:
        if parameter.numel() > room:
            packs.append([])
            room = CHUNK_ELEMENTS
        packs[-1].append((parameter, slices))
        room -= parameter.numel()
    blocks = []
    for pack in packs:
        slices = torch.cat([slices for _, slices in pack])
        grouped = bool((slices != groups).any())
        blocks.append(
            Block(parameters=tuple(parameter for parameter, _ in pack), slices=slices if grouped else None, order=None)
        )
    return blocks


def _elementwise(parameter: Tensor, axis: int, members: Tensor | None, groups: int) -> Tensor:
    """Return the group of every element, in the logical order in which ``Block.load`` concatenates them."""
    if members is None:
        return torch.full((parameter.numel(),), groups, device=parameter.device)
    shape = [1] * parameter.ndim
    shape[axis] = -1
    return _or_none(members, groups, parameter.device).view(shape).expand(parameter.shape).reshape(-1)


def _or_none(members: Tensor, groups: int, device: torch.device) -> Tensor:
    return torch.where(members < 0, groups, members).to(device)


def _memory_order(parameter: Tensor) -> tuple[int, ...]:
    """Return the permutation of axes that makes ``parameter`` contiguous (channels-last weights keep their layout)."""
    strides = parameter.stride()
    order = tuple(sorted(range(parameter.ndim), key=lambda axis: (-strides[axis], parameter.shape[axis] != 1)))
    if not parameter.permute(order).is_contiguous():
        raise InputError("a parameter has gaps in memory, which the optimiser cannot walk; pass it '.contiguous()'.")
    return order


def _divisor(count: int) -> int:
    """Return the largest power of two up to 4096 that divides ``count``: columns for a matrix without slices."""
    return min(4096, count & -count)
