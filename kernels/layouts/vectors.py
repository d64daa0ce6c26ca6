"""Layouts of fixed length along the inputs: lists shared by neighbouring outputs, and two of every four."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from slimtask.kernels import dtypes
from slimtask.kernels.layouts.base import Array, Layout, ValueLayout, blocks_of, ceil_to, checked_delta, padded_lists

STEP = 16  # inputs that one tensor-core instruction sums over


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


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoFourLayout(ValueLayout):
    """At most two of every four neighbouring inputs: value [T, M, K/2], position [T, M, K/4] uint8.

    A position holds the places, 0 to 3, of the two values of its four inputs: the first in bits 0-1, the second, which
    is the larger, in bits 2-3.
    """

    kind: ClassVar[str] = "two-four"

    position: Array

    @classmethod
    def pack(cls, delta_TMK: Array) -> TwoFourLayout:
        """Return the delta; ValueError unless K is a multiple of four and no four inputs have three values."""
        tasks, outputs, inputs = checked_delta(delta_TMK, cls.__name__).shape
        if inputs % 4:
            raise ValueError(
                f"{cls.__name__} needs inputs in multiples of 4, this delta has {inputs}; use another layout."
            )
        fours = delta_TMK.reshape(tasks, outputs, inputs // 4, 4)
        used = dtypes.nonzero(fours)
        most = int(used.sum(axis=3).max())
        if most > 2:
            raise ValueError(
                f"a delta for {cls.__name__} has {most} values in four inputs, 2 is the most; project it first."
            )
        place = np.sort(np.argsort(~used, axis=3, kind="stable")[..., :2], axis=3)
        value = np.take_along_axis(fours, place, axis=3).reshape(tasks, outputs, inputs // 2)
        position = (place[..., 0] | place[..., 1] << 2).astype(np.uint8)
        return cls(shape=(tasks, outputs, inputs), value=value, position=position)

    def dense(self) -> Array:
        """Return delta_TMK."""
        tasks, outputs, inputs = self.shape
        fours = np.zeros((tasks, outputs, inputs // 4, 4), dtype=self.value.dtype)
        np.put_along_axis(fours, self._places(), self.value.reshape(tasks, outputs, inputs // 4, 2), axis=3)
        return fours.reshape(self.shape)

    def _places(self) -> Array:
        return np.stack([self.position & 3, self.position >> 2 & 3], axis=-1).astype(np.int64)

    def _check(self) -> None:
        tasks, outputs, inputs = self.shape
        if inputs % 4:
            self._refuse(f"has {inputs} inputs, which must be a multiple of 4")
        self._check_shape("value", tasks, outputs, inputs // 2)
        self._check_shape("position", tasks, outputs, inputs // 4)
        self._check_values("value")
        if self.position.dtype != np.uint8:
            self._refuse(f"has position of dtype {self.position.dtype}, which must be uint8")
        places = self._places()
        if (self.position > 15).any() or (places[..., 0] >= places[..., 1]).any():
            self._refuse("has a position that does not name two rising places of four")
