"""Floors: the least time that a dense layer and a layer with sub-tasks as deltas can take, in closed form.

One law carries the rest: with D deltas on one base, a share r of changed rows and deltas that cost c dense products
each, T dense models are left behind by ``speedup = T / (1 + D (r + c))``. Bytes and launches bend it for small layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What a device can do at most, by the kind of product, in FLOP/s and byte/s.

    ``dense`` large products; ``channels`` a dense product narrowed to the changed channels; ``stationary`` blocks with
    the activations kept in shared memory; ``streamed`` blocks with the activations read again from L2; ``scalar``
    single entries, one load of the activation for every multiply-add. ``known`` is False where they were borrowed from
    another device: then only their order means something.
    """

    of: str
    dense: float
    channels: float
    stationary: float
    streamed: float
    scalar: float
    memory: float
    launch_s: float
    known: bool = True


# dense and memory: measured on one H200. channels and stationary: 80 and 60 % of dense, assumed until measured.
# streamed: 128 rows x blocks of 64 x 64 are 43 FLOP/B, at 5.5 TB/s of L2. scalar: 132 multiprocessors x 128 B x
# 1.83 GHz are 31 TB/s, a load of 2 B for every 2 FLOP. A launch: the gap between two nodes of a CUDA graph.
H200 = Ceilings(
    of="NVIDIA H200",
    dense=790e12,
    channels=630e12,
    stationary=475e12,
    streamed=235e12,
    scalar=31e12,
    memory=4.3e12,
    launch_s=1e-6,
)
# The same chip with slower memory: 3.35 instead of 4.8 TB/s on the data sheet.
H100 = replace(H200, of="NVIDIA H100", memory=3.0e12)
# float32 without TF32 has no tensor core: 67 TFLOP/s on the data sheet, and loads of 4 B for every 2 FLOP.
_FLOAT32 = {"dense": 67e12, "channels": 54e12, "stationary": 40e12, "streamed": 40e12, "scalar": 15.5e12}
# One thread of a server core with AVX-512, float32. scalar: a CSR product broke even with dense at 12 % of the entries.
CPU_THREAD = Ceilings(
    of="a CPU thread",
    dense=100e9,
    channels=80e9,
    stationary=60e9,
    streamed=60e9,
    scalar=12e9,
    memory=10e9,
    launch_s=10e-6,
    known=False,
)


def ceilings_of(name: str, *, backend: str, dtype: str, threads: int = 1) -> Ceilings:
    """Return the ceilings of the device ``name`` ("NVIDIA H200", a processor's model) for ``dtype``.

    ``backend`` is "cuda" or "cpu". A GPU that is not in the table gets those of an H200, with ``known`` False; a CPU
    those of ``threads`` assumed threads.
    """
    if backend == "cpu":
        rates = {rate: threads * getattr(CPU_THREAD, rate) for rate in _RATES}
        return replace(CPU_THREAD, of=f"{threads} assumed threads of a CPU", **rates)
    found = next((each for each in (H200, H100) if each.of.split()[-1] in name), None)
    rates = _FLOAT32 if dtype == "float32" else {}
    return replace(found or H200, known=found is not None, **rates)


_RATES = ("dense", "channels", "stationary", "streamed", "scalar", "memory")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A linear layer of ``inputs`` to ``outputs`` features on ``tokens`` rows."""

    tokens: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> float:
        """Return the FLOPs of one dense product, two for every multiply-add."""
        return 2.0 * self.tokens * self.inputs * self.outputs


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a candidate has to do for one layer and all tasks: FLOPs in dense products, FLOPs in its deltas, bytes."""

    dense_flops: float
    delta_flops: float
    bytes: float

    @property
    def flops(self) -> float:
        """Return all FLOPs."""
        return self.dense_flops + self.delta_flops

    def seconds(self, ceilings: Ceilings, delta_rate: float | int | None = None) -> float:
        """Return the floor in s: the products one after another at their rates, or the bytes, whichever is longer.

        ``delta_rate`` in FLOP/s is that of the deltas (default: dense products).
        """
        products = self.dense_flops / ceilings.dense + self.delta_flops / (delta_rate or ceilings.dense)
        return max(products, self.bytes / ceilings.memory)


def dense_work(layer: Layer, *, models: int, item_bytes: int) -> Work:
    """Return the work of ``models`` dense layers, each with weights, inputs and outputs of its own."""
    N, K, M = layer.tokens, layer.inputs, layer.outputs
    moved = models * item_bytes * (K * M + N * K + N * M)
    return Work(dense_flops=models * layer.flops, delta_flops=0.0, bytes=float(moved))


def delta_work(
    layer: Layer, *, deltas: int, density: float | int, rows: float | int, item_bytes: int, index_bytes: float = 0.0
) -> Work:
    """Return the work of one base and ``deltas`` sub-tasks on it, all fused: X read once, every Y written once.

    A share ``rows`` of each sub-task's rows differs from the base's and goes through merged weights; the others need
    the base's output and a delta of ``density`` on the base's input. ``index_bytes``: of indices, for every value.
    """
    N, K, M = layer.tokens, layer.inputs, layer.outputs
    items = K * M * (1 + deltas * density) + N * K * (1 + deltas * rows) + N * M * (1 + deltas)
    return Work(
        dense_flops=layer.flops * (1 + deltas * rows),
        delta_flops=layer.flops * deltas * (1 - rows) * density,
        bytes=item_bytes * items + index_bytes * K * M * deltas * density,
    )


def speedup(*, tasks: int, deltas: int, rows: float | int, cost: float | int) -> float:
    """Return T / (1 + D (r + c)): base and deltas against ``tasks`` dense models where products set the pace."""
    return tasks / (1 + deltas * (rows + cost))


def delta_cost(ceilings: Ceilings, *, density: float | int, rows: float | int, delta_rate: float | int) -> float:
    """Return c: what the delta of one sub-task costs on the rows that did not change, in dense products."""
    return (1 - rows) * density * ceilings.dense / delta_rate


def break_even_cost(*, tasks: int, deltas: int, rows: float | int) -> float:
    """Return the c at which the law gives 1; negative where the changed rows alone cost more than dense models."""
    return (tasks - 1) / deltas - rows


def break_even_density(
    ceilings: Ceilings, *, tasks: int, deltas: int, rows: float | int, delta_rate: float | int
) -> float:
    """Return the density, 0 to 1, above which deltas at ``delta_rate`` are slower than dense models, by the law."""
    cost = break_even_cost(tasks=tasks, deltas=deltas, rows=rows)
    if cost <= 0 or rows >= 1:
        return 0.0
    return min(1.0, cost * delta_rate / ((1 - rows) * ceilings.dense))
