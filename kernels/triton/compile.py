"""The Triton kernels compiled without a GPU, as the tests hold the compiler to it: variants, PTX and machine code.

Sizes of layers stay arguments, so that one artifact would serve every layer; tile, dtype and epilogue are baked in. A
layer whose inputs and outputs are multiples of 16 takes an aligned variant; any other takes the ragged one, whose loads
are narrow.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

from slimtask.kernels.sass import Counts, counts
from slimtask.kernels.triton.tiles import Tile

KERNELS = ("rows", "blocks")
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
EPILOGUES = ("bias", "bias_gelu", "bias_residual")  # qkv; fc1; proj and fc2

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

    def function(self) -> Any:
        """Return the Triton function."""
        if self.kernel == "rows":
            from slimtask.kernels.triton.rows import rows_kernel

            return rows_kernel
        from slimtask.kernels.triton.blocks import blocks_kernel

        return blocks_kernel


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """One variant compiled; shared memory is dynamic, ``threads`` are those of one program."""

    ptx: str
    cubin: bytes
    shared_bytes: int
    threads: int
    counts: Counts


def compile_variant(variant: Variant, *, hints: bool = True) -> Compiled:
    """Return one variant compiled for its compute capability. Needs triton, no GPU and no driver.

    ``hints`` promise the multiples of 16 in ``variant.divisible``; False shows what happens without.
    Raises ValueError where Triton's interpreter is switched on, or the kernel asks for scratch memory.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    if triton.knobs.runtime.interpret:
        raise ValueError("TRITON_INTERPRET is set, which replaces the compiler; unset it to compile ahead of time")
    options = {"num_warps": variant.tile.warps, "num_stages": variant.tile.stages, "enable_fp_fusion": True}
    with tempfile.TemporaryDirectory() as cache, triton.knobs.compilation.scope(), triton.knobs.cache.scope():
        triton.knobs.cache.dir = cache  # nothing of an older source
        triton.knobs.compilation.disable_line_info = True
        target = GPUTarget("cuda", variant.sm, 32)
        compiled = triton.compile(_source(variant, hints=hints), target=target, options=options)
        ptx, cubin, metadata = compiled.asm["ptx"], bytes(compiled.asm["cubin"]), compiled.metadata
    if getattr(metadata, "global_scratch_size", 0) or getattr(metadata, "profile_scratch_size", 0):
        raise ValueError(f"{variant.name} asks for scratch memory, which no launcher here provides; take another tile")
    threads = 32 * variant.tile.warps
    return Compiled(ptx=ptx, cubin=cubin, shared_bytes=metadata.shared, threads=threads, counts=counts(ptx, cubin))


def _source(variant: Variant, *, hints: bool) -> Any:
    from triton.compiler import ASTSource

    function = variant.function()
    names = function.arg_names
    return ASTSource(
        fn=function,
        signature={name: variant.arguments.get(name, "constexpr") for name in names},
        constexprs=variant.constants,
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in (variant.divisible if hints else ())},
    )
