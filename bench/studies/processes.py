"""Many pieces of work in processes of their own, some side by side, each with a time limit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def run_module(module: str, arguments: Sequence[str], log: Path, timeout_seconds: float) -> str:
    """Return "" if ``python -m module`` on one thread ended well, else how it ended; its output goes to ``log``."""
    with log.open("ab") as out:
        try:
            done = subprocess.run(
                [sys.executable, "-m", module, *arguments],
                stdout=out,
                stderr=out,
                timeout=timeout_seconds,
                env={**os.environ, **_ONE_THREAD},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"took longer than {timeout_seconds:.0f} seconds"
    if done.returncode == 0:
        return ""
    ended = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{ended}: {lines[-1][:300]}" if lines else ended


def in_parallel(
    work: Callable[[str], dict[str, Any]],
    names: Sequence[str],
    *,
    jobs: int,
    done: Callable[[dict[str, Any]], None],
    title: str,
) -> None:
    """Call ``work`` on every name, ``jobs`` at a time, and ``done`` on each answer as it comes; a bar says how far."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    running: dict[str, float] = {}
    lock = threading.Lock()
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(max(1, jobs)) as pool:
        bar = progress.add_task(title, total=len(names))

        def one(name: str) -> dict[str, Any]:
            with lock:
                running[name] = time.perf_counter()
                progress.update(bar, description=f"{title}: {', '.join(running)}")
            try:
                return work(name)
            finally:
                with lock:
                    del running[name]

        for future in as_completed([pool.submit(one, name) for name in names]):
            done(future.result())
            progress.advance(bar)
