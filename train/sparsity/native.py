"""The passes of ``passes`` compiled from C at first use, where this machine has a C compiler; torch does the rest.

torch runs a pass as a dozen elementwise operations, each of which reads and writes its operands; one loop does the same
arithmetic between one read and one write, so that memory is the only limit left. Only float32 on the CPU comes here.
The environment variable SLIMTASK_NATIVE=0 turns it off; results differ by rounding. Compiled for any CPU they are the
same to the bit, so the replicas of a run on unlike machines stay one network.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from slimtask.train.sparsity.passes import GroupSums, Work, adamw_settings

FLAGS = (
    "-std=c11",
    "-O3",
    "-march=native",  # each process compiles for the CPU it runs on; nothing is kept for another one
    "-ffp-contract=off",  # or a CPU that multiplies and adds in one would round otherwise than one that does not
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-shared",
    "-fPIC",
)
_SECONDS = 60
_GRAIN = 2**12  # elements below which a second thread costs more than it saves


class _Adam(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in ("rest1", "beta2", "rest2", "eps", "size", "left")]


class _Task(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("p", "m", "v", "g", "keep", "ridge", "groups", "sums")],
        *[(name, ctypes.c_long) for name in ("stride", "columns", "inner", "by_row")],
        *[(name, ctypes.c_long) for name in ("first_row", "last_row", "first_column", "last_column")],
        ("adam", _Adam),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """Return the passes as ``compiled`` makes them, once in a process."""
    return compiled()


def compiled(flags: Sequence[str] = FLAGS) -> ctypes.CDLL | None:
    """Return the compiled passes, or None where there is no compiler, it fails, or the environment forbids it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.environ.get("SLIMTASK_NATIVE") == "0" or os.name != "posix":
        return None
    source = Path(__file__).with_name("passes.c")
    with tempfile.TemporaryDirectory(prefix="slimtask-") as folder:
        target = Path(folder) / "passes.so"
        command = [compiler, *flags, str(source), "-o", str(target), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            return ctypes.CDLL(str(target))
        except (OSError, subprocess.SubprocessError):
            return None


def update(works: Sequence[Work], sums: GroupSums | None = None, ridge: Tensor | None = None) -> list[Work]:
    """Take the step of the ``works`` that it can, with group sums at ``ridge`` [groups + 1]; return the others."""
    return _summed("update", works, sums, ridge)


def moments(works: Sequence[Work], sums: GroupSums, ridge: Tensor | None) -> list[Work]:
    """Add the sums of the ``works`` that it can, as ``passes.sum_pass`` does; return the others."""
    return _summed("sum", works, sums, ridge)


def shrink(works: Sequence[Work], ridge: Tensor | None) -> list[Work]:
    """Shrink the grouped ``works`` that it can, as ``passes.shrink_pass`` does; return the others."""
    mine, others = _split(works)
    calls = _Calls()
    for work in mine:
        if work.block.slices is not None:
            calls.add(work, ridge, None)
    calls.run("shrink")
    return others


def _summed(name: str, works: Sequence[Work], sums: GroupSums | None, ridge: Tensor | None) -> list[Work]:
    mine, others = _split(works)
    calls = _Calls()
    totals = None if sums is None else sums.totals.new_zeros(calls.threads, *sums.totals.shape)
    for work in mine:
        grouped = totals is not None and work.block.slices is not None
        calls.add(work, ridge if grouped else None, totals if grouped else None)
    calls.run(name)
    if sums is not None and totals is not None and mine:
        sums.totals += totals.sum(0)
    return others


def _split(works: Sequence[Work]) -> tuple[list[Work], list[Work]]:
    """Return the works that the compiled passes take, and the others."""
    able = [
        work.values.dtype == torch.float32 and work.values.device.type == "cpu" and library() is not None
        for work in works
    ]
    pairs = list(zip(works, able, strict=True))
    return [work for work, fits in pairs if fits], [work for work, fits in pairs if not fits]


class _Calls:
    """The calls of one pass, dealt to as many threads as torch uses; a part of every matrix to each."""

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        self._parts: list[list[_Task]] = [[] for _ in range(self.threads)]
        self._alive: list[Tensor] = []  # what the addresses in the tasks point to

    def add(self, work: Work, ridge: Tensor | None, sums: Tensor | None) -> None:
        """Add ``work``, with the per-group ``ridge`` and the totals [threads, QUANTITIES, groups + 1] of its sums."""
        block, (rows, columns) = work.block, work.values.shape
        task = _Task(columns=columns, inner=block.inner, by_row=block.by_row, adam=_adam(work))
        task.p, task.m, task.v = work.values.data_ptr(), work.first.data_ptr(), work.second.data_ptr()
        task.g = self._address(work.gradient)
        task.keep = None if block.keep is None else self._address(block.keep)
        task.ridge = None if ridge is None else self._address(block.spread(ridge))
        parts = self.threads if work.values.numel() >= _GRAIN else 1
        for part in range(parts):
            mine = _Task.from_buffer_copy(task)
            if sums is not None:
                assert block.slices is not None
                mine.sums, mine.stride = sums[part].data_ptr(), sums.shape[2]
                mine.groups = self._address(block.slices)
            first, last = (part * (rows if rows >= parts else columns) // parts for part in (part, part + 1))
            mine.first_row, mine.last_row = (first, last) if rows >= parts else (0, rows)
            mine.first_column, mine.last_column = (0, columns) if rows >= parts else (first, last)
            self._parts[part].append(mine)

    def run(self, name: str) -> None:
        """Make all calls of the function ``name``."""
        compiled = library()
        if compiled is None or not self._alive:
            return
        function = getattr(compiled, name)

        def work_off(tasks: list[_Task]) -> None:
            for task in tasks:
                function(ctypes.byref(task))

        waiting = [_pool(self.threads, os.getpid()).submit(work_off, part) for part in self._parts[1:]]
        work_off(self._parts[0])
        for one in waiting:
            one.result()

    def _address(self, tensor: Tensor) -> int:
        contiguous = tensor.contiguous()
        self._alive.append(contiguous)
        return contiguous.data_ptr()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return the threads beside the calling one; those of a parent process do not live in its fork."""
    return ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="slimtask-optimiser")


def _adam(work: Work) -> _Adam:
    lr, decay, (beta1, beta2), eps = adamw_settings(work)
    return _Adam(
        rest1=1 - beta1,
        beta2=beta2,
        rest2=1 - beta2,
        eps=eps,
        size=lr * (1 - beta2**work.step) ** 0.5 / (1 - beta1**work.step),
        left=1 - lr * decay,
    )
