"""Which tile a kernel uses on which GPU: a table with reasons instead of tuning inside an inference call.

No entry has been timed yet: the shares below order the candidates by how often a tile reuses what it reads. Measured
costs belong to the dispatch, per device; this table only has to be sensible on a machine nobody has measured.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How one program cuts its GEMM: rows x outputs accumulated, inputs at a time, warps, pipeline stages."""

    rows: int
    outputs: int
    inputs: int
    warps: int
    stages: int

    def shared_bytes(self, sm: int, bits: int) -> int:
        """Return the shared memory of the pipeline: a buffer a stage, less one where mma.sync reads registers."""
        buffers = self.stages if sm // 10 == 9 and bits == 16 else self.stages - 1
        return buffers * (self.rows + self.outputs) * self.inputs * bits // 8

    @property
    def intensity(self) -> float:
        """Return multiply-adds per element read, rows * outputs / (rows + outputs)."""
        return self.rows * self.outputs / (self.rows + self.outputs)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What of a compute capability decides a tile; multiprocessors are those of its largest common card."""

    multiprocessors: int
    shared_bytes: int  # most that one program may use (CUDA C++ programming guide, technical specifications)
    enough: float  # multiply-adds per element read from L2 at which tensor cores set the pace, as far as tiles reach it


GPUS = {
    80: Gpu(multiprocessors=108, shared_bytes=163 * 1024, enough=64.0),  # A100
    86: Gpu(multiprocessors=84, shared_bytes=99 * 1024, enough=48.0),  # A40, RTX 3090
    89: Gpu(multiprocessors=142, shared_bytes=99 * 1024, enough=48.0),  # L40S
    90: Gpu(multiprocessors=132, shared_bytes=227 * 1024, enough=64.0),  # H100, H200
    120: Gpu(multiprocessors=170, shared_bytes=99 * 1024, enough=48.0),  # RTX 5090
}

# wgmma reads operands from shared memory, 64 rows for each group of four warps: two groups for 128 rows, and stages
# deep enough to hide L2 (four of 64 inputs). 128 x 256 would reuse more but spills registers in the epilogue.
HOPPER = (
    Tile(rows=128, outputs=128, inputs=64, warps=8, stages=4),
    Tile(rows=128, outputs=64, inputs=64, warps=4, stages=4),
    Tile(rows=64, outputs=128, inputs=64, warps=4, stages=4),
    Tile(rows=64, outputs=64, inputs=64, warps=4, stages=4),
)
# mma.sync holds operands in registers: 32 inputs a step, four stages, at most 48 KB, so that two programs share a
# multiprocessor and hosts that cannot raise the limit of 48 KB (TensorRT's ahead-of-time plugins) can launch them.
AMPERE = (
    Tile(rows=128, outputs=128, inputs=32, warps=8, stages=4),
    Tile(rows=128, outputs=64, inputs=32, warps=4, stages=4),
    Tile(rows=64, outputs=128, inputs=32, warps=4, stages=4),
    Tile(rows=64, outputs=64, inputs=64, warps=4, stages=4),
)
# IEEE float32 has no tensor core: small tiles keep the accumulators and both operands of an outer product in registers.
FLOAT32 = (Tile(rows=64, outputs=64, inputs=32, warps=8, stages=2),)
# Sizes that are no multiples of 16 are read two bytes at a time into registers, where nothing is pipelined and larger
# tiles spill.
RAGGED = Tile(rows=64, outputs=64, inputs=32, warps=8, stages=2)


def gpu(sm: int) -> Gpu:
    """Return the entry of a compute capability, or that of the nearest older one."""
    known = [each for each in GPUS if each <= sm]
    if not known:
        raise ValueError(f"compute capability {sm / 10:.1f} is too old for these kernels; 8.0 is the oldest")
    return GPUS[max(known)]


def candidates(sm: int, bits: int) -> tuple[Tile, ...]:
    """Return the tiles to choose from, largest first. wgmma exists on 9.x alone."""
    gpu(sm)
    if bits == 32:
        return FLOAT32
    return HOPPER if sm // 10 == 9 else AMPERE


def aligned(inputs: int, outputs: int) -> bool:
    """Return whether rows of both sizes start at multiples of 16 elements, so that 16 bytes are copied at a time."""
    return inputs % 16 == outputs % 16 == 0


def row_tile(sm: int, *, tasks: int, rows: int, outputs: int, inputs: int, bits: int = 16) -> Tile:
    """Return the tile of the row kernel: the one with the fewest waves, weighed by work in a tile and its reuse.

    The estimate is waves x rows x outputs / min(1, intensity / enough). A large tile reuses more but may leave
    multiprocessors idle (few changed rows) or compute rows nobody asked for (R just past a multiple); inputs only
    shorten the pipeline when there are fewer steps than stages.
    """
    device = gpu(sm)
    if not aligned(inputs, outputs):
        return RAGGED

    def estimate(tile: Tile) -> float:
        programs = tasks * -(-rows // tile.rows) * -(-outputs // tile.outputs)
        waves = -(-programs // device.multiprocessors)
        return waves * tile.rows * tile.outputs / min(1.0, tile.intensity / device.enough)

    best = min(candidates(sm, bits), key=estimate)
    steps = -(-inputs // best.inputs)
    return Tile(
        rows=best.rows,
        outputs=best.outputs,
        inputs=best.inputs,
        warps=best.warps,
        stages=max(2, min(best.stages, steps)),
    )


def block_tile(sm: int, *, height: int = 64, width: int = 64, bits: int = 16, even: bool = True) -> Tile:
    """Return the tile of the block kernel: 128 tokens, few stages; ``even`` if the layer's sizes are `aligned`.

    128 tokens halve what a block of values costs from L2 against 64 (43 against 32 multiply-adds per element). At a
    few per cent density a program meets zero to three blocks, so a deeper pipeline would only take shared memory from
    the programs beside it, whose loads of the base hide the latency. Twice the warps where loads are narrow. Larger
    blocks in float32 leave registers for 32 tokens only.
    """
    gpu(sm)
    large = height * width > 64 * 64
    rows = 32 if large and bits == 32 else 64 if large or bits == 32 else 128
    stages = 2 if sm // 10 == 9 or bits == 32 else 3
    return Tile(rows=rows, outputs=height, inputs=width, warps=8 if bits == 32 or not even else 4, stages=stages)
