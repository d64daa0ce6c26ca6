"""Every variant of the CUDA kernels compiled into a folder, for machines without NVRTC; needs no GPU.

    python -m slimtask.kernels.cuda.aot --out DIR [--sm 90] [--dtype bfloat16] [--kernel blocks] [--inputs 768 3072]

`PycudaKernels(DIR)` loads them from there: for its own GPU, else the PTX that is always written, for compute capability
8.0 and later.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from slimtask.kernels.atomic import check_folder
from slimtask.kernels.cuda.calls import HEIGHTS
from slimtask.kernels.cuda.compile import PTX_TARGET, compile_kernel, save
from slimtask.kernels.cuda.variants import (
    ELEMENTS,
    TARGETS,
    TENSOR_CORE,
    Gpu,
    Variant,
    blocks_variant,
    csr_variant,
    vectors_variant,
)

KERNELS = ("blocks", "vectors", "csr", "transpose")
TOKENS = (4, 8, 16, 32, 48, 64, 96, 128, 1024)  # a number in each range in which other variants are taken
BLOCKS = (1, 100_000)  # streamed and resident
INPUTS = (192, 384, 768, 1024, 1536, 3072, 4096)  # ViT-Ti to ViT-L, first and second layers


def shipped(gpus: Sequence[Gpu], dtypes: Sequence[str], kernels: Sequence[str], inputs: Sequence[int]) -> set[Variant]:
    """Return every variant that is taken on one of ``gpus`` for these element types and numbers of inputs.

    The base is of the same type or float32.
    """
    return {
        variant
        for gpu in gpus
        for element in dtypes
        for base in dict.fromkeys((element, "float32"))
        for kernel in kernels
        for variant in _taken(kernel, element, base, inputs, gpu)
    }


def _taken(kernel: str, element: str, base: str, inputs: Sequence[int], gpu: Gpu) -> Iterator[Variant]:
    if kernel == "transpose":
        yield Variant(kernel=kernel, element=element, base=element)
    for tokens in TOKENS:
        if kernel == "csr":
            yield from (csr_variant(element=element, base=base, tokens=tokens, inputs=k, gpu=gpu) for k in inputs)
        elif kernel == "vectors" and element in TENSOR_CORE:
            for height in HEIGHTS:
                yield vectors_variant(element=element, base=base, tokens=tokens, height=height, gpu=gpu)
        elif kernel == "blocks" and element in TENSOR_CORE:
            for k in inputs:
                for blocks in BLOCKS:
                    yield blocks_variant(element=element, base=base, tokens=tokens, inputs=k, blocks=blocks, gpu=gpu)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile and write; exit status 2 with one sentence where that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the artifacts")
    parser.add_argument("--sm", type=int, nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--dtype", nargs="+", choices=tuple(ELEMENTS), default=TENSOR_CORE)
    parser.add_argument("--kernel", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--inputs", type=int, nargs="+", default=INPUTS, help="numbers of inputs of the layers")
    given = parser.parse_args(arguments)
    if min(given.inputs) < 1:
        parser.error("--inputs must be positive")
    variants = shipped([Gpu.of_sm(sm) for sm in given.sm], given.dtype, given.kernel, given.inputs)
    if not variants:
        parser.error(f"{', '.join(given.kernel)} have no kernel in {', '.join(given.dtype)}")
    targets = [*(f"sm_{sm}" for sm in given.sm), PTX_TARGET]
    jobs = [(v, target, given.out) for v in sorted(variants, key=lambda v: v.name) for target in targets]
    try:
        check_folder(given.out)
        with ProcessPoolExecutor() as pool:
            for number, name in enumerate(pool.map(_written, jobs), 1):
                print(f"{number}/{len(jobs)} {name}", file=sys.stderr)
    except (RuntimeError, OSError) as error:
        print(f"aot: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(given.out)


def _written(job: tuple[Variant, str, Path]) -> str:
    variant, target, folder = job
    return save(compile_kernel(variant, target), folder).name


if __name__ == "__main__":
    main()
