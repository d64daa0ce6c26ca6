"""Every variant of the CUDA kernels compiled into a folder, for machines without NVRTC; needs no GPU.

    python -m slimtask.kernels.cuda.aot --out DIR [--sm 90] [--dtype bfloat16] [--kernel blocks] [--inputs 768 3072]

`PycudaKernels(DIR)` loads them from there: for its own GPU, else the PTX that is always written, for compute capability
8.0 and later.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from slimtask.kernels.atomic import check_folder, refusal
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
from slimtask.processes import leave_interrupts_to_parent

Job = tuple[Variant, str, Path]

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
    """Compile and write; one sentence and exit status 2 where that cannot be done, 130 after Ctrl-C."""
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
    written: list[Future[str]] = []
    try:
        check_folder(given.out)
        _write_all(jobs, written)
    except KeyboardInterrupt:
        there = sum(each.done() and not each.cancelled() and each.exception() is None for each in written)
        print(
            f"aot: interrupted; {there} of {len(jobs)} files were written to '{given.out}', each of them whole; the "
            "same command writes all.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    except OSError as error:
        print(f"aot: {refusal(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except RuntimeError as error:
        print(f"aot: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(given.out)


def _write_all(jobs: Sequence[Job], written: list[Future[str]]) -> None:
    """Work through the jobs in several processes; what has begun is finished whatever happens, what waits is not."""
    with ProcessPoolExecutor(initializer=leave_interrupts_to_parent) as pool:
        try:
            written += [pool.submit(_written, job) for job in jobs]
            for number, each in enumerate(written, 1):
                print(f"{number}/{len(jobs)} {each.result()}", file=sys.stderr)
        finally:
            pool.shutdown(cancel_futures=True)


def _written(job: Job) -> str:
    variant, target, folder = job
    return save(compile_kernel(variant, target), folder).name


if __name__ == "__main__":
    main()
