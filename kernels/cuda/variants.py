"""Variants of the CUDA kernels: what is fixed when one is compiled, the memory it takes, which one suits a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

SIDE = 64  # outputs and inputs of a block; inputs of a piece of a list
PADDING = 8  # elements after each row of a tile in shared memory, against bank conflicts
ELEMENTS = {"bfloat16": "BFloat16", "float16": "Half", "float32": "float"}
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
TENSOR_CORE = ("bfloat16", "float16")
STAGES = 3  # pieces in shared memory at a time: one in use, two on their way
TARGETS = (80, 86, 89, 90, 120)

_RESERVED = 1024  # bytes of shared memory that the driver takes of every thread block
_SHARED = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99}  # KiB a block may take
_MULTIPROCESSORS = {80: 108, 86: 84, 89: 142, 90: 132, 120: 170}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU: compute capability as one number, multiprocessors, bytes of shared memory a thread block may ask for.

    ``limit_bytes`` is less than that where whoever launches does not ask (TensorRT, for a kernel in its engine).
    """

    sm: int
    multiprocessors: int
    shared_bytes: int
    limit_bytes: int | None = None

    @property
    def usable_bytes(self) -> int:
        """Bytes of shared memory that a thread block gets."""
        return self.shared_bytes if self.limit_bytes is None else min(self.limit_bytes, self.shared_bytes)

    @classmethod
    def of_sm(cls, sm: int) -> Gpu:
        """Return a typical GPU of a compute capability, to plan for without one (99 KiB where it is not known)."""
        return cls(sm=sm, multiprocessors=_MULTIPROCESSORS.get(sm, 100), shared_bytes=_SHARED.get(sm, 99) * 1024)

    def blocks_at_once(self, shared_bytes: int, limit: int) -> int:
        """Return how many thread blocks of ``shared_bytes`` the GPU holds, ``limit`` on a multiprocessor or fewer."""
        each = (self.shared_bytes + _RESERVED) // (shared_bytes + _RESERVED)
        return self.multiprocessors * max(1, min(limit, each))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is fixed when a kernel is compiled.

    ``rows`` are the tokens of a tile, ``height`` the outputs of one (blocks, vectors); ``resident``: all inputs of the
    tile are in shared memory (blocks, csr).
    """

    kernel: str
    element: str
    base: str
    rows: int = SIDE
    height: int = SIDE
    resident: bool = False

    @property
    def name(self) -> str:
        """A file name: one for every variant."""
        kept = "-resident" if self.resident else ""
        return f"{self.kernel}-{self.element}-{self.base}-{self.rows}x{self.height}{kept}"

    @property
    def defines(self) -> tuple[str, ...]:
        """The macros that the source is compiled with."""
        return (
            f"ELEMENT={ELEMENTS[self.element]}",
            f"BASE={ELEMENTS[self.base]}",
            f"ROWS={self.rows}",
            f"HEIGHT={self.height}",
            f"RESIDENT={int(self.resident)}",
            f"STAGES={STAGES}",
        )

    @property
    def threads(self) -> int:
        """Threads of a thread block: a warp for every 32 tokens by 32 outputs, or 256."""
        return self.rows * self.height // 32 if self.kernel in ("blocks", "vectors") else 256

    @property
    def per_multiprocessor(self) -> int:
        """Thread blocks that registers allow on a multiprocessor."""
        return 1 if self.kernel == "blocks" and (self.resident or self.base == "float32") else 2

    def shared_bytes(self, inputs: int) -> int:
        """Return the dynamic shared memory of a launch on K inputs."""
        size = BYTES[self.element]
        if self.kernel == "blocks":
            tile = self.rows * (_ceil(inputs, SIDE) + PADDING) if self.resident else 0
            stage = SIDE * SIDE + (0 if self.resident else self.rows * (SIDE + PADDING))
            return (tile + STAGES * stage) * size + 16  # and the columns of the stages
        if self.kernel == "vectors":
            return STAGES * (self.height * SIDE + SIDE * (self.rows + PADDING)) * size
        if self.kernel == "csr":
            return inputs * self.rows * size if self.resident else 0
        return SIDE * (SIDE * size + 4)


def blocks_variant(*, element: str, base: str, tokens: int, inputs: int, blocks: int, gpu: Gpu) -> Variant:
    """Return the variant for N tokens, K inputs and ``blocks`` blocks of all sub-tasks together.

    It is the one that reads least from L2: either every thread block loads a tile of x once, and then only blocks; or
    64 inputs of the tile come along with every block, which wins while a thread block meets few.
    """

    def read(variant: Variant) -> int:
        tiles = -(-tokens // variant.rows)
        loaded = max(tiles, gpu.multiprocessors) * inputs if variant.resident else blocks * tiles * SIDE
        return loaded * variant.rows + blocks * tiles * SIDE * SIDE

    streamed = _fitting(Variant(kernel="blocks", element=element, base=base, rows=_rows(tokens)), inputs, gpu)
    resident = [replace(streamed, rows=rows, resident=True) for rows in (128, 96, 64) if tokens > rows // 2]
    fitting = [variant for variant in resident if variant.shared_bytes(inputs) <= gpu.usable_bytes]
    return min([streamed, *fitting], key=read)


def vectors_variant(*, element: str, base: str, tokens: int, height: int, gpu: Gpu | None = None) -> Variant:
    """Return the variant for N tokens and lists shared by ``height`` outputs; it fits on every GPU without a limit."""
    variant = Variant(kernel="vectors", element=element, base=base, rows=_rows(tokens), height=height)
    return variant if gpu is None else _fitting(variant, 0, gpu)


def csr_variant(*, element: str, base: str, tokens: int, inputs: int, gpu: Gpu) -> Variant:
    """Return the variant for N tokens and K inputs: the largest tile of x that fits, else x through the cache."""
    least = 16 // BYTES[element]  # tokens of a 16-byte copy
    for rows in (16 * least, 8 * least, 4 * least, 2 * least, least):
        kept = Variant(kernel="csr", element=element, base=base, rows=rows, resident=True)
        if kept.shared_bytes(inputs) <= gpu.usable_bytes and (tokens > rows // 2 or rows == least):
            return kept
    return Variant(kernel="csr", element=element, base=base, rows=8 * least)


def _rows(tokens: int) -> int:
    return next((rows for rows in (32, 64) if tokens <= rows), 128)


def _fitting(variant: Variant, inputs: int, gpu: Gpu) -> Variant:
    """Return the variant with as many rows as its shared memory allows, 32 at least."""
    while variant.rows > SIDE // 2 and variant.shared_bytes(inputs) > gpu.usable_bytes:
        variant = replace(variant, rows=variant.rows // 2)
    return variant


def _ceil(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
