"""The problem that dispatch chooses for: T tasks on one layer, what changed in its weights, and in how many rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from slimtask.kernels.device import Device
from slimtask.kernels.floors import ITEM_BYTES, Ceilings, Layer, ceilings_of

Operator = Literal["linear", "mlp", "attention"]

# What of a layer's weights a sub-task changed. "block" is 64 x 64, "vector" 32 or 64 outputs with one list of inputs,
# "tensor" everything, "rows" nothing: only rows of the activations differ.
LINEAR_PATTERNS = ("unstructured", "two-four", "block", "vector", "in-channels", "out-channels", "tensor", "rows")
PATTERNS = (*LINEAR_PATTERNS, "hidden-units", "heads")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """``tasks`` outputs of one layer of ``inputs`` to ``outputs`` features on ``tokens`` rows.

    ``density`` is the share of the weights that each sub-task changed, in ``pattern``; ``rows`` the share of rows in
    which its activations differ from the base's, 0 (one shared input) to 1. With ``base_included`` the base is one of
    the tasks, else it is computed besides them. For "hidden-units" the layer is an MLP of ``outputs`` hidden units and
    back, for "heads" an attention's qkv and proj (``outputs`` is three times the width of all heads).
    """

    tasks: int
    tokens: int
    inputs: int
    outputs: int
    pattern: str
    density: float | int
    rows: float | int = 0.0
    dtype: str = "float32"
    device: Device
    base_included: bool = False

    def __post_init__(self) -> None:
        for name in ("tasks", "tokens", "inputs", "outputs"):
            if getattr(self, name) < 1:
                raise ValueError(f"a problem has {name}={getattr(self, name)}, which must be at least 1.")
        if self.pattern not in PATTERNS:
            raise ValueError(f"there is no pattern '{self.pattern}'; take one of {', '.join(PATTERNS)}.")
        if not (math.isfinite(self.density) and 0 < self.density <= 1):
            raise ValueError(f"a density of {self.density} is not in (0, 1]; leave out tasks that changed nothing.")
        if not (math.isfinite(self.rows) and 0 <= self.rows <= 1):
            raise ValueError(f"a share of rows of {self.rows} is not in [0, 1]; divide the row budget by the tokens.")
        if self.dtype not in ITEM_BYTES:
            raise ValueError(f"there are no kernels for dtype '{self.dtype}'; take one of {', '.join(ITEM_BYTES)}.")
        if self.deltas < 1:
            raise ValueError("the base is the only task: there is nothing to choose; run it dense.")
        if self.pattern == "heads" and self.outputs % 3:
            raise ValueError(f"qkv has {self.outputs} outputs, which is not three times the width of all heads.")

    @property
    def deltas(self) -> int:
        """Return the number of sub-tasks besides the base."""
        return self.tasks - self.base_included

    @property
    def operator(self) -> Operator:
        """Return what the base computes: one linear layer, an MLP, or the linear layers of an attention."""
        pairs: dict[str, Operator] = {"hidden-units": "mlp", "heads": "attention"}
        return pairs.get(self.pattern, "linear")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the linear layers, first to last. The attention between qkv and proj is left out."""
        first = Layer(tokens=self.tokens, inputs=self.inputs, outputs=self.outputs)
        if self.operator == "linear":
            return (first,)
        inner = self.outputs if self.operator == "mlp" else self.outputs // 3
        return (first, Layer(tokens=self.tokens, inputs=inner, outputs=self.inputs))

    @property
    def item_bytes(self) -> int:
        """Return the bytes of one number."""
        return ITEM_BYTES[self.dtype]

    @property
    def ceilings(self) -> Ceilings:
        """Return the ceilings of the device for this dtype."""
        device = self.device
        return ceilings_of(device.name, backend=device.backend, dtype=self.dtype, threads=device.threads or 1)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the device, as JSON takes it."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "device"}

    def __str__(self) -> str:
        base = "base included" if self.base_included else "base besides"
        return (
            f"{self.tasks} tasks, {base}, {self.operator} {self.inputs} to {self.outputs}, {self.tokens} tokens, "
            f"{self.pattern} {self.density:.3g}, changed rows {self.rows:.3g}, {self.dtype}, {self.device}"
        )
