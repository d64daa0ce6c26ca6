"""How far two networks' outputs are apart: numbers by their difference, everything else by being equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtask.tasks import Frozen

_INFINITE = float("inf")


class TaskDifference(Frozen):
    """Largest difference of one output: absolute, and relative to the largest absolute value of the reference."""

    max_abs: float
    max_rel: float


@dataclass
class Comparison:
    """The largest difference of every output so far, and in ``words`` what no number says (a shape, a missing output).

    ``counted`` says that outputs differ that are an order or a count (class numbers, how many boxes), which the last
    digit of a score may decide. An output of numbers that was never finite has shown nothing; ``finish_`` says so.
    """

    worst: dict[str, TaskDifference] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    finite: dict[str, bool] = field(default_factory=dict)
    counted: bool = False

    def add_(self, expected: Mapping[str, Any], got: Mapping[str, Any]) -> None:
        """Raise the differences to those of one more batch of outputs, by name."""
        for name in (*expected, *(name for name in got if name not in expected)):
            if name not in got or name not in expected:
                found, words = _unequal(f"only the network {'before' if name in expected else 'after'} has it")
            else:
                found, words = difference(expected[name], got[name])
                self.counted |= bool(words) and _is_count(expected[name], got[name])
                self._see_(name, expected[name])
            before = self.worst.get(name)
            self.worst[name] = found if before is None else _worse(before, found)
            if words:
                self.words.setdefault(name, words)

    def finish_(self) -> None:
        """Mark each output of numbers that no batch has shown a finite entry of."""
        for name, finite in self.finite.items():
            if not finite:
                self.worst[name] = TaskDifference(max_abs=_INFINITE, max_rel=_INFINITE)
                self.words.setdefault(name, "the network before never gives a finite number there")

    def restart_(self) -> None:
        """Forget the numbers, which a wider type decides anew."""
        self.worst.clear()
        self.words.clear()

    def _see_(self, name: str, value: Any) -> None:
        value = _as_tensor(value)
        if isinstance(value, Tensor) and _is_real(value) and value.numel():
            self.finite[name] = self.finite.get(name, False) or bool(value.isfinite().any())


def difference(reference: Any, got: Any) -> tuple[TaskDifference, str]:
    """Return how far ``got`` is from ``reference``, and in words why that is infinite, if it is.

    Tensors must agree in shape and dtype, booleans and integers be equal; infinities and NaN must stand where those of
    the reference do. Plain values must be equal.
    """
    reference, got = _as_tensor(reference), _as_tensor(got)
    if not (isinstance(reference, Tensor) and isinstance(got, Tensor)):
        return _EQUAL if _same(reference, got) else _unequal(f"it is {_told(got)}, not {_told(reference)}")
    if reference.dtype != got.dtype:
        return _unequal(f"it is {got.dtype}, not {reference.dtype}")
    if reference.shape != got.shape:
        return _unequal(f"its shape is {list(got.shape)}, not {list(reference.shape)}")
    if not _is_real(reference):
        return _EQUAL if torch.equal(reference, got) else _unequal(f"its entries ({reference.dtype}) are not equal")
    return _of_numbers(reference, got)


def _of_numbers(reference: Tensor, got: Tensor) -> tuple[TaskDifference, str]:
    wide = torch.complex128 if reference.is_complex() else torch.float64
    reference, got = reference.to(wide), got.to(wide)
    finite = reference.isfinite()
    if not torch.equal(finite, got.isfinite()) or not _same_limits(reference[~finite], got[~finite]):
        return _unequal("its infinities or NaN stand elsewhere")
    if not bool(finite.any()):
        return _EQUAL
    largest = float((reference[finite] - got[finite]).abs().max())
    scale = float(reference[finite].abs().max())
    relative = largest / scale if scale else (0.0 if largest == 0 else _INFINITE)
    return TaskDifference(max_abs=largest, max_rel=relative), ""


def _same_limits(reference: Tensor, got: Tensor) -> bool:
    """Return whether NaN stands with NaN and infinity with that of its sign."""
    if reference.is_complex():
        reference, got = torch.view_as_real(reference), torch.view_as_real(got)
        reference, got = (torch.where(x.isfinite(), 0.0, x) for x in (reference, got))
    signs = (x.nan_to_num(0.0, 1.0, -1.0) for x in (reference, got))
    return torch.equal(reference.isnan(), got.isnan()) and torch.equal(*signs)


def _is_count(one: Any, other: Any) -> bool:
    """Return whether what differs between two outputs are integers, booleans, or sizes."""
    one, other = _as_tensor(one), _as_tensor(other)
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return isinstance(one, int) and isinstance(other, int)
    return one.dtype == other.dtype and (one.shape != other.shape or not _is_real(one))


def _as_tensor(value: Any) -> Any:
    """Return numbers that are computed, not counted, as a tensor; anything else as it is."""
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor)
    if isinstance(value, float | np.floating):
        return torch.tensor(float(value), dtype=torch.float64)
    if isinstance(value, complex | np.complexfloating):
        return torch.tensor(complex(value), dtype=torch.complex128)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value))
    return value


def _same(reference: Any, got: Any) -> bool:
    if type(reference) is not type(got):
        return False
    try:
        return bool(np.all(reference == got))
    except Exception:  # a comparison of its own that refuses
        return False


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _told(value: Any) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"{value!r:.60}"


def _worse(one: TaskDifference, other: TaskDifference) -> TaskDifference:
    return TaskDifference(max_abs=max(one.max_abs, other.max_abs), max_rel=max(one.max_rel, other.max_rel))


_EQUAL = (TaskDifference(max_abs=0.0, max_rel=0.0), "")


def _unequal(words: str) -> tuple[TaskDifference, str]:
    return TaskDifference(max_abs=_INFINITE, max_rel=_INFINITE), words
