"""The environment a figure was measured in, gathered without importing torch or any runtime."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from typing import Any

from slimtask.measured import cpu_name, version_of

_DISTRIBUTIONS = (
    "slimtask",
    "torch",
    "torchvision",
    "torch-pruning",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "triton",
    "pycuda",
    "numpy",
)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES")


def environment() -> dict[str, Any]:
    """Return hardware, system, versions and thread settings as a JSON-ready dict; absent things are absent keys."""
    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_gb": _memory_gb(),
        "os": _system(),
        "python": platform.python_version(),
        "versions": {name: version for name in _DISTRIBUTIONS if (version := version_of(name))},
        "threads": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "gpu": gpus(),
    }
    return {key: value for key, value in found.items() if value not in (None, [], {})}


def usable_cores() -> int:
    """Return the number of CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _nvidia_smi(program: str | None) -> tuple[str, ...]:
    """Return one ``name, driver, memory`` line per GPU that ``program`` lists, none without a working one."""
    if program is None:
        return ()
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line for line in done.stdout.splitlines() if line.count(",") == 2)


def gpus() -> list[dict[str, str]]:
    """Return name, driver version and memory of every NVIDIA GPU, as its driver reports them."""
    return [
        dict(zip(("name", "driver", "memory"), (part.strip() for part in line.split(",")), strict=True))
        for line in _nvidia_smi(shutil.which("nvidia-smi"))
    ]


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _system() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']} ({platform.system()} {platform.release()})"
    except (OSError, KeyError):
        return platform.platform()
