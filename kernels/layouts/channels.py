"""Layouts by whole slices: output channels, and rows of an activation; padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Shaped

from slimtask.kernels import dtypes
from slimtask.kernels.layouts.base import Array, Layout, ValueLayout, ceil_to, checked_delta, padded_lists


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lists(Layout):
    def _check_lists(self, name: str, count: Array, limit: int, of: str) -> None:
        """Refuse lists that do not rise up to their count and repeat their last number (0 if none) from there on."""
        self._check_shape(name, self.shape[0], None)
        lists = getattr(self, name)
        self._check_indices(name, limit, of)
        self._check_shape("count", self.shape[0])
        self._check_indices("count", lists.shape[1] + 1, f"length of {name}")
        step, counted = np.diff(lists, axis=1), np.arange(1, lists.shape[1]) < count[:, None]
        if np.where(counted, step <= 0, step != 0).any() or (lists[count == 0] != 0).any():
            self._refuse(f"has a {name} that does not rise up to its count and repeat the last one from there on")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Channels(_Lists):
    channel: Array
    count: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class OutChannelLayout(ValueLayout, _Channels):
    """Changed output channels: channel [T, p], count [T], value [T, p, K] their deltas, bias [T, p] or None.

    Filled up to p with the last changed channel and its values once more, so that writing it twice changes nothing.
    """

    kind: ClassVar[str] = "out-channels"

    bias: Array | None = None

    @classmethod
    def pack(
        cls, delta_TMK: Array, delta_bias_TM: Array | None = None, *, budget: int | None = None, multiple: int = 1
    ) -> OutChannelLayout:
        """Return the output channels whose weights or bias change.

        p is the most changed channels of a task, or ``budget``, rounded up to a ``multiple`` that fits (8 suits tensor
        cores). ValueError if a task changes more than ``budget`` channels.
        """
        tasks, outputs, inputs = checked_delta(delta_TMK, cls.__name__).shape
        changed = np.asarray(dtypes.nonzero(delta_TMK).any(axis=2))
        if delta_bias_TM is not None:
            if delta_bias_TM.shape != (tasks, outputs):
                raise ValueError(
                    f"a delta of biases has shape {list(delta_bias_TM.shape)} instead of {[tasks, outputs]}; stack it."
                )
            changed |= dtypes.nonzero(delta_bias_TM)
        channel, count = _repeated(changed, _length(changed, "output channels", budget, multiple))
        value = np.take_along_axis(delta_TMK, channel[:, :, None], axis=1)
        bias = None if delta_bias_TM is None else np.take_along_axis(delta_bias_TM, channel, axis=1)
        return cls(shape=(tasks, outputs, inputs), channel=channel, count=count, value=value, bias=bias)

    def dense(self) -> Array:
        """Return delta_TMK."""
        delta = np.zeros(self.shape, dtype=self.value.dtype)
        np.put_along_axis(delta, self.channel[:, :, None], self.value, axis=1)
        return delta

    def dense_bias(self) -> Array | None:
        """Return delta_bias_TM, or None if the layout has no biases."""
        if self.bias is None:
            return None
        delta = np.zeros(self.shape[:2], dtype=self.bias.dtype)
        np.put_along_axis(delta, self.channel, self.bias, axis=1)
        return delta

    def _check(self) -> None:
        tasks, outputs, inputs = self.shape
        self._check_lists("channel", self.count, outputs, "outputs")
        length = self.channel.shape[1]
        self._check_shape("value", tasks, length, inputs)
        names = ["value"]
        if self.bias is not None:
            self._check_shape("bias", tasks, length)
            names.append("bias")
        self._check_values(*names)
        last = np.maximum(self.count - 1, 0)[:, None]
        for name in names:
            self._check_filling(name, last)

    def _check_filling(self, name: str, last: Shaped[np.ndarray, "tasks 1"]) -> None:
        values = getattr(self, name)
        if not values.size:
            return
        values = values.reshape(*values.shape[:2], -1)
        repeated = np.take_along_axis(values, last[:, :, None], axis=1)
        filling = (np.arange(values.shape[1]) > last)[:, :, None]
        if (filling & (values != repeated)).any() or dtypes.nonzero(values[self.count == 0]).any():
            self._refuse(
                f"has a {name} of filling that is not that of the channel it repeats (0 for a task without any)"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class RowLayout(_Lists):
    """Rows of an activation that a task changes: index [T, R], count [T]; ``shape`` is [T, N, 1], N the rows there are.

    Filled up to R with the last of a task's rows once more (row 0 if there is none).
    """

    kind: ClassVar[str] = "rows"

    index: Array
    count: Array

    @classmethod
    def pack(cls, mask_TN: Bool[np.ndarray, "tasks rows"], *, budget: int | None = None) -> RowLayout:
        """Return the rows where ``mask_TN`` is True; R is ``budget`` (ValueError if exceeded) or what it takes."""
        index, count = _repeated(mask_TN, _length(mask_TN, "rows", budget, 1))
        return cls(shape=(*mask_TN.shape, 1), index=index, count=count)

    @classmethod
    def of(cls, rows: Sequence[Shaped[np.ndarray, "_"]], length: int, *, budget: int | None = None) -> RowLayout:
        """Return the layout of one array of row numbers per task, of ``length`` rows; order and doubles are lost."""
        mask = np.zeros((len(rows), length), dtype=bool)
        for task, numbers in enumerate(rows):
            if numbers.size and not 0 <= numbers.min() <= numbers.max() < length:
                raise ValueError(f"task {task} names rows beyond 0 to {length - 1}; give rows of the activation.")
            mask[task, numbers] = True
        return cls.pack(mask, budget=budget)

    def dense(self) -> Bool[np.ndarray, "tasks rows"]:
        """Return mask_TN: True at the rows of each task."""
        mask = np.zeros(self.shape[:2], dtype=bool)
        valid = np.arange(self.index.shape[1]) < self.count[:, None]
        mask[np.nonzero(valid)[0], self.index[valid]] = True
        return mask

    def lists(self) -> list[Shaped[np.ndarray, "_"]]:
        """Return the row numbers of each task, without the filling."""
        return [numbers[:count] for numbers, count in zip(self.index, self.count, strict=True)]

    def _check(self) -> None:
        self._check_lists("index", self.count, self.shape[1], "rows")


def _length(mask: Bool[np.ndarray, "tasks n"], what: str, budget: int | None, multiple: int) -> int:
    most = int(mask.sum(axis=1).max())
    if multiple < 1:
        raise ValueError(f"a multiple of {multiple} {what} is none; give at least 1.")
    if budget is not None and most > budget:
        task = int(mask.sum(axis=1).argmax())
        raise ValueError(f"task {task} changes {most} {what}, its budget is {budget}; raise it or change fewer.")
    return ceil_to(most if budget is None else budget, multiple)


def _repeated(mask: Bool[np.ndarray, "tasks n"], length: int) -> tuple[Array, Array]:
    """Return the True places of every task as [tasks, length], filled up with the last one (or 0), and their count."""
    listed, count = padded_lists(mask, length)
    listed = np.pad(listed, ((0, 0), (0, length - listed.shape[1])), constant_values=-1)
    last = np.where(count > 0, listed[np.arange(len(mask)), np.maximum(count - 1, 0)], 0) if length else count
    return np.where(listed < 0, last[:, None], listed).astype(np.int32), count
