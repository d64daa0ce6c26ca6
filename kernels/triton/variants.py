"""The kernels that are compiled ahead of time: which sizes stay arguments, which are baked in, and their names.

Sizes of layers stay arguments, so one artifact serves every layer; tile, dtype and epilogue are baked in. A layer whose
inputs and outputs are multiples of 16 takes an aligned variant; any other takes the ragged one, whose loads are
narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from slimtask.kernels.triton.tiles import GPUS, RAGGED, Tile, block_tile, candidates

KERNELS = ("rows", "blocks")
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
EPILOGUES = ("bias", "bias_gelu", "bias_residual")  # qkv; fc1; proj and fc2
BITS = {"bfloat16": 16, "float16": 16, "float32": 32}

ROWS_POINTERS = ("x", "index", "count", "weight", "bias", "residual", "out")
ROWS_SIZES = ("N", "R", "K", "M", "residual_step")
BLOCKS_POINTERS = ("start", "column", "value", "x", "base", "delta_bias", "residual", "out")
BLOCKS_SIZES = ("N", "K", "M")
INDICES = ("index", "count", "start", "column")
MULTIPLES = ("K", "M", "residual_step")  # of 16 in an aligned variant; residual_step is 0 or N * M


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One kernel as it is compiled for one compute capability."""

    kernel: str
    sm: int
    dtype: str
    tile: Tile
    epilogue: str = "bias"
    scatter: bool = False  # rows only: overwrite a full output instead of writing compact rows
    aligned: bool = True

    def __post_init__(self) -> None:
        for what, value, known in (
            ("kernel", self.kernel, KERNELS),
            ("dtype", self.dtype, tuple(DTYPES)),
            ("epilogue", self.epilogue, EPILOGUES),
        ):
            if value not in known:
                raise ValueError(f"no {what} '{value}' to compile ahead of time; take one of {', '.join(known)}")

    @property
    def name(self) -> str:
        """Return the name of the artifact, the same for the same variant everywhere."""
        tile = f"{self.tile.rows}x{self.tile.outputs}x{self.tile.inputs}"
        marks = [self.kernel, *(["scatter"] if self.scatter else []), DTYPES[self.dtype], tile, self.epilogue]
        return "_".join([*marks, *([] if self.aligned else ["ragged"]), f"sm{self.sm}"])

    @property
    def arguments(self) -> dict[str, str]:
        """Return Triton's type of every argument that stays one, in the order of the kernel's signature."""
        pointers, sizes = (ROWS_POINTERS, ROWS_SIZES) if self.kernel == "rows" else (BLOCKS_POINTERS, BLOCKS_SIZES)
        types = {name: "*i32" if name in INDICES else f"*{DTYPES[self.dtype]}" for name in pointers}
        if self.epilogue != "bias_residual":
            del types["residual"]
        return types | dict.fromkeys(sizes, "i32")

    @property
    def divisible(self) -> tuple[str, ...]:
        """Return the arguments promised to be multiples of 16 (pointers: of 16 bytes).

        Without this Triton loads two bytes at a time and pipelines nothing: its just-in-time path looks at the
        arguments, ahead of time somebody has to promise.
        """
        pointers = tuple(name for name, kind in self.arguments.items() if kind.startswith("*"))
        return pointers + (tuple(name for name in MULTIPLES if name in self.arguments) if self.aligned else ())

    @property
    def constants(self) -> dict[str, Any]:
        """Return the values of the kernel's compile-time arguments."""
        shared: dict[str, Any] = {
            "GELU": self.epilogue == "bias_gelu",
            "RESIDUAL": self.epilogue == "bias_residual",
            "PRECISION": "ieee" if self.dtype == "float32" else "tf32",
            "INTERPRETED": False,
        }
        if self.epilogue != "bias_residual":
            shared["residual"] = None
        if self.kernel == "blocks":
            tile = {"BLOCK_N": self.tile.rows, "HEIGHT": self.tile.outputs, "WIDTH": self.tile.inputs}
            return shared | tile | {"DELTA_BIAS": True}
        tile = {"BLOCK_R": self.tile.rows, "BLOCK_M": self.tile.outputs, "BLOCK_K": self.tile.inputs}
        return shared | tile | {"BIAS": True, "COMPACT": False, "SCATTER": self.scatter}

    @property
    def grid(self) -> tuple[tuple[str, int], ...]:
        """Return, for each axis of the grid, a size and the step by which it is covered: ceil(size / step) programs."""
        return ("R" if self.kernel == "rows" else "N", self.tile.rows), ("M", self.tile.outputs), ("T", 1)

    def function(self) -> Any:
        """Return the Triton function."""
        if self.kernel == "rows":
            from slimtask.kernels.triton.rows import rows_kernel

            return rows_kernel
        from slimtask.kernels.triton.blocks import blocks_kernel

        return blocks_kernel


def shipped(
    sms: Sequence[int] = tuple(GPUS), dtypes: Sequence[str] = ("bfloat16", "float16"), kernels: Sequence[str] = KERNELS
) -> Iterator[Variant]:
    """Yield every variant a bundle may need: all tiles of the table, and for ragged layers one."""
    for sm, dtype, kernel, epilogue in product(sms, dtypes, kernels, EPILOGUES):
        bits = BITS[dtype]
        tiles = candidates(sm, bits) if kernel == "rows" else (block_tile(sm, bits=bits),)
        ragged = RAGGED if kernel == "rows" else block_tile(sm, bits=bits, even=False)
        for scatter in (False, True) if kernel == "rows" else (False,):
            common: dict[str, Any] = {"kernel": kernel, "sm": sm, "dtype": dtype, "epilogue": epilogue}
            for tile in tiles:
                yield Variant(tile=tile, scatter=scatter, **common)
            yield Variant(tile=ragged, scatter=scatter, aligned=False, **common)
