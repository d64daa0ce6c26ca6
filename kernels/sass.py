"""What a compiler made of a kernel: instructions counted in PTX and machine code, registers, spills.

The counts are what tests hold a compiler to without a GPU: tensor-core instructions, asynchronous copies, 16-byte
loads and no local memory. NVIDIA's `cuobjdump` and `nvdisasm` come with Triton's wheel.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Instruction counts of one kernel (each written instruction once, not per execution) and its resources."""

    wgmma: int
    mma: int
    cp_async: int
    cp_async_16: int
    loads_16: int
    loads_narrow: int
    spills: int
    registers: int
    stack_bytes: int
    static_shared_bytes: int


def counts(ptx: str, cubin: bytes) -> Counts:
    """Return the counts of one compiled kernel.

    wgmma, mma, cp_async and loads come from the PTX (``cp_async_16``: copies of 16 bytes; ``loads_16``: global loads of
    four 32-bit words; ``loads_narrow``: global loads of two bytes or fewer), spills (local loads and stores) and
    registers from the machine code.

    Raises:
        FileNotFoundError: no cuobjdump (it comes with Triton's wheel, or with the CUDA toolkit).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        resources = RESOURCES.search(run("cuobjdump", "-res-usage", str(path)))
        sass = run("cuobjdump", "-sass", str(path))
    if resources is None:
        raise ValueError("cuobjdump lists no kernel in this cubin; compile it again")
    registers, stack, shared, local = map(int, resources.groups())
    return Counts(
        wgmma=found(r"wgmma\.mma_async", ptx),
        mma=found(r"(?<!w)mma\.sync", ptx),
        cp_async=found(r"cp\.async\.c[ag]\.shared", ptx),
        cp_async_16=found(r"cp\.async\.c[ag]\.shared[^;]*, *(?:0x10|16) *[,;]", ptx),
        loads_16=found(r"ld\.global(?:\.\w+)*\.v4\.b32", ptx),
        loads_narrow=found(r"ld\.global(?:\.(?!v\d)\w+)*\.b(?:8|16)\b", ptx),
        spills=found(r"\b(?:LDL|STL)\b", sass) + local,
        registers=registers,
        stack_bytes=stack,
        static_shared_bytes=shared,
    )


def found(pattern: str, text: str) -> int:
    """Return how often a pattern occurs."""
    return len(re.findall(pattern, text))


def run(name: str, *arguments: str) -> str:
    """Return what one of NVIDIA's binary tools prints; nvdisasm, which cuobjdump calls, must be on the path."""
    path = tool(name)
    environment = {**os.environ, "PATH": f"{path.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True, env=environment).stdout


def tool(name: str) -> Path:
    """Return the path of a binary tool in Triton's wheel, else on the search path."""
    import shutil
    from importlib.util import find_spec

    spec = find_spec("triton")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name
        if path.is_file():
            return path
    path_found = shutil.which(name)
    if path_found is None:
        raise FileNotFoundError(
            f"'{name}' is neither in triton's wheel nor on PATH; install triton or the CUDA toolkit"
        )
    return Path(path_found)
