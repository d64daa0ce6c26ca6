"""Compiled variants of the CUDA kernels: NVRTC makes cubins and PTX of the sources beside this file, without a GPU.

The sources include no CUDA header, so that the wheels `nvidia-cuda-nvrtc` and `cuda-bindings` are all it takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from slimtask.kernels.cuda.variants import Variant

HEADERS = ("device.cuh", "tile.cuh")
PTX_TARGET = "compute_80"
_FOLDER = Path(__file__).parent
_REGISTERS = re.compile(r"Used (\d+) registers")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A compiled variant; ``cubin`` is empty for a ``compute_..`` target, which the driver compiles when it loads it.

    ``name`` is the kernel's name inside; ``registers`` are those of a thread, ``spill_bytes`` what of them went to
    memory (both 0 for PTX alone).
    """

    name: str
    target: str
    variant: Variant
    ptx: str
    cubin: bytes
    threads: int
    registers: int
    spill_bytes: int

    @property
    def image(self) -> bytes:
        """What the driver loads."""
        return self.cubin or self.ptx.encode() + b"\0"


@cache
def compile_kernel(variant: Variant, target: str) -> Compiled:
    """Return the variant compiled for "sm_80", "sm_90", ... or, PTX alone, "compute_80", ...

    Raises:
        RuntimeError: NVRTC is not installed, or refuses the target or the source; its log is in the message.
    """
    nvrtc = _nvrtc()
    headers = [(_FOLDER / name).read_bytes() for name in HEADERS]
    file = f"{variant.kernel}.cu"
    source = (_FOLDER / file).read_bytes()
    names = [name.encode() for name in HEADERS]
    program = _checked(nvrtc.nvrtcCreateProgram(source, file.encode(), len(headers), headers, names))
    options = [f"--gpu-architecture={target}", "--std=c++17", *(f"--define-macro={each}" for each in variant.defines)]
    if target.startswith("sm_"):
        options.append("--ptxas-options=-v")
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    log = _bytes(nvrtc, "ProgramLog", program).rstrip(b"\0").decode()
    if status:
        raise RuntimeError(f"NVRTC cannot compile {variant.name} for {target}: {log or status}")
    result = _compiled(variant, target, log, _bytes(nvrtc, "PTX", program), program, nvrtc)
    nvrtc.nvrtcDestroyProgram(program)
    return result


def _compiled(variant: Variant, target: str, log: str, ptx: bytes, program: Any, nvrtc: Any) -> Compiled:
    real = target.startswith("sm_")
    registers, spills = _REGISTERS.search(log), _SPILLS.search(log)
    return Compiled(
        name=variant.kernel,
        target=target,
        variant=variant,
        ptx=ptx.rstrip(b"\0").decode(),
        cubin=_bytes(nvrtc, "CUBIN", program) if real else b"",
        threads=variant.threads,
        registers=int(registers[1]) if registers else 0,
        spill_bytes=sum(map(int, spills.groups())) if spills else 0,
    )


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc

        _checked(nvrtc.nvrtcVersion())
    except (ImportError, RuntimeError) as error:
        message = f"NVRTC cannot be loaded ({error}); install nvidia-cuda-nvrtc and cuda-bindings."
        raise RuntimeError(message) from error
    return nvrtc


def _bytes(nvrtc: Any, what: str, program: Any) -> bytes:
    """Return the program's log, PTX or CUBIN.

    NVRTC writes into the buffer, which therefore is a `bytearray`: the interpreter shares `bytes` of length one, the
    length of an empty log, with everything else that runs in it.
    """
    buffer = bytearray(_checked(getattr(nvrtc, f"nvrtcGet{what}Size")(program)))
    _checked(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return bytes(buffer)


def _checked(result: Any) -> Any:
    status, *values = result
    if status:
        raise RuntimeError(f"NVRTC answers {status.name}")
    return values[0] if values else None
