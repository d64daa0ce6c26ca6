"""Layouts of single entries (CSR), of rectangular blocks, and of lists of inputs that neighbouring outputs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Shaped

from slimtask.kernels import dtypes
from slimtask.kernels.layouts.base import Array, Layout, ValueLayout, blocks_of, ceil_to, checked_delta, padded_lists

STEP = 16  # inputs that one tensor-core instruction sums over


@dataclass(frozen=True, kw_only=True, eq=False)
class _Starts(Layout):
    """``column[start[i]:start[i + 1]]`` are the rising columns of row i."""

    start: Array
    column: Array

    def _check_starts(self, rows: int, columns: int, of: str) -> None:
        entries = self.column.size
        self._check_shape("start", rows + 1)
        self._check_shape("column", None)
        self._check_indices("start", entries + 1, "positions in column")
        self._check_indices("column", columns, of)
        length = np.diff(self.start)
        if self.start[0] != 0 or self.start[-1] != entries or (length < 0).any():
            self._refuse(f"has a start that does not rise from 0 to {entries}")
        row = np.repeat(np.arange(rows), length)
        if ((np.diff(self.column) <= 0) & (np.diff(row) == 0)).any():
            self._refuse("has columns that do not rise within a row; sort them and add up what is double")

    def _rows(self) -> Shaped[np.ndarray, " entries"]:
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


@dataclass(frozen=True, kw_only=True, eq=False)
class CsrLayout(ValueLayout, _Starts):
    """Single entries, rows of all tasks one after the other: start [T*M+1], column [nnz], value [nnz]."""

    kind: ClassVar[str] = "csr"

    @classmethod
    def pack(cls, delta_TMK: Array) -> CsrLayout:
        """Return the nonzero entries of the delta."""
        tasks, outputs, inputs = checked_delta(delta_TMK, cls.__name__).shape
        rows = delta_TMK.reshape(tasks * outputs, inputs)
        row, column = np.nonzero(dtypes.nonzero(rows))
        return cls(
            shape=(tasks, outputs, inputs),
            start=_starts(row, len(rows)),
            column=column.astype(np.int32),
            value=rows[row, column],
        )

    def dense(self) -> Array:
        """Return delta_TMK."""
        tasks, outputs, inputs = self.shape
        rows = np.zeros((tasks * outputs, inputs), dtype=self.value.dtype)
        rows[self._rows(), self.column] = self.value
        return rows.reshape(self.shape)

    def _check(self) -> None:
        tasks, outputs, inputs = self.shape
        self._check_starts(tasks * outputs, inputs, "inputs")
        self._check_shape("value", self.column.size)
        self._check_values("value")


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockLayout(ValueLayout, _Starts):
    """Blocks of ``height`` outputs by ``width`` inputs, sorted by task, block row, block column.

    start [T*ceil(M/height)+1], column [nnzb] (of blocks), value [nnzb, height, width], zero beyond the edges.
    """

    kind: ClassVar[str] = "block"

    height: int = 64
    width: int = 64

    @classmethod
    def pack(cls, delta_TMK: Array, *, height: int = 64, width: int = 64) -> BlockLayout:
        """Return the blocks of the delta that are not all zero."""
        tasks, outputs, inputs = checked_delta(delta_TMK, cls.__name__).shape
        if min(height, width) < 1:
            raise ValueError(f"blocks of {height} x {width} are none; give a height and a width of at least 1.")
        edges = ceil_to(outputs, height) - outputs, ceil_to(inputs, width) - inputs
        padded = np.pad(delta_TMK, ((0, 0), (0, edges[0]), (0, edges[1])))
        grid = blocks_of(outputs, height), blocks_of(inputs, width)
        blocks = padded.reshape(tasks * grid[0], height, grid[1], width).swapaxes(1, 2)
        row, column = np.nonzero(dtypes.nonzero(blocks).any(axis=(2, 3)))
        return cls(
            shape=(tasks, outputs, inputs),
            height=height,
            width=width,
            start=_starts(row, len(blocks)),
            column=column.astype(np.int32),
            value=blocks[row, column],
        )

    def dense(self) -> Array:
        """Return delta_TMK."""
        tasks, outputs, inputs = self.shape
        rows, columns = blocks_of(outputs, self.height), blocks_of(inputs, self.width)
        blocks = np.zeros((tasks * rows, columns, self.height, self.width), dtype=self.value.dtype)
        blocks[self._rows(), self.column] = self.value
        padded = blocks.swapaxes(1, 2).reshape(tasks, rows * self.height, columns * self.width)
        return np.ascontiguousarray(padded[:, :outputs, :inputs])

    def _check(self) -> None:
        tasks, outputs, inputs = self.shape
        if min(self.height, self.width) < 1:
            self._refuse(f"has blocks of {self.height} x {self.width}, which must be at least 1 x 1")
        rows, columns = blocks_of(outputs, self.height), blocks_of(inputs, self.width)
        self._check_starts(tasks * rows, columns, "columns of blocks")
        self._check_shape("value", self.column.size, self.height, self.width)
        self._check_values("value")
        self._check_edges(rows, columns)

    def _check_edges(self, rows: int, columns: int) -> None:
        _, outputs, inputs = self.shape
        last_row, last_column = self._rows() % rows == rows - 1, self.column == columns - 1
        below = self.value[last_row, outputs - (rows - 1) * self.height :]
        beside = self.value[last_column, :, inputs - (columns - 1) * self.width :]
        if dtypes.nonzero(below).any() or dtypes.nonzero(beside).any():
            self._refuse(f"has values beyond the {outputs} outputs or {inputs} inputs; set them to zero")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Column(Layout):
    column: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorLayout(ValueLayout, _Column):
    """``height`` neighbouring outputs share one list of inputs: column [T, ceil(M/height), k], value [.., height, k].

    k is the longest list, rounded up to a multiple of 16; shorter lists are filled up with column 0 and value 0.
    """

    kind: ClassVar[str] = "vector"

    height: int = 32

    @classmethod
    def pack(cls, delta_TMK: Array, *, height: int = 32, budget: int | None = None) -> VectorLayout:
        """Return the inputs that any of ``height`` outputs changes; ``budget`` sets k, and ValueError if it is less."""
        tasks, outputs, inputs = checked_delta(delta_TMK, cls.__name__).shape
        if height < 1:
            raise ValueError(f"a height of {height} outputs shares no list; give at least 1.")
        padded = np.pad(delta_TMK, ((0, 0), (0, ceil_to(outputs, height) - outputs), (0, 0)))
        tiles = padded.reshape(-1, height, inputs)
        used = np.asarray(dtypes.nonzero(tiles).any(axis=1))
        longest = int(used.sum(axis=1).max())
        if budget is not None and budget < longest:
            raise ValueError(f"a list of {longest} inputs exceeds the budget of {budget}; raise it or prune the delta.")
        length = ceil_to(max(1, longest if budget is None else budget), STEP)
        listed, _ = padded_lists(used, length)
        listed = np.pad(listed, ((0, 0), (0, length - listed.shape[1])), constant_values=-1)
        column = np.where(listed < 0, np.int32(0), listed)
        value = np.take_along_axis(tiles, column[:, None, :], axis=2)
        value[np.broadcast_to((listed < 0)[:, None, :], value.shape)] = 0
        tiled = tasks, blocks_of(outputs, height)
        return cls(
            shape=(tasks, outputs, inputs),
            height=height,
            column=column.reshape(*tiled, length),
            value=value.reshape(*tiled, height, length),
        )

    def dense(self) -> Array:
        """Return delta_TMK."""
        tasks, outputs, inputs = self.shape
        tiles = np.zeros((*self.value.shape[:3], inputs), dtype=self.value.dtype)
        task, tile, place = np.nonzero(~self._filling())
        tiles[task, tile, :, self.column[task, tile, place]] = self.value[task, tile, :, place]
        return np.ascontiguousarray(tiles.reshape(tasks, -1, inputs)[:, :outputs])

    def _filling(self) -> Array:
        """Return where a list has stopped rising."""
        falls = np.diff(self.column, axis=2, prepend=np.int32(-1)) <= 0
        return np.asarray(np.logical_or.accumulate(falls, axis=2))

    def _check(self) -> None:
        tasks, outputs, inputs = self.shape
        if self.height < 1:
            self._refuse(f"has a height of {self.height}, which must be at least 1")
        tiles = blocks_of(outputs, self.height)
        self._check_shape("column", tasks, tiles, None)
        length = self.column.shape[2]
        self._check_shape("value", tasks, tiles, self.height, length)
        if length % STEP or not length:
            self._refuse(
                f"has lists of {length} inputs, which must be a multiple of {STEP}; fill up with column 0, value 0"
            )
        self._check_indices("column", inputs, "inputs")
        self._check_values("value")
        filled = dtypes.nonzero(self.value).any(axis=2)
        if (self._filling() & ((self.column != 0) | filled)).any():
            self._refuse("has a list that does not rise; sort it, and fill up with column 0, value 0")
        if dtypes.nonzero(self.value[:, -1, outputs - (tiles - 1) * self.height :]).any():
            self._refuse(f"has values beyond the {outputs} outputs; set them to zero")


def _starts(row: Shaped[np.ndarray, " entries"], rows: int) -> Shaped[np.ndarray, " rows_and_one"]:
    """Return where each of ``rows`` begins among the sorted numbers ``row``."""
    if len(row) > np.iinfo(np.int32).max:
        raise ValueError(f"a delta with {len(row)} entries exceeds 32-bit indices; pack fewer tasks at a time.")
    return np.searchsorted(row, np.arange(rows + 1)).astype(np.int32)
