"""Measured milliseconds of single layers over input AND output channel counts, and the lookup between grid points.

Tables of output counts alone mislead (MDP, CVPR 2025, arXiv 2504.02168, section 3.1: HALP's linear latency model misses
what pruning a layer's inputs saves). Between two aligned counts a layer's time is close to bilinear; counts in between
are padded or worse by most backends, which a table knows as a penalty per alignment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field, model_validator

from slimtask.errors import InputError
from slimtask.tasks import Frozen, Positive

BLOCK = 16
"""Grid points are multiples of this many channels, the widest vector block of the backends measured here."""

LayerKind = Literal["conv", "transposed", "depthwise", "grouped", "linear"]
Penalties = tuple[float, float, float, float]
"""Effective fraction of a block that a count costs at least, for counts whose largest power of two is 1, 2, 4, 8."""

FREE: Penalties = (0.0, 0.0, 0.0, 0.0)


class LayerShape(Frozen):
    """Everything but its channel counts that decides how long a layer runs.

    ``size`` is the input map (height, width), for a linear layer (positions, 1); ``width`` the inputs per group of a
    depthwise or grouped convolution, whose time depends on its outputs alone.
    """

    kind: LayerKind
    batch: int = Field(default=1, ge=1)
    size: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    width: int = Field(default=1, ge=1)

    @property
    def one_axis(self) -> bool:
        """Whether the inputs follow the outputs, so that only outputs count."""
        return self.kind in ("depthwise", "grouped")

    @property
    def out_size(self) -> tuple[int, int]:
        """Return height and width of the output map (a transposed convolution's without output padding)."""
        if self.kind == "linear":
            return self.size
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        if self.kind == "transposed":
            sizes = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in axes]
        else:
            sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]
        return sizes[0], sizes[1]

    @property
    def flops_per_pair(self) -> int:
        """Return the FLOPs of one output channel per input channel it reads; a multiply-add counts as two."""
        height, width = self.size if self.kind == "transposed" else self.out_size
        return 2 * self.batch * height * width * self.kernel[0] * self.kernel[1]

    def flops(self, inputs: float | int, outputs: float | int) -> float:
        """Return the FLOPs of one call with these channel counts."""
        return float(self.flops_per_pair * (self.width if self.one_axis else inputs) * outputs)


class Entry(Frozen):
    """One layer shape, measured: ``ms[i][j]`` is the time at ``inputs[i]`` and ``outputs[j]`` channels.

    The grid is of multiples of ``BLOCK``, smaller counts, and the largest counts of either axis.
    """

    shape: LayerShape
    inputs: tuple[int, ...] = Field(min_length=1)
    outputs: tuple[int, ...] = Field(min_length=1)
    ms: tuple[tuple[Positive, ...], ...]
    input_penalty: Penalties = FREE
    output_penalty: Penalties = FREE

    @model_validator(mode="after")
    def _check_grid(self) -> Entry:
        for axis in (self.inputs, self.outputs):
            if list(axis) != sorted(set(axis)) or axis[0] < 1:
                raise ValueError("the channel counts of an axis must rise and be positive")
        if len(self.ms) != len(self.inputs) or any(len(row) != len(self.outputs) for row in self.ms):
            raise ValueError("there must be one time per pair of channel counts")
        return self

    @cached_property
    def monotone_ms(self) -> Float64[np.ndarray, "inputs outputs"]:
        """Return the grid's times, none above that of a pair with more channels: noise only ever adds time."""
        times = np.asarray(self.ms, dtype=np.float64)[::-1, ::-1]
        return np.ascontiguousarray(np.minimum.accumulate(np.minimum.accumulate(times, axis=0), axis=1)[::-1, ::-1])

    def covers(self, inputs: Sequence[int], outputs: Sequence[int]) -> bool:
        """Return whether the grid reaches from the smallest to the largest of these counts on both axes."""
        pairs = ((self.inputs, inputs), (self.outputs, outputs))
        return all(mine[0] <= min(asked) and mine[-1] >= max(asked) for mine, asked in pairs)

    def lookup(self, inputs: Sequence[int], outputs: Sequence[int]) -> Float64[np.ndarray, "inputs outputs"]:
        """Return the milliseconds of every pair of these counts, bilinear between grid points.

        Beyond the grid an axis goes on as a proportion of its largest count; below its smallest it stays level.
        """
        rows = _weights([effective_count(n, self.inputs, self.input_penalty) for n in inputs], self.inputs)
        columns = _weights([effective_count(n, self.outputs, self.output_penalty) for n in outputs], self.outputs)
        return np.asarray(rows @ self.monotone_ms @ columns.T, dtype=np.float64)


class LatencyTable(Frozen):
    """Measured layer times of one device: processor, backend, version, threads. JSON; entries found by shape."""

    kind: Literal["latency table"] = "latency table"
    device: str
    backend: str
    version: str
    threads: int = Field(ge=1)
    entries: tuple[Entry, ...] = ()

    @cached_property
    def by_shape(self) -> Mapping[LayerShape, Entry]:
        """Return the entries by layer shape."""
        return {entry.shape: entry for entry in self.entries}

    def grid_ms(
        self, shape: LayerShape, inputs: Sequence[int], outputs: Sequence[int]
    ) -> Float64[np.ndarray, "inputs outputs"]:
        """Return the milliseconds of one call for every pair of counts; InputError if the shape was not measured."""
        entry = self.by_shape.get(shape)
        if entry is None:
            raise InputError(
                f"the latency table of '{self.device}' has no {shape.kind} {shape.kernel} on {shape.size}; "
                "measure it with this network."
            )
        return entry.lookup(entry.inputs[-1:] * len(inputs) if shape.one_axis else inputs, outputs)

    def ms(self, shape: LayerShape, inputs: int, outputs: int) -> float:
        """Return the milliseconds of one call of a layer with these channel counts."""
        return float(self.grid_ms(shape, (inputs,), (outputs,))[0, 0])

    def joined(self, entries: Sequence[Entry]) -> LatencyTable:
        """Return this table with ``entries`` added; of two with the same shape the new one stays."""
        merged = {**self.by_shape, **{entry.shape: entry for entry in entries}}
        return LatencyTable(
            device=self.device,
            backend=self.backend,
            version=self.version,
            threads=self.threads,
            entries=tuple(merged.values()),
        )


def effective_count(count: int, grid: Sequence[int], penalty: Penalties) -> float:
    """Return the count on the smooth grid that costs as much as ``count``, which may be badly aligned."""
    if count < BLOCK or count % BLOCK == 0 or count in grid or len(grid) == 1:
        return float(count)
    whole, part = divmod(count, BLOCK)
    two_power = (part & -part).bit_length() - 1
    return BLOCK * (whole + max(part / BLOCK, penalty[two_power]))


def _weights(counts: Sequence[float], grid: Sequence[int]) -> Float64[np.ndarray, "counts grid"]:
    """Return the interpolation matrix from grid points to ``counts``."""
    weights = np.zeros((len(counts), len(grid)))
    for row, count in enumerate(counts):
        if count >= grid[-1]:
            weights[row, -1] = count / grid[-1] if len(grid) > 1 else 1.0
        elif count <= grid[0]:
            weights[row, 0] = 1.0
        else:
            right = int(np.searchsorted(grid, count, side="right"))
            share = (count - grid[right - 1]) / (grid[right] - grid[right - 1])
            weights[row, right - 1], weights[row, right] = 1.0 - share, share
    return weights
