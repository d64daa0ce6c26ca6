"""Layouts with rows of their own length: single entries (CSR) and rectangular blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Shaped

from slimtask.kernels import dtypes
from slimtask.kernels.layouts.base import Array, Layout, ValueLayout, blocks_of, ceil_to, checked_delta


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


def _starts(row: Shaped[np.ndarray, " entries"], rows: int) -> Shaped[np.ndarray, " rows_and_one"]:
    """Return where each of ``rows`` begins among the sorted numbers ``row``."""
    if len(row) > np.iinfo(np.int32).max:
        raise ValueError(f"a delta with {len(row)} entries exceeds 32-bit indices; pack fewer tasks at a time.")
    return np.searchsorted(row, np.arange(rows + 1)).astype(np.int32)
