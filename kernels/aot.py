"""Triton kernels compiled ahead of time, without a GPU: PTX and machine code with everything a host needs to launch.

    python -m slimtask.kernels.aot --out DIR [--sm 90] [--dtype bfloat16] [--kernel rows]

writes one `.ptx` and one `.cubin` for each variant and `manifest.json`, which names, for each, the parameters in order,
the grid as sizes and steps, threads, shared memory, and what the compiler made of it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from slimtask.kernels.atomic import check_folder, refusal, write_whole
from slimtask.kernels.sass import Counts, counts
from slimtask.kernels.triton.tiles import GPUS
from slimtask.kernels.triton.variants import DTYPES, KERNELS, Variant, shipped

SCHEMA = 1
ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\)", re.DOTALL)
OLDEST_PTX = {80: 70, 86: 71, 89: 78, 90: 80, 120: 87}  # PTX ISA, release notes; with less LLVM ends the process
SCRATCH = ("global_scratch", "profile_scratch")  # Triton appends these; these kernels need neither, so pass null


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One kernel compiled for one compute capability.

    ``parameters`` are (name, type) in the order of launching: pointers as "*bf16" or "*i32", sizes as "i32", and
    Triton's two scratch pointers, which take null. ``grid`` gives (size, step) for each axis; "T" is the number of
    sub-tasks. Shared memory is dynamic: more than 48 KB has to be allowed by the host before the launch.
    """

    name: str
    entry: str
    sm: int
    ptx: str
    cubin: bytes
    shared_bytes: int
    warps: int
    grid: tuple[tuple[str, int], ...]
    parameters: tuple[tuple[str, str], ...]
    divisible: tuple[str, ...]
    constants: Mapping[str, Any]
    counts: Counts

    @property
    def threads(self) -> int:
        """Return the threads of one program, all along x."""
        return 32 * self.warps

    def programs(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the grid for given sizes, e.g. {"R": 103, "M": 768, "T": 3}."""
        return tuple(math.ceil(sizes[name] / step) for name, step in self.grid)

    def described(self) -> dict[str, Any]:
        """Return everything but the code, as it stands in the manifest."""
        about = {name: value for name, value in vars(self).items() if name not in ("ptx", "cubin", "counts")}
        files = {"ptx": f"{self.name}.ptx", "cubin": f"{self.name}.cubin"}
        sums = {"ptx_sha256": sha256(self.ptx.encode()), "cubin_sha256": sha256(self.cubin)}
        return about | {"threads": self.threads} | files | sums | {"counts": asdict(self.counts)}


def compile_variant(variant: Variant, *, ptx_version: int | None = None, hints: bool = True) -> Artifact:
    """Return one variant compiled for its compute capability. Needs triton, no GPU and no driver.

    Args:
        variant: what to compile.
        ptx_version: the PTX version to write, e.g. 80 for 8.0, where a driver is older than Triton's own choice.
        hints: promise the multiples of 16 in ``variant.divisible``; False shows what happens without (tests).

    Raises:
        ValueError: Triton's interpreter is switched on, the PTX version is too old for the GPU, the kernel asks for
            scratch memory, or NVIDIA's assembler refuses what Triton wrote.
    """
    import triton
    from triton.runtime.errors import PTXASError

    if triton.knobs.runtime.interpret:
        raise ValueError("TRITON_INTERPRET is set, which replaces the compiler; unset it to compile ahead of time")
    if ptx_version is not None and ptx_version < OLDEST_PTX[variant.sm]:
        oldest = OLDEST_PTX[variant.sm]
        raise ValueError(f"PTX of version {ptx_version / 10:.1f} has no sm_{variant.sm}; take {oldest} or later")
    options = {"num_warps": variant.tile.warps, "num_stages": variant.tile.stages, "enable_fp_fusion": True}
    if ptx_version is not None:
        options["ptx_version"] = ptx_version
    with tempfile.TemporaryDirectory() as cache, triton.knobs.compilation.scope(), triton.knobs.cache.scope():
        # Nothing of an older source from a cache, and no path of the building machine in what is shipped.
        triton.knobs.cache.dir = cache
        triton.knobs.compilation.disable_line_info = True
        try:
            compiled = _compiled(variant, options, hints=hints)
        except PTXASError as error:
            version = "" if ptx_version is None else f" of version {ptx_version / 10:.1f}"
            raise ValueError(
                f"the PTX{version} of {variant.name} cannot be assembled ({_reason(error)}); take another PTX version"
            ) from None
        ptx, cubin, metadata = compiled.asm["ptx"], bytes(compiled.asm["cubin"]), compiled.metadata
    if getattr(metadata, "global_scratch_size", 0) or getattr(metadata, "profile_scratch_size", 0):
        raise ValueError(f"{variant.name} asks for scratch memory, which no launcher here provides; take another tile")
    entry, parameters = signature(ptx, variant)
    return Artifact(
        name=variant.name,
        entry=entry,
        sm=variant.sm,
        ptx=ptx,
        cubin=cubin,
        shared_bytes=metadata.shared,
        warps=variant.tile.warps,
        grid=variant.grid,
        parameters=parameters,
        divisible=variant.divisible,
        constants=variant.constants,
        counts=counts(ptx, cubin),
    )


def _compiled(variant: Variant, options: Mapping[str, Any], *, hints: bool) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget

    with redirect_stdout(io.StringIO()):  # where Triton prints all of the PTX when it cannot be assembled
        return triton.compile(
            source(variant, hints=hints), target=GPUTarget("cuda", variant.sm, 32), options=dict(options)
        )


def source(variant: Variant, *, hints: bool) -> Any:
    """Return Triton's source object of a variant."""
    from triton.compiler import ASTSource

    function = variant.function()
    names = function.arg_names
    divisible = variant.divisible if hints else ()
    return ASTSource(
        fn=function,
        signature={name: variant.arguments.get(name, "constexpr") for name in names},
        constexprs=variant.constants,
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in divisible},
    )


