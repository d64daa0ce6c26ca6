"""A process that was started ends when the one that started it does, whatever ended that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys, time
from multiprocessing import get_context
from slimtask.processes import leave_interrupts_to_parent

def work():
    leave_interrupts_to_parent()
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    started = [get_context(sys.argv[1]).Process(target=work) for _ in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join()
"""


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def all_end(processes: list[int]) -> bool:
    for _ in range(500):
        if all(map(gone, processes)):
            return True
        time.sleep(0.01)
    for process in processes:
        os.kill(process, signal.SIGKILL)
    return False


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_its_parent(method: str, end: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "pool.py"), method],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        for worker in workers:
            os.kill(worker, signal.SIGINT)
        assert not any(map(gone, workers))  # Ctrl-C is the parent's
        parent.send_signal(end)
    assert all_end(workers)