def _reason(error: Exception) -> str:
    """Return the assembler's first complaint, or the first line of the error."""
    complaint = re.search(r"error {2,}: *(.+)", str(error))  # as ptxas writes it
    return complaint[1].strip() if complaint else str(error).partition("\n")[0]


def signature(ptx: str, variant: Variant) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the entry's name and its parameters, after checking them against what the PTX declares."""
    match = ENTRY.search(ptx)
    if match is None:
        raise ValueError(f"the PTX of {variant.name} has no entry; compile it with another version of triton")
    sizes = re.findall(r"\.param \.[bus](\d+)", match[2])
    expected = [*variant.arguments.items(), *((name, "*scratch") for name in SCRATCH)]
    if sizes != ["64" if kind.startswith("*") else "32" for _, kind in expected]:
        raise ValueError(f"this triton passes other parameters to {variant.name} than expected; use triton 3.6 to 3.8")
    return match[1], tuple(expected)


def write(artifacts: Sequence[Artifact], folder: Path) -> Path:
    """Return the manifest written beside the artifacts; it is written last, so what it names is there and whole."""
    import triton

    for artifact in artifacts:
        write_whole(folder / f"{artifact.name}.ptx", artifact.ptx.encode())
        write_whole(folder / f"{artifact.name}.cubin", artifact.cubin)
    kernels = [artifact.described() for artifact in artifacts]
    manifest = {"schema": SCHEMA, "triton": triton.__version__, "kernels": kernels}
    write_whole(folder / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return folder / "manifest.json"


def sha256(content: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile and write; one sentence and exit status 2 where that cannot be done, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the artifacts")
    parser.add_argument("--sm", type=int, nargs="+", choices=tuple(GPUS), default=tuple(GPUS))
    parser.add_argument("--dtype", nargs="+", choices=tuple(DTYPES), default=("bfloat16", "float16"))
    parser.add_argument("--kernel", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--ptx-version", type=int, help="e.g. 80 for PTX 8.0, for older drivers")
    given = parser.parse_args(arguments)
    variants = list(shipped(given.sm, given.dtype, given.kernel))
    artifacts: list[Artifact] = []
    try:
        check_folder(given.out)  # compiling takes minutes
        for number, variant in enumerate(variants, 1):
            artifacts.append(compile_variant(variant, ptx_version=given.ptx_version))
            print(f"{number}/{len(variants)} {variant.name}", file=sys.stderr)
        manifest = write(artifacts, given.out)
    except KeyboardInterrupt:
        left = (
            f"some kernels may be new in '{given.out}', each file whole"
            if len(artifacts) == len(variants)
            else "nothing was written"
        )
        _stop(f"interrupted; {left}; the same command writes all.", 130)
    except OSError as error:
        _stop(refusal(error), 2)
    except (ValueError, ImportError) as error:
        _stop(str(error), 2)
    print(manifest)


def _stop(sentence: str, status: int) -> NoReturn:
    print(f"aot: {sentence}", file=sys.stderr)
    raise SystemExit(status) from None


if __name__ == "__main__":
    main()
